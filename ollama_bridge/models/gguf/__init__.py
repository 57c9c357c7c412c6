"""GGUF files as they are: read, decoded, and the names of their pre-tokenizers."""
