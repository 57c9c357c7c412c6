"""How a decoder is computed: passes, precision, memory, and parts that are one function."""
