"""``models ls|show|rm`` on what was imported into the home folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from fakes.command_line import example
from typer.testing import CliRunner, Result

from ollama_bridge import cli
from ollama_bridge.assets import home_dir
from ollama_bridge.errors import ArtifactError, ModelError
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.storage.locks import lock_path, locked


def call(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli.app, ["models", *args], input=stdin)


@pytest.fixture
def source(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A folder of weights that are linked nowhere yet."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "source"))


@pytest.fixture
def model(source: Path) -> Checkpoint:
    """It, imported into the home folder."""
    return resolve_model(str(source), cache_dir=home_dir() / "models")


def test_ls_says_what_it_is_of_and_what_it_takes(model: Checkpoint, source: Path) -> None:
    """Source, size, what would be free, last use; the same as JSON, with digests of its inputs."""
    weights = (source / "model.safetensors").stat().st_size
    _, line = call("ls").stdout.splitlines()
    assert line.split("\t")[:2] == [model.path.name, str(source)]
    (told,) = json.loads(call("ls", "--json").stdout)
    assert (told["id"], told["source"]) == (model.path.name, str(source))
    assert told["inputs"] == dict(model.manifest.work.inputs)
    # The weights are the source's own: only what was copied takes room.
    assert told["size_bytes"] - told["own_bytes"] == weights


def test_weights_are_its_own_where_nothing_else_has_them(model: Checkpoint, source: Path) -> None:
    """The daemon has pruned its blob, or the folder was removed: then this is all there is."""
    shutil.rmtree(source)
    (told,) = json.loads(call("ls", "--json").stdout)
    assert told["own_bytes"] == told["size_bytes"]
    assert call("rm", model.path.name, "--yes", "--json").exit_code == 0
    assert not model.path.exists()


def test_what_a_symbolic_link_leads_to_is_not_its_own(model: Checkpoint, source: Path) -> None:
    """As on another file system, where no hard link reaches."""
    weights = model.path / "model.safetensors"
    weights.unlink()
    weights.symlink_to(source / weights.name)
    (told,) = json.loads(call("ls", "--json").stdout)
    assert told["size_bytes"] - told["own_bytes"] == weights.stat().st_size


def test_asking_for_it_is_using_it(model: Checkpoint, source: Path) -> None:
    """Finding it again counts, not only making it."""
    for path in (model.path, lock_path(model.path)):
        os.utime(path, (0, 0))
    (old,) = json.loads(call("ls", "--json").stdout)
    assert old["used_at"] == "1970-01-01T00:00:00Z"
    resolve_model(str(source), cache_dir=home_dir() / "models")
    (used,) = json.loads(call("ls", "--json").stdout)
    assert used["used_at"] >= model.manifest.created_at


def test_examples_do_what_they_show(model: Checkpoint) -> None:
    """Each as the help shows it, for the model that is there."""
    name = model.path.name[:9]
    for words in (
        example("models ls"),
        example("models show gguf-0123", {"gguf-0123": name}),
        example("models rm gguf-0123 --yes", {"gguf-0123": name}),
    ):
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, done.stderr
    assert call("ls").stdout == ""


def test_ls_of_nothing_is_nothing() -> None:
    """Without a model there is no row, and no error."""
    assert call("ls").stdout == ""
    assert json.loads(call("ls", "--json").stdout) == []


def test_show_takes_the_beginning_of_an_id(model: Checkpoint, source: Path) -> None:
    """A few letters are enough; what is unknown is an error that says where to look."""
    shown = call("show", model.path.name[:8]).stdout
    assert str(source) in shown
    assert model.manifest.work.inputs["folder"] in shown
    assert json.loads(call("show", "folder", "--json").stdout)["id"] == model.path.name
    for name in ("zzz", ""):
        unknown = call("show", name)
        assert unknown.exception is not None
        assert f"no model {name!r}" in str(unknown.exception)


def test_rm_asks_and_leaves_the_source(model: Checkpoint, source: Path) -> None:
    """No is no; --yes removes it, and whoever asks for it again has it again."""
    assert call("rm", model.path.name, stdin="n\n").exit_code == 1
    assert model.path.exists()
    done = call("rm", model.path.name, "--yes")
    assert done.exit_code == 0
    assert "freed" in done.stderr
    assert call("ls").stdout == ""
    again = resolve_model(str(source), cache_dir=home_dir() / "models")
    assert again.digest == model.digest


def test_rm_is_refused_while_a_run_imports_it(model: Checkpoint) -> None:
    """What is being written stays."""
    with locked(lock_path(model.path), model.path, hint="wait"):
        refused = call("rm", model.path.name, "--yes")
        assert isinstance(refused.exception, ArtifactError)
    assert model.path.exists()


def test_who_reads_one_that_was_removed_is_told_how_to_go_on(model: Checkpoint) -> None:
    """A run holds no lock on what it trains from: it ends, and what it did is kept."""
    assert call("rm", model.path.name, "--yes").exit_code == 0
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match="is not a folder") as caught:
            load(model.path)
        assert "run the same command again" in (caught.value.hint or "")


def test_one_that_is_damaged_is_listed_and_can_be_removed(model: Checkpoint) -> None:
    """Nobody else could be rid of it."""
    (model.path / "config.json").write_text("{")
    assert "damaged" in call("ls").stdout
    assert json.loads(call("ls", "--json").stdout)[0]["source"] is None
    assert call("rm", model.path.name, "--yes").exit_code == 0
