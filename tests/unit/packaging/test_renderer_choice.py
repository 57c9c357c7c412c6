"""Who renders a tag's prompts and reads its answers: one choice for `build` and `package`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import FakeDaemon, nobody_listens
from fakes.formats import checkpoint_with, source_of

from ollama_bridge.client import Client
from ollama_bridge.errors import DaemonError, DaemonUnreachableError, RunnerCrashedError
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.renderer_choice import Chooser, renderer_of, with_values
from ollama_bridge.reporting import Event, Note, StageReused
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.template.authority import AnswerParser, NativeJinja, OllamasOwn, Renderer
from ollama_bridge.verify import native_jinja, parsers, readings, renderers, trials
from ollama_bridge.verify.blank_gguf import Blank

JINJA, PARSER = NativeJinja(30), AnswerParser("qwen3-coder")


@dataclass
class Heard:
    """Keeps what it is told."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[tuple[str, str]]:
        """Levels and messages of the choice."""
        found = [one for one in self.events if isinstance(one, Note) and one.stage == "renderer"]
        return [(one.level, one.message) for one in found]


@dataclass
class Tried:
    """What a daemon would show, and what was tried on it."""

    names: list[str] = field(default_factory=list)
    found: dict[str, OllamasOwn | BaseException] = field(default_factory=dict)

    def see(self, name: str) -> Any:
        """A trial of this name."""

        def look(*_: object, **__: object) -> Any:
            self.names.append(name)
            found = self.found.get(name)
            if isinstance(found, BaseException):
                raise found
            return found

        return look


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    """Nothing is seen to be right, until a test says so."""
    seen = Tried()
    monkeypatch.setattr(renderers, "find_renderer", seen.see("renderer"))
    monkeypatch.setattr(native_jinja, "find_native_jinja", seen.see("jinja"))
    monkeypatch.setattr(parsers, "find_parser", seen.see("parser"))
    monkeypatch.setattr(readings, "check_can_be_tried", lambda _: None)
    return seen


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Go loses its tools, and nothing else."""
    return checkpoint_with(source_of("declared"), tmp_path_factory.mktemp("declared"))


def with_served(checkpoint: Checkpoint, folder: Path, **changed: Any) -> Checkpoint:
    """The same with another decision in its values."""
    shutil.copytree(checkpoint.path, folder)
    file = folder / "reference.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values["template"] |= changed
    file.write_text(json.dumps(values), encoding="utf-8")
    return Checkpoint(folder, checkpoint.manifest)


@dataclass
class Choosing:
    """A choice in a folder, by a daemon of some version."""

    folder: Path
    set_version: Callable[[str], None]
    heard: Heard = field(default_factory=Heard)

    def choose(
        self, checkpoint: Checkpoint, version: str = "0.34.4", needed: Collection[str] = ()
    ) -> OllamasOwn | None:
        self.set_version(version)
        self.heard = Heard()
        with FakeDaemon() as daemon, Client(daemon.host) as client:
            chooser = Chooser(
                client=client,
                out_dir=self.folder,
                reporter=self.heard,
                needed=lambda: needed,
            )
            return chooser.choose(checkpoint)


@pytest.fixture
def choosing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choosing:
    """In a folder of the test's own."""

    def set_version(version: str) -> None:
        monkeypatch.setattr(Client, "version", lambda _: version)

    return Choosing(tmp_path / "renderers", set_version)


def test_where_go_loses_nothing_nobody_is_asked(
    declared: Checkpoint, tmp_path: Path, tried: Tried
) -> None:
    """No daemon has to be there, and nothing is written."""
    whole = with_served(declared, tmp_path / "whole", capabilities=["tools"], lost=[])
    heard = Heard()
    with Client(nobody_listens()) as client:
        chooser = Chooser(client=client, out_dir=tmp_path / "renderers", reporter=heard)
        assert chooser.choose(whole) is None
    assert not tried.names
    assert not heard.events
    assert not (tmp_path / "renderers").exists()


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ({"renderer": Renderer("olmo3", "olmo3", 9)}, ["renderer"]),
        ({"jinja": JINJA}, ["renderer", "jinja"]),
        ({}, ["renderer", "jinja"]),
    ],
)
def test_what_was_chosen_is_found_again(
    found: dict[str, OllamasOwn],
    order: list[str],
    declared: Checkpoint,
    tried: Tried,
    choosing: Choosing,
) -> None:
    """Also that nothing was; another version of the daemon may do better, and is tried."""
    tried.found |= found
    chosen = choosing.choose(declared)
    assert chosen == next(iter(found.values()), None)
    assert tried.names == order
    told = choosing.heard.notes
    assert choosing.choose(declared) == chosen
    assert tried.names == order
    assert choosing.heard.notes == told
    assert any(isinstance(event, StageReused) for event in choosing.heard.events)
    assert choosing.choose(declared, "0.35.0") == chosen
    assert tried.names == 2 * order


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt(), DaemonUnreachableError("gone")])
def test_a_trial_that_was_stopped_is_tried_again(
    stopped_by: BaseException, declared: Checkpoint, tried: Tried, choosing: Choosing
) -> None:
    """Nothing is known of it: neither that it is right, nor that it is not."""
    tried.found["jinja"] = stopped_by
    with pytest.raises(type(stopped_by)):
        choosing.choose(declared)
    assert not list(choosing.folder.glob("*/manifest.json"))
    tried.found["jinja"] = JINJA
    assert choosing.choose(declared) == JINJA


