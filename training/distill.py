"""Trains a student; the same as ``ollama-bridge distill``, for launchers that start a file.

python training/distill.py RECIPE --start ... --corpus ... --labels ... --out ...
"""

from __future__ import annotations

import os
import sys

from ollama_bridge.cli import main

if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.exit("training runs in one process: start it with --nproc-per-node 1")
    sys.argv[1:1] = ["distill"]
    main()
