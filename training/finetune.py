"""Tunes a checkpoint; the same as ``ollama-bridge finetune``, for launchers that start a file.

python training/finetune.py RECIPE --base ... --corpus ... --out ...
torchrun --nproc-per-node 2 --max-restarts 3 -- training/finetune.py RECIPE --base ... (as above)
"""

from __future__ import annotations

from ollama_bridge.cli.launch import launch

if __name__ == "__main__":
    launch("finetune")
