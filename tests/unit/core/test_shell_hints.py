"""A command that a hint names does what it says where a path has a blank in it, and no more."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_bridge.cli.chat import saving as chat_saving
from ollama_bridge.client import Conversation
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.label_store.info import INFO_NAME, read_info
from ollama_bridge.models.compute.precision import pinned_precision
from ollama_bridge.storage import artifacts
from ollama_bridge.storage.artifacts import MANIFEST_NAME, Manifest
from ollama_bridge.storage.journal import SyncedLines
from ollama_bridge.train.state import load_position
from ollama_bridge.train.student import Parts

PACKAGE = Path(artifacts.__file__).parents[1]


def read_lines(path: Path) -> None:
    """Open a log of lines, whose records nobody wants."""
    with SyncedLines(path, lambda *_: None):
        pass


READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "artefact": (lambda path: Manifest.read(path.parent), MANIFEST_NAME),
    "labels": (lambda path: read_info(path.parent), INFO_NAME),
    "precision": (pinned_precision, "resume-precision.json"),
    "state": (load_position, "resume.safetensors"),
    "student": (Parts.read, "student.json"),
    "log": (read_lines, "answers-replies.jsonl"),
    "chat": (lambda path: chat_saving.save_file(Conversation("m"), path), "chat.json"),
}


@pytest.mark.parametrize("kind", READERS)
def test_what_is_removed_is_what_was_named(tmp_path: Path, kind: str) -> None:
    """Where ``my run`` is damaged, ``my`` stays."""
    read, name = READERS[kind]
    damaged = tmp_path / "my run" / name
    for neighbour in (tmp_path / "my", tmp_path / "run", tmp_path / "run" / name, damaged.parent):
        neighbour.mkdir(parents=True)
    damaged.write_text('{"id"\n{"id": 3}\n')
    with pytest.raises(OllamaBridgeError) as caught:
        read(damaged)
    command = re.search(r"rm .*", caught.value.hint or "")
    assert command is not None
    subprocess.run(["sh", "-c", command[0]], cwd=tmp_path, check=True)
    assert not damaged.exists()
    assert (tmp_path / "my").is_dir()
    assert (tmp_path / "run" / name).is_dir()


def test_every_rm_is_of_a_quoted_path() -> None:
    """Also where no test goes."""
    shown = [
        line.strip()
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(?<!ollama )(?<!ollama-bridge )(?<!labels )\brm (-r )?\{", line)
    ]
    assert len(shown) > 5
    assert [line for line in shown if not re.search(r"rm (-r )?\{quote\(", line)] == []
