"""``convert --budget`` and ``--max-size`` from the command line: a table, JSON, one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.trainable import tiny_corpus
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.errors import ConfigError, ConversionError

runner = CliRunner()


def test_what_was_chosen_is_a_table(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Groups, then this file beside llama.cpp's mixes, then the artefact; JSON has the same."""
    corpus = tiny_corpus(tmp_path / "corpus")
    command = ["convert", str(tiny_checkpoint), "--max-size", "300kB", "--out"]
    command += [str(tmp_path / "gguf"), "--corpus", str(corpus.path)]
    done = runner.invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert any(line.startswith("token_embd\t") for line in lines)
    assert any(line.startswith("this file\t") for line in lines)
    assert any(line.startswith("q4_k_m\t") for line in lines)
    assert lines[-1] == str(tmp_path / "gguf")
    assert str(tmp_path / "gguf" / "tradeoff.svg") in done.stderr
    assert (tmp_path / "gguf" / "tradeoff.svg").is_file()
    facts = json.loads(runner.invoke(cli.app, [*command, "--json"]).stdout)
    assert facts["size_bytes"] <= 300_000
    assert facts["budget"]["groups"]


@pytest.mark.parametrize("wanted", [["--budget", "0.01"], ["--max-size", "80MB"]])
@pytest.mark.parametrize("gguf_type", ["q8_0", "f16"])
@pytest.mark.parametrize("command", ["convert", "package"])
def test_a_type_is_not_ignored(
    tiny_checkpoint: Path, tmp_path: Path, command: str, gguf_type: str, wanted: list[str]
) -> None:
    """Not even the one that is used if none is given."""
    place = ["--out", str(tmp_path / "out")]
    line = [command, str(tiny_checkpoint), *(["tag"] if command == "package" else []), *place]
    refused = runner.invoke(cli.app, [*line, *wanted, "--type", gguf_type])
    assert isinstance(refused.exception, ConfigError)
    assert f"--type {gguf_type}" in refused.exception.message
    assert wanted[0] in (refused.exception.hint or "")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_one_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Both at once, an adapter of a size, and a size below the smallest."""
    command = ["convert", str(tiny_checkpoint), "--out", str(tmp_path / "gguf")]
    both = runner.invoke(cli.app, [*command, "--budget", "0.01", "--max-size", "80MB"])
    assert isinstance(both.exception, ConfigError)
    adapter = runner.invoke(cli.app, [*command, "--adapter", "--budget", "0.01"])
    assert isinstance(adapter.exception, ConfigError)
    small = runner.invoke(cli.app, [*command, "--max-size", "1kB"])
    assert isinstance(small.exception, ConversionError)
    assert not (tmp_path / "gguf").exists()
