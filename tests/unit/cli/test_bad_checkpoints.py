"""``package`` of something that is no safe, whole, supported checkpoint: one clear error each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def package(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ollama_bridge", "package", *args],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stderr
    assert "\nfix: " in done.stderr


def test_pickle_is_refused(checkpoint: Path) -> None:
    """A checkpoint that only has pickled weights is never loaded."""
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert_refused(package(str(checkpoint), "mine"), 4, "pytorch_model.bin", "pickle")


def test_unsupported_architecture_is_named(checkpoint: Path) -> None:
    """An architecture that we cannot convert is named, with those that we can."""
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert_refused(package(str(checkpoint), "mine"), 4, "MambaForCausalLM", "LlamaForCausalLM")


def test_truncated_gguf_is_named(tmp_path: Path) -> None:
    """A GGUF that was cut off says so before anything is sent."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 12)
    assert_refused(package(str(file), "mine"), 4, "model.gguf")


def test_truncated_safetensors_is_named(checkpoint: Path) -> None:
    """Half a weights file is told as such."""
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert_refused(package(str(checkpoint), "mine"), 4, "model.safetensors")


@pytest.mark.parametrize("tag", ["has space", "a:b:c", "UPPER/../x", ":latest", ""])
def test_illegal_tag_is_told_first(tag: str, tmp_path: Path) -> None:
    """An illegal tag is refused before the checkpoint is even looked at."""
    assert_refused(package(str(tmp_path / "gone"), tag), 2, repr(tag))


def test_bare_word_offers_both_readings() -> None:
    """A word that is neither a path nor a reference offers ``ollama:`` and ``./``."""
    assert_refused(package("llama", "mine"), 2, "ollama:llama", "./llama")
