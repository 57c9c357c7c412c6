"""Splits are stratified, whole documents at a time, and the same for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.data.candidates import Candidate
from ollama_bridge.data.splitting import Sizes, split
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example


def candidates(rows: list[tuple[str, str]], source: str = "table") -> list[Candidate]:
    return [
        Candidate(Example(f"{source}{number}", (), group, label), source, "")
        for number, (group, label) in enumerate(rows)
    ]


def test_single_texts_fill_exact_sizes_and_keep_shares() -> None:
    """With a document a text, the sizes are exact and the labels' shares are kept."""
    rows = [(str(number), "good" if number % 4 else "bad") for number in range(1000)]
    parts = split(candidates(rows), Sizes(test=200, validation=100), seed=1)
    assert [len(parts[name]) for name in ("test", "validation", "train")] == [200, 100, 700]
    assert Counter(one.example.label for one in parts["test"]) == {"good": 150, "bad": 50}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12).map(str), st.sampled_from(["a", "b"])),
        min_size=30,
        max_size=120,
    ),
    st.integers(0, 5),
)
def test_no_document_is_in_two_splits(rows: list[tuple[str, str]], seed: int) -> None:
    """Nothing is lost, no document straddles, every label is everywhere - or it is an error."""
    try:
        parts = split(candidates(rows), Sizes(test=12, validation=6), seed=seed)
    except DataError:
        assert min(len({g for g, label in rows if label == wanted}) for wanted in "ab") < 9
        return
    groups = [{one.example.group for one in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert sum(map(len, parts.values())) == len(rows)
    assert all({one.example.label for one in part} == {"a", "b"} for part in parts.values())


def test_the_seed_decides() -> None:
    """Same seed, same split; another seed, another one."""
    rows = [(str(number), "ab"[number % 2]) for number in range(100)]
    sizes = Sizes(test=20, validation=10)
    first = split(candidates(rows), sizes, seed=1)
    assert first == split(candidates(rows), sizes, seed=1)
    assert first != split(candidates(rows), sizes, seed=2)


def test_documents_of_one_text_are_held_out_in_their_share() -> None:
    """What is asked once is most of a file, so most of what is scored; not what many ask alone."""
    rows = [(f"often {number % 12}", "") for number in range(60)]
    rows += [(f"once {number}", "") for number in range(240)]
    sizes, held_out, seeds = Sizes(test=60, validation=30), ("test", "validation"), range(20)

    def share(*, single_texts_last: bool) -> float:
        """Of what is held out, over some seeds: what is asked once."""
        groups = [
            one.example.group
            for seed in seeds
            for name, part in split(
                candidates(rows), sizes, seed=seed, single_texts_last=single_texts_last
            ).items()
            if name in held_out
            for one in part
        ]
        assert len(groups) == 90 * len(seeds)
        return sum(group.startswith("once") for group in groups) / len(groups)

    assert 0.75 < share(single_texts_last=False) < 0.85
    assert share(single_texts_last=True) < 0.35


def test_few_large_documents_still_reach_every_split() -> None:
    """Where no document fits the requested size, the smallest goes."""
    rows = [(document, "ab"[number % 2]) for document in "xyz" for number in range(100)]
    parts = split(candidates(rows), Sizes(test=20, validation=10), seed=0)
    assert all(len(part) == 100 for part in parts.values())


@pytest.mark.parametrize("labels", ["a", "ab"])
def test_what_is_too_large_to_be_held_out_takes_no_split_from_the_others(labels: str) -> None:
    """Of a file that is mostly one document, the rest is shared out."""
    rows = [("large", labels[0])] * 900
    rows += [(f"once {number}", labels[number % len(labels)]) for number in range(100)]
    parts = split(candidates(rows), Sizes(test=200, validation=100), seed=0)
    assert [len(parts[name]) for name in ("test", "validation", "train")] == [20, 10, 970]


def test_no_label_leaves_the_training_with_a_document_of_another() -> None:
    """The smallest document that has the missing label may have the last texts of another."""
    labels = "CBBABABCBACBBBCBBAB"
    groups = (2, 3, 3, 0, 5, 9, 10, 9, 10, 4, 10, 3, 8, 6, 10, 1, 7, 9, 0)
    rows = [(f"g{group}", label) for group, label in zip(groups, labels, strict=True)]
    parts = split(candidates(rows), Sizes(test=4, validation=2), seed=1)
    assert all({one.example.label for one in part} == set("ABC") for part in parts.values())


def test_a_rare_label_is_refused() -> None:
    """Two texts of a label cannot be in three splits."""
    rows = [(str(number), "common") for number in range(50)] + [("x", "rare"), ("y", "rare")]
    with pytest.raises(DataError, match="'rare' has 2 usable text"):
        split(candidates(rows), Sizes(test=10, validation=5), seed=0)
    rows[-1] = ("x", "rare")
    with pytest.raises(DataError, match=r"2 usable text\(s\) in 1 document") as caught:
        split(candidates(rows), Sizes(test=10, validation=5), seed=0)
    assert str(caught.value.hint).startswith("texts of one group (or question) stay in one split")


@pytest.mark.parametrize(
    ("total", "expected"),
    [(20_000, Sizes(2200, 800)), (300, Sizes(60, 30)), (9000, Sizes(1800, 800))],
)
def test_sizes_scale_down(total: int, expected: Sizes) -> None:
    """At most 30 % are held out; smaller data get 20 % and 10 %."""
    assert Sizes(test=2200, validation=800).scaled_to(total) == expected
