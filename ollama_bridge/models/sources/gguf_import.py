"""Makes a Hugging Face checkpoint of a GGUF: a model that Ollama has becomes one to train.

Config and tokenizer are written as transformers has them; the weights stay in the GGUF and are
decoded when they are read (see ``weights.gguf``). What the file says and transformers cannot
express is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.errors import GGUFError
from ollama_bridge.models.settings.general import SOURCE_KEY, kept_general
from ollama_bridge.models.settings.generation_defaults import GENERATION_CONFIG, defaults_of
from ollama_bridge.models.settings.gguf_tokenizer import GGUFTokenizer
from ollama_bridge.models.sources.links import link_file
from ollama_bridge.models.weights.floats import BF16, F16, F32
from ollama_bridge.models.weights.gguf import GGUF_NAME, GGUFWeights
from ollama_bridge.models.weights.text_part import TEXT_ALONE
from ollama_bridge.reporting import Note, NullReporter, Reporter

_DTYPE_NAMES = {F32: "float32", F16: "float16", BF16: "bfloat16"}


def import_gguf(path: Path, folder: Path, *, reporter: Reporter | None = None) -> dict[str, Any]:
    """Write the checkpoint that a GGUF holds.

    Args:
        path: The GGUF; it is linked, not copied.
        folder: Where to; made if missing.

    Returns:
        Facts: name, architecture, number of parameters, encodings of the source.

    Raises:
        GGUFError: damaged, or parts contradict each other.
        UnsupportedArchitectureError: no architecture that can be trained here.
        DiskFullError: there is no room.
    """
    weights = GGUFWeights(path)
    reporter = reporter or NullReporter()
    if weights.also_sees:
        reporter.emit(Note("import", "warning", TEXT_ALONE))
    rows = weights.config["vocab_size"]
    metadata = weights.contents.metadata
    if weights.architecture.eyes:
        metadata = _without_their_tokens(metadata, rows, reporter)
    tokenizer = GGUFTokenizer(path, metadata)
    if len(tokenizer.tokens) != rows:
        raise GGUFError(
            f"{path}: {len(tokenizer.tokens)} tokens, but token_embd.weight has {rows} rows"
        )
    infos = weights.infos.values()
    matrices = {info.dtype for info in infos if len(info.shape) > 1}
    ids = tokenizer.ids
    config = {
        **weights.config,
        # Written also where there is none: transformers has defaults of its own.
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos,
        "pad_token_id": ids.padding,
        "dtype": _DTYPE_NAMES[matrices.pop() if len(matrices) == 1 else F32],
        SOURCE_KEY: kept_general(metadata),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    ends = list(ids.ends)
    generation = {
        "bos_token_id": ids.bos,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": ids.padding,
        **defaults_of(metadata),
    }
    _write_json(
        folder / GENERATION_CONFIG,
        {key: value for key, value in generation.items() if value is not None},
    )
    tokenizer.write(folder, max_length=config["max_position_embeddings"])
    link_file(path, folder / GGUF_NAME)
    return {
        "name": str(metadata.get("general.name", path.stem)),
        "architecture": weights.architecture.hf_class,
        "parameters": sum(math.prod(info.shape) for info in infos),
        "source_types": sorted({info.type for info in weights.contents.tensors.values()}),
    }


def _without_their_tokens(
    metadata: Mapping[str, Any], rows: int, reporter: Reporter
) -> Mapping[str, Any]:
    """Without tokens that stand for images, where the embedding has no rows for them.

    Source: ``handle_gemma3`` of Ollama's ``llama/compat`` (0.34).
    """
    names = [f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type")]
    lists = {name: metadata[name] for name in names if isinstance(metadata.get(name), list)}
    unseen = lists.get(names[0], [])[rows:]
    if unseen:
        said = f"its model has no row for {unseen[0]!r}, which is left out of the tokenizer"
        more = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
        reporter.emit(Note("import", "info", said + more))
    return {**metadata, **{name: values[:rows] for name, values in lists.items()}}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
