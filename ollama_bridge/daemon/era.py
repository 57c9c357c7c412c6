"""Which contract a daemon follows: Ollama changed it twice.

| era    | versions        | what differs                                                      |
|--------|-----------------|-------------------------------------------------------------------|
| `0.25` | up to 0.29      | Go templates only; converts, quantizes and adapts in `create`      |
| `0.33` | 0.30 to 0.34.0  | Jinja of the GGUF too; rewrites an uploaded GGUF (its digest moves) |
| `0.34` | from 0.34.1     | no conversion, no quantization of GGUF, no LoRA adapters           |

The main path (one finished GGUF) works on all of them.
"""

from __future__ import annotations

import re
from typing import Literal

from ollama_bridge.errors import ReplyInvalidError

Era = Literal["0.25", "0.33", "0.34"]
Version = tuple[int, int, int]

_PATTERN = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-+.].*)?")


def parse_version(text: str) -> Version:
    """Numbers of a version such as ``0.34.4`` or ``v0.34.1-rc2``.

    A pre-release counts as its release: it has the release's contract.

    Raises:
        ReplyInvalidError: this is no version.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ReplyInvalidError(f"the daemon calls its version {text!r}, which cannot be read")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def era_of(version: str) -> Era:
    """The era of a daemon's version.

    A daemon that was built without a version says ``0.0.0``; it is taken for a current one.

    Raises:
        ReplyInvalidError: this is no version.
    """
    numbers = parse_version(version)
    if numbers == (0, 0, 0) or numbers >= (0, 34, 1):
        return "0.34"
    return "0.33" if numbers >= (0, 30, 0) else "0.25"
