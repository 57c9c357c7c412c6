"""Matches labels as a file spells them to the labels of the task."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from ollama_bridge.data.problems import numbers_text
from ollama_bridge.data.task_prompt import as_option, named_labels, prompt_for
from ollama_bridge.errors import ConfigError, DataError

_INFLECTIONS = ("s", "es", "d", "ed", "ly", "ing")
_REVERSING = ("less", "free", "-", "_", "/")  # harmless, toxic-free, hate_none
_BETWEEN = re.compile("[,;|]")  # several labels in one cell
_MANY = 20  # labels that are listed, and mapped by hand
_SURE = 0.85  # as much of two words is the same where one letter of seven is wrong


class LabelMatcher:
    """Exact label, mapped label, or the same in other case or composition of accents.

    Args:
        label_map: As written in the file -> label of the task.

    Raises:
        ConfigError: the map leads to a label that the task does not have.
    """

    def __init__(
        self, labels: Sequence[str], label_map: Mapping[str, str], *, system: str = ""
    ) -> None:
        self._labels = tuple(labels)
        self._label_map = dict(label_map)
        self._system = system
        lost = {written: label for written, label in label_map.items() if label not in self._labels}
        if lost:
            said = ", ".join(f"{written!r} to {label!r}" for written, label in lost.items())
            guesses = {written: meant(label, labels) or "LABEL" for written, label in lost.items()}
            raise ConfigError(
                f"data.label_map maps to labels that the task does not have: {said} (the task's "
                f"labels: {', '.join(self._labels)})",
                hint=self._mapping(guesses),
            )
        own = {_composed(label): label for label in self._labels}
        mapped = {_composed(written): label for written, label in label_map.items()}
        self._exact = own | mapped
        often = Counter(written.casefold() for written in own)
        # Of labels that differ in case alone, another case means neither.
        self._folded = {
            written.casefold(): label
            for written, label in own.items()
            if often[written.casefold()] == 1
        }
        self._folded |= {written.casefold(): label for written, label in mapped.items()}
        self._unknown: dict[str, list[int]] = defaultdict(list)
        self._seen: dict[str, int] = defaultdict(int)

    def label_of(self, written: str) -> str | None:
        """The task's label, or None."""
        written = _composed(written)
        label = self._exact.get(written) or self._folded.get(written.casefold())
        if label is None and written.removesuffix(".0").lstrip("-").isdecimal():
            # A dataframe's whole number, and the same without what it puts behind.
            other = written.removesuffix(".0")
            label = self._exact.get(f"{written}.0" if other == written else other)
        return label

    def match(self, written: str, *, number: int) -> str | None:
        """The task's label, or None; what is unknown is remembered with its row."""
        written = _composed(written)
        self._seen[written] += 1
        label = self.label_of(written)
        if label is None:
            self._unknown[written].append(number)
        return label

    def raise_if_unknown(
        self, path: Path, *, column: str | None, unit: str, text_cols: Sequence[str] = ()
    ) -> None:
        """Say which labels the file has, and how to map them.

        Args:
            column: That has them; None: they are the last answers of conversations.
            unit: What a row is called.
            text_cols: The columns of the text, where there is one of the labels.

        Raises:
            DataError: if a label was not matched.
        """
        if not self._unknown:
            return
        is_chat = column is None
        what = "recipe" if is_chat else "column"
        where = "the last answers have" if is_chat else f"column {column!r} has"
        lines = [
            f"  - {label!r} in {len(numbers)} {unit}(s): {numbers_text(numbers)}"
            for label, numbers in list(self._unknown.items())[:_MANY]
        ]
        if len(self._unknown) > _MANY:
            asked = f": is it the right {what}?" if self._is_free_text else ""
            lines.append(f"  ... and {len(self._unknown) - _MANY} more labels{asked}")
        known = [label for label in self._seen if label not in self._unknown]
        raise DataError(
            f"{path}: {where} labels that the task does not have "
            f"(the task's labels: {', '.join(self._labels)}"
            + (f"; also found: {', '.join(known[:_MANY])}" if known else "")
            + "):\n"
            + "\n".join(lines),
            hint=f"answers in free text: ollama-bridge build chat --data {quote(str(path))}"
            if is_chat and self._is_free_text
            else advice_on_several(path, column=column, text_cols=text_cols)
            if self._are_several
            else self._hint(),
        )

    @property
    def _are_several(self) -> bool:
        """Whether an unknown one is several of the labels: ``crash, login``."""
        single = {one.casefold() for one in (*self._labels, *self._seen)}
        for written in self._unknown:
            parts = [part.strip().casefold() for part in _BETWEEN.split(written)]
            if len(parts) > 1 and single.issuperset(parts):
                return True
        return False

    @property
    def _is_free_text(self) -> bool:
        """Whether nearly each row says something else, as no label does."""
        return len(self._unknown) > max(_MANY, sum(self._seen.values()) / 3)

    def _hint(self) -> str:
        if self._is_free_text:
            return f"name the column of the labels: {as_option('data.label_col', 'NAME')}"
        guesses = {written: meant(written, self._labels) or "LABEL" for written in self._unknown}
        map_them = f"map them: {self._mapping(guesses)}"
        found = {self.label_of(written) for written in self._seen}
        unknown: dict[str, str] = {}
        for written in self._unknown:
            usual = unknown.setdefault(written.casefold(), written)
            if self._seen[written] > self._seen[usual]:
                unknown[written.casefold()] = written
        own = [*(label for label in self._labels if label in found), *unknown.values()]
        if len(own) < 2:
            return map_them
        as_labels = as_option("task.labels", own)
        if self._system and len(named_labels(self._system, own)) < len(own):
            as_labels += f" {as_option('task.system', prompt_for(own))}"
        fitting = {written: label for written, label in self._label_map.items() if label in own}
        if fitting != self._label_map:
            as_labels += f" {as_option('data.label_map', fitting)}"
        if len(self._unknown) > _MANY:
            return f"make the labels of the file those of the task: {as_labels}"
        return f"{map_them}; or make the labels of the file those of the task: {as_labels}"

    def _mapping(self, added: Mapping[str, str]) -> str:
        """The option of a whole map, for one takes the place of the one before."""
        return as_option("data.label_map", self._label_map | dict(added))


