"""``convert`` from the command line: who finds the chat template in its file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.exports import tiny_exports
from fakes.ggufs import metadata_of
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.errors import ConfigError, ConversionError

runner = CliRunner()
KEY = "tokenizer.chat_template"


@pytest.mark.parametrize(
    ("asked", "written", "said"),
    [
        ([], False, True),
        (["--standalone"], True, False),
        (["--no-standalone"], False, False),
    ],
)
def test_a_file_that_other_runtimes_can_chat_with(
    tmp_path: Path, asked: list[str], *, written: bool, said: bool
) -> None:
    """What was trained here has a TEMPLATE, so that its file hides the template if not asked."""
    checkpoint = tiny_exports(tmp_path, seed=3, system="Be brief.").checkpoint
    command = ["convert", str(checkpoint.path), "--out", str(tmp_path / "gguf"), *asked]
    done = runner.invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    assert (KEY in metadata_of(tmp_path / "gguf" / "model.gguf")) is written
    assert ("--standalone" in done.stderr) is said


def test_a_folder_s_file_has_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Nobody made a TEMPLATE of it, so nothing is hidden, and nothing is to be said."""
    done = runner.invoke(cli.app, ["convert", str(tiny_checkpoint), "--out", str(tmp_path / "g")])
    assert done.exit_code == 0, done.output
    assert KEY in metadata_of(tmp_path / "g" / "model.gguf")
    assert "--standalone" not in done.stderr


def test_no_torch_is_loaded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Neither for a folder nor for a GGUF: that would take longer than to convert a small model."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    first, second = tmp_path / "first", tmp_path / "second"
    for source, out in ((tiny_checkpoint, first), (first / "model.gguf", second)):
        done = subprocess.run(
            [sys.executable, "-m", "ollama_bridge", "convert", source, "--out", out],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr


def test_an_adapter_has_none(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Its base has it."""
    command = ["convert", str(tiny_checkpoint), "--out", str(tmp_path / "g"), "--adapter"]
    refused = runner.invoke(cli.app, [*command, "--standalone"])
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.parametrize(
    "given", [["--imatrix", "imatrix.gguf"], ["--type", "q8_0"], ["--type", "f16"]]
)
def test_an_adapter_takes_no_type(tiny_checkpoint: Path, tmp_path: Path, given: list[str]) -> None:
    """Told before the base is fetched: it would be F32 all the same."""
    command = ["convert", str(tiny_checkpoint), "--out", str(tmp_path / "g"), "--adapter"]
    (tmp_path / "imatrix.gguf").touch()
    given = [str(tmp_path / one) if one.endswith(".gguf") else one for one in given]
    refused = runner.invoke(cli.app, [*command, *given])
    assert isinstance(refused.exception, ConfigError)
    assert given[0] in refused.exception.message
    assert "leave out" in (refused.exception.hint or "")


def test_a_folder_stands_for_its_matrix(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """That `importance` made it is all that a user has typed."""
    matrix = tmp_path / "imp" / "imatrix.gguf"
    matrix.parent.mkdir()
    matrix.write_bytes(b"GGUF")
    command = ["convert", str(tiny_checkpoint), "--out", str(tmp_path / "g"), "--type", "q4_k_m"]
    refused = runner.invoke(cli.app, [*command, "--imatrix", str(matrix.parent)])
    assert isinstance(refused.exception, ConversionError)
    assert str(matrix) in refused.exception.message


def test_a_type_that_is_none_is_told_before_the_model_is_looked_for(tmp_path: Path) -> None:
    """It may be a download away."""
    command = ["convert", str(tmp_path / "none"), "--out", str(tmp_path / "g"), "--type", "q4km"]
    refused = runner.invoke(cli.app, command)
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.hint == "did you mean q4_k_m?"
