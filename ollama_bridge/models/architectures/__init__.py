"""The architectures that can be exported, imported and trained. One line each."""

from __future__ import annotations

from collections.abc import Mapping

from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.gemma2 import Gemma2
from ollama_bridge.models.architectures.gemma3 import Gemma3
from ollama_bridge.models.architectures.granite import Granite
from ollama_bridge.models.architectures.llama import Llama
from ollama_bridge.models.architectures.mistral import Mistral
from ollama_bridge.models.architectures.olmo2 import Olmo2
from ollama_bridge.models.architectures.phi3 import Phi3
from ollama_bridge.models.architectures.qwen2 import Qwen2
from ollama_bridge.models.architectures.qwen3 import Qwen3
from ollama_bridge.models.architectures.smollm3 import SmolLM3

__all__ = ["ARCHITECTURES", "GGUF_ARCHITECTURES", "Architecture"]

_ALL: tuple[Architecture, ...] = (
    Llama(),  # before Mistral: a GGUF called llama is read as one
    Mistral(),
    Qwen2(),
    Qwen3(),
    Gemma2(),
    Gemma3(),
    Phi3(),
    SmolLM3(),
    Granite(),
    Olmo2(),
)
# By transformers' class.
ARCHITECTURES: Mapping[str, Architecture] = {entry.hf_class: entry for entry in _ALL}
# By general.architecture.
GGUF_ARCHITECTURES: Mapping[str, Architecture] = {entry.name: entry for entry in reversed(_ALL)}
