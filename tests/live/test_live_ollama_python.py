"""ollama-python's own tests hold for the drop-in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live


def test_ollama_python_s_own_tests_hold(ollama_python_tests: Path, tmp_path: Path) -> None:
    """Every case of its client's tests, from its source distribution."""
    shutil.copy(ollama_python_tests / "test_client.py", tmp_path)
    fakes = Path(__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "fakes.ollama_python_plugin",
            "test_client.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(fakes), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 74
    assert "skipped" not in done.stdout
