"""``python -m ollama_bridge``."""

from ollama_bridge.cli import main

main()
