"""Conversations of a user: the forms that files have them in, calls of tools among them."""
