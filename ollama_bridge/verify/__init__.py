"""Proves that a daemon serves what was trained: reference values against a live tag."""
