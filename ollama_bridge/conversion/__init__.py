"""Checkpoints to GGUF: tensors, tokenizer and metadata; LoRA adapters to GGUF adapters."""

from __future__ import annotations

from ollama_bridge.conversion.adapter import convert_adapter
from ollama_bridge.conversion.budget_search import Target
from ollama_bridge.conversion.stage import convert

__all__ = ["Target", "convert", "convert_adapter"]
