"""Students cut out of a model: fewer layers, narrower ones, and fewer tokens."""
