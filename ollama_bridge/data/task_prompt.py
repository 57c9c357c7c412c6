"""Whether a classification's system prompt tells its labels, and one that does, to be typed."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Sequence


def as_option(key: str, value: object) -> str:
    """``--set`` of a value, as a shell takes it.

    In JSON, for YAML reads yes, 1 and 1.0 as other things than texts, and the dots of a key part
    it: a label may have them.
    """
    return f"--set {shlex.quote(f'{key}={json.dumps(value, ensure_ascii=False)}')}"


def prompt_for(labels: Sequence[str]) -> str:
    """A system prompt that names all labels."""
    *most, last = labels
    return f"Classify the text as {', '.join(most)} or {last}. Answer with the label alone."


def advice_on_prompt(system: str, labels: Sequence[str]) -> str | None:
    """What to tell of a system prompt that leaves labels out; None: nothing.

    Args:
        system: The task's; an empty one is somebody's choice.
        labels: The task's; none: it is no classification.
    """
    named = named_labels(system, labels)
    unnamed = [label for label in labels if label not in named]
    if not system or not unnamed:
        return None
    found = f"names {', '.join(named)}, but not" if named else "names none of the labels"
    return (
        f"task.system {found} {', '.join(unnamed)}; the model is trained and served with "
        f"{system!r}. A prompt that names all labels: "
        f"{as_option('task.system', prompt_for(labels))}"
    )


def named_labels(system: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that a prompt has as words of their own, in any case; of numbers also between."""
    text = _folded(system)
    named = [label for label in labels if _is_in(_folded(label), text)]
    if named and all(label.isdecimal() for label in labels):  # "from 1 to 5"
        least, most = min(map(int, named)), max(map(int, named))
        return tuple(label for label in labels if least <= int(label) <= most)
    return tuple(named)


def _is_in(label: str, text: str) -> bool:
    """Whether a label is there as a whole: "positiv" is not in "positive".

    Scripts without upper and lower case may write words without a blank between.
    """
    for found in re.finditer(re.escape(label), text):
        before, after = text[: found.start()][-1:], text[found.end() :][:1]
        if not _go_on(before, label[:1]) and not _go_on(label[-1:], after):
            return True
    return False


def _go_on(left: str, right: str) -> bool:
    """Whether two characters side by side are of one word; at an end of the text one is empty."""
    return all(one.isdecimal() or one.upper() != one.lower() for one in (left, right))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
