"""``python -m ollama_bridge``, and where the installed command begins."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C is no traceback even while it is still being imported."""
    # httpx imports a command line of its own where click is installed: a fifth of our start.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    try:
        from ollama_bridge.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
