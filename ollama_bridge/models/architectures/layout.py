"""What a decoder is made of: its sizes, the parts of a layer, and its tensors on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Float32Array = np.ndarray[Any, np.dtype[np.float32]]

# Of the matrices at both ends, in a checkpoint.
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
LLAMA_BLOCK: Mapping[str, str] = {
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
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Dimensions:
    """Sizes that every decoder has.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream.
        inner: Width inside the MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        vocab: Rows of the embedding.
        context: Positions that the weights were made for.
        epsilon: Of the RMS norms.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    epsilon: float

    @property
    def queries(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Rows of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Axes:
    """What the rows and columns of a part of a layer are, in names of :class:`Dimensions`.

    So shapes are known, and which rows and columns belong to a head, channel or width that a
    narrower student does without.

    Attributes:
        rows: One kind, or several that are stacked in one matrix.
        columns: None of a vector.
    """

    rows: tuple[str, ...]
    columns: str | None = None

    def shape(self, dims: Dimensions) -> tuple[int, ...]:
        """The shape at these sizes."""
        rows = sum(getattr(dims, kind) for kind in self.rows)
        return (rows,) if self.columns is None else (rows, getattr(dims, self.columns))


# Norms of the residual stream, and of every head.
WIDTH_NORM, HEAD_NORM = Axes(("hidden",)), Axes(("head_dim",))
LLAMA_AXES: Mapping[str, Axes] = {
    "self_attn.q_proj": Axes(("queries",), "hidden"),
    "self_attn.k_proj": Axes(("keys",), "hidden"),
    "self_attn.v_proj": Axes(("keys",), "hidden"),
    "self_attn.o_proj": Axes(("hidden",), "queries"),
    "mlp.gate_proj": Axes(("inner",), "hidden"),
    "mlp.up_proj": Axes(("inner",), "hidden"),
    "mlp.down_proj": Axes(("hidden",), "inner"),
}


@dataclass(frozen=True)
class TensorRule:
    """One tensor on both sides.

    Attributes:
        source: Its name in the checkpoint.
        target: Its name in the GGUF.
        shape: Rows first; the same on both sides.
        heads: Of a projection whose rows llama.cpp orders differently; None: same order.
        shift: What the GGUF's values have more than the checkpoint's (Gemma's norms: 1).
        optional: A bias that a checkpoint may do without.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    heads: int | None = None
    shift: float = 0.0
    optional: bool = False


def permute(values: Any, heads: int) -> Any:
    """Order the rows of a query or key projection as llama.cpp rotates them.

    transformers rotates the first half of a head against the second, llama.cpp neighbours; with
    the halves interleaved both compute the same.

    Args:
        values: (heads * head_dim, ...), of numpy or torch.
        heads: Query heads, or key heads for a key projection.

    Source: ``LlamaModel.permute`` of llama.cpp's converter.
    """
    return _reorder(values, heads, halves_first=True)


def unpermute(values: Any, heads: int) -> Any:
    """Undo :func:`permute`."""
    return _reorder(values, heads, halves_first=False)


def _reorder(values: Any, heads: int, *, halves_first: bool) -> Any:
    half = values.shape[0] // heads // 2
    inner = (2, half) if halves_first else (half, 2)
    return values.reshape(heads, *inner, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
