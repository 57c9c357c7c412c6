"""Cleans texts, one at a time. Knows nothing of files or splits."""

from __future__ import annotations

import html
import re
import unicodedata

_BREAK_TAG = re.compile(r"<br\s*/?>", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_BLANK_LINES = re.compile(r"\n{3,}")
# ``<|im_end|>`` and its like: inside a text they would be read as the end of a turn.
_CONTROL_TOKEN = re.compile(r"<\|[A-Za-z0-9_ ]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]")
_BOM = "\ufeff"


def clean_line(text: str) -> str:
    """A snippet as one line: HTML unescaped, NFC, no control characters, single spaces."""
    text = _BREAK_TAG.sub(" ", html.unescape(text))
    return _SPACES.sub(" ", _printable(text.replace("\x00", " "))).strip()


def clean_turn(text: str) -> str:
    """A message whose line breaks and HTML are the user's own: NFC, no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = (line.rstrip() for line in _printable(text).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def storable(text: str) -> str:
    """A name or label as it is; halves of a surrogate pair, which UTF-8 cannot have, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def control_token(text: str) -> str | None:
    """The first control token of a chat format in a text, which could forge a turn by it."""
    found = _CONTROL_TOKEN.search(text)
    return found[0] if found else None


def text_key(text: str) -> str:
    """What two texts share when they differ in case, punctuation and spacing only."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Punctuation parts words; symbols stay, for emoji carry meaning.
    spaced = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded)
    return _SPACES.sub(" ", spaced).strip() or _SPACES.sub(" ", folded).strip()


def _printable(text: str) -> str:
    normal = unicodedata.normalize("NFC", text)
    # Cs are lone surrogates: JSON can spell them, but UTF-8 cannot.
    return "".join(
        c
        for c in normal
        if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cs") and c != _BOM)
    )
