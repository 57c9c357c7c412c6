"""A base and a LoRA adapter as one checkpoint: merged when it is read, or written out merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EMBEDDING, Adapter
from ollama_bridge.models.floats import F32, to_float32
from ollama_bridge.models.gguf_weights import GGUF_NAME
from ollama_bridge.models.links import link_file
from ollama_bridge.models.merged_weights import MergedWeights
from ollama_bridge.models.model_card import CARD_NAME
from ollama_bridge.models.safety import check_folder
from ollama_bridge.models.stored import ADAPTERS_NAME, adapters_of, open_weights
from ollama_bridge.models.weights import INDEX_NAME, WEIGHTS_NAME, WeightInfo, write_weights

_COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    CARD_NAME,
)


def combine_adapter(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Write a checkpoint that is a base and an adapter, both linked.

    Args:
        base: The base model's folder.
        adapter: The PEFT adapter's folder.
        out: Where to; made if missing.

    Returns:
        Facts: how many parameters the adapter changes.

    Raises:
        ModelError: the adapter does not fit the base, or uses what cannot be merged.
        DiskFullError: there is no room.
    """
    weights = _prepare(base, adapter, out)
    for path in base.iterdir():
        if path.suffix == ".safetensors" or path.name in (INDEX_NAME, GGUF_NAME):
            link_file(path, out / path.name)
    below = adapters_of(base)
    for number, folder in enumerate((*below, adapter), start=1):
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            link_file(folder / name, out / ADAPTERS_NAME / str(number) / name)
    return {"merged_matrices": weights.changed}


def merge_adapter(base: Path, adapter: Path, out: Path) -> None:
    """Write base + adapter as one Hugging Face folder with float32 weights, tensor by tensor.

    Args:
        base: The base model's folder.
        adapter: The PEFT adapter's folder.
        out: Where to; made if missing.

    Raises:
        ModelError: the adapter does not fit the base, or uses what cannot be merged.
        DiskFullError: there is no room.
    """
    weights = _prepare(base, adapter, out)
    infos = [WeightInfo(info.name, info.shape, F32) for info in weights.infos.values()]
    write_weights(out / WEIGHTS_NAME, infos, lambda name: to_float32(weights.array(name)))


def _prepare(base: Path, adapter: Path, out: Path) -> MergedWeights:
    """Write all but the weights; gives those."""
    config = check_folder(base)
    loaded = Adapter(adapter)
    tied = bool(config.get("tie_word_embeddings"))
    weights = MergedWeights(open_weights(base, config), loaded, tied=tied)
    out.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        # The adapter's own tokenizer or template, if it was saved with one, is the trained one.
        source = next((f / name for f in (adapter, base) if (f / name).is_file()), None)
        if source is not None:
            shutil.copyfile(source, out / name)
    changed = _adapted_config(config, loaded, weights, tied=tied)
    (out / "config.json").write_text(
        json.dumps(changed, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    return weights


def _adapted_config(
    config: Mapping[str, Any], adapter: Adapter, weights: MergedWeights, *, tied: bool
) -> dict[str, Any]:
    changed = {**config, "vocab_size": weights.infos[EMBEDDING].shape[0]}
    if adapter.unties(tied=tied):
        changed["tie_word_embeddings"] = False
    return changed
