"""Llama (and what shares its class: SmolLM2, TinyLlama, ...) as GGUF architecture ``llama``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ollama_bridge.conversion.frame import Entry, TensorPlan, config_integer, number, real, text
from ollama_bridge.errors import ConversionError
from ollama_bridge.models import rope
from ollama_bridge.models.weights import Weights

_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_COMPUTED = "rotary_emb.inv_freq"  # buffers that old checkpoints saved


def permute(values: Tensor, heads: int) -> Tensor:
    """Order the rows of a query or key projection as llama.cpp rotates them.

    transformers rotates the first half of a head against the second, llama.cpp neighbours; with
    the halves interleaved both compute the same.

    Args:
        values: (heads * head_dim, ...).
        heads: Query heads, or key heads for a key projection.

    Source: ``LlamaModel.permute`` of llama.cpp's converter.
    """
    rows = values.shape[0]
    halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


class Llama:
    """Writes ``LlamaForCausalLM``."""

    name = "llama"

    def entries(self, config: Mapping[str, Any]) -> list[Entry]:
        """The ``llama.*`` keys; see :class:`ollama_bridge.conversion.frame.Architecture`."""
        activation = config.get("hidden_act", "silu")
        if activation != "silu":
            raise ConversionError(f"config.json: hidden_act is {activation!r}, llama has silu")
        heads = config_integer(config, "num_attention_heads")
        head_dim = _head_dim(config)
        epsilon = config.get("rms_norm_eps", 1e-6)
        return [
            number("llama.block_count", config_integer(config, "num_hidden_layers")),
            number("llama.context_length", config_integer(config, "max_position_embeddings")),
            number("llama.embedding_length", config_integer(config, "hidden_size")),
            number("llama.feed_forward_length", config_integer(config, "intermediate_size")),
            number("llama.attention.head_count", heads),
            number("llama.attention.head_count_kv", _kv_heads(config)),
            number("llama.attention.key_length", head_dim),
            number("llama.attention.value_length", head_dim),
            real("llama.attention.layer_norm_rms_epsilon", float(epsilon)),
            number("llama.vocab_size", config_integer(config, "vocab_size")),
            number("llama.rope.dimension_count", head_dim),
            *_rope_entries(rope.parameters_of(config)),
        ]

    def tensors(self, config: Mapping[str, Any], weights: Weights) -> list[TensorPlan]:
        """All tensors; see :class:`ollama_bridge.conversion.frame.Architecture`."""
        tied = bool(config.get("tie_word_embeddings", False))
        left = {name for name in weights.infos if not name.endswith(_COMPUTED)}
        if tied:
            left.discard("lm_head.weight")  # some savers write the shared matrix twice
        plans = []
        for source, target, heads in _names(config, tied=tied):
            present = source in left
            if not present and source.endswith(".bias"):
                continue
            if not present:
                raise ConversionError(f"tensor {source!r} is missing from the checkpoint")
            left.discard(source)
            shape = weights.infos[source].shape
            expected = _shape(config, source)
            if shape != expected:
                raise ConversionError(
                    f"tensor {source!r} has shape {shape}, config.json says {expected}"
                )
            plans.append(TensorPlan(target, shape, partial(_load, weights, source, heads)))
        if left:
            raise ConversionError(
                f"tensors that a llama has not: {', '.join(sorted(left)[:3])}",
                hint="merge adapters first; see ollama-bridge convert --help",
            )
        parameters = rope.parameters_of(config)
        if parameters["rope_type"] == "llama3":
            head_dim = _head_dim(config)
            divisors = torch.from_numpy(rope.llama3_divisors(parameters, head_dim))
            plans.append(TensorPlan("rope_freqs.weight", (head_dim // 2,), lambda: divisors))
        return plans


def _load(weights: Weights, source: str, heads: int | None) -> Tensor:
    values = weights.tensor(source).float()
    return values if heads is None else permute(values, heads)


def _names(config: Mapping[str, Any], *, tied: bool) -> Iterator[tuple[str, str, int | None]]:
    """(name in the checkpoint, name in the GGUF, heads where rows are permuted)."""
    permuted = {
        "attn_q": config_integer(config, "num_attention_heads"),
        "attn_k": _kv_heads(config),
    }
    yield "model.embed_tokens.weight", "token_embd.weight", None
    yield "model.norm.weight", "output_norm.weight", None
    if not tied:
        yield "lm_head.weight", "output.weight", None
    for layer in range(config_integer(config, "num_hidden_layers")):
        for part, target in _BLOCK.items():
            for kind in ("weight", "bias"):
                yield (
                    f"model.layers.{layer}.{part}.{kind}",
                    f"blk.{layer}.{target}.{kind}",
                    permuted.get(target),
                )


def _shape(config: Mapping[str, Any], name: str) -> tuple[int, ...]:
    hidden = config_integer(config, "hidden_size")
    inner = config_integer(config, "intermediate_size")
    vocabulary = config_integer(config, "vocab_size")
    queries = config_integer(config, "num_attention_heads") * _head_dim(config)
    keys = _kv_heads(config) * _head_dim(config)
    *_, part, kind = name.split(".")
    shape: tuple[int, ...] = {
        "embed_tokens": (vocabulary, hidden),
        "lm_head": (vocabulary, hidden),
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }.get(part, (hidden,))
    return shape[:1] if kind == "bias" else shape


def _head_dim(config: Mapping[str, Any]) -> int:
    hidden = config_integer(config, "hidden_size")
    heads = config_integer(config, "num_attention_heads")
    return config_integer(config, "head_dim", hidden // heads)


def _kv_heads(config: Mapping[str, Any]) -> int:
    heads = config_integer(config, "num_attention_heads")
    return config_integer(config, "num_key_value_heads", heads)


def _rope_entries(parameters: Mapping[str, Any]) -> list[Entry]:
    kind = parameters["rope_type"]
    entries = [real("llama.rope.freq_base", float(parameters["rope_theta"]))]
    if kind in ("default", "llama3"):  # llama3: the tensor rope_freqs.weight
        return entries
    scaling = [
        text("llama.rope.scaling.type", kind),
        real("llama.rope.scaling.factor", float(parameters.get("factor", 1.0))),
    ]
    if kind == "linear":
        return entries + scaling
    needed = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
    if kind == "yarn" and {key for key, value in parameters.items() if value is not None} == needed:
        context = int(parameters["original_max_position_embeddings"])
        return [
            *entries,
            *scaling,
            number("llama.rope.scaling.original_context_length", context),
        ]
    raise ConversionError(
        f"config.json: RoPE parameters {dict(parameters)} cannot be written",
        hint="default, linear, llama3 and plain yarn can",
    )
