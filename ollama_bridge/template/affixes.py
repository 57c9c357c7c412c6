"""Common beginnings and ends of texts, cut where a reader would cut them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# What is not to be cut in its middle: <|im_start|>, [INST], words, and our own marks.
_WHOLE = re.compile(r"<[^<>\s]*>|\[/?\w+\]|\w+|\ue000[^\ue001]*\ue001")


def common_prefix(texts: Iterable[str]) -> str:
    """The longest common beginning that ends between two tokens in every text."""
    several = list(texts)
    shared = _shared(several)
    for text in several:
        for found in _WHOLE.finditer(text):
            if found.start() < len(shared) < found.end():
                shared = shared[: found.start()]
    return shared


def common_suffix(texts: Iterable[str]) -> str:
    """The longest common end that begins between two tokens in every text."""
    several = list(texts)
    length = len(_shared([text[::-1] for text in several]))
    for text in several:
        for found in _WHOLE.finditer(text):
            if found.start() < len(text) - length < found.end():
                length = len(text) - found.end()
    return several[0][len(several[0]) - length :] if several else ""


def turn_end(texts: Iterable[str]) -> str:
    """The mark, with the white space around it, that all texts begin with; else nothing."""
    shared = _shared(list(texts))
    found = re.match(r"\s*<[^<>\s]*>\s*", shared)
    return found[0] if found is not None else ""


def through(texts: Sequence[str], end: str) -> str:
    """What the first text says up to an end, and that; nothing where it has none."""
    return texts[0][: texts[0].find(end) + len(end)] if texts and end and end in texts[0] else ""


def last_mark(text: str) -> str:
    """The mark, with the white space behind it, that a text ends with; else nothing."""
    found = re.search(r"(?:<[^<>\s]*>|\[/?\w+\])\s*$", text)
    return found[0] if found is not None else ""


def _shared(texts: list[str]) -> str:
    first, last = min(texts, default=""), max(texts, default="")
    pairs = enumerate(zip(first, last, strict=False))
    end = next((place for place, (one, other) in pairs if one != other), len(first))
    return first[:end]
