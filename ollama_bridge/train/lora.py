"""LoRA through PEFT: small trainable matrices beside every linear layer, merged afterwards.

The one module that imports peft.
"""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from ollama_bridge.config import LoraSection
from ollama_bridge.errors import TrainingError
from ollama_bridge.models.forward import CausalModel


def add_lora(model: CausalModel, settings: LoraSection, *, seed: int) -> PeftModel:
    """Put LoRA on every linear layer but the vocabulary projection; freeze all else.

    ``W x`` becomes ``W x + alpha / r * B A x``; B starts at 0, so nothing changes at first. The
    layers of ``model`` itself are replaced: it may be used as before.

    Source: Hu et al. 2021, arXiv 2106.09685; all layers: "LoRA Without Regret".

    Args:
        model: float32.
        settings: Rank, scale and dropout.
        seed: Of A's initial values.

    Raises:
        TrainingError: the model has no layer that PEFT can adapt.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        bias="none",
    )
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            # PEFT (0.21) asks the model for a property that transformers 5 has given another name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            torch.manual_seed(seed)
            return get_peft_model(model, config)
    except ValueError as exc:
        raise TrainingError(f"LoRA cannot be added to this model: {exc}") from exc


def merge_lora(adapted: PeftModel) -> CausalModel:
    """Add every product to its weight, in the weights' own type, and take the adapters off.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except ValueError as exc:
        raise TrainingError(
            f"merging the LoRA weights failed: {exc}", hint="lower the learning rate"
        ) from exc
