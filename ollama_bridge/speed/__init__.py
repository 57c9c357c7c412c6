"""How fast tags are served here, and what the memory of this machine allows."""
