"""How much an error of each matrix moves a model's predictions, of all matrices at once.

For small errors, KL(p || p moved) is half of the mean square, over tokens y drawn from p, of the
error's inner product with the gradient of log p(y) (the Fisher information as a quadratic form).
A backward pass a text gives that for every matrix and its real rounding error at one coarse type;
other types follow by the ratio of their squared errors. Measuring each matrix by a pass of its own
would take as many passes over all texts as there are matrices.

Source: Amari, Information Geometry and Its Applications, 2016, 1.6 (KL and Fisher information).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from ollama_bridge.conversion.encoding import PIECE_VALUES
from ollama_bridge.conversion.round_trip import RoundTrip
from ollama_bridge.models.reference.scored_texts import Text
from ollama_bridge.quantization.encoders import encoded_size
from ollama_bridge.quantization.tradeoff import Option, candidate_types

_SEED = 0


def measure_options(
    trip: RoundTrip, texts: Sequence[Text], *, coarse: bool, on_step: Callable[[], None]
) -> dict[str, list[Option]]:
    """Size and estimated divergence of every matrix in every type that it can have.

    Memory: half of the model more, for the errors.

    The weights are exact still. ``on_step`` is called once a matrix and once a text; coarse types
    are of three bits and fewer.
    """
    ratios: dict[str, dict[GGMLQuantizationType, float]] = {}
    errors: dict[str, Tensor] = {}
    for name, rule in trip.rules.items():
        values = trip.exact(name)
        types = candidate_types(rule.shape[-1], coarse=coarse)
        coarsest = min(types, key=lambda type_: encoded_size(rule.shape, type_))
        error = trip.rounded(name, values, coarsest).sub_(values)
        ratios[name] = _error_ratios(trip, name, values, types, coarsest)
        errors[name] = error.to(torch.bfloat16)
        on_step()
    moved = _divergences(trip, errors, texts, on_step)
    return {
        name: [
            Option(type_, encoded_size(rule.shape, type_), moved[name] * ratios[name][type_])
            for type_ in ratios[name]
        ]
        for name, rule in trip.rules.items()
    }


def _error_ratios(
    trip: RoundTrip,
    name: str,
    values: Tensor,
    types: Sequence[GGMLQuantizationType],
    coarsest: GGMLQuantizationType,
) -> dict[GGMLQuantizationType, float]:
    """Squared error of each type over that of the coarsest, on rows from all over the matrix."""
    count = max(1, PIECE_VALUES // values.shape[-1])
    rows = values.reshape(-1, values.shape[-1])
    sample = rows[:: max(1, rows.shape[0] // count)][:count].contiguous()
    squared = {
        type_: float((trip.rounded(name, sample, type_) - sample).square().sum()) for type_ in types
    }
    most = squared[coarsest]
    return {type_: found / most if most > 0 else 0.0 for type_, found in squared.items()}


def _divergences(
    trip: RoundTrip,
    errors: Mapping[str, Tensor],
    texts: Sequence[Text],
    on_step: Callable[[], None],
) -> dict[str, float]:
    """Estimated mean divergence that each matrix's error makes, in nats a position."""
    squares = dict.fromkeys(errors, 0.0)

    def take(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        squares[name] += float((parameter.grad * errors[name]).sum()) ** 2
        parameter.grad = None  # one at a time is all that is kept

    trip.model.requires_grad_(requires_grad=False)
    hooks = []
    for name in errors:
        parameter = trip.parameter(name).requires_grad_()
        add_hook: Any = parameter.register_post_accumulate_grad_hook  # has no annotations
        hooks.append(add_hook(partial(take, name)))
    generator = torch.Generator().manual_seed(_SEED)
    for text in texts:
        logits = trip.model(
            input_ids=torch.tensor([text.token_ids]), use_cache=False, logits_to_keep=text.keep
        ).logits[0]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        drawn = torch.multinomial(logprobs.detach().exp(), 1, generator=generator)
        logprobs.gather(-1, drawn).sum().backward()
        on_step()
    for hook in hooks:
        hook.remove()
    trip.model.requires_grad_(requires_grad=False)
    positions = sum(text.keep for text in texts)
    return {name: square / (2 * positions) for name, square in squares.items()}
