"""What free answers are worth where one is right: JSON by fields, and answers that come again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.evaluation.given_answers import (
    JSONScores,
    are_json,
    are_of_a_closed_set,
    score_json,
)
from ollama_bridge.evaluation.report import complete_report
from ollama_bridge.examples import Example, Message
from ollama_bridge.recipe.config import TaskSection
from ollama_bridge.storage.artifacts import EvalReport, Work
from ollama_bridge.storage.drafts import open_draft

ASKED = '{"intent": "book", "slots": {"to": "Köln", "seats": 2}}'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=3), one, max_size=3),
    max_leaves=8,
)


def scores(*pairs: tuple[str, str]) -> JSONScores:
    """Of pairs of what was given and what was said."""
    right, said = zip(*pairs, strict=True)
    return score_json(right, said, bootstrap_samples=100)


def test_fields_count_one_by_one() -> None:
    """A wrong slot costs that slot, and shows where it is; what is no JSON costs all of them."""
    wrong_seats = '{"slots": {"seats": 3, "to": "K\\u00f6ln"}, "intent": "book"}'
    found = scores((ASKED, wrong_seats), (ASKED, f"{ASKED} I booked it."), (ASKED, ASKED))
    assert found.valid == pytest.approx(2 / 3)
    assert found.same.value == pytest.approx(1 / 3)
    assert found.f1.value == pytest.approx(2 * (2 + 0 + 3) / (9 + 6))
    assert found.by_field == pytest.approx(
        {"intent": 2 * 2 / (3 + 2), "slots.to": 2 * 2 / (3 + 2), "slots.seats": 2 * 1 / (3 + 2)}
    )
    assert found.f1.low <= found.f1.value <= found.f1.high


def test_an_answer_of_whatever_depth_is_scored() -> None:
    """Just what can be read may be too deep to be gone through."""
    for depth in range(900, 1100):
        assert scores((ASKED, "[" * depth + "]" * depth)).same.value == 0


def test_a_field_too_many_and_one_too_few_cost_the_same() -> None:
    """Precision and recall: what nobody asked for is as wrong as what is missing."""
    more = scores(('{"a": 1}', '{"a": 1, "b": 2}'))
    less = scores(('{"a": 1, "b": 2}', '{"a": 1}'))
    assert more.f1.value == less.f1.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("right", "said", "is_same"),
    [
        ('["crash", "login"]', '["login","crash"]', True),  # several labels
        ('["crash"]', '["crash", "crash"]', False),
        ('{"a": "x"}', '{"a": ["x"]}', False),
        ('{"a": []}', "{}", False),
        ('{"a": []}', '{"a": {}}', False),
        ('{"a.b": 1}', '{"a": {"b": 1}}', False),
        ('[{"n": 1}]', '{"0": {"n": 1}}', False),
        ('[{"n": 1}, {"n": 2}]', '[{"n": 2}, {"n": 1}]', False),
        ('{"n": 20}', '{"n": 20.0}', True),
        ('{"n": 1}', '{"n": true}', False),
        ('{"n": 1}', '{"n": "1"}', False),
        ('{"n": null}', "{}", False),
        ('{"n": 0}', '{"n": NaN}', False),
        ('{"n": 1}', '```json\n{"n": 1}\n```', False),  # a parser would stumble over the fence
        ("[]", "[" * 100_000, False),
    ],
)
def test_the_same_value(right: str, said: str, is_same: bool) -> None:
    """The order of keys and of plain lists, and blanks, say nothing; types do."""
    assert scores((right, said)).same.value == is_same


@given(VALUES, VALUES)
def test_values_are_the_same_as_json_compares_them(right: object, said: object) -> None:
    """The given value scores 1, also written otherwise; F1 is 1 for nothing but the same."""
    assert scores((json.dumps(right), json.dumps(right, indent=1))).f1.value == 1
    found = scores((json.dumps(right), json.dumps(said)))
    assert (found.f1.value == 1) == bool(found.same.value)


def test_which_answers_are_scored_so() -> None:
    """All given ones are objects or lists; or they come again, each twice on the mean."""
    assert are_json([ASKED, "[]"])
    assert not are_json([ASKED, "yes"])
    assert not are_json(["1", "2"])
    assert not are_json([])
    assert are_of_a_closed_set(["crash", "crash", "crash, login", "crash, login"])
    assert not are_of_a_closed_set(["one text", "another", "another"])


def report_of(folder: Path, gold: list[str], said: dict[str, list[str]]) -> tuple[str, EvalReport]:
    """The table for people, and the report, of replies to some questions."""
    examples = [
        Example(f"row-{place}", (Message("user", "?"), Message("assistant", one)), "d", None)
        for place, one in enumerate(gold)
    ]
    work = Work(kind=EvalReport.kind, stage="test", version=1, inputs={}, settings={})
    with open_draft(folder, work) as draft:
        manifest = complete_report(
            draft,
            "Scores",
            TaskSection(kind="reply", system=""),
            examples,
            {name: {} for name in said},
            said,
            bootstrap_samples=100,
        )
    return (folder / "report.md").read_text(encoding="utf-8"), EvalReport(folder, manifest)


def test_a_report_of_json(tmp_path: Path) -> None:
    """The table says how much is JSON, and how right each field is; the facts name the scores."""
    other = '{"intent": "book", "slots": {"to": "Ulm", "seats": 2}}'
    table, report = report_of(
        tmp_path / "r", [ASKED] * 2, {"teacher": [ASKED] * 2, "student": [ASKED, other]}
    )
    cells = {
        line.split("|")[1].strip(): line.split("|")[2:-1]
        for line in table.splitlines()[4:]
        if "|" in line
    }
    assert [one.strip() for one in cells["answers that are JSON"]] == ["100.0%", "100.0%"]
    assert [one.strip() for one in cells["slots.to"]] == ["100.0%", "50.0%"]
    assert [one.strip() for one in cells["slots.seats"]] == ["100.0%", "100.0%"]
    assert report.facts["student: json_f1"] == pytest.approx(2 * 5 / 12, abs=1e-4)
    assert report.facts["student to teacher: json_f1"] == pytest.approx(5 / 6, abs=1e-4)


def test_a_report_of_several_labels(tmp_path: Path) -> None:
    """Where the same answers come again, the share that is word for word the given one."""
    gold = ["crash", "crash, login", "crash", "crash, login"]
    _, report = report_of(tmp_path / "r", gold, {"student": ["crash", "crash", "crash", "login"]})
    assert report.facts["student: same"] == 0.5


def test_a_report_of_free_text_has_neither(tmp_path: Path) -> None:
    """Texts that can be right in many words are not counted as wrong."""
    _, report = report_of(tmp_path / "r", ["Thank you!", "Sorry."], {"student": ["Oh.", "Sorry."]})
    assert not [name for name in report.facts if "same" in name or "json" in name]
