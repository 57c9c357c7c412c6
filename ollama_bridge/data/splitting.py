"""Divides candidates into train, validation and test, whole documents at a time."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ollama_bridge.data.candidates import SPLITS, Candidate, Split
from ollama_bridge.errors import DataError

# Held-out texts may take this share of all; beyond it the sizes are scaled down.
_HELD_OUT_SHARE = 0.3
_TEST_SHARE = 0.2
_VALIDATION_SHARE = 0.1
HELD_OUT: tuple[Split, ...] = ("test", "validation")
_FEW_OF_A_LABEL = 5  # training texts; fewer teach no label


@dataclass(frozen=True)
class _Lack:
    """A label that cannot be in every split; empty: there are no labels."""

    label: str
    texts: int
    documents: int
    splits: Sequence[Split]
    missing: Sequence[Split]


@dataclass(frozen=True)
class Sizes:
    """How many texts to hold out."""

    test: int
    validation: int

    def scaled_to(self, total: int) -> Sizes:
        """These sizes, or smaller ones where they would take more than 30 % of all texts."""
        if self.test + self.validation <= _HELD_OUT_SHARE * total:
            return self
        return Sizes(
            test=min(self.test, max(1, round(_TEST_SHARE * total))),
            validation=min(self.validation, max(1, round(_VALIDATION_SHARE * total))),
        )


def seeded_order(seed: int, name: str) -> bytes:
    """A key that puts names in an order which depends on the seed and on nothing else."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def split(
    candidates: Sequence[Candidate],
    sizes: Sizes,
    *,
    seed: int,
    near_duplicates: int = 0,
    single_texts_last: bool = False,
    held_out: Sequence[Split] = HELD_OUT,
) -> dict[Split, list[Candidate]]:
    """Stratified split by source document, in seeded order.

    Args:
        candidates: Without duplicates.
        single_texts_last: Place documents of several texts first. Where most documents have one
            text (a question that few ask twice), no such one would be held out.
        held_out: The splits beside train that are drawn; the others stay empty.

    Raises:
        DataError: a label is too rare, or in too few documents, to be in every split.
    """
    documents: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        documents[candidate.example.group].append(candidate)
    order = sorted(
        documents,
        key=lambda group: (
            single_texts_last and len(documents[group]) == 1,
            seeded_order(seed, group),
        ),
    )
    placed = _place(documents, order, _targets(candidates, sizes, held_out))
    lack = _give_every_split_every_label(documents, placed, held_out, seed=seed)
    room = sizes.test if "test" in held_out else sizes.validation
    small = [one for one in candidates if len(documents[one.example.group]) <= room]
    if lack and small:  # the others are trained on: what is held out is a share of these
        placed = _place(documents, order, _targets(small, sizes.scaled_to(len(small)), held_out))
        lack = _give_every_split_every_label(documents, placed, held_out, seed=seed)
    if lack:
        raise _too_few(lack, near_duplicates=near_duplicates)
    parts: dict[Split, list[Candidate]] = {name: [] for name in SPLITS}
    for candidate in candidates:
        parts[placed[candidate.example.group]].append(candidate)
    return parts


def _place(
    documents: Mapping[str, Sequence[Candidate]],
    order: Sequence[str],
    targets: Mapping[Split, Counter[tuple[str, str]]],
) -> dict[str, Split]:
    """Hold out what has room in the targets, which are used up."""
    placed: dict[str, Split] = {}
    for group in order:
        strata = Counter(candidate.stratum for candidate in documents[group])
        placed[group] = "train"
        for name in targets:
            if all(targets[name][stratum] >= count for stratum, count in strata.items()):
                targets[name].subtract(strata)
                placed[group] = name
                break
    return placed


def _targets(
    candidates: Sequence[Candidate], sizes: Sizes, held_out: Sequence[Split]
) -> dict[Split, Counter[tuple[str, str]]]:
    """Texts of every stratum to hold out: shares by largest remainder, at least one."""
    strata = Counter(candidate.stratum for candidate in candidates)
    targets: dict[Split, Counter[tuple[str, str]]] = {}
    wanted: dict[Split, int] = {"test": sizes.test, "validation": sizes.validation}
    for name in held_out:
        size = wanted[name]
        exact = {stratum: size * count / len(candidates) for stratum, count in strata.items()}
        target = Counter({stratum: max(1, int(value)) for stratum, value in exact.items()})
        by_remainder = sorted(
            exact, key=lambda stratum: (int(exact[stratum]) - exact[stratum], stratum)
        )
        for stratum in by_remainder[: max(0, size - target.total())]:
            target[stratum] += 1
        targets[name] = target
    return targets


