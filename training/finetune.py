"""Tunes a checkpoint; the same as ``ollama-bridge finetune``, for launchers that start a file.

python training/finetune.py RECIPE --base ... --corpus ... --out ...
"""

from __future__ import annotations

import os
import sys

from ollama_bridge.cli import main

if __name__ == "__main__":
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.exit("training runs in one process: start it with --nproc-per-node 1")
    sys.argv[1:1] = ["finetune"]
    main()
