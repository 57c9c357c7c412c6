"""Runs a decoder over a batch and gives hidden states, never logits of every position.

Letters for shapes as in ``batches``; D is the width of the model, L the number of layers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ollama_bridge.encoding.batches import Batch
from ollama_bridge.models.compute.cache import as_argument, cache_among, cache_of
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.packed_attention import PACKED_ATTENTION, Layout, register, suits

CausalModel = Any  # a transformers ...ForCausalLM: its classes carry no useful types

# Plain attention keeps every score for the gradient: up to here that is little.
_PLAIN_ATTENTION_TOKENS = 512


@dataclass(frozen=True)
class States:
    """What a decoder computed for a batch.

    Attributes:
        supervised: (S, D); the last hidden state (after the final norm) at every position that
            predicts a supervised token.
        layers: L + 1 tensors (P + tokens, D): the embedding's output and every layer's (the last
            after the final norm), on real tokens only, the shared prefix once. Empty unless asked
            for.
        attentions: L tensors (P + tokens, H, P + T): what every real token looks at, head by head,
            the shared prefix once. Empty unless asked for.
    """

    supervised: torch.Tensor
    layers: tuple[torch.Tensor, ...] = ()
    attentions: tuple[torch.Tensor, ...] = ()


def run_decoder(
    model: CausalModel, batch: Batch, *, all_layers: bool = False, attentions: bool = False
) -> States:
    """Run the decoder stack without the vocabulary projection.

    The prefix that all examples share is computed once and its keys and values are repeated:
    causal attention makes that the same function, gradients included.

    Args:
        model: A ``...ForCausalLM``.
        batch: On the model's device.
        all_layers: Also return what every layer computed.
        attentions: Also return attention maps; of a model whose attention is ``eager`` only.
    """
    packed = model.config._attn_implementation == PACKED_ATTENTION and not attentions
    if packed and suits(model.config, longest=int(batch.attention_mask.shape[1])):
        return _run_packed(model.base_model, batch, all_layers=all_layers)
    decoder = model.base_model
    shared = int(batch.prefix_ids.shape[0])
    rows = int(batch.input_ids.shape[0])
    cache = None
    prefix_layers: tuple[torch.Tensor, ...] = ()
    prefix_maps: tuple[torch.Tensor, ...] = ()
    if shared:
        prefix = decoder(
            input_ids=batch.prefix_ids.unsqueeze(0),
            use_cache=True,
            output_hidden_states=all_layers,
            output_attentions=attentions,
        )
        cache = cache_of(prefix)
        cache.batch_repeat_interleave(rows)
        prefix_layers = tuple(states[0] for states in prefix.hidden_states or ())
        # It looks at nothing of what follows.
        unseen = (0, int(batch.input_ids.shape[1]))
        prefix_maps = tuple(
            torch.nn.functional.pad(maps[0].transpose(0, 1), unseen)
            for maps in prefix.attentions or ()
        )
    output = decoder(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        **as_argument(cache),
        use_cache=cache is not None,
        output_hidden_states=all_layers,
        output_attentions=attentions,
    )
    last = output.last_hidden_state
    supervised = last.reshape(-1, last.shape[-1]).index_select(0, batch.predictors)
    if not all_layers and not attentions:
        return States(supervised)
    real = batch.attention_mask[:, shared:].bool()
    layers = tuple(states[real] for states in output.hidden_states or ())
    # A layer with a window has no keys any more that are too far back for the rows.
    seen = int(batch.attention_mask.shape[1])
    maps = tuple(
        torch.nn.functional.pad(heads, (seen - heads.shape[-1], 0)).transpose(1, 2)[real]
        for heads in output.attentions or ()
    )
    if shared:
        layers = tuple(torch.cat(pair) for pair in zip(prefix_layers, layers, strict=True))
        maps = tuple(torch.cat(pair) for pair in zip(prefix_maps, maps, strict=True))
    return States(supervised, layers, maps)


def _run_packed(decoder: Any, batch: Batch, *, all_layers: bool) -> States:
    """Real tokens alone, as one row."""
    layout = Layout.of(batch)
    prefix_places = torch.arange(layout.shared, device=batch.input_ids.device)
    output = decoder(
        input_ids=layout.row(batch.prefix_ids, batch.input_ids).unsqueeze(0),
        position_ids=layout.row(prefix_places, batch.position_ids).unsqueeze(0),
        attention_mask=batch.input_ids.new_zeros((1, 1, 1, 1)),  # of this shape it is not made anew
        use_cache=False,
        output_hidden_states=all_layers,
        layout=layout,
    )
    predictors = layout.places.flatten().index_select(0, batch.predictors)
    supervised = output.last_hidden_state[0].index_select(0, predictors)
    return States(supervised, tuple(states[0] for states in output.hidden_states or ()))


def vocabulary_logits(model: CausalModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits (S, V), as float32, of hidden states (S, D).

    They have the digits of the type of the product: who compares them asks
    :meth:`~ollama_bridge.models.compute.head.VocabularyHead.likeliest`. The caller chooses the
    positions, and does many of them in chunks.
    """
    logits: torch.Tensor = VocabularyHead(model)(hidden)
    return logits.float()


