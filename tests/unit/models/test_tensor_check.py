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


@pytest.mark.parametrize(
    ("case", "key", "value", "words"),
    [
        ("gemma2", "attention.sliding_window", 64, "64 in the GGUF, config.json makes it 32"),
        ("gemma3", "attention.sliding_window", None, "0 in the GGUF, config.json makes it 32"),
        ("gemma2", "final_logit_softcapping", 29.0, "29 in the GGUF, config.json makes it 30"),
        ("llama", "rope.freq_base", 500000.0, "500000 in the GGUF, config.json makes it 10000"),
        ("llama", "rope.scaling.factor", 2.0, "2 in the GGUF, config.json makes it missing"),
        ("llama", "context_length", 4096, "4096 in the GGUF, config.json makes it 512"),
        ("phi3-long", "rope.scaling.attn_factor", None, "1 in the GGUF, config.json makes it 1.15"),
        ("qwen2-yarn", "rope.scaling.original_context_length", 64, "config.json makes it 128"),
    ],
)
def test_a_number_that_short_texts_do_not_show_is_named(
    case: str, key: str, value: object, words: str, tmp_path: Path
) -> None:
    """A window, a scaling, a length: all tensors are right."""
    source = build_checkpoint(case, tmp_path / "source")
    plain = exported(source, tmp_path, "f16")
    name = f"{read_gguf(plain).metadata['general.architecture']}.{key}"
    wrong = rewrite(
        plain, tmp_path / "wrong.gguf", metadata=lambda keys: keys.update({name: value})
    )
    report = compare_tensors(wrong, source)
    assert report.wrong == ()
    (said,) = [one for one in report.metadata if one.startswith(name)]
    assert words in said


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (
            "llama",
            {
                "llama.vocab_size": None,
                "llama.attention.key_length": None,
                "llama.attention.value_length": None,
                "llama.rope.freq_base": None,
                "llama.rope.dimension_count": None,
            },
        ),
        ("gemma3", {"gemma3.rope.freq_base_swa": None, "gemma3.rope.local.freq_base": 10000.0}),
        ("phi3", {"phi3.attention.sliding_window": None}),
        ("llama-3.1", {}),
    ],
)
def test_what_a_runtime_fills_in_may_be_missing(
    case: str, changes: dict[str, object], tmp_path: Path
) -> None:
    """As other converters leave it out, or call it."""
    source = build_checkpoint(case, tmp_path / "source")
    if case == "llama-3.1":  # divisors that no import can name are compared as a tensor
        path = source / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["rope_parameters"]["original_max_position_embeddings"] = 64
        path.write_text(json.dumps(config), encoding="utf-8")
    plain = exported(source, tmp_path, "f16")
    other = rewrite(plain, tmp_path / "other.gguf", metadata=lambda keys: keys.update(changes))
    assert compare_tensors(other, source) == TensorReport(())
