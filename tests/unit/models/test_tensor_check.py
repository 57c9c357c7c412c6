"""Naming the tensor that is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.adapters import build_adapter, change_settings
from fakes.architectures import CASES, build_checkpoint
from fakes.ggufs import rewrite
from safetensors.torch import load_file, save_file

from ollama_bridge.conversion import convert
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.verify.tensor_check import TensorReport, compare_tensors
from ollama_bridge.verify.tensor_distance import measure


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


def change_bytes(path: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Change the bytes of a tensor in a GGUF file, a row of it a row."""
    info = read_gguf(path).tensors[name]
    data = np.memmap(path, dtype=np.uint8, mode="r+")
    change(data[info.offset : info.offset + info.size_bytes].reshape(info.shape[0], -1))
    data.flush()


def zero_a_row(rows: np.ndarray) -> None:
    """Nothing in it."""
    rows[77] = 0


def repeat_a_row(rows: np.ndarray) -> None:
    """Another one's values."""
    rows[77] = rows[3]


def double_a_block(rows: np.ndarray) -> None:
    """Its scale; in BF16 a single number, which is 256 times as large."""
    rows[77, 1] += 4


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


@pytest.mark.parametrize("type_", ["bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("damage", [zero_a_row, repeat_a_row, double_a_block])
def test_a_fault_in_one_row_is_named(
    type_: str, damage: Callable[[np.ndarray], None], tmp_path: Path
) -> None:
    """Beside all other rows it is less than rounding does to a tensor."""
    source = build_checkpoint("llama", tmp_path / "source", sizes={"hidden_size": 128})
    path = exported(source, tmp_path, type_)
    change_bytes(path, "blk.1.ffn_up.weight", damage)
    (wrong,) = compare_tensors(path, source).wrong
    assert re.match(r"blk\.1\.ffn_up\.weight: .*row 77( |$)", wrong), wrong


@pytest.mark.parametrize(("whole_rows", "sound"), [(False, False), (True, True)])
def test_an_importance_matrix_may_sacrifice_a_block(*, whole_rows: bool, sound: bool) -> None:
    """Columns that count for nothing; not a whole row of them."""
    values = np.ones((64, 256), np.float32)
    found = values.copy()
    found[5, :32] = 0
    assert measure(found, values, "Q4_0", whole_rows=whole_rows).is_rounding == sound
    found[5] = 0
    assert measure(found, values, "Q4_0", whole_rows=whole_rows).rows == (5,)


def test_blocks_of_next_to_nothing_may_be_lost() -> None:
    """Their scale is too small for half precision."""
    values = np.ones((64, 256), np.float32)
    values[5] = 1e-9
    found = values.copy()
    found[5] = 0
    assert measure(found, values, "Q8_0").is_rounding


def test_a_value_that_is_not_finite_is_named(tmp_path: Path) -> None:
    """What a bfloat16 can hold and F16 cannot: the tag answers nothing any more."""
    source = build_checkpoint("llama", tmp_path / "source")
    path = exported(source, tmp_path, "f16")
    change_bytes(path, "blk.0.attn_v.weight", lambda rows: rows.__setitem__((3, 1), 0x7C))
    assert compare_tensors(path, source).wrong == (
        "blk.0.attn_v.weight: holds values that are not finite, for F16 ends at 65504",
    )


def test_layers_in_another_order_are_named(tmp_path: Path) -> None:
    """The first tensor says whose it is."""
    source = build_checkpoint("llama", tmp_path / "source")
    path = exported(source, tmp_path, "q8_0")
    tensors = load_file(source / "model.safetensors")
    turned = {
        name.replace("layers.0", "layers.x").replace("layers.1", "layers.0"): one
        for name, one in tensors.items()
    }
    turned = {name.replace("layers.x", "layers.1"): one for name, one in turned.items()}
    save_file(turned, source / "model.safetensors", metadata={"format": "pt"})
    wrong = compare_tensors(path, source).wrong
    assert wrong[0] == "blk.0.attn_norm.weight: it is the checkpoint's blk.1.attn_norm.weight"
    assert len(wrong) == 18


@pytest.mark.parametrize("type_", ["f16", "q4_0"])
@pytest.mark.parametrize(
    ("often", "words"),
    [
        (0, "the adapter is not in it"),
        (1, None),
        (2, "the adapter is in it twice, or with twice its lora_alpha"),
        (0.5, "the adapter is in it 0.5 times"),
    ],
)
def test_how_often_an_adapter_was_merged_is_named(
    often: float, words: str | None, type_: str, tmp_path: Path
) -> None:
    """Four bits round by more than an adapter changes."""
    base = build_checkpoint("llama", tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    small = {name: one * 0.3 if "lora_B" in name else one for name, one in tensors.items()}
    save_file(small, adapter / "adapter_model.safetensors")
    cache = tmp_path / "cache"
    merged = resolve_model(str(adapter), cache_dir=cache, base=str(base))
    changed = Path(shutil.copytree(adapter, tmp_path / "changed"))
    change_settings(changed, lora_alpha=16 * often)
    other = resolve_model(str(changed), cache_dir=cache, base=str(base))
    path = convert(other, type=type_, out_dir=tmp_path / "gguf").gguf_path
    wrong = compare_tensors(path, merged.path).wrong
    assert [one.partition(": ")[2] for one in wrong] == [words] * (14 if words else 0)
