"""Finds texts that go round in circles. Knows words only: no models, no tokens.

The teacher's written answers are filtered by it, and the student's are judged by it.
"""

from __future__ import annotations

import re

_WORDS = re.compile(r"\w+|[^\w\s]", re.UNICODE)
# A phrase said this often in a row is a loop; "very, very good" is not.
_LOOPED_TIMES = 4
_LONGEST_PHRASE_WORDS = 40
# A whole phrase of this many words is not repeated twice in a row by people.
_LONG_PHRASE_WORDS = 6
_LONG_PHRASE_TIMES = 3


def is_looping(text: str) -> bool:
    """Whether some phrase is said over and over, one right behind the other."""
    words = _WORDS.findall(text.casefold())
    for length in range(1, min(_LONGEST_PHRASE_WORDS, len(words) // 2) + 1):
        times = _LONG_PHRASE_TIMES if length >= _LONG_PHRASE_WORDS else _LOOPED_TIMES
        needed = length * (times - 1)
        run = 0
        for place in range(length, len(words)):
            # Dots and dashes are drawn as lines, so a run of marks alone is no loop.
            run = run + 1 if words[place] == words[place - length] else 0
            if run >= needed and any(
                word[0].isalnum() for word in words[place - length + 1 : place + 1]
            ):
                return True
    return False


def repeated_share(text: str) -> float:
    """Share of a text's 3-grams of words that occurred in it before; 0.0 for short texts."""
    words = _WORDS.findall(text.casefold())
    grams = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
