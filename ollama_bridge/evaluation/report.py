"""Reports of an evaluation: numbers as JSON, and a table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ollama_bridge.answer_text import says, without_thought
from ollama_bridge.evaluation.calls import given_answer, score_calls, text_of
from ollama_bridge.evaluation.given_answers import are_json, are_of_a_closed_set, score_json
from ollama_bridge.evaluation.held_out import gold_labels
from ollama_bridge.evaluation.metrics import (
    agreement,
    paired_difference,
    score,
    share_right,
)
from ollama_bridge.evaluation.report_tables import by_part, table
from ollama_bridge.examples import Example
from ollama_bridge.recipe.config import TaskSection
from ollama_bridge.storage.artifacts import EvalReport, Manifest
from ollama_bridge.storage.atomic_files import write_json_atomic, write_text_atomic
from ollama_bridge.storage.drafts import Draft

REPORT_VERSION = 1
_TRAINING_LOG = "training.json"  # of a checkpoint that was trained here
# What models are called in a report. A teacher that was tuned is two of them.
TEACHER, STUDENT, CONTROL = "teacher", "student", "SFT control"
ZERO_SHOT, TUNED = "teacher zero-shot", "teacher tuned"
# Times the control's perplexity: a teacher above that teaches less than the given answers do.
_WEAK_TEACHER = 1.1

_Report = dict[str, Any]  # JSON
_LESS_IS_BETTER = ("size_bytes", "memory_bytes")
_RATIOS = (
    "macro_f1",
    "json_f1",
    "calls_f1",
    "texts_per_s",
    "prompt_tokens_per_s",
    "generated_tokens_per_s",
)
# What the manifest of a report names of each model.
_IN_FACTS = (
    *("accuracy", "macro_f1", "same", "json_valid", "json_same", "json_f1"),
    *("calls_same", "calls_name", "calls_f1", "no_call"),
    *("perplexity", "ended", "texts_per_s"),
)


def complete_report(
    draft: Draft,
    title: str,
    task: TaskSection,
    examples: Sequence[Example],
    models: Mapping[str, Mapping[str, object]],
    said: Mapping[str, Sequence[str]],
    *,
    bootstrap_samples: int,
    checkpoints: Mapping[str, Path] | None = None,
) -> Manifest:
    """Hold models against each other by what they said, write the report, and commit.

    Args:
        task: Of a classification all examples have a label, of replies some.
        models: What else is known of each, by the name that the report gives it.
        said: An answer to every example, by model.
        checkpoints: The models' folders, which tell how they were trained; None: not at hand.

    Raises:
        DataError: a label of a classification is none of the task's.
    """
    report: _Report = {
        "title": title,
        "task": task.kind,
        "examples": len(examples),
        "teacher": _main_teacher(list(models)),
        "models": {name: dict(entry) for name, entry in models.items()},
    }
    if checkpoints is not None:
        _add_training(report, checkpoints)
    if task.kind == "classify":
        gold = gold_labels(examples, task.labels)
        _compare_classifiers(report, gold, said, task.labels, bootstrap_samples=bootstrap_samples)
    else:
        _score_replies(report, examples, said, bootstrap_samples=bootstrap_samples)
    _add_ratios(report)
    report["version"] = REPORT_VERSION
    write_json_atomic(draft.path / "report.json", report)
    write_text_atomic(draft.path / "report.md", render_markdown(report))
    return draft.commit(_facts(report))


def _main_teacher(names: Sequence[str]) -> str | None:
    """What students are held against: the last model whose name begins with ``teacher``."""
    return next((name for name in reversed(names) if name.startswith(TEACHER)), None)


def _add_training(report: _Report, folders: Mapping[str, Path]) -> None:
    """Add how student and control were trained, as far as they have a log of ours."""
    report["training"] = {
        name: _training(json.loads((folders[name] / _TRAINING_LOG).read_text(encoding="utf-8")))
        for name in (STUDENT, CONTROL)
        if name in folders and (folders[name] / _TRAINING_LOG).exists()
    }


def _training(log: Mapping[str, Any]) -> dict[str, object]:
    """Steps that the weights have, of those of an early stop up to the best ones, and the rate."""
    steps = {entry["phase"]: entry["step"] for entry in log["log"]}
    if "best" in log:
        steps[log["log"][-1]["phase"]] = log["best"]["step"]
    return {"steps": sum(steps.values()), "lr": log["settings"]["lr"]}


def _compare_classifiers(
    report: _Report,
    gold: Sequence[str],
    said: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    *,
    bootstrap_samples: int,
) -> None:
    """Add scores, agreement with the teacher and paired differences to a report."""
    report["labels"] = list(labels)
    teacher = report["teacher"]
    for name, predictions in said.items():
        scores = score(gold, predictions, labels, bootstrap_samples=bootstrap_samples)
        entry = report["models"][name]
        entry["accuracy"] = scores.accuracy.to_dict()
        entry["macro_f1"] = scores.macro_f1.to_dict()
        entry["confusion"] = scores.confusion.tolist()
        if teacher is not None and name != teacher:
            entry["agreement"] = round(agreement(predictions, said[teacher]), 5)
    pairs = [
        (STUDENT, CONTROL),
        (STUDENT, teacher),
        (CONTROL, teacher),
        (teacher, ZERO_SHOT),
    ]
    report["differences"] = {
        f"{first} - {second}": {
            metric: interval.to_dict()
            for metric, interval in paired_difference(
                gold, said[first], said[second], labels, bootstrap_samples=bootstrap_samples
            ).items()
        }
        for first, second in pairs
        if first in said and second in said and first != second
    }


def _score_replies(
    report: _Report,
    examples: Sequence[Example],
    said: Mapping[str, Sequence[str]],
    *,
    bootstrap_samples: int,
) -> None:
    """Add what can be right of answers: a text's label, JSON, and what comes again word for word.

    The accuracy is over the texts that have a label. Where tools are offered it is the calls.
    """
    known = [(place, one.label) for place, one in enumerate(examples) if one.label is not None]
    offered = [place for place, one in enumerate(examples) if one.tools]
    bare = [place for place, one in enumerate(examples) if not one.tools]
    all_given = [given_answer(example) for example in examples]
    given = [all_given[place] for place in bare]
    is_json = are_json(given)
    for name, texts in said.items():
        every, entry = [without_thought(text) for text in texts], report["models"][name]
        if known:
            right = [says(text_of(examples[place], every[place]), label) for place, label in known]
            entry["accuracy"] = share_right(right, bootstrap_samples=bootstrap_samples).to_dict()
        if offered:
            entry |= score_calls(
                [all_given[place] for place in offered],
                [every[place] for place in offered],
                bootstrap_samples=bootstrap_samples,
            ).to_dict()
        answers = [every[place] for place in bare]
        if is_json:
            entry |= score_json(given, answers, bootstrap_samples=bootstrap_samples).to_dict()
        elif given and not known and are_of_a_closed_set(given):
            same = [answer == one for answer, one in zip(answers, given, strict=True)]
            entry["same"] = share_right(same, bootstrap_samples=bootstrap_samples).to_dict()


def _add_ratios(report: _Report) -> None:
    """Add what the student has of the main teacher: speed, F1 and size as ratios."""
    models, teacher = report["models"], report["teacher"]
    if teacher is None or STUDENT not in models:
        return
    ratios = {}
    for name in (*_RATIOS, *_LESS_IS_BETTER):
        own, other = _value(models[STUDENT].get(name)), _value(models[teacher].get(name))
        if own is not None and other:
            ratios[name] = round(own / other, 4)
    report["student_to_teacher"] = ratios


def _facts(report: _Report) -> dict[str, object]:
    """The numbers that the manifest names, too."""
    facts: dict[str, object] = {"examples": report["examples"]}
    for name, entry in report["models"].items():
        for metric in _IN_FACTS:
            value = _value(entry.get(metric))
            if value is not None:
                facts[f"{name}: {metric}"] = value
    for metric, ratio in report.get("student_to_teacher", {}).items():
        facts[f"student to teacher: {metric}"] = ratio
    return facts


def read_markdown(report: EvalReport) -> str:
    """The table for people of a finished report."""
    return (report.path / "report.md").read_text(encoding="utf-8")


def render_markdown(report: Mapping[str, Any]) -> str:
    """The table for people, as Markdown that reads well as plain text too."""
    lines = [f"## {report['title']}", "", _subtitle(report), ""]
    rows = _rows(report)
    names = list(report["models"])
    lines += table(["", *names], [[title, *cells] for title, cells in rows])
    lines += _other_tokens(report["models"]) or _weak_teacher(report)
    if report.get("differences"):
        lines += ["", "Differences on the same texts, with paired 95 % intervals:", ""]
        lines += table(
            ["", "accuracy", "macro F1"],
            [
                [pair, _difference(found["accuracy"]), _difference(found["macro_f1"])]
                for pair, found in report["differences"].items()
            ],
        )
    ratios = report.get("student_to_teacher")
    if ratios:
        lines += ["", f"Student to {report['teacher']}:", ""]
        lines += table(
            ["", "ratio"],
            [[_TITLES[name], f"{ratio:.2f}x"] for name, ratio in ratios.items()],
        )
    lines += by_part(report)
    return "\n".join(lines) + "\n"


_TITLES = {
    "tag": "tag",
    "too_long": "texts longer than the context",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "agreement": "agreement with the teacher",
    "says_label": "greedy answer begins a label",
    "one_word": "answers that are a label alone",
    "same": "answers as given, word for word",
    "json_valid": "answers that are JSON",
    "json_same": "JSON as given",
    "json_f1": "F1 of the JSON's fields",
    "calls_same": "calls as given",
    "calls_name": "calls of the given functions",
    "calls_f1": "F1 of the calls' arguments",
    "no_call": "answers in text that call nothing",
    "perplexity": "perplexity",
    "ended": "answers ended by themselves",
    "mean_tokens": "tokens an answer",
    "limit_tokens": "limit of an answer (tokens)",
    "looping": "looping answers",
    "repeated_3grams": "repeated 3-grams",
    "empty": "empty answers",
    "parameters": "parameters",
    "size_bytes": "file size",
    "memory_bytes": "memory as served",
    "texts_per_s": "texts/s",
    "prompt_tokens_per_s": "prompt tokens/s",
    "generated_tokens_per_s": "generated tokens/s",
}
_PERCENT = {
    *("agreement", "says_label", "one_word", "json_valid"),
    *("ended", "looping", "repeated_3grams", "empty"),
}


def _subtitle(report: Mapping[str, Any]) -> str:
    text = f"{report['examples']} held-out texts"
    if report["task"] == "classify":
        text += "; scores with 95 % bootstrap intervals"
    if CONTROL in report["models"]:
        text += f"; {CONTROL}: {_control(report.get('training', {}))}"
    return f"{text}."


def _control(training: Mapping[str, Mapping[str, Any]]) -> str:
    """What the control has in common with the student, by the logs of both."""
    if not {STUDENT, CONTROL} <= set(training):
        return "hard labels only"
    student, control = training[STUDENT], training[CONTROL]
    differences = [
        f"{control[name]:g} {title} (student: {student[name]:g})"
        for name, title in (("steps", "steps"), ("lr", "learning rate"))
        if control[name] != student[name]
    ]
    same = "same start" if student["steps"] != control["steps"] else "same start and steps"
    return ", ".join([same, "hard labels only", *differences])


def _other_tokens(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What keeps perplexities from being compared: each is a token of the model's own."""
    counts = {
        name: entry["tokens"]
        for name, entry in models.items()
        if "perplexity" in entry and "tokens" in entry
    }
    if len(set(counts.values())) <= 1 or any(models[name].get("too_long") for name in counts):
        return []
    named = ", ".join(f"{name}: {count:.0f}" for name, count in counts.items())
    return [
        "",
        f"Perplexities are not comparable: they are those of a token, and the answers are other "
        f"tokens to each model ({named}).",
    ]


