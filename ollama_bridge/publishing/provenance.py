"""Finds what our folders know of a tag: the run that made it, its inputs, scores and data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ollama_bridge.assets import home_dir
from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.models.sources.origin import reference_of
from ollama_bridge.storage.artifacts import (
    MANIFEST_NAME,
    Corpus,
    EvalReport,
    GGUFFile,
    Manifest,
    RegisteredModel,
)
from ollama_bridge.verify.certificate import Certificate

_MAY_BE_PATHS = ("path", "teacher", "model")  # beside "source", which is one or a tag


@dataclass(frozen=True)
class Made:
    """A finished artefact, whatever its kind."""

    path: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        """The artefact's kind, such as ``checkpoint``."""
        return self.manifest.work.kind


@dataclass(frozen=True)
class Provenance:
    """What is known of a tag; all empty for a tag that was not made here.

    Attributes:
        certificate: The proof that the tag serves its checkpoint.
        lineage: Everything that it was made of, first what was there first.
        reports: Scores of its checkpoint, and of itself.
    """

    certificate: Certificate | None = None
    lineage: tuple[Made, ...] = ()
    reports: tuple[Made, ...] = ()

    def of_kind(self, kind: str) -> tuple[Made, ...]:
        """The artefacts of one kind in the lineage."""
        return tuple(made for made in self.lineage if made.kind == kind)

    @property
    def asked_teachers(self) -> tuple[str, ...]:
        """Names of the models that were asked for answers or distributions."""
        told = [made.manifest.facts.get("teacher") for made in self.lineage]
        return tuple(dict.fromkeys(str(portable(name, key="teacher")) for name in told if name))

    def data_card(self) -> Mapping[str, Any] | None:
        """Counts and rules of the corpus as it was prepared, if there is one."""
        for card in self._corpus_cards():
            # One that was answered by a teacher keeps the card of its source.
            source = card.get("corpus", card) if "outcomes" in card else card
            if isinstance(source, dict):
                return source
        return None

    def answers_card(self) -> Mapping[str, Any] | None:
        """What became of the answers that a teacher wrote, if one did."""
        return next((card for card in self._corpus_cards() if "outcomes" in card), None)

    def _corpus_cards(self) -> Iterator[dict[str, Any]]:
        for made in self.of_kind(Corpus.kind):
            try:
                card = json.loads((made.path / "card.json").read_bytes())
            except (OSError, ValueError):
                continue
            if isinstance(card, dict):
                yield card

    def to_json(self) -> list[dict[str, Any]]:
        """The lineage as other machines may see it: without a path of this one."""
        return [_portable_entry(made) for made in self.lineage]


def find_provenance(tag_digest: str, *, run_dir: Path | None = None) -> Provenance:
    """Look for the run that made exactly this tag.

    Args:
        tag_digest: Digest of the tag's manifest in the daemon.
        run_dir: Folder of the run; None: every run in our home folder is looked at.

    Raises:
        ConfigError: ``run_dir`` did not make this tag, or it was changed since.
    """
    runs = [run_dir] if run_dir is not None else _runs()
    for run in runs:
        for folder in _tag_folders(run):
            found = _open(folder)
            if found is not None and found.manifest.facts.get("tag_digest") == tag_digest:
                return _trace(found, run)
    if run_dir is not None:
        raise ConfigError(
            f"{run_dir} did not make this tag, or the tag has been changed since",
            hint="ollama-bridge runs show RUN lists the tags of a run",
        )
    return Provenance()


def _runs() -> list[Path]:
    # The newest first: of two runs that made the same tag it has the newer scores.
    folders = [path for path in (home_dir() / "runs").glob("*") if path.is_dir()]
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)


def _tag_folders(run: Path) -> Iterator[Path]:
    yield run / "tag"
    yield from sorted((run / "tags").glob("*"))
    yield run


def _trace(tag: Made, run: Path) -> Provenance:
    known = {made.manifest.digest: made for made in _artifacts((run, home_dir() / "models"))}
    # Whoever has a tag's folder outside of a run has its inputs nowhere, but has its proof.
    lineage: dict[str, Made] = {}
    waiting = [tag]
    while waiting:
        made = waiting.pop()
        if made.manifest.digest in lineage:
            continue
        lineage[made.manifest.digest] = made
        # A GGUF is named by the digest of its artefact, as is every other input.
        waiting += [
            known[digest] for digest in made.manifest.work.inputs.values() if digest in known
        ]
    # Scores of this very checkpoint or tag: a run that was built again with other settings may
    # still hold those of an earlier student.
    scored = {str(tag.manifest.facts["tag_digest"])}
    for made in lineage.values():
        if made.kind == GGUFFile.kind:
            scored |= _scored_as(made, lineage)
    reports = [
        made
        for made in known.values()
        if made.kind == EvalReport.kind
        and not scored.isdisjoint(made.manifest.work.inputs.values())
    ]
    try:
        certificate = Certificate.read(tag.path / "certificate.json")
    except ArtifactError:
        certificate = None
    return Provenance(certificate, _in_order(lineage.values()), _in_order(reports))


def _scored_as(gguf: Made, lineage: Mapping[str, Made]) -> set[str]:
    """The checkpoint in a file, and the one that this is with other reference values."""
    digests = set(gguf.manifest.work.inputs.values())
    for made in [lineage[digest] for digest in digests if digest in lineage]:
        if made.manifest.work.stage == "reference":
            digests |= set(made.manifest.work.inputs.values())
    return digests


def _artifacts(folders: Iterable[Path]) -> Iterator[Made]:
    for folder in folders:
        for path in folder.glob(f"**/{MANIFEST_NAME}"):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            made = None if hidden else _open(path.parent)
            if made is not None:
                yield made


def _open(folder: Path) -> Made | None:
    try:
        return Made(folder, Manifest.read(folder))
    except ArtifactError:
        return None


def _in_order(made: Iterable[Made]) -> tuple[Made, ...]:
    return tuple(sorted(made, key=lambda one: (one.manifest.created_at, one.path)))


def _portable_entry(made: Made) -> dict[str, Any]:
    manifest = made.manifest
    work = manifest.work
    # The request of a tag is the tag.
    settings = {} if made.kind == RegisteredModel.kind else work.settings
    return {
        "kind": work.kind,
        "stage": work.stage,
        "stage_version": work.version,
        "digest": manifest.digest,
        "inputs": dict(work.inputs),
        "settings": portable(settings),
        "seed": work.seed,
        "facts": portable(manifest.facts),
        "versions": dict(manifest.versions),
        "created_at": manifest.created_at,
    }


def portable(value: Any, *, key: str = "") -> Any:
    """The same without the folders of this machine; names of files and of repositories stay.

    Args:
        value: Settings, facts, or one of their values.
        key: What has the value. Other texts are the user's own words: a system prompt may begin
            with a slash.
    """
    if isinstance(value, Mapping):
        return {name: portable(item, key=name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, key=key) for item in value]
    if isinstance(value, str):
        # pathlib writes ./models/base without its dot, so whatever is no tag is a path.
        if key == "source" and not value.startswith("ollama:"):
            return reference_of(value) or _name_of(value)
        # Names of models have slashes too.
        if key in _MAY_BE_PATHS and value.startswith(("/", "~", "./", "../")):
            return _name_of(value)
    return value


def _name_of(path: str) -> str:
    name = PurePath(path).name
    return name if name not in ("", "..") else "a folder"
