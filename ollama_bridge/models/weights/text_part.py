"""The language model inside of a model that also sees: its config, and the names of its tensors.

Published as wrappers, and trained as such: all Gemma 3 but the smallest, and Mistral Small from 3.1
on. For texts they compute what the language model alone does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.errors import MissingExtraError
from ollama_bridge.models.architectures.layout import OUTPUT
from ollama_bridge.models.weights.floats import Array
from ollama_bridge.models.weights.tensor_match import is_stored_twice, refuse_layers_beyond
from ollama_bridge.models.weights.tensors import Weights

TEXT_ALONE = (
    "the model also sees images; its language model alone is taken, and the vision part is left out"
)
# Names as transformers saves them: as all versions do, and as its modules are called.
_TEXT_NAMES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
_EYES = ("vision_tower.", "multi_modal_projector.")
_EYES_OF_MODULES = tuple(f"model.{name}" for name in _EYES)
# By the wrapper's model type: the language model's own, and its class.
_WRAPPERS = {
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "mistral3": ("mistral", "MistralForCausalLM"),
}


def is_wrapper(config: Mapping[str, Any]) -> bool:
    """Whether a config is of a model that sees, and its language model one of ours."""
    inner = config.get("text_config")
    model_type, _ = _WRAPPERS.get(str(config.get("model_type")), (None, None))
    if not isinstance(inner, Mapping) or model_type is None:
        return False
    return bool(inner.get("model_type", model_type) == model_type)


def text_config(config: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """The config of the language model in a wrapper.

    Args:
        config: ``config.json``; what its ``text_config`` does not say is the class' default.

    Raises:
        ModelError: it says more layers than there are tensors, or a file is damaged.
        MissingExtraError: transformers is not installed.
    """
    _, class_name = _WRAPPERS[config["model_type"]]
    inner = config["text_config"]
    refuse_layers_beyond(inner.get("num_hidden_layers"), weights)  # the class lists their types
    try:
        import transformers
    except ImportError as exc:
        raise MissingExtraError("transformers", "train") from exc

    known: Any = getattr(transformers, class_name).config_class(**inner)
    own = {name: config[name] for name in ("eos_token_id", "bos_token_id") if config.get(name)}
    dtype = config.get("dtype", config.get("torch_dtype"))
    return {
        **known.to_dict(),
        **own,
        "architectures": [class_name],
        "dtype": inner.get("dtype", inner.get("torch_dtype", dtype)),
        "tie_word_embeddings": _is_tied(config, weights),
    }


def _is_tied(config: Mapping[str, Any], weights: Weights) -> bool:
    """Whether the output matrix is the embedding, as the tensors say.

    Wrappers of an untied model say that it is tied, which is their default; and what gathers a
    model that was trained in pieces (ZeRO, FSDP) writes the one matrix of a tied one twice.
    """
    if OUTPUT not in weights.infos:
        return True
    return config.get("tie_word_embeddings") is not False and is_stored_twice(weights)


class TextWeights(Weights):
    """The language model's tensors, under the names that they have without the wrapper."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._names = {text_name(name): name for name in weights.infos if not is_of_eyes(name)}
        self._infos = {name: weights.infos[there] for name, there in self._names.items()}

    @property
    def place(self) -> Path:
        """The file, or the folder of the shards."""
        return self._weights.place

    @property
    def quantized(self) -> frozenset[str]:
        """As of the wrapper."""
        return self._weights.quantized

    def array(self, name: str) -> Array:
        """Read one tensor.

        Raises:
            ModelError: there is no such tensor, or its file is damaged.
        """
        return self._weights.array(self._names.get(name, name))


def is_wrapped(weights: Weights) -> bool:
    """Whether tensors have the names of a wrapper."""
    return any(name.startswith(tuple(_TEXT_NAMES)) for name in weights.infos)


def is_of_eyes(name: str) -> bool:
    """Whether a parameter or module of a wrapper is what sees."""
    return f"{name}.".startswith((*_EYES, *_EYES_OF_MODULES))


def text_name(name: str) -> str:
    """A parameter's name without the wrapper's part; any other name as it is."""
    for prefix, own in _TEXT_NAMES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name