@contextlib.contextmanager
def training_attention(model: CausalModel, *, longest: int) -> Iterator[None]:
    """Use the attention that trains fastest, and put back what was there.

    On a CPU the backward pass of torch's fused attention is slow on short rows: plain products
    made a step faster at 45 tokens in the one comparison made (SmolLM2, 15 layers), and packed
    they compute neither padding nor the prefix twice. Longer rows and GPUs keep the fused one,
    which needs less memory; a model that was given ``eager`` is asked for its attention maps.
    """
    best = model.config._attn_implementation
    if model.device.type == "cpu" and longest <= _PLAIN_ATTENTION_TOKENS and best != "eager":
        best = PACKED_ATTENTION if suits(model.config, longest=longest) else "eager"
    with attention(model, best):
        yield


@contextlib.contextmanager
def attention(model: CausalModel, implementation: str) -> Iterator[None]:
    """Inside the block attention is computed so; behind it as before.

    Args:
        model: On its device.
        implementation: transformers' name: ``eager``, ``sdpa``, ...; or ``packed``, our own.
    """
    if implementation == PACKED_ATTENTION:
        register()
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def activation_checkpointing(model: CausalModel, *, enabled: bool) -> Iterator[None]:
    """Keep only the layers' inputs for the gradient, and compute what is inside them again.

    transformers' own form gives up the cache, and with it the shared prefix; here each layer is
    given a cache of its own to write to, so that computing it twice does no harm.
    """
    layers = list(model.base_model.layers) if enabled else []
    for number, layer in enumerate(layers):
        layer.forward = _checkpointed(layer.forward, number)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own comes to light again


def _checkpointed(forward: Callable[..., Any], number: int) -> Callable[..., Any]:
    # Stands in for transformers' own method, so it hands on whatever that is given.
    def run(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        cache, others = cache_among(kwargs)
        # The shared prefix is one short row, and others need its keys: it is computed once.
        is_prefix = cache is not None and not cache.get_seq_length(number)
        if is_prefix or not torch.is_grad_enabled():
            return forward(hidden, *args, **kwargs)

        def compute(states: torch.Tensor) -> Any:
            own = _appendable(cache, number)
            return forward(states, *args, **others, **as_argument(own))

        return checkpoint(compute, hidden, use_reentrant=False)

    return run


def _appendable(cache: Any, number: int) -> Any:
    """A cache to whose layer ``number`` can be appended without the original seeing it."""
    if cache is None:
        return None
    own = copy.copy(cache)
    own.layers = list(cache.layers)
    own.layers[number] = copy.copy(cache.layers[number])
    return own
