"""The weights of a checkpoint, however they are stored, one tensor at a time."""
