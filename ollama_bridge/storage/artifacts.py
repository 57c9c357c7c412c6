"""Artefacts: folders that are complete or absent, and know where they come from.

A stage writes into a *draft* (a hidden folder beside the final one), then commits: every file is
hashed and synced, ``manifest.json`` is written last, and the folder is renamed into place. So the
existence of ``OUT/manifest.json`` means complete. A draft that was interrupted stays, and the same
work (same key) finds it again and can resume from what is inside; other work starts afresh, and
leaves it there until it is finished itself. An older artefact in its place stays whole until then.

The key is a digest of stage, stage version, input digests and effective settings. What is *not*
in the key does not change the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import ClassVar, Self

from ollama_bridge.digests import JSONValue, canonical_json, digest_text, has_digest
from ollama_bridge.errors import ArtifactError

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Work:
    """What a stage is about to do, as far as it decides the result.

    Attributes:
        kind: The artefact's kind, such as ``checkpoint``.
        stage: The function that makes it, such as ``distill``.
        version: Raised when the stage's code changes its results.
        inputs: Digests of the input artefacts, by role.
        settings: The effective section of the recipe.
        seed: The seed of every random choice in the stage.
    """

    kind: str
    stage: str
    version: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, JSONValue] = field(default_factory=dict)
    seed: int = 0

    @property
    def key(self) -> str:
        """sha256 (hex) over all of the above."""
        return digest_text(
            canonical_json(
                {
                    "kind": self.kind,
                    "stage": self.stage,
                    "version": self.version,
                    "inputs": dict(self.inputs),
                    "settings": dict(self.settings),
                    "seed": self.seed,
                }
            )
        )


@dataclass(frozen=True)
class FileEntry:
    """Size and digest of one file of an artefact.

    Attributes:
        size_bytes: Of it.
        digest: ``sha256:<hex>`` or ``blake3:<hex>``.
    """

    size_bytes: int
    digest: str

    def to_json(self) -> dict[str, JSONValue]:
        """For a manifest: the kind of the digest is its key."""
        kind, _, value = self.digest.partition(":")
        return {"size_bytes": self.size_bytes, kind: value}

    @classmethod
    def of_json(cls, entry: Mapping[str, JSONValue]) -> Self:
        """What :meth:`to_json` wrote.

        Raises:
            KeyError: it is something else.
        """
        kind = "blake3" if "blake3" in entry else "sha256"
        return cls(entry["size_bytes"], f"{kind}:{entry[kind]}")


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says.

    ``facts`` are results worth reading without opening the files (counts, scores); they are not
    part of the key.
    """

    work: Work
    files: Mapping[str, FileEntry]
    facts: Mapping[str, JSONValue]
    versions: Mapping[str, str]
    created_at: str
    schema: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """Content address: the key and the digests of all files."""
        files = {name: entry.digest.removeprefix("sha256:") for name, entry in self.files.items()}
        return digest_text(canonical_json({"key": self.work.key, "files": files}))

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        work = self.work
        return json.dumps(
            {
                "schema": self.schema,
                "kind": work.kind,
                "stage": work.stage,
                "stage_version": work.version,
                "key": work.key,
                "digest": self.digest,
                "inputs": dict(work.inputs),
                "settings": dict(work.settings),
                "seed": work.seed,
                "files": {name: entry.to_json() for name, entry in self.files.items()},
                "facts": dict(self.facts),
                "versions": dict(self.versions),
                "created_at": self.created_at,
            },
            indent=2,
            ensure_ascii=False,
        )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check ``manifest.json`` of a folder (sizes, not digests).

        Raises:
            ArtifactError: no manifest, not readable, or a file is missing or has another size.
        """
        path = folder / MANIFEST_NAME
        hint = f"remove the folder to build it again: rm -r {quote(str(folder))}"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA_VERSION:
                raise ArtifactError(
                    f"{path}: schema {data['schema']}, but this version reads {SCHEMA_VERSION}",
                    hint=hint,
                )
            manifest = cls._of(data)
        except FileNotFoundError as exc:
            if not folder.exists():
                raise ArtifactError(f"{folder}: no such folder", hint="check the path") from exc
            raise ArtifactError(
                f"{folder} is not a finished artefact: it has no {MANIFEST_NAME}",
                hint="run the stage that makes it again; it resumes where it stopped",
            ) from exc
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as exc:
            raise ArtifactError(f"{path} cannot be read: {exc!r}", hint=hint) from exc
        for name, entry in manifest.files.items():
            file = folder / name
            size_bytes = file.stat().st_size if file.is_file() else None
            if size_bytes != entry.size_bytes:
                found = "is missing" if size_bytes is None else f"has {size_bytes} bytes"
                raise ArtifactError(
                    f"{file} {found}, the manifest says {entry.size_bytes} bytes", hint=hint
                )
        return manifest

    @classmethod
    def _of(cls, data: JSONValue) -> Manifest:
        """What :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, AttributeError: it is something else.
        """
        return cls(
            work=Work(
                kind=data["kind"],
                stage=data["stage"],
                version=data["stage_version"],
                inputs=data["inputs"],
                settings=data["settings"],
                seed=data["seed"],
            ),
            files={name: FileEntry.of_json(entry) for name, entry in data["files"].items()},
            facts=data["facts"],
            versions=data["versions"],
            created_at=data["created_at"],
        )


@dataclass(frozen=True)
class Artifact:
    """A finished folder and its manifest. Subclasses name its files."""

    kind: ClassVar[str] = "artifact"

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, *, verify_digests: bool = False) -> Self:
        """Open a finished artefact.

        Args:
            verify_digests: Also read every file and compare its digest.

        Raises:
            ArtifactError: incomplete, damaged, or of another kind.
        """
        folder = Path(path)
        manifest = Manifest.read(folder)
        if manifest.work.kind != cls.kind:
            raise ArtifactError(f"{folder} is a {manifest.work.kind}, not a {cls.kind}")
        if verify_digests:
            for name, entry in manifest.files.items():
                if not has_digest(folder / name, entry.digest):
                    raise ArtifactError(
                        f"{folder / name} was changed after it was written",
                        hint=f"remove the folder to build it again: rm -r {quote(str(folder))}",
                    )
        return cls(folder, manifest)

    def is_as_written(self, name: str) -> bool:
        """Whether a file is older than the manifest: what is written into later is newer."""
        written_at_ns = (self.path / MANIFEST_NAME).stat().st_mtime_ns
        return (self.path / name).stat().st_mtime_ns < written_at_ns

    @property
    def digest(self) -> str:
        """Content address of the artefact."""
        return self.manifest.digest

    @property
    def facts(self) -> Mapping[str, JSONValue]:
        """Results worth reading without opening the files."""
        return self.manifest.facts


class Corpus(Artifact):
    """Cleaned and split chat examples: ``{train,validation,test}.jsonl`` and ``card.json``."""

    kind = "corpus"

    def split_path(self, split: str) -> Path:
        """The JSONL file of one split."""
        return self.path / f"{split}.jsonl"

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the published data sets in it; a user's own files are nobody's business."""
        return tuple(self.facts.get("datasets", ()))