def _give_every_split_every_label(
    documents: Mapping[str, Sequence[Candidate]],
    placed: dict[str, Split],
    held_out: Sequence[Split],
    *,
    seed: int,
) -> _Lack | None:
    """Move documents out of train where a split lacks a label; smallest first.

    None whose other labels would not be trained on any more.
    """
    labels = {
        group: {candidate.label for candidate in members} for group, members in documents.items()
    }
    trained = Counter(
        label for group in documents if placed[group] == "train" for label in labels[group]
    )
    for label in sorted(set().union(*labels.values())):
        holders = [group for group in documents if label in labels[group]]
        for name in held_out:
            if any(placed[group] == name for group in holders):
                continue
            free = [
                group
                for group in holders
                if placed[group] == "train" and all(trained[one] > 1 for one in labels[group])
            ]
            if free:
                smallest = min(
                    free, key=lambda group: (len(documents[group]), seeded_order(seed, group))
                )
                placed[smallest] = name
                trained.subtract(labels[smallest])
        splits = [name for name in SPLITS if name == "train" or name in held_out]
        missing = [name for name in splits if not any(placed[group] == name for group in holders)]
        if missing:
            texts = sum(
                candidate.label == label for group in holders for candidate in documents[group]
            )
            return _Lack(label, texts, len(holders), splits, missing)
    return None


def _too_few(lack: _Lack, *, near_duplicates: int) -> DataError:
    what = f"label {lack.label!r} has" if lack.label else "there are"
    *most, last = lack.splits
    return DataError(
        f"{what} {lack.texts} usable text(s) in {lack.documents} document(s): too few to be in "
        f"{', '.join(most)} and {last} (missing in {', '.join(lack.missing)})",
        hint=_hint(lack.label, shares=lack.texts > lack.documents, near_duplicates=near_duplicates),
    )


def _hint(label: str, *, shares: bool, near_duplicates: int) -> str:
    if near_duplicates:
        more = _hint(label, shares=shares, near_duplicates=0)
        kept = f"--set data.near_duplicates=keep keeps the {near_duplicates} near duplicates"
        return f"{more}; {kept} that are left out, also in different splits"
    if not label:
        return "add texts that have neither their first question nor their group in common"
    if shares:
        return (
            "texts of one group (or question) stay in one split: add texts of other ones, or map "
            "the label to another one with data.label_map"
        )
    return "add texts, or map the label to another one with data.label_map"


def limited(
    candidates: list[Candidate], limit: int | None, *, seed: int
) -> tuple[list[Candidate], list[Candidate]]:
    """A seeded choice that keeps the strata's shares, and what is left.

    Where only some examples have an answer, these are all kept: ``dialogue_examples`` has chosen
    how many they are.
    """
    if limit is None or len(candidates) <= limit:
        return candidates, []
    strata = Counter(candidate.stratum for candidate in candidates)
    place: Counter[tuple[str, str]] = Counter()
    rank: dict[str, tuple[bool, float, bytes]] = {}
    prompts_only = any(candidate.example.is_open for candidate in candidates)
    for candidate in sorted(candidates, key=lambda one: seeded_order(seed, one.example.id)):
        place[candidate.stratum] += 1
        answered = prompts_only and not candidate.example.is_open
        share = (place[candidate.stratum] - 0.5) / strata[candidate.stratum]
        key = seeded_order(seed, candidate.example.id)
        rank[candidate.example.id] = (not answered, share, key)
    kept = set(sorted(rank, key=lambda name: rank[name])[:limit])
    return (
        [candidate for candidate in candidates if candidate.example.id in kept],
        [candidate for candidate in candidates if candidate.example.id not in kept],
    )


def few_of_a_label(parts: Mapping[Split, Sequence[Candidate]], labels: Sequence[str]) -> list[str]:
    """A warning of labels that are hardly trained on; each counts in macro F1 as any other."""
    train, test = (
        Counter(candidate.label for candidate in parts[name]) for name in ("train", "test")
    )
    few = [
        f"{label!r} has {train[label]} to be trained on and {test[label]} to be tested on"
        for label in labels
        if train[label] < _FEW_OF_A_LABEL
    ]
    if not few:
        return []
    return [
        f"few texts of a label: {', '.join(few)}; it is hardly learnt, and counts in macro F1 as "
        "any other: add texts, or map it to another label with data.label_map"
    ]
