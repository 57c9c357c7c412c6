"""LoRA adapters as GGUF adapters: what llama.cpp adds is what peft trained."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.adapters import build_adapter, change_settings
from fakes.architectures import build_checkpoint
from fakes.ggufs import decoded, metadata_of
from fakes.models import build_tiny_checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ollama_bridge.conversion import convert, convert_adapter
from ollama_bridge.errors import ConversionError, ModelError
from ollama_bridge.models.architectures.layout import permute
from ollama_bridge.models.sources.resolve import resolve_base, resolve_model
from ollama_bridge.models.weights.lora import Adapter
from ollama_bridge.storage.artifacts import Checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny llama with an output matrix of its own."""
    folder = tmp_path_factory.mktemp("base")
    source = build_tiny_checkpoint(folder / "source", tied=False)
    return resolve_model(str(source), cache_dir=folder / "cache")


def added(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What llama.cpp adds to each matrix: alpha / rank times B A."""
    tensors = decoded(path)
    alpha = metadata_of(path)["adapter.lora.alpha"]
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    assert len(tensors) == 2 * len(names)
    result = {}
    for name in names:
        down, up = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        if name == "token_embd.weight":  # one row of A a token
            result[name] = alpha / up.shape[1] * (down @ up.T)
        else:
            result[name] = alpha / down.shape[0] * (up @ down)
    return result


def assert_adapter_is_the_merge(source: Path, adapter: Path, folder: Path) -> None:
    """The base's GGUF and what is added to it make the merged model's GGUF."""
    change_settings(adapter, base_model_name_or_path=str(source))
    base = resolve_base(adapter, cache_dir=folder / "cache")
    merged = resolve_model(str(adapter), cache_dir=folder / "cache")
    before = decoded(convert(base, type="f32", out_dir=folder / "base-gguf").gguf_path)
    after = decoded(convert(merged, type="f32", out_dir=folder / "merged-gguf").gguf_path)
    delta = added(convert_adapter(adapter, base, out_dir=folder / "adapter-gguf").gguf_path)
    assert delta
    for name, values in after.items():
        expected = before[name] + delta[name] if name in delta else before[name]
        np.testing.assert_allclose(values, expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["llama", "gemma2", "phi3", "qwen3", "granite"])
def test_base_and_adapter_are_the_merged_model(case: str, tmp_path: Path) -> None:
    """Permuted rows, shifted norms and joined matrices, on all linear layers."""
    source = build_checkpoint(case, tmp_path / "source")
    adapter = build_adapter(source, tmp_path / "adapter", target_modules="all-linear")
    assert_adapter_is_the_merge(source, adapter, tmp_path)


def test_embedding_and_output_are_expressed_where_they_are_two(tmp_path: Path) -> None:
    """An adapted embedding is written as llama.cpp looks it up: A by token."""
    source = build_tiny_checkpoint(tmp_path / "source", tied=False)
    modules = ["q_proj", "embed_tokens", "lm_head"]
    adapter = build_adapter(source, tmp_path / "adapter", target_modules=modules)
    assert_adapter_is_the_merge(source, adapter, tmp_path)


def write_adapter(folder: Path, ranks: Mapping[str, int], changes: Mapping[str, Any]) -> Path:
    """An adapter of the tiny llama's q and up projections, without peft."""
    shapes = {"self_attn.q_proj": (64, 64), "mlp.up_proj": (128, 64)}
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for module, rank in ranks.items():
        rows, columns = shapes[module]
        name = f"base_model.model.model.layers.0.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, columns, generator=random)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, rank, generator=random)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **changes}))
    return folder


@settings(max_examples=15, deadline=None)
@given(
    ranks=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    alpha=st.sampled_from([0.5, 1, 8, 16, 32]),
    rslora=st.booleans(),
    pattern=st.sampled_from([{}, {"up_proj": 3}, {"layers.0.self_attn.q_proj": 64}]),
)
@example(ranks=(4, 4), alpha=0, rslora=False, pattern={})  # which llama.cpp takes for no scaling
@example(ranks=(4, 2), alpha=0, rslora=True, pattern={"up_proj": 3})
def test_scales_of_every_kind_are_kept(
    base: Checkpoint, ranks: tuple[int, int], alpha: float, rslora: bool, pattern: dict[str, int]
) -> None:
    """rsLoRA, ranks and alphas by pattern: what is added is what peft's formula says."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = write_adapter(
            Path(folder) / "adapter",
            {"self_attn.q_proj": ranks[0], "mlp.up_proj": ranks[1]},
            {"r": 8, "lora_alpha": alpha, "use_rslora": rslora, "alpha_pattern": pattern},
        )
        delta = added(convert_adapter(adapter, base, out_dir=Path(folder) / "out").gguf_path)
        loaded = Adapter(adapter)
        for module, target in (("self_attn.q_proj", "attn_q"), ("mlp.up_proj", "ffn_up")):
            expected = loaded.delta(loaded.changes[f"model.layers.0.{module}.weight"])
            assert expected is not None
            if target == "attn_q":
                expected = permute(expected, 4)
            found = delta[f"blk.0.{target}.weight"]
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_a_plain_adapter_keeps_its_alpha_and_its_factors(base: Checkpoint, tmp_path: Path) -> None:
    """Nothing is scaled that need not be, and the file says what it is."""
    adapter = write_adapter(tmp_path / "adapter", {"mlp.up_proj": 4}, {"r": 4, "lora_alpha": 16})
    made = convert_adapter(adapter, base, out_dir=tmp_path / "out")
    keys = metadata_of(made.gguf_path)
    assert keys["general.type"] == "adapter"
    assert keys["general.architecture"] == "llama"
    assert keys["adapter.type"] == "lora"
    assert keys["adapter.lora.alpha"] == 16.0
    factors = Adapter(adapter).factors
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    found = decoded(made.gguf_path)["blk.0.ffn_up.weight.lora_b"]
    assert np.array_equal(found, factors.tensor(name).numpy())
    assert convert_adapter(adapter, base, out_dir=tmp_path / "out").digest == made.digest


@pytest.mark.parametrize(
    ("changes", "tied", "message"),
    [
        ({"use_dora": True}, True, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, False, "modules_to_save"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, False, "trainable_token_indices"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True, "ties it"),
        ({"modules_to_save": ["input_layernorm"]}, True, "modules_to_save"),
    ],
)
def test_what_a_gguf_adapter_cannot_say_is_refused(
    tmp_path: Path, changes: dict[str, Any], tied: bool, message: str
) -> None:
    """Named, with merging as the way out, and nothing is written."""
    source = build_tiny_checkpoint(tmp_path / "source", tied=tied)
    adapter = build_adapter(source, tmp_path / "adapter", **changes)
    base = resolve_model(str(source), cache_dir=tmp_path / "cache")
    with pytest.raises(ConversionError, match=message) as caught:
        convert_adapter(adapter, base, out_dir=tmp_path / "out")
    assert "merged" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_trained_biases_are_refused(tmp_path: Path) -> None:
    """A bias is no product of two matrices."""
    source = build_checkpoint("llama-biases", tmp_path / "source")
    base = resolve_model(str(source), cache_dir=tmp_path / "cache")
    for changes, message in (({"bias": "all"}, "bias"), ({"lora_bias": True}, "lora_bias")):
        adapter = build_adapter(source, tmp_path / message, **changes)
        with pytest.raises(ConversionError, match=message):
            convert_adapter(adapter, base, out_dir=tmp_path / "out")


def test_a_folder_that_is_no_adapter_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """--adapter with a checkpoint."""
    with pytest.raises(ModelError, match="not a PEFT adapter"):
        resolve_base(tiny_checkpoint, cache_dir=tmp_path)
