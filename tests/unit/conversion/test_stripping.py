"""Spaces next to special tokens: what the tokenizer strips and llama.cpp does not, or does."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.ggufs import metadata_of
from fakes.stripping import build_phi3, build_phi4

from ollama_bridge.conversion import convert
from ollama_bridge.conversion.source import Source
from ollama_bridge.errors import ConversionError, ModelError
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.settings.stripping import name_for_rule
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reference import ReferenceValues


def test_the_name_says_what_a_phi3_strips(tmp_path: Path) -> None:
    """llama.cpp goes by it; a folder of any name has a Phi-3 in it, and gives its import one."""
    checkpoint = resolve_model(str(build_phi3(tmp_path / "my-merge")), cache_dir=tmp_path / "cache")
    tokenizer = load_tokenizer(checkpoint.path)
    assert len(tokenizer("<|user|>\nHi", add_special_tokens=False).input_ids) < len(
        tokenizer("<|user|>\nHi".replace("<|user|>", "x"), add_special_tokens=False).input_ids
    )
    source = Source(checkpoint)
    assert not any("strip" in note for note in source.notes)
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    assert str(metadata_of(gguf.gguf_path)["general.name"]).endswith("(Phi-3)")
    again = resolve_model(str(gguf.gguf_path), cache_dir=tmp_path / "cache")
    for text in ("<|user|>\nHi<|end|>\n<|assistant|>\n", "<s>  a", "</s>\nb", "<|endoftext|> c"):
        ids = [
            load_tokenizer(one.path)(text, add_special_tokens=False).input_ids
            for one in (checkpoint, again)
        ]
        assert ids[0] == ids[1], text


def test_prompts_that_would_be_split_otherwise_are_refused(tmp_path: Path) -> None:
    """Before a training, and before values are computed that nothing can equal."""
    folder = build_phi3(tmp_path / "phi", strips_all=False)
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    with pytest.raises(ConversionError, match="does not strip spaces around"):
        Source(checkpoint)
    with pytest.raises(ModelError, match="which the tokenizer strips and Ollama does not"):
        with_reference_values(checkpoint, system=None, out_dir=tmp_path / "made")


def test_what_only_odd_contents_lose_is_a_stated_limit(tmp_path: Path) -> None:
    """Phi-4's template has no spaces next to its marks; a message may begin with one."""
    checkpoint = resolve_model(str(build_phi4(tmp_path / "phi")), cache_dir=tmp_path / "cache")
    assert any("will not strip spaces" in note for note in Source(checkpoint).notes)
    made = with_reference_values(checkpoint, system=None, noise_types=(), out_dir=tmp_path / "made")
    values = ReferenceValues.read(made.reference_path)
    names = {conversation.name for conversation in values.conversations}
    assert "greeting" in names
    assert "white space" not in names
    assert any("'white space'" in limit for limit in values.limits)


def test_a_name_that_promises_what_the_tokenizer_does_not_do(tmp_path: Path) -> None:
    """Of another model, llama.cpp would strip, or look for tokens that are not there."""
    for name in ("my-Phi-3-teacher", "phi3"):
        assert "phi 3" in name_for_rule(name, follows=False).lower()
    assert name_for_rule("Phi-3-mini", follows=True) == "Phi-3-mini"
    folder = build_phi4(tmp_path / "phi")
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="f16", name="phi-3", out_dir=tmp_path / "gguf")
    assert metadata_of(gguf.gguf_path)["general.name"] == "Phi 3"
