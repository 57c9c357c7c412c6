"""Mistral 7B, Nemo and Ministral; a GGUF calls them ``llama``, and so they come back as Llamas."""

from __future__ import annotations

from ollama_bridge.models.architectures.config import Config
from ollama_bridge.models.architectures.frame import Architecture

_WINDOW = 4096  # where the config is silent


class Mistral(Architecture):
    """``MistralForCausalLM``, exported only: its GGUF is a Llama's."""

    hf_class = "MistralForCausalLM"
    model_type = "mistral"
    name = "llama"
    permuted = True
    rope_types = (*Architecture.rope_types, "llama3")

    def notes(self, config: Config) -> list[str]:
        """The sliding window of the first version, which llama.cpp does not have."""
        window = config.get("sliding_window", _WINDOW)
        return super().notes(config) + without_window(window, self.dimensions(config).context)


def without_window(window: object, context: int) -> list[str]:
    """What is to be said of a window that llama.cpp does not have; None is none."""
    if not isinstance(window, int) or window >= context:
        return []
    return [
        f"beyond {window} tokens Ollama attends to the whole text, where the checkpoint "
        "attends to a sliding window"
    ]
