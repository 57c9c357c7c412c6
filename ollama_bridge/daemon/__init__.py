"""Finds, installs, starts and watches an Ollama daemon, and reads its model store."""
