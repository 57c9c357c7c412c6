"""One grammar for models: where a checkpoint comes from, in one text.

    hf:org/name[@revision]   a repository of the Hugging Face hub
    ./folder                 a Hugging Face checkpoint, or a PEFT adapter
    file.gguf                a GGUF file
    ollama:name[:tag]        a model of the daemon

A bare word could be a tag or a folder. Guessing would train on the wrong model, so it is an error
that offers both, unless a folder of that name is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ollama_bridge.errors import ModelReferenceError
from ollama_bridge.models.paths import expand_home, is_dir, is_file

ReferenceKind = Literal["hf", "folder", "gguf", "ollama"]

_FORMS = "hf:org/name[@revision], ./folder, file.gguf or ollama:tag"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[\w][\w./-]*")
_TAG = re.compile(r"([A-Za-z0-9][\w.:-]*/)?([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(:[\w][\w.-]*)?")


@dataclass(frozen=True)
class ModelReference:
    """A parsed model reference.

    Attributes:
        kind: Where the model comes from.
        value: Repository, path or tag, without the prefix.
        revision: Of a hub repository: branch, tag or commit.
    """

    kind: ReferenceKind
    value: str
    revision: str | None = None

    @property
    def path(self) -> Path:
        """The path of a ``folder`` or ``gguf`` reference, with ``~`` expanded."""
        return expand_home(self.value)

    def __str__(self) -> str:
        if self.kind in ("folder", "gguf"):
            return self.value
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.kind}:{self.value}{revision}"


def parse_reference(text: str) -> ModelReference:
    """Read a model reference.

    Raises:
        ModelReferenceError: not one of the forms, or ambiguous.
    """
    text = text.strip()
    if not text:
        raise ModelReferenceError("the model reference is empty", hint=f"write it as {_FORMS}")
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "hf":
        return _parse_hub(text, rest)
    if colon and prefix == "ollama":
        if not _TAG.fullmatch(rest):
            raise ModelReferenceError(
                f"{text!r}: {rest!r} is not a model name of Ollama",
                hint="write ollama:name, ollama:name:tag or ollama:namespace/name:tag",
            )
        return ModelReference("ollama", rest)
    if text.endswith(".gguf"):
        return ModelReference("gguf", text)
    if text.startswith(("./", "../", "/", "~")) or text in (".", ".."):
        return ModelReference("folder", text)
    if is_dir(Path(text)) or is_file(Path(text)):  # who reads a file says what is wrong with it
        return ModelReference("folder", text)
    raise _bare_word(text)


def _parse_hub(text: str, rest: str) -> ModelReference:
    name, at, revision = rest.partition("@")
    if not _REPOSITORY.fullmatch(name) or (at and not _REVISION.fullmatch(revision)):
        raise ModelReferenceError(
            f"{text!r} is not a repository of the hub",
            hint="write hf:org/name or hf:org/name@revision",
        )
    return ModelReference("hf", name, revision or None)


def _bare_word(text: str) -> ModelReferenceError:
    offers = [f"./{text} for a folder"]
    if "/" in text and _REPOSITORY.fullmatch(text):
        offers.insert(0, f"hf:{text} for a repository of the hub")
    if _TAG.fullmatch(text):
        offers.insert(0, f"ollama:{text} for a model of the daemon")
    return ModelReferenceError(
        f"{text!r} is not an existing path and has no prefix, so it is unclear which model is "
        "meant",
        hint=f"write {', or '.join(offers)}",
    )
