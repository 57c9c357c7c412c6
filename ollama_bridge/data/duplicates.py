"""Exact and near duplicates: which texts to leave out so that no text is in two splits.

Near duplicates are found exactly, not by sampled hashes, so the same texts always give the same
answer. A text that nearly repeats another one but is answered otherwise is no duplicate: what
makes the difference is what is to be learnt. Texts of one class that differ in their numbers alone
are duplicates, as those of one template are, unless texts of two classes do so as well.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from ollama_bridge.data.candidates import Candidate, Split
from ollama_bridge.data.cleaning import text_key
from ollama_bridge.data.documents import Documents
from ollama_bridge.data.frames import Frames
from ollama_bridge.data.grams import GramSets, SimilarSets

# Looked at on the rated snippets: above it, pairs differ in a name, a number or one word.
NEAR_THRESHOLD = 0.8
# Texts between two reports of how far a search has come: a second's work or so.
_TEXTS_A_REPORT = 1000
# Two numbers or more are what a template is filled with; one may be all that is said ("a timer for
# 5 minutes"), and so may several be that have few letters beside them, as in a date. In normalised
# texts, in which 10:30 is "10 30"; letters are counted in UTF-8, as in frames.
_NUMBER = re.compile(r"\d+(?: \d+)*")
_TEMPLATE_NUMBERS = 2
_TEMPLATE_BYTES = 16


@dataclass(frozen=True)
class Deduplicated:
    """What is left, and what went.

    Attributes:
        kept: In the order given; of several duplicates the first.
        exact: Left out for saying the same as an earlier one, but for case and punctuation.
        near: Left out for nearly saying so, under the same label.
        contradictory: Left out, all of them, for saying the same under different labels.
        contrasts: How many of the kept nearly say what an earlier one of another class, or under
            another instruction, says. Both are in one document.
        shared: How many of ``exact`` and ``near``, by their split, repeat one of another split of
            the file's own.
    """

    kept: tuple[Candidate, ...]
    exact: tuple[Candidate, ...]
    near: tuple[Candidate, ...]
    contradictory: tuple[Candidate, ...]
    contrasts: int
    shared: Mapping[Split, int]

    def contradictory_places(self) -> list[str]:
        """Where they stand and how each is labelled; what says the same stands together."""
        alike: dict[tuple[str, str], list[str]] = defaultdict(list)
        for one in self.contradictory:
            alike[_key(one)].append(f"{one.example.id} ({one.example.label})")
        return list(chain.from_iterable(alike.values()))


@dataclass(frozen=True)
class Near:
    """The earlier kept texts that a text nearly repeats.

    Attributes:
        original: Place of one that has the same label and instruction and nearly the same answer;
            None: there is none, so this text is kept too.
        contrasts: Places of those that have another label or instruction: all of them if no text
            has an answer.
        repeats: Of these, the places of those that another instruction alone keeps from being
            repeated.
    """

    original: int | None
    contrasts: tuple[int, ...]
    repeats: tuple[int, ...] = ()


def remove_duplicates(
    candidates: Sequence[Candidate],
    *,
    threshold: float | None = NEAR_THRESHOLD,
    frames: Frames | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Deduplicated:
    """Leave out duplicates; deterministic.

    Args:
        threshold: Jaccard similarity from which on two are near duplicates; None: only exact ones
            are looked for.
        frames: What makes them no near duplicates of each other.
        on_progress: Told now and then how many texts of how many were compared; a search may have
            to begin again.
    """
    keys = list(map(_key, candidates))
    labels: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for key, candidate in zip(keys, candidates, strict=True):
        labels[key].add(candidate.example.label)
    unique: dict[tuple[str, str], Candidate] = {}
    shared: Counter[Split] = Counter()
    exact, contradictory = [], []
    for key, candidate in zip(keys, candidates, strict=True):
        if len(labels[key]) > 1:
            contradictory.append(candidate)
        elif key in unique:
            exact.append(candidate)
            shared.update(_split_if_other(candidate, unique[key]))
        else:
            unique[key] = candidate
    first = list(unique.values())
    if threshold is None:
        return Deduplicated(tuple(first), tuple(exact), (), tuple(contradictory), 0, shared)
    instructions, texts = [key[0] for key in unique], [key[1] for key in unique]
    answers = [candidate.answer for candidate in first]
    if frames is not None:
        texts = [text_key(frames.own_text(candidate)) for candidate in first]
        answers = [frames.own_answer(candidate) for candidate in first]
        instructions = [
            f"{instruction}\n{frames.instruction_of(candidate)}"
            for instruction, candidate in zip(instructions, first, strict=True)
        ]
    compare = partial(
        near_duplicates,
        instructions=instructions,
        labels=[candidate.told_apart_by for candidate in first],
        answers=list(map(text_key, answers)),
        threshold=threshold,
        on_progress=on_progress,
    )
    # Of free text numbers are what is asked and answered.
    masked = [
        _masked(text) if candidate.label else text
        for candidate, text in zip(first, texts, strict=True)
    ]
    found = compare(masked)
    if told := _told_by_numbers(found, masked, texts, instructions, threshold=threshold):
        rows = zip(instructions, texts, masked, strict=True)
        found = compare([text if name in told else other for name, text, other in rows])
    kept, near = [], []
    contrasts, documents = 0, Documents()
    for candidate, one in zip(first, found, strict=True):
        if one.original is not None:
            near.append(candidate)
            shared.update(_split_if_other(candidate, first[one.original]))
            continue
        kept.append(candidate)
        # Free text of another label is not alike: 12 + 7 and 12 + 8 are two sums.
        if alike := one.contrasts if candidate.is_class else one.repeats:
            contrasts += 1
            others = (first[place].example.group for place in alike)
            documents.join(*others, candidate.example.group)
    kept = [candidate.in_document_of(documents) for candidate in kept]
    return Deduplicated(
        tuple(kept), tuple(exact), tuple(near), tuple(contradictory), contrasts, shared
    )


def near_duplicates(
    texts: Sequence[str],
    *,
    labels: Sequence[str | None],
    answers: Sequence[str],
    threshold: float,
    instructions: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Near]:
    """For every text what it nearly repeats of the earlier ones that are kept.

    Args:
        texts: Normalised.
        labels: Only a text of the same label can be repeated.
        answers: Normalised, or empty; they have to be nearly the same as well.
        threshold: Jaccard similarity of their sets of character 4-grams, in (0, 1].
        instructions: Only a text under the same one can be repeated; none: they have none.
        on_progress: Told now and then how many texts of how many were compared.
    """
    instructions = instructions or [""] * len(texts)
    text_sets, answer_sets = GramSets(texts), GramSets(answers)
    indexes = [SimilarSets(text_sets, threshold=threshold)]
    if any(answers):  # long questions may be alike everywhere, and so may short answers
        indexes.append(SimilarSets(answer_sets, threshold=threshold))
    found = []
    for place in range(len(texts)):
        if on_progress is not None and place and place % _TEXTS_A_REPORT == 0:
            on_progress(place, len(texts))
        original, contrasts, repeats = None, [], []
        for rival in min(indexes, key=lambda index: index.cost(place)).like(place):
            if not text_sets.are_similar(place, rival, threshold=threshold):
                continue
            other_label = labels[place] != labels[rival]
            other_instruction = instructions[place] != instructions[rival]
            repeated = not other_label and answer_sets.are_similar(
                place, rival, threshold=threshold
            )
            if other_label or other_instruction:
                contrasts.append(int(rival))
                if repeated:
                    repeats.append(int(rival))
            elif repeated:
                original = int(rival)
                break
        found.append(Near(original, tuple(contrasts), tuple(repeats)))
        if original is None:
            for index in indexes:
                index.add(place)
    return found


def _key(candidate: Candidate) -> tuple[str, str]:
    return (candidate.instruction, text_key(candidate.text))


def _split_if_other(candidate: Candidate, original: Candidate) -> tuple[Split, ...]:
    return (candidate.split,) if candidate.split and candidate.split != original.split else ()


def _masked(text: str) -> str:
    """A normalised text with all its numbers the same, if it may be one of a template."""
    masked, count = _NUMBER.subn("0", text)
    if count < _TEMPLATE_NUMBERS:
        return text
    letters = "".join(filter(str.isalpha, masked))
    return masked if len(letters.encode()) >= _TEMPLATE_BYTES else text


def _told_by_numbers(
    found: Sequence[Near],
    masked: Sequence[str],
    texts: Sequence[str],
    instructions: Sequence[str],
    *,
    threshold: float,
) -> set[str]:
    """The instructions under which numbers make a text one of another class: those of tables."""
    told: set[str] = set()
    for place, one in enumerate(found):
        name = instructions[place]
        if masked[place] == texts[place]:
            continue
        for rival in one.contrasts:
            if name in told or instructions[rival] != name:
                continue
            pair = GramSets([texts[place], texts[rival]])
            if not pair.are_similar(0, 1, threshold=threshold):
                told.add(name)
    return told
