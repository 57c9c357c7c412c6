"""A daemon's tokens become a student's by their text, or not at all."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
from fakes.models import build_tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ollama_bridge.client import TokenLogprob, TopLogprob
from ollama_bridge.teacher.alignment import (
    Distribution,
    align,
    named_distribution,
    spans_of,
)
from ollama_bridge.teacher.token_bytes import TokenBytes

TOKENIZER = build_tiny_tokenizer()


@cache
def vocabulary() -> TokenBytes:
    return TokenBytes(TOKENIZER)


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def texts(text: str) -> list[str]:
    """What the student's own tokens are called."""
    return [(vocabulary().of(token) or b"").decode() for token in ids(text)]


def entry(text: str, logprob: float, *rivals: tuple[str, float]) -> TokenLogprob:
    top = sorted([(text, logprob), *rivals], key=lambda item: -item[1])
    return TokenLogprob(text, logprob, top=tuple(TopLogprob(*one) for one in top))


def aligned(answer: str, entries: list[TokenLogprob]) -> list[Distribution | None]:
    spans = spans_of(ids(answer), answer, vocabulary())
    return align(spans, answer, entries, vocabulary(), top_k=20)


def mass(one: Distribution) -> float:
    return math.fsum(map(math.exp, one.logprobs)) + math.exp(one.residual)


def test_every_token_stands_for_its_bytes() -> None:
    """Together they are the text; special tokens are none."""
    text = "The food wasn't good 😀\n你好 12"
    assert b"".join(vocabulary().of(token) or b"?" for token in ids(text)) == text.encode()
    assert vocabulary().of(TOKENIZER.eos_token_id) is None
    assert vocabulary().is_special("<|im_end|>")
    for token in range(len(TOKENIZER)):
        content = vocabulary().of(token)
        assert content is None or vocabulary().first(content) == token


def test_bytes_of_a_sentencepiece_vocabulary() -> None:
    """Blanks and byte tokens are what they stand for, where no other token is."""
    names_of_all = ["<unk>", "<0x0A>", "<0x61>", "▁", "a", "b", "▁a", "▁ab"]
    found = {text: id_ for id_, text in enumerate(names_of_all)}
    model = models.BPE(found, [("▁", "a"), ("▁a", "b")], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    names = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))
    assert names.of(found["<0x0A>"]) == b"\n"
    assert names.of(found["<unk>"]) is None
    assert names.of(found["▁ab"]) == b" ab"
    assert names.first(b" ab") == found["▁ab"]
    assert names.of(found["<0x61>"]) == b"a"
    assert names.first(b"a") == found["a"]
    assert names.first(b"ba") == found["b"]  # though this tokenizer puts a blank in front


def test_same_tokens_are_mapped_one_by_one() -> None:
    """Chosen and rivals under the student's ids, the rest in the residual."""
    pieces = texts("good food")
    entries = [entry(piece, -0.5, ("The", -1.5), ("", -3.0)) for piece in pieces]
    found = aligned("good food", entries)
    the = ids("The")[0]
    for one, token in zip(found, ids("good food"), strict=True):
        assert one is not None
        assert dict(zip(one.ids, one.logprobs, strict=True)) == {token: -0.5, the: -1.5}
        assert math.isclose(mass(one), 1.0)


def test_several_tokens_of_the_teacher_are_one_of_the_student() -> None:
    """Their log-probabilities add up; the rivals of the first remain, what it leaves does not."""
    (token,) = ids("positive")
    found = aligned("positive", [entry("pos", -0.25, ("neg", -2.0)), entry("itive", -0.5)])
    assert found[0] is not None
    assert dict(zip(found[0].ids, found[0].logprobs, strict=True))[token] == -0.75
    assert ids("pos")[0] not in found[0].ids


def test_a_longer_token_of_the_teacher_counts_for_its_beginning() -> None:
    """The student's first token of it gets its mass; inside it there is nothing to say."""
    pieces = texts("bad mood")
    assert len(pieces) > 1
    found = aligned("bad mood", [entry("bad mood", -0.3, ("bad", -1.6))])
    assert found[0] is not None
    first = dict(zip(found[0].ids, found[0].logprobs, strict=True))[ids("bad mood")[0]]
    assert first >= -0.3
    assert found[1:] == [None] * (len(pieces) - 1)


def test_tokens_that_cross_have_no_distribution() -> None:
    """The teacher's second token begins inside the student's."""
    (_,) = ids("positive")
    found = aligned("positive", [entry("posi", -0.1), entry("tively", -0.1)])
    assert found == [None]


