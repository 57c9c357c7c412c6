"""What each layer, head, channel and direction of a model does on training texts.

Everything is summed in float64 over single texts, in order, so that the same model, texts and
machine give the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ollama_bridge.encoding.encode import EncodedExample
from ollama_bridge.encoding.spread import spread_out
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.layout import WIDTH_NORM
from ollama_bridge.models.compute.forward import CausalModel, vocabulary_logits

Texts = Sequence[EncodedExample]


@dataclass(frozen=True)
class Activity:
    """How large activations are: the larger, the more a student misses what is cut.

    Attributes:
        groups: (layers, key-value heads): mean length of what the group's query heads put out.
        channels: (layers, inner): root mean square of each MLP channel.
        hidden: (hidden,): root mean square behind the norms, added up over all of them.
    """

    groups: Tensor
    channels: Tensor
    hidden: Tensor


def calibration_texts(examples: Texts, *, tokens: int) -> list[EncodedExample]:
    """Examples of all labels that have so many tokens together, or all; the same ones always."""
    chosen, sum_tokens = [], 0
    for example in spread_out(examples):
        if sum_tokens >= tokens:
            break
        chosen.append(example)
        sum_tokens += len(example.input_ids)
    return chosen


def block_influence(model: CausalModel, texts: Texts) -> tuple[float, ...]:
    """How far each layer turns the hidden states: ``1 - cos(input, output)``, mean over tokens.

    Source: Men et al. 2024, ShortGPT, arXiv 2403.03853, equation 1.

    Args:
        model: In evaluation mode.
        texts: What it is measured on.
    """
    layers = model.base_model.layers
    sums = [0.0] * len(layers)

    def add(
        place: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        before, after = _stream(args, kwargs), _tensor(output)
        cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
        sums[place] += float((1.0 - cosine).sum())

    hooks = [
        layer.register_forward_hook(partial(add, place), with_kwargs=True)
        for place, layer in enumerate(layers)
    ]
    tokens = _read(model, texts, hooks)
    return tuple(value / tokens for value in sums)


def loss_increase(
    model: CausalModel, texts: Texts, *, on_layer: Callable[[int], None] = lambda _: None
) -> tuple[float, ...]:
    """How much the answers' cross-entropy rises without each layer, nats a token.

    One pass over the texts a layer. Source: the perplexity criterion of Kim et al. 2024, Shortened
    LLaMA, arXiv 2402.02834, section 3.2.

    Args:
        model: In evaluation mode.
        texts: Their supervised tokens are what is predicted.
        on_layer: Told how many layers are done.
    """

    def skip(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before = _stream(args, kwargs)
        return (before, *output[1:]) if isinstance(output, tuple) else before

    whole = _answer_loss(model, texts)
    increases = []
    for place, layer in enumerate(model.base_model.layers):
        hook = layer.register_forward_hook(skip, with_kwargs=True)
        try:
            increases.append(_answer_loss(model, texts) - whole)
        finally:
            hook.remove()
        on_layer(place + 1)
    return tuple(increases)


def activity(model: CausalModel, texts: Texts) -> Activity:
    """Sizes of the activations that a narrower student would do without.

    Source: Muralidharan et al. 2024, Minitron, arXiv 2407.14679, section 2.2: heads by the length
    of what they put out, channels and hidden width by the size of their activations.

    Args:
        model: In evaluation mode, of a supported architecture.
        texts: What it is measured on.
    """
    architecture = ARCHITECTURES[type(model).__name__]
    dims = architecture.dimensions(model.config.to_dict())
    groups = torch.zeros(dims.layers, dims.kv_heads, dtype=torch.float64)
    channels = torch.zeros(dims.layers, dims.inner, dtype=torch.float64)
    norms: list[Tensor] = []
    hooks = []

    def heads_of(place: int, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        per_group = dims.heads // dims.kv_heads
        heads = args[0].float().reshape(-1, dims.kv_heads, per_group, dims.head_dim)
        groups[place] += heads.norm(dim=-1).sum(dim=(0, 2)).cpu().double()

    def channels_of(place: int, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        channels[place] += _squares(args[0])

    def directions_of(sums: Tensor, _: nn.Module, __: Any, output: Tensor) -> None:
        sums += _squares(output)

    width_norms = [
        part for part in architecture.block if architecture.axes.get(part, WIDTH_NORM) == WIDTH_NORM
    ]
    for place, layer in enumerate(model.base_model.layers):
        attention, mlp = layer.self_attn.o_proj, layer.mlp.down_proj
        hooks.append(attention.register_forward_pre_hook(partial(heads_of, place)))
        hooks.append(mlp.register_forward_pre_hook(partial(channels_of, place)))
        for part in width_norms:
            norms.append(torch.zeros(dims.hidden, dtype=torch.float64))
            norm = layer.get_submodule(part)
            hooks.append(norm.register_forward_hook(partial(directions_of, norms[-1])))
    tokens = _read(model, texts, hooks)
    return Activity(
        groups / tokens,
        (channels / tokens).sqrt(),
        (torch.stack(norms) / tokens).sqrt().sum(dim=0),
    )


def _squares(values: Tensor) -> Tensor:
    return (
        values.float().square().reshape(-1, values.shape[-1]).sum(dim=0).cpu().double()
    )  # MPS has none


def _stream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A decoder layer's input."""
    stream: Tensor = args[0] if args else kwargs["hidden_states"]
    return stream


def _tensor(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


@torch.inference_mode()
def _read(model: CausalModel, texts: Texts, hooks: Sequence[Any]) -> int:
    """Run the decoder over the texts, then take the hooks off; returns the tokens read."""
    try:
        for ids in _inputs(model, texts):
            model.base_model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(len(text.input_ids) for text in texts)


@torch.inference_mode()
def _answer_loss(model: CausalModel, texts: Texts) -> float:
    total, count = 0.0, 0
    for ids, text in zip(_inputs(model, texts), texts, strict=True):
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        places = torch.from_numpy(text.targets).to(ids.device)
        logits = vocabulary_logits(model, hidden[places - 1])
        total += float(nn.functional.cross_entropy(logits, ids[0, places], reduction="sum"))
        count += len(places)
    return total / count


def _inputs(model: CausalModel, texts: Texts) -> Iterator[Tensor]:
    for text in texts:
        yield torch.from_numpy(text.input_ids.astype(np.int64))[None].to(model.device)
