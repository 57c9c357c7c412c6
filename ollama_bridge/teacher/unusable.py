"""What is said where a teacher's answers are of little use, and what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ollama_bridge.config import TeacherSection
from ollama_bridge.errors import DaemonError
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.teacher.traces import LOOPING, THINKING_MISSING, THINKING_WITHIN

STAGE = "answers"

_FEW_LEFT = 0.1  # of the training examples of a label; fewer are told of
_RARE = 5  # training examples; that fewer are all answered otherwise says nothing of the spelling
# What of a recipe cannot stay as it is without written answers; `score` is for a daemon's labels.
_LEARN_GOLD = (
    "--set teacher.answers=gold --set teacher.rewrite=false --set teacher.thinking=strip "
    "--set teacher.score=asked"
)
_TELL_THOUGHTS = (
    "start the server so that it separates thoughts from answers (vLLM: --reasoning-parser)"
)


def nothing_usable(
    teacher: str, where: str, outcomes: Counter[str], settings: TeacherSection
) -> DaemonError:
    """The error where nobody can learn from any reply.

    Args:
        teacher: Its name.
        where: Among which replies.
        outcomes: How they were judged.
        settings: Which treatment of thinking, and whom was asked.
    """
    is_api = settings.base_url is not None
    mostly = outcomes.most_common(1)[0][0]
    hint = (
        f"raise teacher.answer_tokens, which is {settings.answer_tokens}, or choose another teacher"
    )
    if mostly == LOOPING:
        hint = "choose another teacher, or see what it answers: ollama-bridge run TAG TEXT"
    if mostly == THINKING_MISSING:
        hint = (
            "choose a teacher that thinks, or learn the answers alone: --set teacher.thinking=strip"
        )
        hint = f"{_TELL_THOUGHTS}; or {hint}" if is_api else hint
    if mostly == THINKING_WITHIN:
        hint = "choose a teacher whose thoughts Ollama tells from its answers (ollama-bridge show)"
        hint = f"{_TELL_THOUGHTS}; or choose another teacher" if is_api else hint
    return DaemonError(
        f"{teacher} wrote no usable answer {where}: {counts_text(outcomes)}",
        hint=hint,
        model=teacher,
    )


def check_labels(
    labels: Sequence[str],
    before: Counter[str | None],
    said: Counter[str | None],
    *,
    teacher: str,
    settings: TeacherSection,
    reporter: Reporter,
) -> None:
    """Make sure that no class is gone from the training split, and tell of one that nearly is.

    Args:
        labels: Of the task.
        before: Training examples of each.
        said: Those that are left.
        teacher: Its name.
        settings: Whom was asked.
        reporter: Hears of a label with few examples left.

    Raises:
        DaemonError: naming the label that the teacher never says, though it could have often.
    """
    for label in labels:
        if not before[label] or said[label] >= _FEW_LEFT * before[label]:
            continue
        message = (
            f"{teacher} says {label!r} in {said[label]} of {before[label]} training examples that "
            "have this label; the others are left out"
        )
        if not said[label] and before[label] >= _RARE:
            hint = "say in task.system how it is spelt, or map it to another label: data.label_map"
            if settings.base_url is None:  # an API is there to write answers
                hint = f"{hint}; or learn the data's own answers: {_LEARN_GOLD}"
            raise DaemonError(message, hint=hint, model=teacher)
        reporter.emit(Note(STAGE, "warning", message))


def counts_text(outcomes: Counter[str]) -> str:
    """How many were judged how, for people."""
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