def test_a_daemon_that_can_make_nothing_has_shown_nothing(
    declared: Checkpoint, tmp_path: Path
) -> None:
    """A full disk answers as a renderer that is not known does: nothing is kept of it."""
    full = {"error": "write: no space left on device"}
    with FakeDaemon(statuses=[full]) as daemon, Client(daemon.host) as client:
        chooser = Chooser(client=client, out_dir=tmp_path / "renderers", reporter=Heard())
        with pytest.raises(RunnerCrashedError, match="no space left"):
            chooser.choose(declared)
    assert not list(tmp_path.glob("renderers/*/manifest.json"))


def test_two_processes_try_files_and_tags_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is done takes tag and file away, and the other would find neither."""
    with FakeDaemon() as daemon, Client(daemon.host) as client:
        own = trials.send(client, Blank())
        assert trials.send(client, Blank()) == own
        monkeypatch.setattr(trials, "TRIAL", "ollama-bridge/renderer:trial-of-another")
        assert trials.send(client, Blank()) != own
    said = "from ollama_bridge.verify.trials import TRIAL; print(TRIAL)"
    names = {
        subprocess.run(
            [sys.executable, "-c", said], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(names) == 2


def test_calls_that_nobody_finds_get_a_parser(
    declared: Checkpoint, tmp_path: Path, tried: Tried, choosing: Choosing
) -> None:
    """Its prompts are Go's, so it is tried first; without one, calls come back as text."""
    marked = with_served(declared, tmp_path / "m", capabilities=["tools"], lost=["tool calls"])
    tried.found["parser"] = PARSER
    assert choosing.choose(marked) == PARSER
    assert tried.names == ["parser"]
    ((level, said),) = choosing.heard.notes
    assert level == "info"
    assert said.endswith("PARSER qwen3-coder of Ollama 0.34.4 can")
    del tried.found["parser"]
    assert choosing.choose(marked, "0.34.5", needed=["tools"]) is None
    assert tried.names[1:] == ["parser", "renderer", "jinja"]
    ((level, said),) = choosing.heard.notes
    assert level == "warning"
    assert "tool calls" in said


@pytest.mark.parametrize(
    ("needed", "level"), [((), "info"), (("thinking",), "info"), (("tools",), "warning")]
)
def test_what_the_data_need_is_not_lost_silently(
    needed: tuple[str, ...],
    level: str,
    declared: Checkpoint,
    tried: Tried,
    choosing: Choosing,
) -> None:
    """A warning names it, and what would serve it; else it is a note."""
    assert not tried.found
    assert choosing.choose(declared, needed=needed) is None
    ((told, said),) = choosing.heard.notes
    assert told == level
    assert "Go cannot express the tools of the chat template" in said
    assert ("--standalone" in said) == (level == "warning")
    assert "0.30 or later" not in said
    assert choosing.choose(declared, "0.24.0", needed=needed) is None
    assert "0.30 or later may" in choosing.heard.notes[0][1]


def test_what_nothing_in_a_version_renders_is_refused(
    declared: Checkpoint, tmp_path: Path, tried: Tried, choosing: Choosing
) -> None:
    """Prompts that Go cannot express, on a daemon without Jinja; another one renders them."""
    assert not tried.found
    reason = "Go cannot count"
    odd = with_served(declared, tmp_path / "odd", authority="jinja", go=None, reason=reason)
    with pytest.raises(DaemonError, match=f"0.24.0 cannot render.*{reason}") as caught:
        choosing.choose(odd, "0.24.0")
    assert "0.30 or later" in str(caught.value.hint)
    assert choosing.choose(odd) is None
    assert "jinja" not in tried.names  # it renders them already


def test_a_daemon_that_is_gone_is_told(declared: Checkpoint, tmp_path: Path, tried: Tried) -> None:
    """And nothing is kept of it."""
    with Client(nobody_listens()) as client, pytest.raises(DaemonUnreachableError):
        Chooser(client=client, out_dir=tmp_path / "renderers", reporter=Heard()).choose(declared)
    assert not tried.names
    assert not (tmp_path / "renderers").exists()


@pytest.mark.parametrize("chosen", [JINJA, PARSER, Renderer("olmo3", "olmo3", 9), None])
def test_values_are_those_of_what_was_chosen(
    chosen: OllamasOwn | None,
    declared: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And say what it is, to whoever verifies the tag later; Go's own stay beside them."""
    monkeypatch.setattr(Chooser, "choose", lambda *_: chosen)
    chooser = Chooser(client=Client(), out_dir=tmp_path / "renderers", reporter=Heard())
    made = with_values(
        declared,
        system=None,
        labels=(),
        noise_types=(),
        chooser=chooser,
        out_dir=tmp_path / "values",
        reporter=Heard(),
    )
    assert made.path.name == ("checkpoint" if chosen is None else "values-renderer")
    values = ReferenceValues.read(made.reference_path)
    shown: Any = type("Details", (), {"model_info": {"ollama_bridge.reference": values.to_json()}})
    assert renderer_of(shown) == chosen
    served = values.template
    assert served is not None
    assert (served.go is None) == isinstance(chosen, Renderer | NativeJinja)
