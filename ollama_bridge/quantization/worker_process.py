"""The program of a worker: ``python -m ollama_bridge.quantization.worker_process FD LAYOUT``."""

from __future__ import annotations

import json
import sys
import traceback
from io import FileIO


def main() -> None:
    """Serve a pool; what keeps it from starting, or from going on, is answered too."""
    answers = FileIO(sys.stdout.fileno(), "wb", closefd=False)  # unbuffered
    try:
        from ollama_bridge.quantization.workers import Layout, serve

        layout = Layout(**json.loads(sys.argv[2]))
        serve(layout, int(sys.argv[1]), sys.stdin.buffer, answers)
    except Exception as exc:  # whatever it is, the user gets one error from our parent
        answer = {"error": repr(exc), "where": traceback.format_exc()}
        answers.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
