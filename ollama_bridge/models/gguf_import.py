"""Makes a Hugging Face checkpoint of a GGUF: a model that Ollama has becomes one to train.

Weights are decoded to float32 (F16 and BF16 stay what they are), one tensor at a time; the
permutation that llama.cpp's converter applies to the rows of the query and key projections is
undone. What the file says and a Llama of transformers cannot express is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ollama_bridge.errors import GGUFError, UnsupportedArchitectureError
from ollama_bridge.models import rope
from ollama_bridge.models.gguf_reader import GGUFContents, read_gguf
from ollama_bridge.models.gguf_tokenizer import GGUFTokenizer
from ollama_bridge.models.weights import WEIGHTS_NAME, WeightInfo, write_weights

_GGUF_ARCHITECTURES = ("llama",)
_KEPT_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
_DTYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_ROPE_FACTORS = "rope_freqs.weight"

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")


@dataclass(frozen=True)
class _Source:
    """One tensor of the checkpoint, and where it comes from."""

    info: WeightInfo
    gguf_name: str
    heads: int | None  # of a permuted projection


def import_gguf(path: Path, folder: Path) -> dict[str, Any]:
    """Write the checkpoint that a GGUF holds.

    Args:
        path: The GGUF.
        folder: Where to; made if missing.

    Returns:
        Facts: name, architecture, number of parameters, encodings of the source.

    Raises:
        GGUFError: damaged, or parts contradict each other.
        UnsupportedArchitectureError: no architecture that can be trained here.
        DiskFullError: there is no room.
    """
    contents = read_gguf(path)
    model = _Llama(contents)
    tokenizer = GGUFTokenizer(path, contents.metadata)
    sources = list(model.sources())
    config = model.config(tokenizer, tied="output.weight" not in contents.tensors)
    matrices = {source.info.dtype for source in sources if len(source.info.shape) > 1}
    config["dtype"] = _DTYPE_NAMES[matrices.pop() if len(matrices) == 1 else torch.float32]
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    ids = tokenizer.ids
    ends = list(ids.ends)
    generation = {
        "bos_token_id": ids.bos,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids.padding,
    }
    _write_json(
        folder / "generation_config.json",
        {key: value for key, value in generation.items() if value is not None},
    )
    tokenizer.write(folder, max_length=config["max_position_embeddings"])
    by_name = {source.info.name: source for source in sources}
    write_weights(
        folder / WEIGHTS_NAME,
        [source.info for source in sources],
        lambda name: _decode(contents, by_name[name]),
    )
    return {
        "name": str(contents.metadata.get("general.name", path.stem)),
        "architecture": "LlamaForCausalLM",
        "parameters": sum(math.prod(source.info.shape) for source in sources),
        "source_types": sorted({info.type for info in contents.tensors.values()}),
    }


def _decode(contents: GGUFContents, source: _Source) -> torch.Tensor:
    values = contents.tensor(source.gguf_name)
    if source.heads is not None:
        values = unpermute(values, source.heads)
    return torch.from_numpy(np.ascontiguousarray(values)).to(source.info.dtype)


def unpermute(
    values: np.ndarray[Any, np.dtype[np.float32]], heads: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Undo llama.cpp's order of the rows of a query or key projection.

    transformers rotates the first half of a head against the second, llama.cpp neighbours: the
    converter interleaves the halves, here they are taken apart.

    Args:
        values: (heads * head_dim, ...) as in the GGUF.
        heads: Query heads, or key heads for a key projection.
    """
    rows = values.shape[0]
    apart = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
    return apart.swapaxes(1, 2).reshape(values.shape)