def _weak_teacher(report: Mapping[str, Any]) -> list[str]:
    """That the control knows the given answers better than who was to teach more than they say."""
    names = (report["teacher"], CONTROL)
    found = [report["models"].get(name, {}).get("perplexity") for name in names]
    if None in found or found[0] < _WEAK_TEACHER * found[1]:
        return []
    return [
        "",
        f"The {names[0]} finds the given answers less likely than the {CONTROL} does, which learnt "
        "from them alone: tune the teacher for longer (teacher.tune.epochs), or learn without its "
        "labels (distill.kd_weight: 0).",
    ]


def _rows(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for name, title in _TITLES.items():
        cells = [_cell(name, entry.get(name)) for entry in report["models"].values()]
        if any(cells):
            rows.append((title, cells))
    return rows


def _cell(name: str, value: object) -> str:
    if value is None or (name == "too_long" and not value):
        return ""
    if isinstance(value, Mapping):
        return f"{value['value']:.1%} ({value['low']:.1%} to {value['high']:.1%})"
    if isinstance(value, str):
        return value
    number = float(str(value))
    if name in _PERCENT:
        return f"{number:.1%}"
    if name in ("too_long", "limit_tokens"):
        return f"{number:.0f}"
    if name.endswith("_bytes"):
        return f"{number / 1e6:.1f} MB"
    if name == "parameters":
        return f"{number / 1e6:.1f} M"
    return f"{number:.2f}" if number < 100 else f"{number:.0f}"


def _difference(interval: Mapping[str, float]) -> str:
    value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


def _value(entry: object) -> float | None:
    if isinstance(entry, Mapping):
        entry = entry["value"]
    return float(entry) if isinstance(entry, int | float) else None
