"""What a model says of where it comes from, beyond what its folder does: facts of its artefact.

A folder's card and a repository's name are not saved with what is trained from them. So training
keeps them in the facts of the checkpoint, which every later stage hands on; facts are no part of a
digest, so that they cost nobody a training. A copy of what was trained keeps who computed its
weights, for the file that is made of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import ArtifactError
from ollama_bridge.models.architectures.entries import Entry, number, text
from ollama_bridge.models.settings.general import General, writable
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.settings.model_card import card_entries, repository_entries, texts_in
from ollama_bridge.models.settings.small_files import TOKENIZER
from ollama_bridge.models.weights.adapter_folder import ADAPTER_CONFIG
from ollama_bridge.models.weights.stored import adapters_of
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, Manifest

VALUES_KEY = "reference_key"  # a fact: what the reference values beside it were computed by
_ORIGIN, _DATASETS, _MAKER, _BASE = "origin", "datasets", "made_by", "base"
_MERGED_INTO = "merged_into"
_BASE_KEY = "general.base_model"
_SAME_WEIGHTS = ("import", "link", "reference")  # stages that compute none
# A folder of the hub's cache; neither part of a repository's name may hold two hyphens.
_IN_HUB_CACHE = re.compile(r"[\\/]models--(?:([^\\/]+?)--)?([^\\/]+)[\\/]snapshots[\\/]([0-9a-f]+)")


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
    """Facts of a model that was trained: what it began as, and on what data."""
    datasets = [*texts_in(start.facts.get(_DATASETS)), *corpus.datasets]
    facts = {_ORIGIN: described(start), _DATASETS: list(dict.fromkeys(datasets))}
    return {name: value for name, value in facts.items() if value}


def described(start: Checkpoint) -> General:
    """What a model should say of the one that it is made of, where its config does not.

    What was itself trained stands for what that began as.
    """
    said = card_of(start.path, start.facts)
    if not any(entry.key == f"{_BASE_KEY}.count" for entry in said):
        said += _base_entries(start.path, start.facts)
    card = {entry.key.removeprefix("general."): entry.value for entry in said}
    return origin_of(start.facts) or {**card, **repository_of(start.facts)}


def origin_of(facts: Mapping[str, Any]) -> General:
    """What a trained model began as; empty for what was not trained, and where nothing is known."""
    return writable(facts.get(_ORIGIN))


def repository_of(facts: Mapping[str, Any]) -> General:
    """Name, organization and address of the hub's repository that a checkpoint is."""
    found = _IN_HUB_CACHE.search(str(facts.get("source", "")))
    if found is None:
        return {}
    organization, name, _ = found.groups()
    path = f"{organization}/{name}" if organization else name
    own = {"name": name, "repo_url": f"https://huggingface.co/{path}"}
    return own | ({"organization": organization} if organization else {})


def reference_of(source: str) -> str | None:
    """``hf:org/name@COMMIT`` of a folder of the hub's cache; None: it is none."""
    found = _IN_HUB_CACHE.search(source)
    if found is None or source[found.end() :].strip("\\/"):  # what is in one is another file
        return None
    organization, name, commit = found.groups()
    return f"hf:{organization}/{name}@{commit}" if organization else f"hf:{name}@{commit}"


def owners_folder(folder: Path) -> Path:
    """Of a copy in the cache, the folder that it was made of: mending is in vain in a copy.

    Of an adapter that is merged, the folder that its tokenizer came from: its own, else its base.
    Of anything else, and where that is gone, the folder itself.
    """
    with contextlib.suppress(ArtifactError):
        facts = Manifest.read(folder).facts
        source, base = (of.get("source") for of in (facts, writable(facts.get(_MERGED_INTO))))
        for named, file in ((source, "config.json"), (source, TOKENIZER), (base, "config.json")):
            if isinstance(named, str) and (Path(named) / file).is_file():
                return Path(named)
    return folder


def base_facts(base: Checkpoint) -> dict[str, Any]:
    """Facts of a merge: the folder of its base, and the hub's repository, where it is one."""
    found = repository_of(base.facts)
    folder = {_MERGED_INTO: {"source": str(owners_folder(base.path))}}
    return folder | ({_BASE: found} if found else {})


def card_of(folder: Path, facts: Mapping[str, Any]) -> list[Entry]:
    """What a checkpoint's card says; no base of an adapter's that is not on the hub."""
    is_of_adapter = bool(adapters_of(folder)) and not repository_of(facts)
    return [
        entry
        for entry in card_entries(folder)
        if not (is_of_adapter and entry.key.startswith(f"{_BASE_KEY}."))
    ]


def missing_entries(
    folder: Path, facts: Mapping[str, Any], entries: Sequence[Entry]
) -> list[Entry]:
    """Base model and data sets, where a card or a GGUF has said nothing of them."""
    said = {entry.key for entry in entries}
    base = [] if f"{_BASE_KEY}.count" in said else _base_entries(folder, facts)
    datasets = repository_entries("general.dataset", texts_in(facts.get(_DATASETS)))
    return [*base, *([] if "general.dataset.count" in said else datasets)]


def _base_entries(folder: Path, facts: Mapping[str, Any]) -> list[Entry]:
    """The base of an adapter.

    It names that as its training had it, in its card and its config: ``models/acme-llama`` is a
    folder there, and looks like a repository. Only one that is itself on the hub keeps nothing
    back; of others the base is what was found for them, where that is a repository.
    """
    adapters = adapters_of(folder)
    if adapters and repository_of(facts):
        return list(repository_entries(_BASE_KEY, _named(adapters[-1])))
    base = writable(facts.get(_BASE)) if adapters else {}
    count = [number(f"{_BASE_KEY}.count", 1)] if base else []
    return [*count, *(text(f"{_BASE_KEY}.0.{key}", value) for key, value in base.items())]


def _named(adapter: Path) -> list[str]:
    """What an adapter calls its base."""
    return texts_in(read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path"))
