"""Digests (sha256, in hex) of texts, files and JSON values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

JSONValue = Any  # what json.dumps accepts; Any because JSON is recursive and mypy reads it badly


def canonical_json(value: JSONValue) -> str:
    """The one spelling of a JSON value that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_text(text: str) -> str:
    """sha256 of a text, in hex. Half a surrogate pair has one, too."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file, in hex; never read whole into memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
