"""What the tables of a report say of each label."""

from __future__ import annotations

from ollama_bridge.evaluation.report_tables import by_part, table


def report(labels: list[str], confusion: list[list[int]]) -> dict[str, object]:
    """The part of a classification's report that its tables are made of."""
    return {
        "task": "classify",
        "labels": labels,
        "models": {"student": {"confusion": confusion}},
    }


def test_each_label_of_many_has_its_f1_and_its_number_of_texts() -> None:
    """A label that no text has is named, as macro F1 says nothing of it."""
    confusion = [[8, 2, 0, 0], [0, 5, 0, 1], [0, 0, 0, 0]]
    lines = by_part(report(["a", "b", "rare"], confusion))
    assert lines[: lines.index("Confusion of student (rows: gold):")] == [
        "",
        "F1 by label:",
        "",
        *table(
            ["", "texts", "student"],
            [["a", "10", "88.9%"], ["b", "6", "76.9%"], ["rare", "0", ""]],
        ),
        "",
        "No text that was scored has the label rare.",
        "",
    ]


def test_two_labels_have_their_confusion_alone() -> None:
    """It is as short, and says the same."""
    lines = by_part(report(["a", "b"], [[8, 2, 0], [0, 5, 0]]))
    assert lines[1] == "Confusion of student (rows: gold):"
