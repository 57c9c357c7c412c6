"""``scripts/quickstart``: ends by asking the model that it built, whatever that is called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon

SCRIPT = Path(__file__).parents[2] / "scripts" / "quickstart"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script among stand-ins for set-up, build and ``ollama``, which are tested elsewhere."""
    programs = {
        "scripts/setup": f'say() {{ echo "$*" >&2; }}\nPYTHON={sys.executable}\n',
        "scripts/install-ollama": "",
        "scripts/fetch-assets": "",
        "bin/ollama-bridge": 'case "$*" in *--json*) echo "{\\"tags\\": [\\"$TAG\\"]}";; esac\n',
        "bin/ollama": 'case "$2" in gone*) exit 1;; esac\necho "$1 $2: negative"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / name).chmod(0o755)
    shutil.copy(SCRIPT, tmp_path / "scripts")
    return tmp_path


def quickstart(checkout: Path, tag: str) -> subprocess.CompletedProcess[str]:
    with FakeDaemon(models={"mine:latest": "d" * 64}) as daemon:
        path = f"{checkout}/bin:{os.environ['PATH']}"
        return subprocess.run(
            [checkout / "scripts" / "quickstart", "--tag", tag],
            cwd=checkout,
            env={**os.environ, "PATH": path, "OLLAMA_HOST": daemon.host, "TAG": tag},
            capture_output=True,
            text=True,
            check=False,
        )


def test_the_model_that_was_built_is_asked(checkout: Path) -> None:
    """By ``ollama run``, by our client, and in the line to type."""
    done = quickstart(checkout, "mine:latest")
    assert done.returncode == 0, done.stderr
    first, second, line = done.stdout.splitlines()
    assert (first, second) == ("run mine: negative", "Hello!")
    assert f"{checkout}/bin/ollama run mine " in line


def test_a_model_that_does_not_answer_is_told(checkout: Path) -> None:
    """What failed, and how to see why."""
    done = quickstart(checkout, "gone:latest")
    assert done.returncode == 1
    assert "error: ollama cannot run gone:latest" in done.stderr
