"""Naming the tensor that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.architectures import CASES, build_checkpoint
from fakes.ggufs import rewrite
from safetensors.torch import load_file, save_file

from ollama_bridge.conversion import convert
from ollama_bridge.models.gguf_reader import read_gguf
from ollama_bridge.models.resolve import resolve_model
from ollama_bridge.models.tensor_check import TensorReport, compare_tensors


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
        assert compare_tensors(exported(source, tmp_path, type_), source) == TensorReport(())


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
        found = compare_tensors(path, wrong).wrong
    else:
        edit(wrong, name, change)
        found = compare_tensors(path, wrong).wrong
    assert len(found) == 1
    assert found[0].startswith(words)


def test_another_architecture_is_said(tmp_path: Path) -> None:
    """Not a list of all tensors."""
    path = exported(build_checkpoint("llama", tmp_path / "a"), tmp_path, "f16")
    other = build_checkpoint("qwen2", tmp_path / "b")
    assert compare_tensors(path, other).wrong == ("the GGUF is a llama, the checkpoint a qwen2",)


def test_a_copy_of_a_tied_matrix_is_sound(tmp_path: Path) -> None:
    """Other converters write the output matrix of a tied model too; that is said, and no fault."""
    source = build_checkpoint("llama", tmp_path / "source")
    plain = exported(source, tmp_path, "f16")
    copy = read_gguf(plain).tensor("token_embd.weight").astype(np.float16)
    twice = rewrite(plain, tmp_path / "twice.gguf", extra={"output.weight": copy})
    report = compare_tensors(twice, source)
    assert report.wrong == ()
    assert [note.split(":")[0] for note in report.notes] == ["output.weight"]
    copy[5] += 1
    other = rewrite(plain, tmp_path / "other.gguf", extra={"output.weight": copy})
    (wrong,) = compare_tensors(other, source).wrong
    assert wrong.startswith("output.weight: differs by")
    assert "its embedding stands for it" in wrong


@pytest.mark.parametrize("name", ["blk.1.attn_q.bias", "blk.0.something.weight"])
def test_what_only_the_gguf_has_is_named(name: str, tmp_path: Path) -> None:
    """llama.cpp adds a bias wherever it finds one."""
    source = build_checkpoint("llama", tmp_path / "source")
    plain = exported(source, tmp_path, "f16")
    more = rewrite(plain, tmp_path / "more.gguf", extra={name: np.ones(64, np.float32)})
    assert compare_tensors(more, source).wrong == (f"{name}: only the GGUF has it",)


def test_what_is_made_of_the_config_is_compared(tmp_path: Path) -> None:
    """Divisors of Llama 3's frequencies, which short probes would not show."""
    source = build_checkpoint("llama-3.1", tmp_path / "source")
    plain = exported(source, tmp_path, "f16")
    path = source / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_parameters"]["factor"] = 32.0
    path.write_text(json.dumps(config), encoding="utf-8")
    (wrong,) = compare_tensors(plain, source).wrong
    assert wrong.startswith("rope_freqs.weight: differs by")
    without = exported(build_checkpoint("llama", tmp_path / "short"), tmp_path / "b", "f16")
    missing = [one for one in compare_tensors(without, source).wrong if "rope" in one]
    assert missing == ["rope_freqs.weight: missing, which config.json asks for"]
