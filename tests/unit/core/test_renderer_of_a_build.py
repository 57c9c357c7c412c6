"""A build looks for what gives back what Go loses, as `package` does; the live tier has both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import FakeDaemon, nobody_listens
from fakes.formats import checkpoint_with, source_of
from fakes.ggufs import metadata_of
from fakes.recipes import own_recipe

from ollama_bridge.client import Client
from ollama_bridge.errors import DaemonUnreachableError
from ollama_bridge.pipeline import _Build
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.reporting import Event, Note
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, GGUFFile, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.template.authority import NativeJinja
from ollama_bridge.verify import native_jinja, readings, renderers


class Unregistered(_Build):
    """Ends with the file that a tag would be made of."""

    def register(self, gguf: GGUFFile, tag: str) -> Any:
        """The file."""
        return gguf


class Warned:
    """Keeps the warnings of the choice."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Note) and (event.stage, event.level) == ("renderer", "warning"):
            self.said.append(event.message)


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Go loses its tools."""
    return checkpoint_with(source_of("declared"), tmp_path_factory.mktemp("declared"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[NativeJinja | None], list[object]]:
    """What a daemon would show; the trials that there were."""

    def show(found: NativeJinja | None) -> list[object]:
        tried: list[object] = []

        def look(*asked: object, **_: object) -> NativeJinja | None:
            tried.append(asked)
            return found

        monkeypatch.setattr(renderers, "find_renderer", lambda *_: None)
        monkeypatch.setattr(native_jinja, "find_native_jinja", look)
        monkeypatch.setattr(readings, "check_can_be_tried", lambda _: None)
        return tried

    return show


def recipe(template: str = "auto") -> Recipe:
    return own_recipe(
        {
            "task": {"kind": "reply", "system": ""},
            "export": {"tag": "mine", "types": ["f32"]},
            "modelfile": {"template": template},
        }
    )


def corpus_of(folder: Path, *, answer: str = "Hello.", tools: list[object] | None = None) -> Corpus:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    line = {"id": "1", "group": "1", "messages": said, "tools": tools or []}
    with open_draft(folder, Work(Corpus.kind, "prepare", 1)) as draft:
        (draft.path / "train.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        return Corpus(folder, draft.commit())


def test_a_student_is_served_by_what_was_seen(
    declared: Checkpoint, tmp_path: Path, seen: Callable[[NativeJinja | None], list[object]]
) -> None:
    """Its file keeps the chat template, and its values say who renders it; found again after."""
    tried = seen(NativeJinja(30))
    corpus = corpus_of(tmp_path / "corpus")
    with FakeDaemon() as daemon, Client(daemon.host) as client:
        build = Unregistered(recipe(), tmp_path / "run", client, Warned())
        student: Any = build.convert_and_register(declared, corpus)[0]
        again: Any = build.convert_and_register(declared, corpus)[0]
    assert len(tried) == 1
    assert again.manifest == student.manifest
    served = ReferenceValues.read(student.reference_path).template
    assert served is not None
    assert (served.authority, served.conversations) == ("jinja", 30)
    assert "tools" in served.capabilities
    assert "tokenizer.chat_template" in metadata_of(student.gguf_path)


@pytest.mark.parametrize(
    ("answer", "tools", "warned"),
    [
        ("Hello.", [{"type": "function"}], True),
        ("<think>\nHm.\n</think>\n\nHello.", [], False),  # Go loses no thinking: it has none
        ("Hello.", [], False),
    ],
    ids=["tools", "thoughts", "neither"],
)
def test_what_the_corpus_has_is_not_lost_without_a_warning(
    answer: str,
    tools: list[object],
    warned: bool,
    declared: Checkpoint,
    tmp_path: Path,
    seen: Callable[[NativeJinja | None], list[object]],
) -> None:
    """The tag is made all the same, with Go's TEMPLATE, and with what the training data need."""
    assert not seen(None)
    heard = Warned()
    corpus = corpus_of(tmp_path / "corpus", answer=answer, tools=tools)
    with FakeDaemon() as daemon, Client(daemon.host) as client:
        build = Unregistered(recipe(), tmp_path / "run", client, heard)
        student: Any = build.convert_and_register(declared, corpus)[0]
    served = ReferenceValues.read(student.reference_path).template
    assert served is not None
    assert (served.authority, served.lost) == ("template", ("tools",))
    assert len(heard.said) == warned
    assert all("do without, tools:" in said for said in heard.said)


def test_a_named_template_is_nobodys_choice(declared: Checkpoint, tmp_path: Path) -> None:
    """It is rendered as the recipe says, and no daemon is asked; left open, one has to be there."""
    corpus = corpus_of(tmp_path / "corpus")
    with Client(nobody_listens()) as client:
        build = Unregistered(recipe("synthesised"), tmp_path / "run", client, Warned())
        assert build.convert_and_register(declared, corpus)
        build = Unregistered(recipe(), tmp_path / "run", client, Warned())
        with pytest.raises(DaemonUnreachableError):
            build.convert_and_register(declared, corpus)
