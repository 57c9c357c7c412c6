"""Scores of models on held-out text, in torch and as served."""
