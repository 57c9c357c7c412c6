"""Checkpoints: references to them, loading, GGUF import, pruning, and checks before all that."""
