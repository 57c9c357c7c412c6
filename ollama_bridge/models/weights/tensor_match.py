"""Which rule of the architecture each tensor of a checkpoint is for, or what does not fit."""

from __future__ import annotations

import numpy as np

from ollama_bridge.errors import ModelError
from ollama_bridge.models.architectures import Architecture
from ollama_bridge.models.architectures.config import Config
from ollama_bridge.models.architectures.layout import EMBEDDING, OUTPUT, TensorRule
from ollama_bridge.models.weights.floats import to_float32
from ollama_bridge.models.weights.tensors import Weights

# Buffers that old checkpoints saved and that a model computes itself.
COMPUTED = "rotary_emb.inv_freq"
_ROWS = 4096
# Prefix of all names: what to save instead.
_WRAPPERS = {
    "_orig_mod.": "save what torch.compile wraps: model._orig_mod.save_pretrained(folder)",
    "module.": "save what is trained in parallel: model.module.save_pretrained(folder)",
    "base_model.model.": "save what peft wraps: model.merge_and_unload().save_pretrained(folder)",
}
_VALUE_HEAD = "v_head."  # TRL's
_DECODER = "model."
_HINT = "the config does not fit the weights: get the checkpoint again"


def match_tensors(architecture: Architecture, config: Config, weights: Weights) -> list[TensorRule]:
    """The rules of all tensors, in the GGUF's order.

    Only headers are read, but where a tied matrix is stored twice.

    Raises:
        ModelError: a tensor is missing, left over or of another shape, or two are not one as the
            config says.
        ConversionError: the config lacks a size.
    """
    _refuse_wrapped(weights)
    _refuse_headless(weights)
    left = {name for name in weights.infos if not name.endswith(COMPUTED)}
    if architecture.tied(config) and OUTPUT in left:
        _refuse_untied(weights)
        left.discard(OUTPUT)  # some savers write the shared matrix twice
    refuse_layers_beyond(architecture.dimensions(config).layers, weights)
    rules = []
    for rule in architecture.rules(config):
        if rule.source not in left:
            if rule.optional:
                continue
            raise ModelError(
                f"{weights.place}: tensor {rule.source!r} is missing from the checkpoint",
                hint=_HINT,
            )
        left.discard(rule.source)
        shape = weights.infos[rule.source].shape
        if shape != rule.shape:
            raise ModelError(
                f"{weights.place}: tensor {rule.source!r} has shape {shape}, "
                f"config.json says {rule.shape}",
                hint=_HINT,
            )
        rules.append(rule)
    if left and all(name.startswith(_VALUE_HEAD) for name in left):
        raise ModelError(
            f"{weights.place}: beside the model it holds the value head of a training with "
            f"rewards ({_VALUE_HEAD}*)",
            hint="save the model without it: model.pretrained_model.save_pretrained(folder)",
        )
    if left:
        raise ModelError(
            f"{weights.place}: tensors left over that {architecture.model_type} does not have: "
            f"{', '.join(sorted(left)[:3])}",
            hint=_HINT,
        )
    return rules


def refuse_layers_beyond(layers: object, weights: Weights) -> None:
    """Refuse more layers than there are tensors, before a list is made that no memory holds.

    Args:
        layers: ``num_hidden_layers`` of a config, whatever it is.

    Raises:
        ModelError: there cannot be as many.
    """
    if isinstance(layers, int) and layers > len(weights.infos):
        raise ModelError(
            f"{weights.place}: config.json says {layers} layers, and there are "
            f"{len(weights.infos)} tensors",
            hint=_HINT,
        )


def is_stored_twice(weights: Weights) -> bool:
    """Whether the output matrix is there, and is the embedding again: all of both is read.

    Raises:
        ModelError: a file is damaged.
    """
    if EMBEDDING not in weights.infos or OUTPUT not in weights.infos:
        return False
    embedding, output = weights.array(EMBEDDING), weights.array(OUTPUT)
    return embedding.shape == output.shape and all(
        np.array_equal(
            to_float32(embedding[row : row + _ROWS]),
            to_float32(output[row : row + _ROWS]),
            equal_nan=True,
        )
        for row in range(0, len(embedding), _ROWS)
    )


def _refuse_untied(weights: Weights) -> None:
    """The config says of two matrices that they are one: transformers 4 believes it, 5 looks."""
    if EMBEDDING not in weights.infos:
        raise ModelError(
            f"{weights.place}: tensor {EMBEDDING!r} is missing; {OUTPUT!r}, which config.json "
            "says is the same, is there",
            hint="load it with transformers, which ties them, and save it again: "
            "model.save_pretrained(folder)",
        )
    if is_stored_twice(weights):
        return
    raise ModelError(
        f"{weights.place}: config.json says that {OUTPUT!r} is the embedding "
        "(tie_word_embeddings), but it holds other values",
        hint='if it was trained like that, write "tie_word_embeddings": false into config.json; '
        f"else take {OUTPUT} out of the weights",
    )


def _refuse_wrapped(weights: Weights) -> None:
    """Names of a model that was saved through the wrapper it was trained in."""
    for prefix, hint in _WRAPPERS.items():
        if weights.infos and all(name.startswith(prefix) for name in weights.infos):
            raise ModelError(
                f"{weights.place}: all tensors are called {prefix}*: it was not the model that "
                "was saved, but what wraps it in training",
                hint=hint,
            )


def _refuse_headless(weights: Weights) -> None:
    """Names of a decoder that was saved by itself, as those who make embeddings of texts do."""
    name = EMBEDDING.removeprefix(_DECODER)
    if name in weights.infos and EMBEDDING not in weights.infos:
        raise ModelError(
            f"{weights.place}: the tensors are called {name} and so on, without {_DECODER!r} in "
            "front: it was saved by AutoModel or sentence-transformers, to embed texts, and "
            "cannot answer any",
            hint="take the model that answers; if it is one, load it by AutoModelForCausalLM and "
            "save it again: model.save_pretrained(folder)",
        )
