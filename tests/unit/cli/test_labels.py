"""``labels ls|show|rm`` on stores in the home folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.command_line import example
from fakes.label_rows import INFO, TEACHER, fill, row
from typer.testing import CliRunner, Result

from ollama_bridge import cli
from ollama_bridge.assets import home_dir
from ollama_bridge.errors import ArtifactError
from ollama_bridge.label_store.shared import open_store


def call(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli.app, ["labels", *args], input=stdin)


@pytest.fixture
def run_dir() -> Path:
    """A run in the home folder that uses a store."""
    folder = home_dir() / "runs" / "mine" / "labels"
    fill(home_dir() / "labels", [1, 2], folder)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_ls_says_what_is_there_and_who_uses_it(run_dir: Path) -> None:
    """Teacher, kind, rows, tokens, bytes a token and runs; the same as JSON, with whole paths."""
    _, line = call("ls").stdout.splitlines()
    columns = line.split("\t")
    assert columns[:5] == [INFO.store_id, str(TEACHER), "top 4", "2", "5"]
    assert columns[-1] == "runs/mine/labels"
    (store,) = json.loads(call("ls", "--json").stdout)
    assert store["id"] == INFO.store_id
    assert store["info"]["top_k"] == 4
    assert (store["rows"], store["positions"], store["finished"]) == (2, 5, True)
    assert store["bytes_per_token"] == pytest.approx(store["size_bytes"] / 5, abs=0.05)
    assert store["used_by"] == [str(run_dir)]


def test_examples_do_what_they_show(run_dir: Path) -> None:
    """Each as the help shows it, for the store that is there."""
    stored = INFO.store_id[:8]
    for words in (
        example("labels ls"),
        example("labels show 01234567", {"01234567": stored}),
        example("labels rm 01234567 --yes", {"01234567": stored}),
    ):
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, done.stderr
    assert call("ls").stdout == ""


def test_ls_of_nothing_is_nothing() -> None:
    """Without a store there is no row, and no error."""
    assert call("ls").stdout == ""
    assert json.loads(call("ls", "--json").stdout) == []


def test_show_takes_the_beginning_of_an_id(run_dir: Path) -> None:
    """A few letters are enough; what is unknown is an error that says where to look."""
    shown = call("show", INFO.store_id[:4]).stdout
    assert str(run_dir) in shown
    assert "finished" in shown
    assert json.loads(call("show", INFO.store_id, "--json").stdout)["id"] == INFO.store_id
    unknown = call("show", "zzz")
    assert unknown.exception is not None
    assert "no soft labels 'zzz'" in str(unknown.exception)


def test_rm_asks_and_says_what_stays(run_dir: Path) -> None:
    """No is no; --yes removes the store, and the run keeps what it uses."""
    assert call("rm", INFO.store_id, stdin="n\n").exit_code == 1
    assert call("ls").stdout != ""
    done = call("rm", INFO.store_id[:6], "--yes")
    assert done.exit_code == 0
    assert "freed" in done.stderr
    assert "stay with the runs that use them" in done.stderr
    assert call("ls").stdout == ""
    assert list(run_dir.glob("*/labels.bin"))


def test_rm_is_refused_while_a_run_labels() -> None:
    """What a run in progress holds stays."""
    stores = home_dir() / "labels"
    with open_store(stores, INFO, teacher_path=TEACHER) as store:
        store.append([row(0)])
        refused = call("rm", INFO.store_id, "--yes")
        assert isinstance(refused.exception, ArtifactError)
        assert "unfinished" in call("show", INFO.store_id).stdout
    assert call("rm", INFO.store_id, "--yes").exit_code == 0
