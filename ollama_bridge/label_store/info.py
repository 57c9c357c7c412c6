"""What a store holds, and by what a row is found in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import numpy as np

from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import ArtifactError

FORMAT_VERSION = 2
INFO_NAME = "labels.json"

# Half a sha256: two of 10^12 rows agree in it with a probability below 10^-14.
KEY_BYTES = 16


@dataclass(frozen=True)
class StoreInfo:
    """Everything that decides the labels of a row.

    Attributes:
        method: Of what is kept, see ``config.SoftLabelsSection``.
        vocab_size: Width of the distributions: the student's, into whose ids they were brought.
        teacher: Digest of the teacher's checkpoint, or of the tag or API that was asked.
        tokenizer: Digest of the vocabulary and chat template that rows are written with.
        dtype: In which the teacher computed; ``daemon`` where a daemon did.
        top_k: Tokens kept a position (``top_k``).
        draws: Draws a position (``sampled``).
        seed: Of the draws (``sampled``).
        format_version: Of the files.
        carried: How they were brought into the student's vocabulary, and the version of the rules;
            "" where the teacher's ids are the student's.
    """

    method: Literal["top_k", "sampled"]
    vocab_size: int
    teacher: str
    tokenizer: str
    dtype: str
    top_k: int = 0
    draws: int = 0
    seed: int = 0
    format_version: int = FORMAT_VERSION
    carried: str = ""

    @property
    def content_key(self) -> str:
        """sha256 (hex) of all of the above."""
        return digest_text(canonical_json(self._fields()))

    @property
    def store_id(self) -> str:
        """Name of the store's folder."""
        return self.content_key[:16]

    @property
    def kept(self) -> str:
        """What is kept of a distribution, for people."""
        return f"sampled {self.draws}" if self.method == "sampled" else f"top {self.top_k}"

    @property
    def id_bytes(self) -> int:
        """Bytes of a token id."""
        return 2 if self.vocab_size <= 2**16 else 3

    def to_json(self) -> str:
        """The text of ``labels.json``."""
        return json.dumps(self._fields(), indent=2) + "\n"

    def _fields(self) -> dict[str, Any]:
        """What decides the labels; labels that are not carried keep the name that they had."""
        fields = asdict(self)
        return fields if self.carried else {k: v for k, v in fields.items() if k != "carried"}


def row_key(input_ids: np.ndarray[Any, Any], supervised: np.ndarray[Any, Any]) -> bytes:
    """The content of a row: what it says, and which of its tokens are predicted.

    Args:
        input_ids: (tokens,) integers.
        supervised: (tokens,) bool.

    Returns:
        ``KEY_BYTES`` bytes of a sha256.
    """
    content = hashlib.sha256(len(input_ids).to_bytes(8, "little"))
    content.update(np.ascontiguousarray(input_ids, dtype="<i4").tobytes())
    content.update(np.packbits(supervised).tobytes())
    return content.digest()[:KEY_BYTES]


def read_info(folder: Path) -> StoreInfo:
    """Read ``labels.json`` of a store or of an artefact.

    Raises:
        ArtifactError: missing, damaged, or of another format version.
    """
    path = folder / INFO_NAME
    hint = f"remove the folder to label again: rm -r {quote(str(folder))}"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["format_version"]
        info = StoreInfo(**data) if version == FORMAT_VERSION else None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"{path} is not a description of soft labels: {exc!r}", hint=hint
        ) from exc
    if info is None:
        raise ArtifactError(
            f"{path} has format {version}, this version reads {FORMAT_VERSION}", hint=hint
        )
    return info
