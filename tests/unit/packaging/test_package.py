"""`package`, up to the daemon: what a tag is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.command_line import run_in_process
from fakes.daemon import FakeDaemon
from fakes.exports import tiny_exports

from ollama_bridge import packaging, registration
from ollama_bridge.artifacts import Checkpoint, GGUFFile, RegisteredModel, Work
from ollama_bridge.drafts import open_draft
from ollama_bridge.errors import ArtifactError
from ollama_bridge.inspection import verify
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.packaging import package
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.reporting import NullReporter
from ollama_bridge.run_folder import hold_run

TRAINED_WITH = "Is it positive or negative?"


class AtTheDaemonError(Exception):
    """What was made for it."""

    def __init__(self, gguf: GGUFFile, modelfile: Modelfile, *_: object, **__: object) -> None:
        super().__init__()
        self.values = ReferenceValues.read(gguf.path / "reference.json")
        self.system = modelfile.system


def made(checkpoint: Checkpoint, out_dir: Path, *, system: str | None) -> AtTheDaemonError:
    """What `package` would register."""
    with FakeDaemon() as daemon, pytest.raises(AtTheDaemonError) as caught:
        package(
            str(checkpoint.path),
            "my-model",
            system=system,
            out_dir=out_dir,
            host=daemon.host,
            reporter=NullReporter(),
        )
    return caught.value


def test_what_was_trained_here_keeps_its_system_prompt_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `register` of its GGUF does; the chat template's default is what it never learnt with."""

    def register(*args: GGUFFile, **kwargs: object) -> None:
        raise AtTheDaemonError(*args, **kwargs)

    monkeypatch.setattr(registration, "register", register)
    trained = tiny_exports(tmp_path / "trained", seed=0, system=TRAINED_WITH).checkpoint
    tag = made(trained, tmp_path / "run", system=None)
    assert tag.values.system == TRAINED_WITH
    assert tag.values.labels == ("positive", "negative")
    assert tag.system == TRAINED_WITH
    other = made(trained, tmp_path / "other", system="Be brief.")
    assert (other.values.system, other.system) == ("Be brief.", "Be brief.")


def test_one_process_packages_in_a_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A second would replace the checkpoint that the first one converts, and holds its tag to."""
    out = tmp_path / "run"
    with FakeDaemon() as daemon, hold_run(out):
        with pytest.raises(ArtifactError, match="another process is writing"):
            package(str(tiny_checkpoint), "my-model", out_dir=out, host=daemon.host)
        with pytest.raises(ArtifactError, match="another process is writing"):
            verify("m", against=str(tiny_checkpoint), out_dir=out, host=daemon.host)
    assert [path.name for path in out.iterdir()] == [".run.lock"]


def test_only_what_was_proven_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--force` kept stays in the daemon, under its other name, and that is said."""
    published: list[tuple[object, ...]] = []
    forced = False

    def register(*_: object, out_dir: Path, **__: object) -> RegisteredModel:
        with open_draft(out_dir, Work("registered_model", "register", 1)) as draft:
            draft.restart()
            return RegisteredModel(out_dir, draft.commit({"tag": "my-model", "forced": forced}))

    monkeypatch.setattr(registration, "register", register)
    monkeypatch.setattr(packaging, "publish", lambda *args, **_: published.append(args))
    trained = tiny_exports(tmp_path / "trained", seed=0, system=TRAINED_WITH).checkpoint
    to = "registry.example/team/my-model:1"
    with FakeDaemon() as daemon:
        words = ["package", str(trained.path), "my-model", "--force", "--publish", to, "--json"]
        words += ["--out", str(tmp_path / "run"), "--host", daemon.host]
        proven = run_in_process(monkeypatch, words)
        forced = True
        unproven = run_in_process(monkeypatch, words)
    assert published == [("my-model", to)]
    assert [done.code for done in (proven, unproven)] == [0, 0]
    assert [json.loads(done.stdout)["published"] for done in (proven, unproven)] == [to, None]
    assert "is not published" not in proven.stderr
    assert "is not published" in unproven.stderr
