"""Narrower layers: some of the heads, MLP channels and directions of the residual stream.

What stays computes exactly what it computed when the rest was zero. That is plain for heads and
channels. It is made so for the residual stream: an RMS norm over ``d`` of ``D`` directions divides
by a root mean square that is ``sqrt(D / d)`` larger than over all of them with ``D - d`` zeros, so
its weight is multiplied by that factor, and its epsilon by the factor's square.

Source: Muralidharan et al. 2024, Minitron, arXiv 2407.14679 (which leaves the norms to training).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ollama_bridge.errors import ConfigError
from ollama_bridge.models.architectures import ARCHITECTURES, Architecture
from ollama_bridge.models.architectures.layout import (
    EMBEDDING,
    OUTPUT,
    WIDTH_NORM,
    Axes,
    Dimensions,
)
from ollama_bridge.models.pruning.importance import Activity
from ollama_bridge.models.pruning.layers import check_exportable, highest
from ollama_bridge.models.pruning.rebuilding import rebuilt

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_NORM = "model.norm.weight"


@dataclass(frozen=True)
class Kept:
    """What stays of each layer, by number, rising; every layer keeps as many.

    Attributes:
        groups: Key-value heads, each with its query heads.
        channels: Of the MLP.
        hidden: Directions of the residual stream, the same in all layers.
    """

    groups: tuple[tuple[int, ...], ...]
    channels: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...]


def most_active(
    found: Activity,
    dims: Dimensions,
    *,
    heads: int | None,
    mlp_channels: int | None,
    hidden_size: int | None,
) -> Kept:
    """Choose what a narrower student keeps: the most active of each kind.

    Args:
        found: Activations on training texts.
        dims: Of the model that they are of.
        heads: Query heads to keep; None: all, as below.
        mlp_channels: Channels to keep in every layer.
        hidden_size: Directions to keep.

    Raises:
        ConfigError: more than there are, or heads that are no whole groups.
    """
    groups, channels, hidden = widths_to_keep(
        dims, heads=heads, mlp_channels=mlp_channels, hidden_size=hidden_size
    )
    return Kept(
        tuple(_top(row, groups) for row in found.groups.tolist()),
        tuple(_top(row, channels) for row in found.channels.tolist()),
        _top(found.hidden.tolist(), hidden),
    )


def widths_to_keep(
    dims: Dimensions, *, heads: int | None, mlp_channels: int | None, hidden_size: int | None
) -> tuple[int, int, int]:
    """Key-value heads, MLP channels and directions of a narrower student.

    Args:
        dims: Of its start.
        heads: Query heads to keep; None: all, as below.
        mlp_channels: Channels to keep in every layer.
        hidden_size: Directions to keep.

    Raises:
        ConfigError: more than there are, or heads that are no whole groups.
    """
    heads_per_group = dims.heads // dims.kv_heads
    _check("heads", heads, dims.heads)
    _check("mlp_channels", mlp_channels, dims.inner)
    _check("hidden_size", hidden_size, dims.hidden)
    if heads is not None and heads % heads_per_group:
        raise ConfigError(
            f"student.heads is {heads}, but {heads_per_group} query heads share a key-value head "
            "and stay together",
            hint=f"set student.heads to a multiple of {heads_per_group}",
        )
    groups = dims.kv_heads if heads is None else heads // heads_per_group
    return groups, mlp_channels or dims.inner, hidden_size or dims.hidden


def narrow(model: PreTrainedModel, kept: Kept) -> PreTrainedModel:
    """A narrower model of the same architecture.

    Args:
        model: Of a supported architecture; it is left as it is.
        kept: What of it stays.

    Raises:
        ConfigError: the architecture cannot be so narrow, in transformers or in a GGUF.
    """
    name = type(model).__name__
    architecture = ARCHITECTURES[name]
    config = narrowed(model.config, name, kept)
    cut = _Cut(architecture, architecture.dimensions(model.config.to_dict()), kept)
    tensors = cut.tensors(model.state_dict(), tied=model.config.tie_word_embeddings)
    return rebuilt(model, config, tensors)


def narrowed(config: PreTrainedConfig, architecture: str, kept: Kept) -> Any:
    """A narrower model's config.

    Args:
        config: Of the wide one; it is left as it is.
        architecture: Its class in transformers.
        kept: What of it stays; of groups and channels one layer's are enough.

    Raises:
        ConfigError: as :func:`narrow`.
    """
    rules = ARCHITECTURES[architecture]
    found = _Cut(rules, rules.dimensions(config.to_dict()), kept).config(config)
    check_exportable(
        found,
        architecture,
        f"{found.num_attention_heads} heads, width {found.hidden_size}",
        key="student.heads and student.hidden_size",
    )
    return found


class _Cut:
    """The rows and columns that stay, of every tensor."""

    def __init__(self, architecture: Architecture, dims: Dimensions, kept: Kept) -> None:
        self._architecture = architecture
        self._dims = dims
        self._kept = kept
        self._after = {
            "hidden": len(kept.hidden),
            "inner": len(kept.channels[0]),
            "keys": len(kept.groups[0]) * dims.head_dim,
            "queries": len(kept.groups[0]) * (dims.queries // dims.kv_heads),
            "head_dim": dims.head_dim,
        }

    def config(self, config: Any) -> Any:
        """The narrower model's config."""
        dims, after = self._dims, self._after
        narrowed = copy.deepcopy(config)
        narrowed.head_dim = dims.head_dim  # else it would be taken from width and heads
        narrowed.num_attention_heads = after["queries"] // dims.head_dim
        narrowed.num_key_value_heads = after["keys"] // dims.head_dim
        narrowed.intermediate_size = after["inner"]
        narrowed.hidden_size = after["hidden"]
        narrowed.rms_norm_eps = dims.epsilon * dims.hidden / after["hidden"]
        return narrowed

    def tensors(self, state: Mapping[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
        """The narrower model's weights."""
        hidden = torch.tensor(self._kept.hidden)
        # The embedding is multiplied by the root of a width that is now smaller. Where it is the
        # output matrix too, what makes up for that is a factor that the last norm has to lose.
        factor = self._stretch("hidden") if self._architecture.scaled_embedding else 1.0
        tensors = {EMBEDDING: state[EMBEDDING][:, hidden] * factor}
        if not tied:
            tensors[OUTPUT] = state[OUTPUT][:, hidden].clone()
        last = self._norm(state[_NORM], WIDTH_NORM, hidden)
        tensors[_NORM] = self._scaled(last, 1 / factor) if tied else last
        for layer in range(self._dims.layers):
            places = self._places(layer)
            for part in self._architecture.block:
                axes = self._architecture.axes.get(part, WIDTH_NORM)
                rows = self._rows(axes, places)
                for end in ("weight", "bias"):
                    name = f"model.layers.{layer}.{part}.{end}"
                    if name not in state:
                        continue
                    if axes.columns is not None and end == "weight":
                        tensors[name] = state[name][rows][:, places[axes.columns]].clone()
                    elif axes.columns is not None:
                        tensors[name] = state[name][rows].clone()
                    else:
                        tensors[name] = self._norm(state[name], axes, rows)
        return tensors

    def _places(self, layer: int) -> dict[str, Tensor]:
        """What stays in a layer, as rows or columns of each kind."""
        dims = self._dims
        groups = torch.tensor(self._kept.groups[layer])
        return {
            "hidden": torch.tensor(self._kept.hidden),
            "inner": torch.tensor(self._kept.channels[layer]),
            "keys": _spread(groups, dims.head_dim),
            "queries": _spread(groups, dims.queries // dims.kv_heads),
            "head_dim": torch.arange(dims.head_dim),
        }

    def _rows(self, axes: Axes, places: Mapping[str, Tensor]) -> Tensor:
        parts, start = [], 0
        for kind in axes.rows:
            parts.append(places[kind] + start)
            start += getattr(self._dims, kind)
        return torch.cat(parts)

    def _norm(self, weight: Tensor, axes: Axes, rows: Tensor) -> Tensor:
        return self._scaled(weight[rows], self._stretch(axes.rows[0]))

    def _scaled(self, weight: Tensor, factor: float) -> Tensor:
        shift = self._architecture.norm_shift
        return (weight + shift) * factor - shift

    def _stretch(self, kind: str) -> float:
        return math.sqrt(getattr(self._dims, kind) / self._after[kind])


def _spread(groups: Tensor, width: int) -> Tensor:
    """The rows of some groups of so many rows each."""
    return (groups[:, None] * width + torch.arange(width)).flatten()


def _top(scores: Sequence[float], count: int) -> tuple[int, ...]:
    return tuple(sorted(highest(scores, count)))


def _check(key: str, wanted: int | None, total: int) -> None:
    if wanted is not None and not 1 <= wanted <= total:
        raise ConfigError(
            f"student.{key} is {wanted}, the model has {total}",
            hint=f"set student.{key} to a number between 1 and {total}",
        )
