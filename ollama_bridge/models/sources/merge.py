"""A base and a LoRA adapter as one checkpoint: merged when it is read.

And the base alone, where a daemon puts the adapter on top.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.errors import ModelError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.layout import EMBEDDING
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.settings.left_overs import drop_tokens, tokens_without_rows
from ollama_bridge.models.settings.model_card import CARD_NAME
from ollama_bridge.models.settings.small_files import (
    CHAT_TEMPLATE,
    SMALL_FILES,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOOL_TEMPLATE,
)
from ollama_bridge.models.sources.links import link_file, linked_digests
from ollama_bridge.models.sources.origin import VALUES_KEY, facts_of_copy
from ollama_bridge.models.weights.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ollama_bridge.models.weights.files import INDEX_NAME
from ollama_bridge.models.weights.gguf import GGUF_NAME
from ollama_bridge.models.weights.lora import Adapter
from ollama_bridge.models.weights.merged import MergedWeights
from ollama_bridge.models.weights.stored import ADAPTERS_NAME, adapters_of, open_weights
from ollama_bridge.storage.artifacts import Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft


@dataclass(frozen=True)
class Combined:
    """What came of a base and an adapter.

    Attributes:
        merged_matrices: How many parameters the adapter changes.
        left_out: Tokens that were taken out of the tokenizer: there is no row for them.
    """

    merged_matrices: int
    left_out: tuple[str, ...]


def combine_adapter(base: Path, adapter: Path, out: Path) -> Combined:
    """Write a checkpoint that is a base and an adapter, both linked.

    Args:
        out: Where to; made if missing.

    Raises:
        ModelError: the adapter does not fit the base, or uses what cannot be merged.
        DiskFullError: there is no room.
    """
    config = check_folder(base)
    loaded = Adapter(adapter)
    tied = ARCHITECTURES[read_architecture(base, config)].tied(config)
    weights = MergedWeights(open_weights(base, config), loaded, tied=tied)
    out.mkdir(parents=True, exist_ok=True)
    for name in SMALL_FILES:
        source = _source_of(name, base, adapter)
        if source is not None:
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, out / name)
    changed = _adapted_config(config, loaded, weights, tied=tied)
    (out / "config.json").write_text(
        json.dumps(changed, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    unseen = tokens_without_rows(out, changed)  # that came with the adapter's tokenizer
    if unseen.used and (adapter / TOKENIZER).is_file():
        raise ModelError(
            f"{adapter}: its tokenizer has {', '.join(unseen.used)}, and neither it nor its base "
            "has a row for that",
            hint="the rows that were trained were not saved: save the adapter again by "
            "model.save_pretrained(folder, save_embedding_layers=True), or give the base that has "
            "them: --base",
        )
    drop_tokens(out, unseen.idle)
    link_parts(base, adapter, out)
    return Combined(weights.changed, unseen.idle)


def link_parts(base: Path, adapter: Path, out: Path) -> None:
    """Link the weights of a base and an adapter (``links.link_file``)."""
    for path in base.iterdir():
        if path.suffix == ".safetensors" or path.name in (INDEX_NAME, GGUF_NAME):
            link_file(path, out / path.name)
    below = adapters_of(base)
    for number, folder in enumerate((*below, adapter), start=1):
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            link_file(folder / name, out / ADAPTERS_NAME / str(number) / name)


def base_with_values(base: Checkpoint, adapted: Checkpoint, *, out_dir: Path) -> Checkpoint:
    """The base, for a daemon that adds the adapter itself (files are linked).

    The weights are the base's, and so is what is said of where they come from; tokenizer, chat
    template and reference values are those of the adapted model, which both together have to serve.

    Args:
        base: The model that the adapter was trained on.
        adapted: It and the adapter as one checkpoint, with reference values.

    Raises:
        DiskFullError: there is no room.
    """
    work = Work(
        kind=Checkpoint.kind,
        stage="reference",
        version=3,
        inputs={"checkpoint": base.digest, "adapted": adapted.digest},
    )
    with open_draft(out_dir, work) as draft:
        # Not the card: what the adapter's says of a base is not the base's own.
        trained = {*SMALL_FILES, adapted.reference_path.name} - {CARD_NAME}
        folder = draft.path if draft.finished is None else out_dir
        for checkpoint in (base, adapted):
            for name in checkpoint.manifest.files:
                if (name in trained) == (checkpoint is adapted):
                    link_file(checkpoint.path / name, folder / name)
        if draft.finished is not None:
            return Checkpoint(out_dir, draft.finished)
        digests = linked_digests(base, folder) | linked_digests(adapted, folder)
        facts = facts_of_copy(base) | {VALUES_KEY: adapted.facts.get(VALUES_KEY)}
        return Checkpoint(out_dir, draft.commit(facts, digests=digests))


def _source_of(name: str, base: Path, adapter: Path) -> Path | None:
    """Where a small file of both is taken from; None: neither has it.

    The adapter's own tokenizer or templates, if it was saved with any, are the trained ones.
    """
    folders: tuple[Path, ...] = (adapter, base)
    if name in (CHAT_TEMPLATE, TOOL_TEMPLATE) and _has_template(adapter):
        folders = (adapter,)
    if name == SPECIAL_TOKENS_MAP and (adapter / TOKENIZER_CONFIG).is_file():
        folders = (adapter,)  # the base's would overrule its settings
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _has_template(folder: Path) -> bool:
    """Whether it has a chat template: a file, or one among the tokenizer's settings.

    Older transformers saves it there; beside the base's file it would not be read any more.
    """
    path = folder / TOKENIZER_CONFIG
    if (folder / CHAT_TEMPLATE).is_file():
        return True
    return path.is_file() and bool(read_json_object(path).get("chat_template"))


def _adapted_config(
    config: Mapping[str, Any], adapter: Adapter, weights: MergedWeights, *, tied: bool
) -> dict[str, Any]:
    changed = {**config, "vocab_size": weights.infos[EMBEDDING].shape[0]}
    if adapter.unties(tied=tied):
        changed["tie_word_embeddings"] = False
    return changed
