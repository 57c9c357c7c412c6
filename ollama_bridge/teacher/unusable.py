"""What is said where a teacher's answers are of little use, and what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ollama_bridge.client.jobs.batch_log import Outcome
from ollama_bridge.errors import DaemonError, RepetitionError
from ollama_bridge.examples import Example
from ollama_bridge.recipe.config import TeacherSection
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.storage.journal import JSONRecord
from ollama_bridge.teacher.traces import CUT, LOOPING, THINKING_MISSING, THINKING_WITHIN

STAGE = "answers"
REFUSED = "refused"

_FEW_LEFT = 0.1  # of the training examples of a label; fewer are told of
_MUCH_CUT = 0.1  # of all examples: more than that is hardly meant so
_RARE = 5  # training examples; that fewer are all answered otherwise says nothing of the spelling
# What of a recipe cannot stay as it is without written answers; `score` is for a daemon's labels.
_LEARN_GOLD = (
    "--set teacher.answers=gold --set teacher.rewrite=false --set teacher.thinking=strip "
    "--set teacher.score=asked"
)
_ANSWERS_ALONE = "--set teacher.soft_labels=none --set distill.kd_weight=0"
_TELL_THOUGHTS = (
    "start the server so that it separates thoughts from answers (vLLM: --reasoning-parser)"
)


def nothing_usable(
    teacher: str, where: str, outcomes: Counter[str], settings: TeacherSection
) -> DaemonError:
    """The error where nobody can learn from any reply."""
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
        f"{teacher} wrote no usable answer {where}: {_counts_text(outcomes)}",
        hint=hint,
        model=teacher,
    )


def no_distribution(
    teacher: str, of_what: str, settings: TeacherSection, *, written_alone: bool = False
) -> DaemonError:
    """The error where no token has a distribution that a student could learn.

    Args:
        of_what: Which tokens.
        settings: Which of them get one, what becomes of thinking, and whom was asked.
        written_alone: The stage ``answers`` asked for none beside what it had written.
    """
    if written_alone and settings.score == "generated":
        hint = (
            "these answers were written without distributions: run `answers`, too, with "
            "--set teacher.soft_labels=daemon"
        )
        if settings.base_url is None:
            hint = f"{hint}; or ask about them one by one: --set teacher.score=asked"
    elif settings.base_url is not None:
        hint = f"learn its answers alone: {_ANSWERS_ALONE}"
        if settings.thinking != "keep":
            kept = "where it thinks, learn that too (nothing is known of an answer without it)"
            hint = f"{kept}: --set teacher.thinking=keep; or {hint}"
        else:
            hint = f"see that its server reports logprobs, or {hint}"
    elif settings.score == "generated":
        hint = "have it asked about the answers as well: --set teacher.score=both"
        if settings.thinking != "keep":
            hint += "; or where it thinks, learn that too: --set teacher.thinking=keep"
    else:
        hint = "choose a student whose tokenizer cuts text as the teacher's does"
    return DaemonError(
        f"{teacher} gave no distribution for {of_what}",
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
        before: Training examples of each.
        said: Those that are left.

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


def tell_left_out(
    left_out: Counter[str], total: Counter[str], settings: TeacherSection, reporter: Reporter
) -> None:
    """Tell what nobody learns from, and of a limit the key that lifts it."""
    message = f"answers left out: {_counts_text(left_out)}"
    if left_out[CUT]:
        more = 2 * settings.answer_tokens
        message += f"; for longer ones, all asked again: --set teacher.answer_tokens={more}"
    is_much = left_out[CUT] > _MUCH_CUT * total.total()
    reporter.emit(Note(STAGE, "warning" if is_much else "info", message))


def set_aside(outcome: Outcome) -> str:
    """How a question without a reply is counted."""
    is_loop = (outcome.error or "").startswith(f"{RepetitionError.__name__}:")
    return LOOPING if is_loop else REFUSED


def refusal(example: Example, outcome: Outcome) -> JSONRecord:
    """What is kept of it, for people."""
    return {
        "id": example.id,
        "outcome": set_aside(outcome),
        "error": outcome.error,
        "attempts": outcome.attempts,
    }


def _counts_text(outcomes: Counter[str]) -> str:
    """How many were judged how, for people."""
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
