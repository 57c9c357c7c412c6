"""The teacher that ships as a Python package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from fakes.command_line import run_in_process
from fakes.daemon import FakeDaemon
from fakes.trainable import tiny_corpus

from ollama_bridge import packaged_teacher
from ollama_bridge.cli.stages import checkpoint_of
from ollama_bridge.client import Client
from ollama_bridge.models.sources import resolve
from ollama_bridge.packaged_teacher import PACKAGED_TEACHER_TAG, provide_teacher
from ollama_bridge.reporting import NullReporter


@pytest.mark.parametrize("reference", ["ollama:qwen3:0.6b", "./folder", "smollm2:135m"])
def test_other_teachers_are_left_alone(reference: str) -> None:
    """Nothing is asked of the daemon: whether it has them is for the next stage to say."""
    with FakeDaemon() as daemon, Client(daemon.host) as client:
        provide_teacher(reference, client, NullReporter())
    assert daemon.asked == []


def test_teacher_that_is_there_is_not_registered_again() -> None:
    """Whatever stands behind the tag, it is the user's."""
    with (
        FakeDaemon(models={PACKAGED_TEACHER_TAG: "d" * 64}) as daemon,
        Client(daemon.host) as client,
    ):
        provide_teacher(f"ollama:{PACKAGED_TEACHER_TAG}", client, NullReporter())
    assert [asked.path for asked in daemon.asked] == ["/api/show"]


def test_commands_provide_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """``finetune --base ollama:smollm2:135m`` on a fresh daemon is no error."""
    asked = []
    monkeypatch.setattr(packaged_teacher, "provide_teacher", lambda *given: asked.append(given[0]))
    monkeypatch.setattr(resolve, "resolve_model", lambda reference, **named: reference)
    for reference in ("ollama:smollm2:135m", "./folder"):
        found: object = checkpoint_of(reference, "http://127.0.0.1:9", NullReporter())
        assert found == reference
    assert asked == ["ollama:smollm2:135m"]  # a folder needs no daemon


@pytest.mark.parametrize(("hosts", "provided"), [([], True), (["http://127.0.0.1:9"], False)])
def test_answers_provide_who_writes_them(
    hosts: list[str], provided: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``build`` does; what daemons that are named have is theirs to say."""
    asked = []
    monkeypatch.setattr(packaged_teacher, "provide_teacher", lambda *given: asked.append(given[0]))
    tiny_corpus(tmp_path / "corpus")
    words = ["answers", "reply", "--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "a")]
    with FakeDaemon(models={}) as daemon:
        where = ["--host", daemon.host, "--set", f"teacher.hosts={json.dumps(hosts)}"]
        done = run_in_process(monkeypatch, [*words, *where])
    assert done.code == 3  # nobody has it
    assert asked == (["ollama:smollm2:135m"] if provided else [])


@pytest.mark.parametrize("has_blob", [False, True])
def test_missing_teacher_is_registered(
    has_blob: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's file is sent, unless the daemon has it, and gets the tag."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF weights")
    digest = f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    monkeypatch.setattr(packaged_teacher, "fetch_package_file", lambda asset, reporter: gguf)
    blobs = {digest: gguf.read_bytes()} if has_blob else {}
    with FakeDaemon(blobs=blobs) as daemon, Client(daemon.host) as client:
        provide_teacher(f"ollama:{PACKAGED_TEACHER_TAG}", client, NullReporter())
    assert daemon.blobs == {digest: b"GGUF weights"}
    sent = [asked for asked in daemon.asked if asked.method == "POST" and "blobs" in asked.path]
    assert len(sent) == (0 if has_blob else 1)
    created = daemon.asked[-1].json
    assert created["model"] == PACKAGED_TEACHER_TAG
    assert created["files"] == {"model.gguf": digest}
