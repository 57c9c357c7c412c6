"""Matches labels as a file spells them to the labels of the task."""

from __future__ import annotations

import difflib
import json
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ollama_bridge.data.problems import nearest, numbers_text
from ollama_bridge.errors import ConfigError, DataError

_SURE = 0.85  # as much of two words is the same where one letter of seven is wrong


class LabelMatcher:
    """Exact label, mapped label, or the same in other case or composition of accents.

    Args:
        labels: Of the task.
        label_map: As written in the file -> label of the task.

    Raises:
        ConfigError: the map leads to a label that the task does not have.
    """

    def __init__(self, labels: Sequence[str], label_map: Mapping[str, str]) -> None:
        self._labels = tuple(labels)
        for written, label in label_map.items():
            if label not in self._labels:
                near = nearest(label, self._labels)
                raise ConfigError(
                    f"data.label_map.{written}: the task has no label {label!r} "
                    f"(labels: {', '.join(self._labels)})",
                    hint=f"--set data.label_map.{written}={near or self._labels[0]}",
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
        return self._exact.get(written) or self._folded.get(written.casefold())

    def match(self, written: str, *, number: int) -> str | None:
        """The task's label, or None; what is unknown is remembered with its row."""
        written = _composed(written)
        self._seen[written] += 1
        label = self.label_of(written)
        if label is None:
            self._unknown[written].append(number)
        return label

    def raise_if_unknown(self, path: Path, *, column: str, unit: str) -> None:
        """Say which labels the file has, and how to map them.

        Raises:
            DataError: if a label was not matched.
        """
        if not self._unknown:
            return
        lines = [
            f"  - {label!r} in {len(numbers)} {unit}(s): {numbers_text(numbers)}"
            for label, numbers in list(self._unknown.items())[:20]
        ]
        if len(self._unknown) > 20:
            lines.append(
                f"  ... and {len(self._unknown) - 20} more labels: is it the right column?"
            )
        known = [label for label in self._seen if label not in self._unknown]
        raise DataError(
            f"{path}: column {column!r} has labels that the task does not have "
            f"(the task's labels: {', '.join(self._labels)}"
            + (f"; also found: {', '.join(known[:20])}" if known else "")
            + "):\n"
            + "\n".join(lines),
            hint=self._hint(),
        )

    def _hint(self) -> str:
        if len(self._unknown) > 20:
            return "name the column of the labels: --label-col NAME"
        guesses = {written: _meant(written, self._labels) or "LABEL" for written in self._unknown}
        # Quoted as JSON, for YAML reads yes, 1 and 1.0 as other things than texts.
        mapping = ", ".join(
            f"{json.dumps(written, ensure_ascii=False)}: {json.dumps(label, ensure_ascii=False)}"
            for written, label in guesses.items()
        )
        map_them = f"map them: --set {shlex.quote(f'data.label_map={{{mapping}}}')}"
        found = {self.label_of(written) for written in self._seen}
        unknown: dict[str, str] = {}
        for written in self._unknown:
            unknown.setdefault(written.casefold(), written)
        own = [*(label for label in self._labels if label in found), *unknown.values()]
        if len(own) < 2:
            return map_them
        as_labels = shlex.quote(f"task.labels={json.dumps(own, ensure_ascii=False)}")
        return (
            f"{map_them}; or make all that are found the task's own: --set {as_labels} "
            "(and task.system to match)"
        )


def _meant(written: str, labels: Sequence[str]) -> str | None:
    """The label that is written shorter, longer or with a slip; None: it may be another.

    What is guessed is trained on and tested by, so no score would show a wrong guess:
    ``irrelevant`` and ``not relevant`` are near to ``relevant`` and mean the reverse.
    """
    folded = written.casefold()
    near = [
        label
        for label in labels
        if len(label.split()) == len(written.split())
        and label[:1].casefold() == folded[:1]
        and (
            label.casefold().startswith(folded)
            or folded.startswith(label.casefold())
            or difflib.SequenceMatcher(None, folded, label.casefold()).ratio() >= _SURE
        )
    ]
    return near[0] if len(near) == 1 else None


def _composed(text: str) -> str:
    """One spelling of accents (NFC): files of macOS have another."""
    return unicodedata.normalize("NFC", text.strip())
