"""Sources -> clean, deduplicated, split chat examples."""
