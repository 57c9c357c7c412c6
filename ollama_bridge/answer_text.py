"""What the text of an answer says: its thought, the answer itself, and whether that is a label.

Knows words only: no models, no templates. A teacher's traces are judged by it, and so are the
answers of its students.
"""

from __future__ import annotations

import re

THOUGHT_END = "</think>"

_THOUGHT_START = "<think>"
# A minus belongs to its number.
_EDGES = re.compile(r"^(?:(?!-\d)[\W_])+|[\W_]+$")
_LEADS = re.compile(r"^(?:the )?(?:final )?(?:answer|label|sentiment)(?: is)?\s*:?\s+", re.I)


def with_thought(answer: str, thought: str) -> str:
    """A thought and the answer behind it, as one text."""
    return f"{_THOUGHT_START}\n{thought.strip()}\n{THOUGHT_END}\n\n{answer}"


def without_thought(text: str) -> str:
    """The answer alone; the thought may have been opened by the prompt."""
    return text.rpartition(THOUGHT_END)[2].strip()


def says(answer: str, label: str) -> bool:
    """Whether an answer says a label: alone, whatever its case and the marks around it.

    ``**Positive.**`` and ``Answer: positive`` say ``positive``; ``not positive`` does not.
    """
    return _plain(_LEADS.sub("", _EDGES.sub("", answer))) == _plain(label)


def _plain(text: str) -> str:
    return " ".join(_EDGES.sub("", text).casefold().split())
