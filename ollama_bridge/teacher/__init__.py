"""Teachers: in torch, and in an Ollama daemon."""
