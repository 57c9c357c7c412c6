"""The program of a worker: ``python -m ollama_bridge.quantization.worker_process FD LAYOUT``."""

from __future__ import annotations

import json
import sys
from io import FileIO


def main() -> None:
    """Serve a pool; what keeps it from starting is answered too."""
    answers = FileIO(sys.stdout.fileno(), "wb", closefd=False)  # unbuffered
    try:
        from ollama_bridge.quantization.workers import Layout, serve

        layout = Layout(**json.loads(sys.argv[2]))
        serve(layout, int(sys.argv[1]), sys.stdin.buffer, answers)
    except Exception as exc:
        answers.write(json.dumps({"error": repr(exc)}).encode() + b"\n")


if __name__ == "__main__":
    main()
