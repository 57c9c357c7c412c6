"""The convert stage: what is in the file, according to readers that are not ours."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.endings import set_ends
from fakes.exports import tiny_exports
from fakes.models import CHAT_TEMPLATE, build_tiny_checkpoint, build_tiny_tokenizer
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from ollama_bridge.conversion import convert
from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.conversion.writer import write_gguf
from ollama_bridge.errors import ArtifactError, ConfigError, ConversionError, ModelError
from ollama_bridge.models.load import load_model
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.models.weights.floats import to_bfloat16
from ollama_bridge.quantization.file_types import FILE_TYPES, NUMBERS
from ollama_bridge.quantization.mixes import ModelShape, plan_types
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues
from ollama_bridge.storage.artifacts import Checkpoint

Q = GGMLQuantizationType


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The tiny checkpoint as an artefact."""
    return resolve_model(str(tiny_checkpoint), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def changed(tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., Checkpoint]:
    """Makes a checkpoint with keys of one of its JSON files changed."""

    def change(name: str, changes: dict[str, object]) -> Checkpoint:
        folder = tmp_path / "changed"
        shutil.copytree(tiny_checkpoint, folder)
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return resolve_model(str(folder), cache_dir=tmp_path / "cache")

    return change


def metadata(path: Path) -> dict[str, Any]:
    """All keys, as the gguf package reads them."""
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def test_reference_values_go_with_the_model(tmp_path: Path) -> None:
    """What a daemon has to reproduce is in the file, and reference.json beside it."""
    exports = tiny_exports(tmp_path, seed=3, system="Be brief.")
    stored = ReferenceValues.read(exports.checkpoint.reference_path)
    gguf = exports.gguf("f16")
    text = metadata(gguf.gguf_path)[REFERENCE_KEY]
    assert ReferenceValues.parse(text, where="the GGUF") == stored
    assert gguf.reference_path.read_bytes() == exports.checkpoint.reference_path.read_bytes()


@pytest.mark.parametrize("type_", FILE_TYPES)
def test_the_gguf_package_reads_every_type(
    checkpoint: Checkpoint, tmp_path: Path, type_: str
) -> None:
    """Each type is readable by gguf-py, matrices as planned and vectors in F32."""
    gguf = convert(checkpoint, type=type_, out_dir=tmp_path / "out")
    keys = metadata(gguf.gguf_path)
    assert keys["general.file_type"] == NUMBERS[type_]
    tensors = GGUFReader(gguf.gguf_path).tensors
    shapes = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in tensors}
    plan = plan_types(type_, shapes, ModelShape("llama", 2, 4, 2))
    assert {tensor.name: tensor.tensor_type for tensor in tensors} == plan


