"""Trains a student; the same as ``ollama-bridge distill``, for launchers that start a file.

python training/distill.py RECIPE --start ... --corpus ... --labels ... --out ...
torchrun --nproc-per-node 2 --max-restarts 3 -- training/distill.py RECIPE --start ... (as above)
"""

from __future__ import annotations

from ollama_bridge.cli.launch import launch

if __name__ == "__main__":
    launch("distill")