class _Llama:
    """Reads the ``llama.*`` keys of a GGUF."""

    def __init__(self, contents: GGUFContents) -> None:
        self._contents = contents
        architecture = contents.metadata.get("general.architecture")
        if architecture not in _GGUF_ARCHITECTURES:
            raise UnsupportedArchitectureError(
                str(architecture), _GGUF_ARCHITECTURES, where=str(contents.path)
            )
        if contents.metadata.get("llama.expert_count"):
            raise UnsupportedArchitectureError(
                "llama with experts", _GGUF_ARCHITECTURES, where=str(contents.path)
            )
        self._layers = self._integer("block_count")
        self._hidden = self._integer("embedding_length")
        self._heads = self._integer("attention.head_count")
        self._kv_heads = self._integer("attention.head_count_kv", self._heads)
        self._head_dim = self._integer("attention.key_length", self._hidden // self._heads)
        self._inner = self._integer("feed_forward_length")
        if self._integer("attention.value_length", self._head_dim) != self._head_dim:
            raise self._error("attention.value_length differs from attention.key_length")
        if self._integer("rope.dimension_count", self._head_dim) != self._head_dim:
            raise self._error("rope.dimension_count is not the width of a head")
        if self._heads % self._kv_heads or self._head_dim % 2:
            raise self._error(f"{self._heads} heads of {self._head_dim}, {self._kv_heads} for keys")

    def config(self, tokenizer: GGUFTokenizer, *, tied: bool) -> dict[str, Any]:
        """The config of transformers."""
        rows = self._contents.tensors["token_embd.weight"].shape[0]
        if len(tokenizer.tokens) != rows:
            raise GGUFError(
                f"{self._contents.path}: {len(tokenizer.tokens)} tokens, "
                f"but token_embd.weight has {rows} rows"
            )
        factors = None
        if _ROPE_FACTORS in self._contents.tensors:
            factors = self._contents.tensor(_ROPE_FACTORS)
        config: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": self._has_bias(_ATTENTION),
            "mlp_bias": self._has_bias(("ffn_gate", "ffn_up", "ffn_down")),
            "head_dim": self._head_dim,
            "hidden_act": "silu",
            "hidden_size": self._hidden,
            "intermediate_size": self._inner,
            "max_position_embeddings": self._integer("context_length"),
            "num_attention_heads": self._heads,
            "num_hidden_layers": self._layers,
            "num_key_value_heads": self._kv_heads,
            "rms_norm_eps": self._number("attention.layer_norm_rms_epsilon"),
            "rope_parameters": rope.from_gguf(
                self._contents.path, self._contents.metadata, factors, head_dim=self._head_dim
            ),
            "tie_word_embeddings": tied,
            "vocab_size": rows,
        }
        for role, id_ in (
            ("bos", tokenizer.ids.bos),
            ("eos", tokenizer.ids.eos),
            ("pad", tokenizer.ids.padding),
        ):
            if id_ is not None:
                config[f"{role}_token_id"] = id_
        name = self._contents.metadata.get("general.name")
        if isinstance(name, str):
            config["ollama_bridge_base"] = name  # kept by transformers from model to student
        return config

    def sources(self) -> Iterator[_Source]:
        """Every tensor of the checkpoint; all of the file's must be used.

        Raises:
            GGUFError: a tensor is missing, left over, or of another shape.
        """
        left = set(self._contents.tensors) - {_ROPE_FACTORS}
        for gguf_name, name in self._names(left):
            info = self._contents.tensors[gguf_name]
            expected = self._shape(gguf_name, info.shape)
            if info.shape != expected:
                raise GGUFError(
                    f"{self._contents.path}: tensor {gguf_name!r} has shape {info.shape}, "
                    f"the metadata say {expected}"
                )
            left.discard(gguf_name)
            heads = {"attn_q": self._heads, "attn_k": self._kv_heads}.get(_part(gguf_name))
            dtype = _KEPT_TYPES.get(info.type, torch.float32)
            yield _Source(WeightInfo(name, info.shape, dtype), gguf_name, heads)
        if left:
            raise GGUFError(
                f"{self._contents.path}: tensors that a llama has not: "
                f"{', '.join(sorted(left)[:3])}"
            )

    def _names(self, present: set[str]) -> Iterator[tuple[str, str]]:
        optional = {"output.weight"}
        for gguf_name, name in _TOP.items():
            if gguf_name in present or gguf_name not in optional:
                yield self._present(gguf_name, present), name
        for layer in range(self._layers):
            for gguf_part, part in _BLOCK.items():
                stem, target = f"blk.{layer}.{gguf_part}", f"model.layers.{layer}.{part}"
                yield self._present(f"{stem}.weight", present), f"{target}.weight"
                if f"{stem}.bias" in present:
                    yield f"{stem}.bias", f"{target}.bias"

    def _present(self, name: str, present: set[str]) -> str:
        if name not in present:
            raise GGUFError(f"{self._contents.path}: tensor {name!r} is missing")
        return name

    def _shape(self, gguf_name: str, found: tuple[int, ...]) -> tuple[int, ...]:
        queries, keys = self._heads * self._head_dim, self._kv_heads * self._head_dim
        rows_columns = {
            "attn_q": (queries, self._hidden),
            "attn_k": (keys, self._hidden),
            "attn_v": (keys, self._hidden),
            "attn_output": (self._hidden, queries),
            "ffn_gate": (self._inner, self._hidden),
            "ffn_up": (self._inner, self._hidden),
            "ffn_down": (self._hidden, self._inner),
            "token_embd": (found[0], self._hidden),
            "output": (self._contents.tensors["token_embd.weight"].shape[0], self._hidden),
        }.get(_part(gguf_name), (self._hidden,))
        return rows_columns[:1] if gguf_name.endswith(".bias") else rows_columns

    def _has_bias(self, parts: tuple[str, ...]) -> bool:
        present = {f"{part}.bias" for part in parts if self._bias_layers(part) == self._layers}
        any_present = any(self._bias_layers(part) for part in parts)
        if any_present and len(present) != len(parts):
            raise self._error(f"biases on some of {', '.join(parts)} only")
        return any_present

    def _bias_layers(self, part: str) -> int:
        tensors = self._contents.tensors
        return sum(f"blk.{layer}.{part}.bias" in tensors for layer in range(self._layers))

    def _integer(self, key: str, default: int | None = None) -> int:
        value = self._contents.metadata.get(f"llama.{key}", default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]  # one number a layer, all the same
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._error(f"llama.{key} is {value!r}, expected a positive integer")
        return value

    def _number(self, key: str) -> float:
        value = self._contents.metadata.get(f"llama.{key}")
        if not isinstance(value, float) or not 0 < value < math.inf:
            raise self._error(f"llama.{key} is {value!r}, expected a positive number")
        return rope.shortest(value)

    def _error(self, message: str) -> GGUFError:
        return GGUFError(f"{self._contents.path}: {message}")


def _part(gguf_name: str) -> str:
    return gguf_name.split(".")[-2]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
