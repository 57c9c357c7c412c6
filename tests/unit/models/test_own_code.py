"""Repositories that bring code for an architecture that transformers has by now, as Phi-3's do."""

from __future__ import annotations

from pathlib import Path

from fakes.architectures import build_checkpoint
from fakes.json_files import change_json
from fakes.listening import Listener

from ollama_bridge.conversion import convert
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.resolve import resolve_model


def test_it_is_not_run_and_not_needed(tmp_path: Path) -> None:
    """The architecture's own class computes; the copy does not name the code any more."""
    source = build_checkpoint("phi3", tmp_path / "phi")
    marker = tmp_path / "was run"
    (source / "own.py").write_text(f"open({str(marker)!r}, 'w').close()")
    for name, roles in (
        ("config.json", ("AutoConfig", "AutoModelForCausalLM")),
        ("tokenizer_config.json", ("AutoTokenizer",)),
    ):
        change_json(source / name, auto_map=dict.fromkeys(roles, "own.Thing"))
    listener = Listener()
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache", reporter=listener)
    assert [text for text in listener.notes if "auto_map" in text] == listener.notes[:1]
    for folder in (checkpoint.path, source):
        load_model(folder)
        load_tokenizer(folder)
    convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    assert "auto_map" not in (checkpoint.path / "config.json").read_text()
    assert not marker.exists()
    again = resolve_model(str(source), cache_dir=tmp_path / "cache")
    assert again.digest == checkpoint.digest
