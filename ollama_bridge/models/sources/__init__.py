"""From a model reference to a checkpoint on disk, which remembers where it comes from."""
