"""PEFT adapters with random factors, saved by peft itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from fakes.json_files import change_json

from ollama_bridge.models.load import load_model
from ollama_bridge.train.peft_names import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    quantized_only_where_asked,
)

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A PEFT adapter with random factors, saved."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ties, which are what is tested
        torch.manual_seed(0)
        config = LoraConfig(
            **{
                "r": 4,
                "lora_alpha": 16,
                "target_modules": LINEAR,
                "task_type": "CAUSAL_LM",
                **settings,
            }
        )
        model = with_new_adapter(load_model(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:  # an adapter that was not trained does nothing
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
    return folder


def with_new_adapter(model: Any, config: LoraConfig) -> PeftModel:
    """A model with the layers of an adapter, by PEFT, which looks for no bitsandbytes (seconds)."""
    with quantized_only_where_asked():
        return get_peft_model(model, config)


def with_adapter(base: Path, adapter: Path) -> PeftModel:
    """The adapted model as PEFT computes it."""
    with quantized_only_where_asked(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(load_model(base), adapter)


def change_settings(folder: Path, **changes: object) -> None:
    """Rewrite keys of adapter_config.json."""
    change_json(folder / "adapter_config.json", **changes)
