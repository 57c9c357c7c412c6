"""Paths may be given as texts, as in a notebook."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon
from fakes.models import build_tiny_checkpoint

import ollama_bridge
from ollama_bridge import Client, Conversation, convert, prepare, resolve_model
from ollama_bridge.recipe.config import DataSection, TaskSection

FUNCTIONS = [name for name in ollama_bridge.__all__ if name.islower()]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_path_may_be_a_text(name: str) -> None:
    """No function of the package insists on a Path."""
    parameters = inspect.signature(getattr(ollama_bridge, name)).parameters.values()
    said = {one.name: str(one.annotation) for one in parameters if "Path" in str(one.annotation)}
    assert not {key: text for key, text in said.items() if "str" not in text.split(" | ")}


def test_stages_take_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a table to a corpus, and from a folder to a GGUF."""
    monkeypatch.chdir(tmp_path)
    rows = [f"review {n} of a kettle,{'good' if n % 2 else 'bad'}" for n in range(40)]
    Path("mine.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    data = DataSection(source="table", path=Path("mine.csv"))
    task = TaskSection(kind="classify", labels=("good", "bad"), system="Judge.")
    prepare(data, task, seed=0, out_dir="out/corpus")
    assert (tmp_path / "out" / "corpus" / "manifest.json").is_file()

    build_tiny_checkpoint(tmp_path / "model")
    checkpoint = resolve_model(Path("model"), cache_dir="cache")
    assert convert(checkpoint, type="f16", out_dir="out/gguf").gguf_path.is_file()


def test_a_batch_and_a_conversation_take_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As :meth:`Session.save` does."""
    monkeypatch.chdir(tmp_path)
    Conversation("m", system="Be brief.").save("chat.json")
    assert Conversation.load("chat.json").system == "Be brief."
    with FakeDaemon(models={"m:latest": "d" * 64}) as daemon, Client(daemon.host) as client:
        requests = [{"model": "m", "prompt": "x", "options": {"num_predict": 2}}]
        assert len(list(client.batch(requests, "answers.log"))) == 1
    assert Path("answers.log").is_file()
