"""Makes a Hugging Face checkpoint of a GGUF: a model that Ollama has becomes one to train.

Weights are decoded to float32 (F16 and BF16 stay what they are), one tensor at a time; what the
architecture's rules do to a tensor on its way into a GGUF is undone. What the file says and
transformers cannot express is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ollama_bridge.errors import ConversionError, GGUFError, UnsupportedArchitectureError
from ollama_bridge.models.architectures import GGUF_ARCHITECTURES, Architecture
from ollama_bridge.models.architectures.frame import TensorRule, unpermute
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.gguf_reader import GGUFContents, read_gguf
from ollama_bridge.models.gguf_tokenizer import GGUFTokenizer
from ollama_bridge.models.weights import WEIGHTS_NAME, WeightInfo, write_weights

_KEPT_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
_DTYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class _Source:
    """One tensor of the checkpoint, and where it comes from."""

    info: WeightInfo
    rule: TensorRule


def import_gguf(path: Path, folder: Path) -> dict[str, Any]:
    """Write the checkpoint that a GGUF holds.

    Args:
        path: The GGUF.
        folder: Where to; made if missing.

    Returns:
        Facts: name, architecture, number of parameters, encodings of the source.

    Raises:
        GGUFError: damaged, or parts contradict each other.
        UnsupportedArchitectureError: no architecture that can be trained here.
        DiskFullError: there is no room.
    """
    contents = read_gguf(path)
    architecture = _architecture_of(contents)
    tokenizer = GGUFTokenizer(path, contents.metadata)
    config = {
        **architecture.config(Keys(contents, architecture.name)),
        **_shared_config(contents, tokenizer),
    }
    try:
        architecture.check(config)
        sources = _sources(contents, architecture, config)
    except ConversionError as exc:  # the metadata, not a config.json, say so here
        raise GGUFError(f"{path}: {exc.message}") from exc
    matrices = {source.info.dtype for source in sources if len(source.info.shape) > 1}
    config["dtype"] = _DTYPE_NAMES[matrices.pop() if len(matrices) == 1 else torch.float32]
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    ids = tokenizer.ids
    ends = list(ids.ends)
    generation = {
        "bos_token_id": ids.bos,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids.padding,
    }
    _write_json(
        folder / "generation_config.json",
        {key: value for key, value in generation.items() if value is not None},
    )
    tokenizer.write(folder, max_length=config["max_position_embeddings"])
    by_name = {source.info.name: source for source in sources}
    write_weights(
        folder / WEIGHTS_NAME,
        [source.info for source in sources],
        lambda name: _decode(contents, by_name[name]),
    )
    return {
        "name": str(contents.metadata.get("general.name", path.stem)),
        "architecture": architecture.hf_class,
        "parameters": sum(math.prod(source.info.shape) for source in sources),
        "source_types": sorted({info.type for info in contents.tensors.values()}),
    }


def _architecture_of(contents: GGUFContents) -> Architecture:
    name = contents.metadata.get("general.architecture")
    architecture = GGUF_ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise UnsupportedArchitectureError(
            str(name), tuple(sorted(GGUF_ARCHITECTURES)), where=str(contents.path)
        )
    return architecture


def _shared_config(contents: GGUFContents, tokenizer: GGUFTokenizer) -> dict[str, Any]:
    rows = contents.tensors["token_embd.weight"].shape[0]
    if len(tokenizer.tokens) != rows:
        raise GGUFError(
            f"{contents.path}: {len(tokenizer.tokens)} tokens, "
            f"but token_embd.weight has {rows} rows"
        )
    config: dict[str, Any] = {}
    for role, id_ in (
        ("bos", tokenizer.ids.bos),
        ("eos", tokenizer.ids.eos),
        ("pad", tokenizer.ids.padding),
    ):
        # Written also where there is none: transformers has defaults of its own.
        config[f"{role}_token_id"] = id_
    name = contents.metadata.get("general.name")
    if isinstance(name, str):
        config["ollama_bridge_base"] = name  # kept by transformers from model to student
    return config


def _sources(
    contents: GGUFContents, architecture: Architecture, config: Mapping[str, Any]
) -> list[_Source]:
    """Every tensor of the checkpoint; all of the file's must be used.

    Raises:
        GGUFError: a tensor is missing, left over, or of another shape.
    """
    left = set(contents.tensors) - set(architecture.computed(config))
    sources = []
    for rule in architecture.rules(config):
        if rule.target not in left:
            if rule.optional:
                continue
            raise GGUFError(f"{contents.path}: tensor {rule.target!r} is missing")
        info = contents.tensors[rule.target]
        if info.shape != rule.shape:
            raise GGUFError(
                f"{contents.path}: tensor {rule.target!r} has shape {info.shape}, "
                f"the metadata say {rule.shape}"
            )
        left.discard(rule.target)
        dtype = _KEPT_TYPES.get(info.type, torch.float32)
        sources.append(_Source(WeightInfo(rule.source, info.shape, dtype), rule))
    if left:
        raise GGUFError(
            f"{contents.path}: tensors that a {architecture.name} has not: "
            f"{', '.join(sorted(left)[:3])}"
        )
    return sources


def _decode(contents: GGUFContents, source: _Source) -> torch.Tensor:
    values = contents.tensor(source.rule.target)
    if source.rule.heads is not None:
        values = unpermute(values, source.rule.heads)
    if source.rule.shift:
        values = values - np.float32(source.rule.shift)
    return torch.from_numpy(np.ascontiguousarray(values)).to(source.info.dtype)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
