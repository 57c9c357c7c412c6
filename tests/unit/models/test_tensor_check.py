"""Naming the tensor that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.architectures import CASES, build_checkpoint
from safetensors.torch import load_file, save_file

from ollama_bridge.conversion import convert
from ollama_bridge.models.resolve import resolve_model
from ollama_bridge.models.tensor_check import wrong_tensors


def exported(source: Path, folder: Path, type_: str) -> Path:
    """A checkpoint as a GGUF file."""
    checkpoint = resolve_model(str(source), cache_dir=folder / "cache")
    return convert(checkpoint, type=type_, out_dir=folder / type_).gguf_path


def edit(folder: Path, name: str, change: object) -> None:
    """Change one tensor of a checkpoint."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name]).contiguous()  # type: ignore[operator]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("case", CASES)
def test_a_right_export_has_no_wrong_tensor(case: str, tmp_path: Path) -> None:
    """In every architecture, rounded or not."""
    source = build_checkpoint(case, tmp_path / "source")
    for type_ in ("f32", "f16", "bf16", "q8_0"):
        assert wrong_tensors(exported(source, tmp_path, type_), source) == []


@pytest.mark.parametrize(
    ("case", "name", "change", "words"),
    [
        ("gemma2", "model.norm.weight", lambda w: w - 1, "output_norm.weight: 1 was not added"),
        ("qwen3", "model.norm.weight", lambda w: w - 1, "output_norm.weight: off by one"),
        (
            "qwen2",
            "model.layers.1.self_attn.k_proj.bias",
            torch.zeros_like,
            "blk.1.attn_k.bias: differs by",
        ),
    ],
)
def test_mistakes_of_converters_are_named(
    case: str, name: str, change: object, words: str, tmp_path: Path
) -> None:
    """The export of a checkpoint that differs in one tensor by a known mistake."""
    source = build_checkpoint(case, tmp_path / "source")
    wrong = build_checkpoint(case, tmp_path / "wrong")
    # What the file holds comes of `source`; it is held against a checkpoint changed the other way.
    path = exported(source, tmp_path, "f16")
    if "was not added" in words:
        edit(source, name, change)
        path = exported(source, tmp_path / "changed", "f16")
        found = wrong_tensors(path, wrong)
    else:
        edit(wrong, name, change)
        found = wrong_tensors(path, wrong)
    assert len(found) == 1
    assert found[0].startswith(words)


def test_another_architecture_is_said(tmp_path: Path) -> None:
    """Not a list of all tensors."""
    path = exported(build_checkpoint("llama", tmp_path / "a"), tmp_path, "f16")
    other = build_checkpoint("qwen2", tmp_path / "b")
    assert wrong_tensors(path, other) == ["the GGUF is a llama, the checkpoint a qwen2"]
