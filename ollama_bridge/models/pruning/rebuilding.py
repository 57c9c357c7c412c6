"""A model of the same class with another config and other weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.load import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rebuilt(model: PreTrainedModel, config: Any, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    """A new model in evaluation mode.

    Args:
        model: Whose class, type and generation config.
        config: The new one's.
        tensors: All of its weights, by name; an output matrix that is the embedding may be left
            out.
    """
    model_class: Any = type(model)
    with quiet_transformers():
        built, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=model.dtype,
            attn_implementation=ARCHITECTURES[model_class.__name__].attention,
            output_loading_info=True,
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:  # its weights would be random
            raise AssertionError(f"{model_class.__name__} rebuilt with {problem}: {report}")
    built.generation_config = model.generation_config
    result: PreTrainedModel = built.eval()
    return result
