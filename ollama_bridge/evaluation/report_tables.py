"""The tables of a report that go into labels and fields, and how a table is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ollama_bridge.evaluation.metrics import OTHER

_Models = Mapping[str, Mapping[str, Any]]  # of a report, by name


def by_part(report: Mapping[str, Any]) -> list[str]:
    """Lines on what each label, or each field of answers in JSON or of calls, came to."""
    models = report["models"]
    if report["task"] == "reply":
        return [
            *_fields(models, "json_fields", "F1 of the JSON's fields, by place:"),
            *_fields(models, "calls_fields", "F1 of the calls' arguments, by function and place:"),
        ]
    labels = report["labels"]
    lines = _labels(models, labels) if len(labels) > 2 else []
    for name, entry in models.items():
        lines += ["", f"Confusion of {name} (rows: gold):", ""]
        lines += _confusion(labels, entry["confusion"])
    return lines


def _fields(models: _Models, key: str, title: str) -> list[str]:
    models = {name: one for name, one in models.items() if key in one}
    if not models:
        return []
    places = next(iter(models.values()))[key]  # the given answers', so every model's
    rows = [[place, *(f"{one[key][place]:.1%}" for one in models.values())] for place in places]
    return ["", title, "", *table(["", *models], rows)]


def _labels(models: _Models, labels: Sequence[str]) -> list[str]:
    confusions = [one["confusion"] for one in models.values()]
    texts = [sum(row) for row in confusions[0]]
    rows = [
        [label, str(texts[place]), *(_f1(one, place) if texts[place] else "" for one in confusions)]
        for place, label in enumerate(labels)
    ]
    lines = ["", "F1 by label:", "", *table(["", "texts", *models], rows)]
    unseen = [label for label, count in zip(labels, texts, strict=True) if not count]
    if unseen:
        lines += ["", f"No text that was scored has the label {' or '.join(unseen)}."]
    return lines


def _f1(confusion: Sequence[Sequence[int]], place: int) -> str:
    """Of a label that has texts."""
    either = sum(confusion[place]) + sum(row[place] for row in confusion)
    return f"{2 * confusion[place][place] / either:.1%}"


def _confusion(labels: Sequence[str], rows: Sequence[Sequence[int]]) -> list[str]:
    has_others = any(row[-1] for row in rows)
    width = len(labels) + has_others
    return table(
        ["", *labels, *([OTHER] if has_others else [])],
        [
            [label, *(str(count) for count in row[:width])]
            for label, row in zip(labels, rows, strict=True)
        ],
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown that reads well as plain text too."""
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in escaped)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [line(escaped[0]), rule, *(line(row) for row in escaped[1:])]
