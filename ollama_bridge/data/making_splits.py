"""Candidates -> fit, unique ones -> the splits of a corpus, and its data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ollama_bridge.data.candidates import Candidate, Collected, Split, Tally
from ollama_bridge.data.chats.forms import A_LINE
from ollama_bridge.data.cleaning import control_token
from ollama_bridge.data.data_card import make_card
from ollama_bridge.data.duplicates import NEAR_THRESHOLD, remove_duplicates
from ollama_bridge.data.frames import find_frames
from ollama_bridge.data.limits import lifted, limit_splits
from ollama_bridge.data.own_splits import advice_on_shared, held_out_first, take_splits
from ollama_bridge.data.problems import MAX_LEFT_OUT_SHARE, numbers_text
from ollama_bridge.data.splitting import Sizes, few_of_a_label, split
from ollama_bridge.errors import DataError
from ollama_bridge.recipe.config import DataSection, TaskSection
from ollama_bridge.reporting import Note, Progress, Reporter

_STAGE = "prepare"
# Comparing so many texts takes minutes, or an hour where they are all made of the same words.
_LONG_SEARCH_TEXTS = 100_000
# More near duplicates than this share are said with what keeps them.
_MANY_NEAR_SHARE = 0.05
_AS_SAID = f"give what was said without a chat template's marks; as messages {A_LINE}"
# Of these results are published: they stay split as they were.
_SINGLE_TEXTS_LAST = ("vader", "reviews")
_NEAR_DUPLICATE = "near duplicate"


def make_splits(
    collected: Collected,
    data: DataSection,
    task: TaskSection,
    *,
    seed: int,
    reporter: Reporter,
) -> tuple[dict[Split, list[Candidate]], dict[str, object]]:
    """Candidates -> fit -> unique -> split -> limited; the splits, and the data card.

    ``test_examples`` and ``validation_examples`` are how many are drawn, and of splits that the
    file has (``split_col``) how many are taken at most. ``max_examples`` limits train alone.
    """
    tally, notes = collected.tally, list(collected.notes)
    fit, forged = _leave_out_unfit(collected.candidates, tally, max_chars=data.max_chars)
    if forged:
        reporter.emit(Note(_STAGE, "info", f"control tokens: {numbers_text(forged)}"))
    shared: Counter[Split] = Counter()
    unique = _leave_out_duplicates(held_out_first(fit), collected, data, notes, shared, reporter)
    near = tally.left_out.get(_NEAR_DUPLICATE, Counter()).total()
    if tally.left_out:
        reporter.emit(Note(_STAGE, "info", _left_out_text(tally)))
    if near > _MANY_NEAR_SHARE * len(fit):
        said = lifted(near, "near duplicates", "near_duplicates", "keep")
        reporter.emit(Note(_STAGE, "warning", said))
    is_rendered = len(forged) > MAX_LEFT_OUT_SHARE * len(collected.candidates)
    hint = _what_brings_back(collected, data.max_chars, reporter, is_rendered=is_rendered)
    _check_labels(unique, task, tally, hint=hint)
    asked = Sizes(test=data.test_examples, validation=data.validation_examples)
    sizes = asked.scaled_to(len(unique))
    limits: dict[Split, tuple[str, int | None]] = {"train": ("max_examples", data.max_examples)}
    if data.split_col:
        own = {candidate.split for candidate in collected.candidates}
        taken = take_splits(unique, own, asked, seed=seed, near_duplicates=near)
        parts = taken.parts
        for candidate in taken.related:
            tally.leave_out(candidate.source, "belongs to a text that is held out")
        shared.update(one.split for one in taken.related if one.split)
        notes.append(taken.note(data.split_col))
        held_out = {"test": asked.test, "validation": asked.validation}
        limits |= {
            name: (f"{name}_examples", held_out[name]) for name in taken.own if name != "train"
        }
    else:
        parts = split(
            unique,
            sizes,
            seed=seed,
            near_duplicates=near,
            single_texts_last=data.source in _SINGLE_TEXTS_LAST,
        )
    if sizes != asked and not data.split_col:
        notes.append(
            f"{len(unique)} usable examples are too few for {asked.test} test and "
            f"{asked.validation} validation texts: {len(parts['test'])} and "
            f"{len(parts['validation'])} are held out instead"
        )
    sampled = limit_splits(parts, limits, tally, seed=seed, reporter=reporter)
    if data.split_col:
        sizes = Sizes(test=len(parts["test"]), validation=len(parts["validation"]))
    warnings = [*collected.warnings, *sampled, *few_of_a_label(parts, task.labels)]
    if advice := advice_on_shared(shared):
        warnings.append(advice)
    if is_rendered:
        whole = f"{len(forged)} of {len(collected.candidates)} texts"
        warnings.append(f"{whole} hold control tokens and are left out: {_AS_SAID}")
    for note in notes:
        reporter.emit(Note(_STAGE, "info", note))
    for warning in warnings:
        reporter.emit(Note(_STAGE, "warning", warning))
    card = make_card(
        parts,
        data,
        tally,
        seed=seed,
        requested=asked,
        held_out=sizes,
        notes=[*notes, *warnings],
    )
    return parts, card


def _leave_out_unfit(
    candidates: Sequence[Candidate], tally: Tally, *, max_chars: int
) -> tuple[list[Candidate], list[str]]:
    """Those that fit, and where the others hold which control token."""
    fit, forged = [], []
    for candidate in candidates:
        if _chars(candidate) > max_chars:
            tally.leave_out(candidate.source, _too_long(max_chars))
        elif token := next(filter(None, map(control_token, _spoken(candidate))), None):
            tally.leave_out(candidate.source, "holds a control token of a chat format")
            forged.append(f"{token} in {candidate.example.id}")
        else:
            fit.append(candidate)
    return fit, forged


def _what_brings_back(
    collected: Collected, max_chars: int, reporter: Reporter, *, is_rendered: bool
) -> str | None:
    """What to do for the texts that did not fit; the reporter hears of those that are too long."""
    hints = [_AS_SAID] if is_rendered else []
    longest = max(map(_chars, collected.candidates), default=0)
    if longest > max_chars:
        count = collected.tally.left_out[_too_long(max_chars)].total()
        reporter.emit(Note(_STAGE, "warning", lifted(count, "texts", "max_chars", longest)))
        hints.append(
            f"--set data.max_chars={longest} (what is longer than max_length tokens of distill and "
            "teacher.tune is left out in training)"
        )
    return "; ".join(hints) or None


def _spoken(candidate: Candidate) -> list[str]:
    return [turn.text for turn in candidate.example.messages if turn.role != "system"]


def _chars(candidate: Candidate) -> int:
    return sum(map(len, _spoken(candidate)))


def _too_long(max_chars: int) -> str:
    return f"longer than {max_chars} characters"


def _leave_out_duplicates(
    fit: Sequence[Candidate],
    collected: Collected,
    data: DataSection,
    notes: list[str],
    shared: Counter[Split],
    reporter: Reporter,
) -> Sequence[Candidate]:
    threshold, frames = None, None
    if data.near_duplicates == "leave_out":
        if len(fit) >= _LONG_SEARCH_TEXTS:
            said = (
                f"near duplicates are looked for among {len(fit)} texts, which may take long: "
                "--set data.near_duplicates=keep looks for none"
            )
            reporter.emit(Note(_STAGE, "info", said))
        threshold, frames = NEAR_THRESHOLD, find_frames(collected.candidates)
    unique = remove_duplicates(
        fit,
        threshold=threshold,
        frames=frames,
        on_progress=lambda done, total: reporter.emit(Progress(_STAGE, done, total, "texts")),
    )
    for reason, gone in (
        ("exact duplicate", unique.exact),
        (_NEAR_DUPLICATE, unique.near),
        ("same text under different labels", unique.contradictory),
    ):
        for candidate in gone:
            collected.tally.leave_out(candidate.source, reason)
    shared.update(unique.shared)
    if unique.contradictory and data.path:
        places = numbers_text(unique.contradictory_places())
        notes.append(f"one text under different labels: {places}; left out")
    if unique.contrasts:
        where = "in the same split as that one"
        if data.split_col:
            where = "unless another split holds that one out"
        notes.append(
            f"{unique.contrasts} text(s) differ little from one with another label, system turn or "
            f"instruction: they are kept, {where}"
        )
    notes += frames.notes() if frames else []
    return unique.kept


def _check_labels(
    candidates: Sequence[Candidate], task: TaskSection, tally: Tally, *, hint: str | None
) -> None:
    """Raise where nothing is left, or a label of the task has nothing.

    Args:
        hint: What brings back what was left out.

    Raises:
        DataError: with what was left out, and why.
    """
    if not candidates:
        raise DataError(f"no usable examples: {_left_out_text(tally)}", hint=hint)
    for label in task.labels:
        if not any(candidate.example.label == label for candidate in candidates):
            raise DataError(
                f"no usable example has the label {label!r} ({_left_out_text(tally)})",
                hint="add such rows, or take the label out of task.labels",
            )


def _left_out_text(tally: Tally) -> str:
    parts = [f"{counts.total()} {reason}" for reason, counts in sorted(tally.left_out.items())]
    return f"{tally.read.total()} read; left out: {', '.join(parts) or 'none'}"
