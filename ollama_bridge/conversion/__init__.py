"""Checkpoints to GGUF: tensors, tokenizer, metadata and LoRA merging."""

from __future__ import annotations

from ollama_bridge.conversion.adapter import convert_adapter
from ollama_bridge.conversion.budget_search import Target
from ollama_bridge.conversion.merge import merge_lora
from ollama_bridge.conversion.stage import convert

__all__ = ["Target", "convert", "convert_adapter", "merge_lora"]
