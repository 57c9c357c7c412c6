"""Classes of tokens that two vocabularies have in common."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
from fakes.models import build_tiny_tokenizer
from fakes.sentencepiece import build_sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.alignment import Side, align
from ollama_bridge.alignment.classes import NO_CLASS, CommonClasses, common_classes
from ollama_bridge.encoding.encode import Tokenizer
from ollama_bridge.models.load import load_tokenizer

TEXTS = ("The food was great, but we won't come back.", "Größe 12, こんにちは 😀!", "negative")
WIDE, NARROW = build_tiny_tokenizer(), build_tiny_tokenizer(vocab_size=300)


def classes_of(teacher: Side, student: Side) -> CommonClasses:
    return common_classes(teacher, student, align(teacher, student, TEXTS[:1]))


def test_the_same_tokens_are_a_class_each() -> None:
    """Also where they have other ids; padded rows have none."""
    ids = range(len(WIDE))
    found = classes_of(Side.of(WIDE, width=400), Side.of(build_tiny_tokenizer()))
    assert found.teacher.tolist() == [*ids, *[NO_CLASS] * 16]
    assert found.student.tolist() == [*ids]


@pytest.mark.parametrize(("teacher", "student"), [(WIDE, NARROW), (NARROW, WIDE)])
def test_a_token_of_one_alone_belongs_to_what_the_other_begins_it_with(
    teacher: Tokenizer, student: Tokenizer
) -> None:
    """Every token of either has a class, and each class one that both have."""
    found = classes_of(Side.of(teacher), Side.of(student))
    assert sorted(set(found.teacher)) == sorted(set(found.student)) == list(range(len(NARROW)))
    wide, narrow = (
        (found.teacher, found.student) if teacher is WIDE else (found.student, found.teacher)
    )
    names = dict(zip(narrow.tolist(), NARROW.convert_ids_to_tokens(range(300)), strict=True))
    for id_, name in enumerate(WIDE.convert_ids_to_tokens(range(len(WIDE)))):
        in_narrow = NARROW.get_vocab().get(name)
        if in_narrow is None:  # never a special token: both have these
            text = WIDE.backend_tokenizer.decoder.decode([name])
            if "�" not in text:
                assert NARROW.tokenize(text)[0] == names[wide[id_]]
        else:
            assert wide[id_] == narrow[in_narrow]


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=40) | st.sampled_from(TEXTS))
def test_both_begin_a_text_with_the_same_class(text: str) -> None:
    """Wherever in a text a token of either begins: no mass is told apart by how it is cut."""
    sides, found = wide_and_narrow()
    theirs, ours = (begun_with(one, text) for one in sides)
    both = theirs.keys() & ours.keys()
    assert 0 in both
    for start in both:
        assert found.teacher[theirs[start]] == found.student[ours[start]]


@functools.cache
def wide_and_narrow() -> tuple[tuple[Side, Side], CommonClasses]:
    """Both sides and what they have in common: the same for every example."""
    sides = Side.of(WIDE), Side.of(NARROW)
    return sides, classes_of(*sides)


def begun_with(one: Side, text: str) -> dict[int, int]:
    """The token that begins at each byte where one does."""
    ids = one.tokenizer(text)["input_ids"]
    lengths = [len(one.vocabulary.spelled(id_)) for id_ in ids]
    return dict(zip(itertools.accumulate(lengths, initial=0), ids, strict=False))


@pytest.mark.parametrize("form", ["llama", "first", "gemma"])
def test_what_nobody_else_can_say_has_no_class(tmp_path: Path, form: str) -> None:
    """Special tokens of either's own; ends of turns are one, and letters, however they are had."""
    build_sentencepiece(tmp_path, form=form)
    tokenizer = load_tokenizer(tmp_path)
    found = classes_of(Side.of(WIDE), Side.of(tokenizer))
    theirs, ours = WIDE.get_vocab(), tokenizer.get_vocab()
    assert found.teacher[theirs["<|im_start|>"]] == found.student[ours["<s>"]] == NO_CLASS
    assert found.student[ours["</s>"]] == found.teacher[theirs["<|im_end|>"]] != NO_CLASS
    for letter in "tfo.":
        of_byte = found.student[ours[f"<0x{ord(letter):02X}>"]]
        assert found.student[ours[letter]] == of_byte == found.teacher[theirs[letter]] != NO_CLASS
