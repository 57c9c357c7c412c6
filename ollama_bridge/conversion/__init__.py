"""Checkpoints to GGUF: tensors, tokenizer, metadata and LoRA merging."""

from __future__ import annotations

from ollama_bridge.conversion.adapter import convert_adapter
from ollama_bridge.conversion.merge import merge_lora
from ollama_bridge.conversion.stage import convert

__all__ = ["convert", "convert_adapter", "merge_lora"]
