"""Which contract a daemon follows: Ollama changed it twice.

| era    | versions        | what differs                                                      |
|--------|-----------------|-------------------------------------------------------------------|
| `0.25` | up to 0.29      | Go templates only; converts, quantizes and adapts in `create`      |
| `0.33` | 0.30 to 0.34.0  | Jinja of the GGUF too; rewrites an uploaded GGUF (its digest moves) |
| `0.34` | from 0.34.1     | no conversion, no quantization of GGUF, no LoRA adapters           |

The main path (one finished GGUF) works on all of them. What a version cannot do, and what is done
instead, is a table here too: nothing else compares versions. What is no version is refused as
:func:`parse_version` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ollama_bridge.errors import ReplyInvalidError

Era = Literal["0.25", "0.33", "0.34"]
Version = tuple[int, int, int]

# A build without a version says 0.0.0: somebody's own, so it is taken for a current one.
_UNVERSIONED: Version = (0, 0, 0)

_PATTERN = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-+.].*)?")


def parse_version(text: str) -> Version:
    """Numbers of a version such as ``0.34.4`` or ``v0.34.1-rc2``.

    A pre-release counts as its release: it has the release's contract.

    Raises:
        ReplyInvalidError: this is no version.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ReplyInvalidError(f"the daemon reports the version {text!r}, which cannot be read")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def era_of(version: str) -> Era:
    """The era of a daemon's version."""
    numbers = parse_version(version)
    if numbers == _UNVERSIONED or numbers >= (0, 34, 1):
        return "0.34"
    return "0.33" if numbers >= (0, 30, 0) else "0.25"


def default_repeat_penalty(version: str) -> float:
    """The ``repeat_penalty`` of a tag that sets none."""
    return 1.1 if era_of(version) == "0.25" else 1.0


def samples_as_file_says(version: str) -> bool:
    """Whether ``general.sampling.*`` of a GGUF counts where a tag sets nothing."""
    numbers = parse_version(version)
    return numbers == _UNVERSIONED or numbers >= (0, 34, 0)


@dataclass(frozen=True)
class Limit:
    """Something that some versions cannot do.

    Attributes:
        what: It is.
        first: The first version with this limit.
        fixed: The first one without it again; None: it stays.
        instead: What is done instead; None: nothing can be, so such a version is refused.
    """

    what: str
    first: Version
    fixed: Version | None
    instead: str | None


_SINCE_EVER: Version = (0, 0, 1)
NO_LOGPROBS = Limit("report log-probabilities", _SINCE_EVER, (0, 12, 11), instead=None)
NO_JINJA = Limit(
    "use a GGUF's Jinja template", _SINCE_EVER, (0, 30, 0), instead="a Go TEMPLATE is sent"
)
REWRITES_GGUF = Limit(
    "keep an uploaded GGUF byte for byte",
    (0, 30, 0),
    (0, 34, 1),
    instead="its digest is not compared, what it serves is",
)
NO_ADAPTER = Limit("accept a LoRA ADAPTER", (0, 34, 1), None, instead="it is merged into its base")
# llama.cpp reads the list from a build between b10969 (0.34.3) and b11076 on, Ollama's own engine
# never did.
OWN_WINDOWS = Limit(
    "attend to windows in other layers than a published Gemma's",
    _SINCE_EVER,
    (0, 34, 4),
    instead="such a model is refused",
)
# Ollama's own engine masks what lies further back than the window, instead of as far (``buildMask``
# of ``kvcache/causal.go``, 0.24); from 0.30 on llama.cpp runs them.
WIDER_WINDOW = Limit(
    "keep to a Gemma 3's window of attention, to which it adds a token",
    _SINCE_EVER,
    (0, 30, 0),
    instead="a model whose proof shows it is refused",
)
PRINTS_NO_MARKS = Limit(
    "print special tokens", (0, 30, 0), None, instead="thinking tags are written as user-defined"
)
LIMITS = (
    NO_LOGPROBS,
    NO_JINJA,
    REWRITES_GGUF,
    NO_ADAPTER,
    OWN_WINDOWS,
    WIDER_WINDOW,
    PRINTS_NO_MARKS,
    Limit("quantize a GGUF", (0, 34, 1), None, instead="`convert` does"),
    Limit("convert safetensors to GGUF", (0, 34, 1), None, instead="`convert` does"),
)


def limits_of(version: str) -> tuple[Limit, ...]:
    """What a version cannot do."""
    return tuple(limit for limit in LIMITS if has_limit(version, limit))


def has_limit(version: str, limit: Limit) -> bool:
    """Whether a version has one limit."""
    numbers = parse_version(version)
    if numbers == _UNVERSIONED:
        return limit.fixed is None
    return limit.first <= numbers and (limit.fixed is None or numbers < limit.fixed)
