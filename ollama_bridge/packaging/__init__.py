"""A checkpoint, made here or elsewhere, becomes a proven tag."""
