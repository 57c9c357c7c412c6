"""``package`` of something that is no safe, whole, supported checkpoint: one clear error each."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.adapters import build_adapter
from fakes.json_files import change_json

from ollama_bridge import cli
from ollama_bridge.assets import home_dir

# Checks that `package` refuses its arguments with an exit code and a message with some words.
Refused = Callable[..., None]


@pytest.fixture
def assert_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command line in this process: another one would load torch for each test."""

    def check(args: list[str], code: int, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["ollama-bridge", "package", *args])
        with pytest.raises(SystemExit) as caught, warnings.catch_warnings():
            cli.main()
        said = capsys.readouterr().err
        assert caught.value.code == code, said
        for word in (*words, "\nfix: "):
            assert word in said

    return check


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def test_truncated_gguf_is_named(tmp_path: Path, assert_refused: Refused) -> None:
    """A GGUF that was cut off says so before anything is sent."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 12)
    assert_refused([str(file), "mine"], 4, "model.gguf")


def name_templates(checkpoint: Path) -> None:
    """Several, and none that is served."""
    (checkpoint / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "{{ messages }}"}]
    change_json(checkpoint / "tokenizer_config.json", chat_template=named)


def write_without_end(checkpoint: Path) -> None:
    """Text that no context has room for."""
    (checkpoint / "chat_template.jinja").write_text("{{ 'x' * 2000000 }}")


def miscount(checkpoint: Path) -> None:
    """A size that is none."""
    change_json(checkpoint / "config.json", vocab_size="many")


def compute_otherwise(checkpoint: Path) -> None:
    """As no Ollama does."""
    change_json(checkpoint / "config.json", hidden_act="gelu")


def add_to_vocabulary(checkpoint: Path) -> None:
    """A token that was added behind the model's back, and not as one that was added."""
    path = checkpoint / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["zzz"] = 9999
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (name_templates, ": none of its chat templates (tool_use) is the default"),
        (write_without_end, ": the chat template writes more than"),
        (add_to_vocabulary, "/tokenizer.json: token ids reach 9999"),
        (miscount, "/config.json: vocab_size is 'many'"),
        (compute_otherwise, "/config.json: hidden_act is 'gelu'"),
    ],
)
def test_the_folder_is_named_and_not_our_copy_of_it(
    checkpoint: Path, assert_refused: Refused, damage: Callable[[Path], None], said: str
) -> None:
    """What is changed in a copy is changed in vain, and nobody knows where that is."""
    damage(checkpoint)
    assert_refused([str(checkpoint), "mine"], 4, f"error: {checkpoint}{said}")


@pytest.mark.parametrize("has_tokenizer", [False, True])
def test_of_a_merged_adapter_the_folder_is_named_that_its_tokenizer_came_from(
    checkpoint: Path, tmp_path: Path, assert_refused: Refused, *, has_tokenizer: bool
) -> None:
    """Its base as the user named it, or its own folder; not our copy of both."""
    adapter = build_adapter(checkpoint, tmp_path / "adapter")
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(checkpoint))
    named = adapter if has_tokenizer else checkpoint
    if has_tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(checkpoint / name, adapter)
    write_without_end(named)
    said = f"error: {named}: the chat template writes more than"
    assert_refused([str(adapter), "mine"], 4, said)


@pytest.mark.parametrize("tag", ["has space", "a:b:c", "UPPER/../x", ":latest", ""])
def test_illegal_tag_is_told_first(tag: str, tmp_path: Path, assert_refused: Refused) -> None:
    """An illegal tag is refused before the checkpoint is even looked at."""
    assert_refused([str(tmp_path / "gone"), tag], 2, repr(tag))


def test_what_is_refused_at_once_is_no_run(tmp_path: Path, assert_refused: Refused) -> None:
    """Nor is there one in the list of them."""
    before = set(home_dir().glob("runs/*"))
    assert_refused([str(tmp_path / "none"), "never-made"], 2, "no such folder")
    assert set(home_dir().glob("runs/*")) == before


def test_bare_word_offers_both_readings(assert_refused: Refused) -> None:
    """A word that is neither a path nor a reference offers ``ollama:`` and ``./``."""
    assert_refused(["llama", "mine"], 2, "ollama:llama", "./llama")