def test_a_hole_is_a_hole() -> None:
    """An entry that got lost leaves its token without a distribution, and no other.

    Only a blank behind it that the lost one begins with may be anywhere.
    """
    answer = "The food was great, but the service was not good."
    pieces = texts(answer)
    entries = [entry(piece, -0.1 * (number + 1)) for number, piece in enumerate(pieces)]
    uncertain = {10: {11}, 14: {15}}
    for lost, places in uncertain.items():
        assert all(pieces[lost].startswith(pieces[place]) for place in places)
    for lost in range(len(entries)):
        found = aligned(answer, entries[:lost] + entries[lost + 1 :])
        for number, one in enumerate(found):
            if one is not None:
                assert one.logprobs[0] == pytest.approx(-0.1 * (number + 1))
        holes = {number for number, one in enumerate(found) if one is None}
        assert holes == {lost} | uncertain.get(lost, set())


@pytest.mark.parametrize("thought", ["they were not sure", "good? good!", " "])
def test_what_was_said_before_the_answer_is_passed_over(thought: str) -> None:
    """Entries of thinking, or of blanks, that the answer does not have."""
    before = [entry(piece, -9.0) for piece in texts(thought)]
    behind = [entry(piece, -9.0) for piece in texts(" \n")]
    said = [entry(piece, -0.5) for piece in texts("good food")]
    found = aligned("good food", [*before, *said, *behind])
    assert [one.logprobs[0] for one in found if one is not None] == [-0.5] * len(ids("good food"))


def test_a_character_of_several_tokens_is_nobodys_number() -> None:
    """One entry for all of them, with the last one's number: not among its rivals."""
    emoji = TokenLogprob("😀", -0.2, top=(TopLogprob("", -0.2), TopLogprob("x", -2.0)))
    found = aligned("good 😀", [*(entry(piece, -0.5) for piece in texts("good ")), emoji])
    assert found[0] is not None
    assert all(one is None for one in found[-len(ids("😀")) :])


def test_half_characters_and_doubles_are_part_of_the_rest() -> None:
    """Of two tokens of one name only the likelier is that text."""
    top = [TopLogprob("a", -1.0), TopLogprob("a", -2.0), TopLogprob("\ufffd", -1.5)]
    found = named_distribution(top, vocabulary(), target=ids("b")[0], top_k=20)
    assert found is not None
    assert found.ids == (ids("a")[0],)
    assert math.isclose(math.exp(found.residual), 1 - math.exp(-1.0))


def test_a_blank_may_be_half_a_character() -> None:
    """Some token is a blank and half an emoji, so a blank is one only where it is right."""
    blank, a = vocabulary().first(b" "), ids("a")[0]
    assert blank is not None
    assert vocabulary().may_be_cut(b" ")
    assert not vocabulary().may_be_cut(b"a")
    top = [TopLogprob(" ", -0.5), TopLogprob("a", -1.5)]
    for target, named in ((a, (a,)), (blank, (blank, a))):
        found = named_distribution(top, vocabulary(), target=target, top_k=20)
        assert found is not None
        assert found.ids == named


@pytest.mark.parametrize("name", ["", "<|im_end|>"])
def test_the_end_token_has_no_name_or_its_own(name: str) -> None:
    """At the end of an answer the likeliest token without a text is the end."""
    top = [TopLogprob(name, -0.1), TopLogprob("a", -3.0)]
    end = TOKENIZER.eos_token_id
    found = named_distribution(top, vocabulary(), target=end, top_k=20)
    assert found is not None
    assert found.ids == (end, ids("a")[0])
    elsewhere = named_distribution(top, vocabulary(), target=ids("b")[0], top_k=20)
    assert elsewhere is not None
    assert elsewhere.ids == (ids("a")[0],)


@given(
    st.text(alphabet="ab God.é😀 ", min_size=1, max_size=30),
    st.lists(st.integers(0, 30), max_size=6),
    st.lists(st.integers(0, 30), max_size=2),
)
def test_whatever_is_lost_or_cut_nothing_is_wrong(
    answer: str, cuts: list[int], losses: list[int]
) -> None:
    """The teacher may cut anywhere and lose anything: what is told is about the right token.

    Where nothing is lost, all is told of tokens that begin and end where the teacher's do.
    """
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[a:b] for a, b in itertools.pairwise(edges)]
    # The number says where the entry stands, so that a wrong place shows.
    entries = [entry(piece, -0.01 * (number + 1)) for number, piece in enumerate(pieces)]
    starts = {len(answer[:a].encode()): number for number, a in enumerate(edges[:-1])}
    stops = {len(answer[:b].encode()) for b in edges[1:]}
    kept = [one for number, one in enumerate(entries) if number not in losses]
    spans = spans_of(ids(answer), answer, vocabulary())
    for span, one in zip(spans, align(spans, answer, kept, vocabulary(), top_k=20), strict=True):
        if one is None:
            told = span is not None and span.start in starts and span.end in stops
            assert losses or not told
            continue
        assert span is not None
        assert span.token in one.ids
        assert mass(one) == pytest.approx(1.0, abs=1e-6)
        if not losses:
            number = starts[span.start]
            logprob = one.logprobs[one.ids.index(span.token)]
            assert logprob <= -0.01 * (number + 1) + 1e-9
