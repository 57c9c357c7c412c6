"""The chat at the prompt."""
