"""What a model says of where it comes from, beyond what its folder does: facts of its artefact.

A folder's card and a repository's name are not saved with what is trained from them. So training
keeps them in the facts of the checkpoint, which every later stage hands on; facts are no part of a
digest, so that they cost nobody a training. A copy of what was trained keeps who computed its
weights, for the file that is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.artifacts import Checkpoint, Corpus
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.models.adapter_folder import ADAPTER_CONFIG
from ollama_bridge.models.architectures.entries import Entry
from ollama_bridge.models.general import General, writable
from ollama_bridge.models.json_files import read_json_object
from ollama_bridge.models.model_card import card_entries, repository_entries
from ollama_bridge.models.paths import is_dir
from ollama_bridge.models.stored import adapters_of

VALUES_KEY = "reference_key"  # a fact: what the reference values beside it were computed by
_ORIGIN, _DATASETS, _MAKER = "origin", "datasets", "made_by"
_SAME_WEIGHTS = ("import", "link", "reference")  # stages that compute none
# A folder of the hub's cache; neither part of a repository's name may hold two hyphens.
_IN_HUB_CACHE = re.compile(r"[\\/]models--(?:([^\\/]+?)--)?([^\\/]+)[\\/]snapshots[\\/]")


@dataclass(frozen=True)
class Maker:
    """The work that computed the weights of a checkpoint.

    Attributes:
        stage: Its stage.
        inputs: Digests of what it was given, by role.
        settings_sha256: Of its settings in effect; None: it has none.
    """

    stage: str
    inputs: Mapping[str, str]
    settings_sha256: str | None


def maker_of(checkpoint: Checkpoint) -> Maker | None:
    """Who computed its weights; None: they are as they came."""
    kept = checkpoint.facts.get(_MAKER)
    if kept is not None:
        return Maker(**kept)
    work = checkpoint.manifest.work
    if work.stage in _SAME_WEIGHTS:
        return None
    digest = digest_text(canonical_json(dict(work.settings))) if work.settings else None
    return Maker(work.stage, dict(work.inputs), digest)


def facts_of_copy(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts of a checkpoint with the same weights: a copy has a stage and inputs of its own."""
    maker = maker_of(checkpoint)
    return {**checkpoint.facts, **({} if maker is None else {_MAKER: asdict(maker)})}


def origin_facts(start: Checkpoint, corpus: Corpus) -> dict[str, Any]:
    """Facts of a model that was trained.

    Args:
        start: What it began as.
        corpus: What it was trained on.
    """
    datasets = [*_texts(start.facts.get(_DATASETS)), *corpus.datasets]
    facts = {_ORIGIN: described(start), _DATASETS: list(dict.fromkeys(datasets))}
    return {name: value for name, value in facts.items() if value}


def described(start: Checkpoint) -> General:
    """What a model should say of the one that it is made of, where its config does not.

    Args:
        start: What it is made of; what was itself trained stands for what that began as.
    """
    card = {entry.key.removeprefix("general."): entry.value for entry in card_entries(start.path)}
    return origin_of(start.facts) or {**card, **repository_of(start.facts)}


def origin_of(facts: Mapping[str, Any]) -> General:
    """What a trained model began as; empty for what was not trained, and where nothing is known."""
    return writable(facts.get(_ORIGIN))


def repository_of(facts: Mapping[str, Any]) -> General:
    """Name, organization and address of the hub's repository that a checkpoint is."""
    found = _IN_HUB_CACHE.search(str(facts.get("source", "")))
    if found is None:
        return {}
    organization, name = found.groups()
    path = f"{organization}/{name}" if organization else name
    own = {"name": name, "repo_url": f"https://huggingface.co/{path}"}
    return own | ({"organization": organization} if organization else {})


def missing_entries(
    folder: Path, facts: Mapping[str, Any], entries: Sequence[Entry]
) -> list[Entry]:
    """Base model and data sets, where a card or a GGUF has said nothing of them.

    Args:
        folder: The checkpoint.
        facts: Of its manifest.
        entries: What was said.
    """
    said = {entry.key for entry in entries}
    names = {
        "general.base_model": _base_of_adapter(folder),
        "general.dataset": _texts(facts.get(_DATASETS)),
    }
    return [
        entry
        for prefix, found in names.items()
        if f"{prefix}.count" not in said
        for entry in repository_entries(prefix, found)
    ]


def _base_of_adapter(folder: Path) -> list[str]:
    """The repository that an adapter was trained on, where it names one and no folder."""
    for adapter in adapters_of(folder)[:1]:
        named = _texts(read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path"))
        return [name for name in named if not is_dir(Path(name))]
    return []


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item]
