"""Merges a LoRA adapter (PEFT's format) into its base model, in float32, tensor by tensor.

Ollama 0.34 takes no adapters, and the GGUF adapter format drops part of PEFT's settings, so a
merged model is the only faithful way out. What is merged: LoRA on linear layers with ranks and
alphas by pattern and rsLoRA. What is not (DoRA, trained embeddings or biases, initialisations
that change the base) is refused by name, for leaving it out would be another model.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ollama_bridge.errors import ModelError
from ollama_bridge.models.safety import check_folder, check_weights, read_json_object
from ollama_bridge.models.weights import WEIGHTS_NAME, WeightInfo, Weights, write_weights

ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# Settings that mean another formula than W + scale * B A.
_REFUSED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
)
# Initialisations that subtract from the base weights what the adapter starts with.
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class _Update:
    """One adapted matrix: the names of its factors and their scale."""

    down: str
    up: str
    scale: float


def is_adapter(folder: Path) -> bool:
    """Whether a folder is a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(adapter: Path) -> str:
    """The base model that an adapter names: a folder or a hub repository.

    Raises:
        ModelError: it names none.
    """
    name = read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"{adapter / ADAPTER_CONFIG} names no base model",
            hint="set base_model_name_or_path to the folder of the base model",
        )
    return name


def merge_adapter(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Write base + adapter as one checkpoint with float32 weights.

    Args:
        base: The base model's folder.
        adapter: The PEFT adapter's folder.
        out: Where to; made if missing.

    Returns:
        Facts: how many matrices were changed.

    Raises:
        ModelError: the adapter does not fit the base, or uses what cannot be merged.
        DiskFullError: there is no room.
    """
    config = check_folder(base)
    settings = _read_settings(adapter)
    check_weights_of_adapter(adapter)
    factors = Weights([adapter / _ADAPTER_WEIGHTS])
    weights = Weights.of_folder(base)
    updates = dict(_updates(adapter, settings, factors))
    tied = bool(config.get("tie_word_embeddings"))
    for name, update in updates.items():
        _check_fit(adapter, name, update, factors, weights)
        if tied and name == "lm_head.weight":
            raise ModelError(
                f"{adapter} adapts lm_head, which the base shares with its embedding",
                hint="train without lm_head in target_modules",
            )

    def produce(name: str) -> torch.Tensor:
        tensor = weights.tensor(name).float()
        update = updates.get(name)
        if update is None:
            return tensor
        down, up = factors.tensor(update.down).float(), factors.tensor(update.up).float()
        return tensor + (up @ down) * update.scale

    out.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        # The adapter's own tokenizer or template, if it was saved with one, is the trained one.
        source = next((f / name for f in (adapter, base) if (f / name).is_file()), None)
        if source is not None:
            shutil.copyfile(source, out / name)
    infos = [WeightInfo(info.name, info.shape, torch.float32) for info in weights.infos.values()]
    write_weights(out / WEIGHTS_NAME, infos, produce)
    return {"merged_matrices": len(updates)}


def check_weights_of_adapter(adapter: Path) -> None:
    """Refuse an adapter whose weights are a pickle or missing.

    Raises:
        UnsafeCheckpointError: only a pickle is there.
        ModelError: nothing is there.
    """
    if not (adapter / _ADAPTER_WEIGHTS).is_file():
        check_weights(adapter)  # says it better: pickle, or none
        raise ModelError(
            f"{adapter} has no {_ADAPTER_WEIGHTS}",
            hint="save the adapter with model.save_pretrained(folder)",
        )


def _read_settings(adapter: Path) -> Mapping[str, Any]:
    settings = read_json_object(adapter / ADAPTER_CONFIG)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{adapter}: adapter of type {kind!r}, only LORA can be merged",
            hint="merge it with peft: model.merge_and_unload().save_pretrained(folder)",
        )
    refused = [name for name in _REFUSED if settings.get(name)]
    if settings.get("bias", "none") != "none":
        refused.append("bias")
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(_CHANGES_BASE):
        refused.append(f"init_lora_weights={start}")
    if refused:
        raise ModelError(
            f"{adapter}: cannot merge an adapter with {', '.join(refused)}",
            hint="merge it with peft: model.merge_and_unload().save_pretrained(folder)",
        )
    return settings


def _updates(
    adapter: Path, settings: Mapping[str, Any], factors: Weights
) -> Iterator[tuple[str, _Update]]:
    names = set(factors.infos)
    if not names:
        raise ModelError(f"{adapter / _ADAPTER_WEIGHTS} holds no tensors")
    for name in sorted(names):
        module = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        if name == f"{_PREFIX}{module}.lora_A.weight":
            up = f"{_PREFIX}{module}.lora_B.weight"
            if up not in names:
                raise ModelError(f"{adapter}: {name} has no {up}")
            names -= {name, up}
            yield f"{module}.weight", _Update(name, up, _scale(settings, module, factors, name))
    if names:
        raise ModelError(
            f"{adapter}: tensors that cannot be merged: {', '.join(sorted(names)[:3])}",
            hint="merge it with peft: model.merge_and_unload().save_pretrained(folder)",
        )


def _scale(settings: Mapping[str, Any], module: str, factors: Weights, down: str) -> float:
    rank = factors.infos[down].shape[0]
    alpha = float(_by_pattern(settings, "alpha_pattern", module, settings.get("lora_alpha", rank)))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _by_pattern(settings: Mapping[str, Any], key: str, module: str, default: object) -> Any:
    """PEFT's rule: a pattern fits the module's name, or its end after a dot; the first counts."""
    for pattern, value in (settings.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _check_fit(
    adapter: Path, name: str, update: _Update, factors: Weights, weights: Weights
) -> None:
    if name not in weights.infos:
        raise ModelError(
            f"{adapter} adapts {name!r}, which the base has not",
            hint="give the base model that the adapter was trained on",
        )
    rows, columns = weights.infos[name].shape
    down, up = factors.infos[update.down].shape, factors.infos[update.up].shape
    if down[1:] != (columns,) or up != (rows, down[0]):
        raise ModelError(
            f"{adapter}: factors {up} x {down} do not fit {name!r} of {(rows, columns)}",
            hint="give the base model that the adapter was trained on",
        )