class SoftLabels(Artifact):
    """A teacher's next-token distributions on the supervised positions of a corpus."""

    kind = "soft_labels"


class Checkpoint(Artifact):
    """A Hugging Face folder (config, weights, tokenizer) and ``reference.json``.

    ``reference.json`` holds the values that the daemon has to reproduce (see ``verify``).
    """

    kind = "checkpoint"

    @property
    def reference_path(self) -> Path:
        """Reference values for the parity check."""
        return self.path / "reference.json"


class EvalReport(Artifact):
    """Scores of one or more models on held-out text: ``report.json`` and ``report.md``."""

    kind = "eval_report"

    @property
    def report_path(self) -> Path:
        """The scores as JSON."""
        return self.path / "report.json"


class GGUFFile(Artifact):
    """One converted model: ``model.gguf`` and the reference values of its checkpoint."""

    kind = "gguf"

    @property
    def gguf_path(self) -> Path:
        """The GGUF itself."""
        return self.path / "model.gguf"

    @property
    def reference_path(self) -> Path:
        """Reference values for the parity check, copied from the checkpoint."""
        return self.path / "reference.json"

    @property
    def blob_digest(self) -> str:
        """The GGUF's digest as Ollama spells it: ``sha256:<hex>``."""
        return self.manifest.files["model.gguf"].digest


class AdapterFile(Artifact):
    """A LoRA adapter for llama.cpp, and for daemons that take an ADAPTER: ``adapter.gguf``."""

    kind = "adapter"

    @property
    def gguf_path(self) -> Path:
        """The adapter itself."""
        return self.path / "adapter.gguf"

    @property
    def blob_digest(self) -> str:
        """Digest under which Ollama stores the file: ``sha256:<hex>``."""
        return self.manifest.files["adapter.gguf"].digest


class RegisteredModel(Artifact):
    """A tag that the daemon was proven to serve: ``Modelfile`` and ``certificate.json``."""

    kind = "registered_model"

    @property
    def tag(self) -> str:
        """The tag in Ollama."""
        return str(self.facts["tag"])
