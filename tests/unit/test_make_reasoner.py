"""``scripts/make-reasoner``: what would stop it after the training is told before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/make-reasoner"
NOWHERE = "http://127.0.0.1:1/nothing"  # a path: no daemon is started there


def test_no_daemon_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, SCRIPT, "--examples", "20", "--questions", "20", "--out", tmp_path],
        env={**os.environ, "OLLAMA_HOST": NOWHERE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 3
    assert run.stderr.startswith(f"error: nothing answers at {NOWHERE}")
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "base").exists()