def advice_on_several(path: Path, *, column: str | None, text_cols: Sequence[str]) -> str:
    """What to type where a text may have several labels: each answer is a label of its own else."""
    options = [f"--text-col {quote(name)}" for name in text_cols]
    if column is not None:
        options.append(f"--label-col {quote(column)}")
    command = " ".join(["ollama-bridge build chat --data", quote(str(path)), *options])
    return f"several labels a text are learnt as an answer, not as a class: {command}"


def meant(written: str, labels: Sequence[str]) -> str | None:
    """The label that is written shorter, inflected or with a slip; None: it may be another.

    What is guessed is trained on and tested by, so no score would show a wrong guess:
    ``irrelevant`` and ``not relevant`` are near to ``relevant``, ``harmless`` begins with ``harm``,
    and they mean the reverse.
    """
    near = [
        label
        for label in labels
        if len(label.split()) == len(written.split())
        and _is_near(written.casefold(), label.casefold())
    ]
    return near[0] if len(near) == 1 else None


def _is_near(written: str, label: str) -> bool:
    if written[:1] != label[:1]:
        return False
    shorter, longer = sorted((written, label), key=len)
    ending = longer.removeprefix(shorter)
    if ending != longer and ending.startswith(_REVERSING):
        return False
    return (
        label.startswith(written)
        or written in {label + inflection for inflection in _INFLECTIONS}
        or difflib.SequenceMatcher(None, written, label).ratio() >= _SURE
    )


def _composed(text: str) -> str:
    """One spelling of accents (NFC): files of macOS have another."""
    return unicodedata.normalize("NFC", text.strip())
