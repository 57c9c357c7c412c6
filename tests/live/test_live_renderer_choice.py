"""One choice of who renders and reads, for `build` and `package`, on each contract of Ollama."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.formats import chat_template, checkpoint_with, source_of
from fakes.private_daemon import PrivateDaemon
from fakes.recipes import own_recipe

from ollama_bridge.client import Client, Timeouts
from ollama_bridge.daemon.era import NO_JINJA, has_limit
from ollama_bridge.examples import Example, Message, write_examples
from ollama_bridge.inspection import verify
from ollama_bridge.packaging.package import package
from ollama_bridge.pipeline import _Build, _Teacher
from ollama_bridge.reporting import Event, Note, StageFinished
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.template.authority import AnswerParser, decide
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.verify import parsers
from ollama_bridge.verify.parsers import find_parser
from ollama_bridge.verify.readings import TYPED, Reading
from ollama_bridge.verify.trials import make, trials

pytestmark = pytest.mark.live

ONE_THREAD = {"parameters": {"num_thread": 1}}  # two of 0.24 wait by spinning beside other work


@pytest.fixture(scope="module")
def client(era: PrivateDaemon) -> Iterator[Client]:
    """A client of it."""
    with era.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """A tiny random checkpoint of a chat format, one for all daemons. Read-only."""

    @functools.cache
    def make_once(name: str) -> Checkpoint:
        return checkpoint_with(source_of(name), tmp_path_factory.mktemp(name))

    return make_once


@pytest.fixture(scope="module")
def users(era: PrivateDaemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    """A daemon as users have it: it removes a file at once that no tag has any more."""
    folder, pruning = tmp_path_factory.mktemp("users"), {"OLLAMA_NOPRUNE": ""}
    with PrivateDaemon(folder, binary=era.binary, env=pruning) as running:
        yield running


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def finished(self) -> list[str]:
        """Stages that were done, and not found."""
        return [one.stage for one in self.events if isinstance(one, StageFinished)]

    @property
    def notes(self) -> list[tuple[str, str]]:
        """Levels and messages of the choice."""
        found = [one for one in self.events if isinstance(one, Note) and one.stage == "renderer"]
        return [(one.level, one.message) for one in found]


def corpus_of(folder: Path) -> Corpus:
    """Answers with thoughts."""
    asked = Message("user", "Hi"), Message("assistant", "<think>\nHm.\n</think>\n\nHello.")
    with open_draft(folder, Work(Corpus.kind, "prepare", 1)) as draft:
        write_examples(draft.path / "train.jsonl", [Example("1", asked, "1")])
        return Corpus(folder, draft.commit())


def test_calls_that_are_marked_up_are_found_by_a_parser_beside_the_template(client: Client) -> None:
    """Without it, what the model was made to say comes back as text."""
    template = ChatTemplate(source_of("marked-up"), special={}, adds_bos=False)
    go = decide(template).go
    assert go is not None
    assert find_parser(client, template, go, kept=["tools"]) == AnswerParser("qwen3-coder")
    call = Reading.of_call(template, TYPED)
    with trials(client):
        blank = call.blank(template, None)
        make(client, blank, template=go)
        assert not call.is_read(client)
        make(client, blank, template=go, parser="qwen3-coder")
        assert call.is_read(client)


def test_a_parser_is_found_behind_one_that_reads_some_answers(
    users: PrivateDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the daemon tried on a file of its own that it has removed since."""
    monkeypatch.setattr(parsers, "PARSERS", ("qwen3-coder", "glm-ocr"))  # the first: thoughts
    template = chat_template("glm4")
    go = decide(template).go
    assert go is not None
    with users.client() as client:
        found = find_parser(client, template, go, kept=["tools", "thinking"])
        assert found == AnswerParser("glm-ocr")
        assert not client.list()


def test_an_answer_that_a_parser_fails_on_keeps_nobody_waiting(users: PrivateDaemon) -> None:
    """Ollama 0.24 never frees the runner of such an answer, whose beginning it has given out."""
    template = chat_template("glm4")
    answer = Reading.of_call(template, TYPED, thinking="Let me see.")
    blank, go = answer.blank(template, None), decide(template).go
    soon = Timeouts(load_s=20.0, first_token_s=20.0)
    with Client(users.host, timeouts=soon) as client, trials(client):
        for parser, is_read in (("qwen3-coder", False), ("glm-ocr", True)):
            make(client, blank, template=go, parser=parser)
            assert answer.is_read(client) == is_read


@pytest.mark.parametrize("name", ["declared", "marked-up"])
def test_a_build_serves_what_a_package_of_the_same_checkpoint_would(
    name: str,
    made: Callable[[str], Checkpoint],
    era: PrivateDaemon,
    client: Client,
    tmp_path: Path,
) -> None:
    """Student and teacher, whose chat template is tried once; done again, nothing is."""
    student = made(name)
    recipe = own_recipe(
        {
            "task": {"kind": "reply", "system": ""},
            "export": {"tag": f"live-choice-{name}", "types": ["f16"]},
            "modelfile": ONE_THREAD,
        }
    )
    corpus = corpus_of(tmp_path / "corpus")
    run_dir, first, again = tmp_path / "run", Heard(), Heard()
    for heard in (first, again):
        build = _Build(recipe, run_dir, client, heard)
        (model,) = build.convert_and_register(student, corpus)
        teacher = build.serve_teacher(_Teacher(student, student), corpus)
    assert model.facts["passed"]
    assert first.finished.count("renderer") == 1
    assert first.notes == again.notes
    assert again.finished == []
    packaged = package(
        str(student.path),
        "live-packaged",
        recipe_modelfile=ONE_THREAD,
        gguf_type="f16",
        out_dir=tmp_path / "packaged",
        host=era.host,
    )
    built, taught, alone = (client.show(tag) for tag in (model.tag, teacher, packaged.tag))
    assert built.capabilities == taught.capabilities == alone.capabilities
    assert built.template == taught.template == alone.template
    parts = [
        [line for line in shown.modelfile.splitlines() if line.startswith(("RENDERER", "PARSER"))]
        for shown in (built, taught, alone)
    ]
    assert parts[0] == parts[1] == parts[2]
    assert parts[0] == (["PARSER qwen3-coder"] if name == "marked-up" else [])
    assert verify(model.tag, host=era.host).passed
    old = has_limit(client.version(), NO_JINJA)
    assert ("tools" in built.capabilities) == (name == "marked-up" or not old)
    assert ("0.30 or later may" in first.notes[0][1]) == (name == "declared" and old)
    for tag in (model.tag, teacher, packaged.tag):
        client.delete(str(tag))