def test_processes_do_not_change_the_file(tmp_path: Path) -> None:
    """Written by this process alone and with two that help: the same bytes."""
    values = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    norm = to_bfloat16(np.ones(512, dtype=np.float32))
    shapes = {"a.weight": (64, 512), "a_norm.weight": (512,), "b.weight": (64, 512)}
    loads = {"a.weight": values, "a_norm.weight": norm, "b.weight": values.astype(np.float16)}
    for processes in (0, 2):
        write_gguf(
            tmp_path / f"{processes}.gguf",
            architecture="llama",
            entries=[],
            plans=[
                TensorPlan(name, shape, partial(loads.__getitem__, name))
                for name, shape in shapes.items()
            ],
            types={"a.weight": Q.Q4_K, "a_norm.weight": Q.F32, "b.weight": Q.Q8_0},
            processes=processes,
            on_tensor=lambda _: None,
        )
    assert (tmp_path / "0.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "0.gguf").tensors}
    assert np.array_equal(tensors["a_norm.weight"].data, np.ones(512, dtype=np.float32))
    back = dequantize(tensors["a.weight"].data, Q.Q4_K)
    assert np.abs(back - values).max() < 0.3


def test_weights_are_those_of_the_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """In F32 every tensor is bit for bit the checkpoint's, q and k with their rows permuted."""
    gguf = convert(checkpoint, type="f32", out_dir=tmp_path / "out")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(gguf.gguf_path).tensors}
    weights = {name: t.numpy() for name, t in load_model(checkpoint.path).state_dict().items()}
    assert np.array_equal(tensors["token_embd.weight"], weights["model.embed_tokens.weight"])
    assert "output.weight" not in tensors  # tied
    for layer in range(2):
        source, target = f"model.layers.{layer}", f"blk.{layer}"
        for name, part in (
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("attn_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        ):
            assert np.array_equal(
                tensors[f"{target}.{name}.weight"], weights[f"{source}.{part}.weight"]
            )
        for name, part, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
            rows = weights[f"{source}.self_attn.{part}.weight"]
            # llama.cpp's permute, as its converter has it
            permuted = rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1)
            permuted = permuted.swapaxes(1, 2).reshape(rows.shape)
            assert np.array_equal(tensors[f"{target}.{name}.weight"], permuted)


def test_every_key_that_runtimes_need_is_there(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Hyperparameters and tokenizer keys are written explicitly, none left to a default."""
    keys = metadata(convert(checkpoint, type="f16", out_dir=tmp_path / "out").gguf_path)
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.quantization_version": 2,
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": 384,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 2,
        "tokenizer.ggml.eos_token_ids": [2],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "ollama_bridge.checkpoint.digest": checkpoint.digest,
    }
    assert {key: keys.get(key) for key in expected} == expected
    assert len(keys["tokenizer.ggml.tokens"]) == 384
    assert keys["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert keys["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert len(keys["tokenizer.ggml.merges"]) == 384 - 259


def test_the_template_is_written_where_asked(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """tokenizer.chat_template is there only when asked for; the import finds it either way."""
    for asked in (False, True):
        gguf = convert(checkpoint, type="f32", out_dir=tmp_path / f"{asked}", chat_template=asked)
        assert ("tokenizer.chat_template" in metadata(gguf.gguf_path)) is asked
        import_gguf(gguf.gguf_path, tmp_path / f"back-{asked}")
        assert (tmp_path / f"back-{asked}" / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_a_file_without_a_tag_has_its_template(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """As `convert` makes it of any folder; a TEMPLATE that was proven is the one authority."""
    keys = metadata(convert(checkpoint, type="f32", out_dir=tmp_path / "bare").gguf_path)
    assert keys["tokenizer.chat_template"].startswith(CHAT_TEMPLATE)
    exports = tiny_exports(tmp_path, seed=3, system="Be brief.")
    served = ReferenceValues.read(exports.checkpoint.reference_path).template
    assert served is not None
    assert served.authority == "template"
    assert "tokenizer.chat_template" not in metadata(exports.gguf("f32").gguf_path)


def test_a_template_that_ollama_has_to_render_is_in_the_file(tmp_path: Path) -> None:
    """No tag would come of a file without: neither has a TEMPLATE."""
    checkpoint = tiny_exports(tmp_path, seed=3, system="Be brief.").checkpoint
    values = ReferenceValues.read(checkpoint.reference_path)
    assert values.template is not None
    served = values.template.model_copy(update={"authority": "jinja", "go": None})
    values.model_copy(update={"template": served}).write(checkpoint.reference_path)
    with pytest.raises(
        ConfigError, match="no Go TEMPLATE can replace this chat template"
    ) as caught:
        convert(checkpoint, type="f32", out_dir=tmp_path / "x", chat_template=False)
    assert "--no-standalone" in str(caught.value.hint)


def test_the_same_input_gives_the_same_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Two conversions give one digest; no time and no path is in the file."""
    one = convert(checkpoint, type="q8_0", out_dir=tmp_path / "a" / "x")
    two = convert(checkpoint, type="q8_0", out_dir=tmp_path / "b")
    assert one.blob_digest == two.blob_digest


def test_done_work_is_not_done_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The second call opens what the first one made; another type is other work."""
    first = convert(checkpoint, type="f16", out_dir=tmp_path / "out")
    modified = first.gguf_path.stat().st_mtime_ns
    again = convert(checkpoint, type="f16", out_dir=tmp_path / "out")
    assert again.gguf_path.stat().st_mtime_ns == modified
    other = convert(checkpoint, type="f32", out_dir=tmp_path / "out")
    assert other.blob_digest != first.blob_digest


def test_odd_rows_fall_back_and_say_so(tmp_path: Path) -> None:
    """Rows that are no multiple of 32 stay F16 in a Q8_0 file, and the facts say so."""
    source = build_tiny_checkpoint(tmp_path / "odd", hidden=48)
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="q8_0", out_dir=tmp_path / "out")
    types = {t.name: t.tensor_type.name for t in GGUFReader(gguf.gguf_path).tensors}
    assert types["blk.0.attn_q.weight"] == "F16"
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert "rows of 48" in gguf.facts["notes"][0]
    assert "F16" in gguf.facts["notes"][0]


def test_quantized_files_compute_nearly_the_same(tmp_path: Path) -> None:
    """Files, read back, give the checkpoint's log-probabilities, the closer the more bits."""
    source = build_tiny_checkpoint(tmp_path / "wide", hidden=256)
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    tokens = torch.arange(3, 60)[None]
    divergences = []
    with torch.no_grad():
        expected = load_model(checkpoint.path)(tokens).logits.log_softmax(-1)
        for type_ in ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"):
            gguf = convert(checkpoint, type=type_, out_dir=tmp_path / type_)
            import_gguf(gguf.gguf_path, tmp_path / f"back-{type_}")
            got = load_model(tmp_path / f"back-{type_}")(tokens).logits.log_softmax(-1)
            divergences.append(float((expected.exp() * (expected - got)).sum(-1).mean()))
    assert divergences == sorted(divergences)
    assert 0 < divergences[0] < 1e-3
    assert divergences[1] < 0.05


def test_missing_rows_are_filled_up(tmp_path: Path) -> None:
    """Rows of the embedding without a token get [PADi] of type UNUSED."""
    source = build_tiny_checkpoint(tmp_path / "padded", vocab_size=384)
    build_tiny_tokenizer(vocab_size=380).save_pretrained(source)
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    keys = metadata(convert(checkpoint, type="f32", out_dir=tmp_path / "out").gguf_path)
    assert keys["tokenizer.ggml.tokens"][-4:] == ["[PAD380]", "[PAD381]", "[PAD382]", "[PAD383]"]
    assert keys["tokenizer.ggml.token_type"][-4:] == [5, 5, 5, 5]


def test_several_end_tokens_are_all_written(
    changed: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    """Every EOS of generation_config is in eos_token_ids, the tokenizer's own first."""
    checkpoint = changed("generation_config.json", {"eos_token_id": [0, 2]})
    gguf = convert(checkpoint, type="f32", out_dir=tmp_path / "out")
    keys = metadata(gguf.gguf_path)
    assert keys["tokenizer.ggml.eos_token_id"] == 2
    assert keys["tokenizer.ggml.eos_token_ids"] == [2, 0]
    assert gguf.facts["end_tokens"] == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_hidden_layers": 1}, "does not have"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"num_key_value_heads": 4}, "shape"),
        ({"hidden_size": None}, "hidden_size"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e300}},
            "freq_base: 1e\\+300 is too large for a FLOAT32",
        ),
    ],
)
def test_configs_that_do_not_fit_are_refused(
    changed: Callable[..., Checkpoint], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """A config that contradicts the weights or that a GGUF cannot say is an error."""
    with pytest.raises((ConversionError, ModelError), match=message):
        checkpoint = changed("config.json", changes)
        convert(checkpoint, type="f32", out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EFBIG, "FAT32")],
    ids=errno.errorcode.get,
)
def test_a_disk_that_takes_no_more_is_said(
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    message: str,
) -> None:
    """One that fills up among the tensors is one error that says so, and no file is left."""

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ollama_bridge.conversion.writer._write_tensors", full)
    with pytest.raises(ArtifactError, match=message):
        convert(checkpoint, type="f32", out_dir=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_a_chat_templates_end_is_one_of_the_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of a base model that was taught ChatML."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    set_ends(folder, eos="<|endoftext|>", generation=0)
    checkpoint = with_reference_values(
        resolve_model(str(folder), cache_dir=tmp_path / "cache"),
        system=None,
        out_dir=tmp_path / "values",
    )
    gguf = convert(checkpoint, type="f32", out_dir=tmp_path / "out")
    keys = metadata(gguf.gguf_path)
    assert keys["tokenizer.ggml.eos_token_id"] == 0
    assert keys["tokenizer.ggml.eot_token_id"] == 2
    assert keys["tokenizer.ggml.eos_token_ids"] == [0, 2]
