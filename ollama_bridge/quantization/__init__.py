"""Types of GGUF files: which type each tensor gets, and the numbers as its blocks. Torch-free."""
