"""A teacher of another vocabulary: which rung holds, and that nothing changes its meaning."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.models import build_tiny_tokenizer
from fakes.sentencepiece import build_sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ollama_bridge.alignment import Alignment, Rung, Side, Vocabulary, align, read_vocabulary
from ollama_bridge.alignment.positions import HOLE, match_positions
from ollama_bridge.alignment.projection import Projection
from ollama_bridge.encoding.encode import EncodedExample, Tokenizer, encode
from ollama_bridge.errors import ModelError, TrainingError
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.load import load_tokenizer

TEXTS = ("The food was great, but we won't come back.", "Größe 12, こんにちは 😀!", "negative")
WIDE, NARROW = build_tiny_tokenizer(), build_tiny_tokenizer(vocab_size=300)


def swapped() -> Tokenizer:
    """Two letters changed places."""
    tokenizer = build_tiny_tokenizer()
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = document["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]
    tokenizer._tokenizer = RawTokenizer.from_str(json.dumps(document))
    return tokenizer


def knows_twelve(*, splits_digits: bool) -> Tokenizer:
    """It has a token 12, which it can use only where digits are not split."""
    tokenizer = build_tiny_tokenizer()
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    document["model"]["vocab"]["12"] = len(tokenizer)
    document["model"]["merges"].append(["1", "2"])
    if not splits_digits:
        document["pre_tokenizer"]["pretokenizers"].pop(0)
    tokenizer._tokenizer = RawTokenizer.from_str(json.dumps(document))
    return tokenizer


def with_a_blank_in_front() -> Tokenizer:
    """SentencePiece's ways, as Llama 2 and Mistral have them: every text begins with a blank."""
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", *"thefod", "th", "▁th", "▁the", "fo", "▁fo", "od", "▁food"]
    vocab = {name: id_ for id_, name in enumerate(names)}
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("f", "o"), ("▁", "fo"), ("o", "d")]
    merges.append(("▁fo", "od"))
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = RawTokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


@functools.cache
def aligned(teacher: Tokenizer, student: Tokenizer) -> tuple[Side, Side, Alignment]:
    """Both sides and how they fit, which is the same for every example."""
    left, right = Side.of(teacher), Side.of(student)
    return left, right, align(left, right, TEXTS)


def example(*answers: str) -> Example:
    messages = []
    for number, answer in enumerate(answers):
        messages += [Message("user", f"text {number}"), Message("assistant", answer)]
    return Example(id="e", messages=tuple(messages), group="e")


def carried(
    teacher: Side, student: Side, encoded: tuple[EncodedExample, EncodedExample], found: Alignment
) -> tuple[torch.Tensor, torch.Tensor]:
    """A teacher that is certain of its text, in the student's words: mass and right ids."""
    theirs, ours = encoded
    places = match_positions(
        theirs,
        ours,
        teacher_vocabulary=teacher.vocabulary,
        student_vocabulary=student.vocabulary,
    )
    taught = torch.from_numpy(theirs.input_ids[theirs.targets].astype(np.int64))
    targets = torch.from_numpy(ours.input_ids[ours.targets].astype(np.int64))
    used = torch.from_numpy(places.teacher != HOLE)
    rows = torch.from_numpy(places.teacher)[used]
    span = torch.from_numpy(places.span)[used]
    certain = torch.full((len(taught), teacher.vocabulary.width), float("-inf"))
    certain[torch.arange(len(taught)), taught] = 0.0
    project = Projection(found, student_width=student.vocabulary.width)
    mass = project(
        certain[rows],
        taken=taught[rows],
        span_logprobs=torch.where(span > 1, 0.0, float("nan")),
        targets=targets[used],
    ).exp()
    return mass, targets[used]


def test_same_tokens_in_the_same_rows() -> None:
    """Nothing has to be done."""
    found = align(Side.of(WIDE), Side.of(build_tiny_tokenizer()), TEXTS)
    assert (found.rung, found.reasons) == (Rung.SAME, ())


@pytest.mark.parametrize(("teacher_width", "student_width"), [(512, 400), (400, 512)])
def test_padded_rows_are_left_out(teacher_width: int, student_width: int) -> None:
    """As of Qwen's 152,064 rows and 151,936: the same tokens, and padding behind them."""
    teacher, student = Side.of(WIDE, width=teacher_width), Side.of(WIDE, width=student_width)
    found = align(teacher, student, TEXTS)
    assert found.rung is Rung.PADDED
    assert "hold no token" in found.sentence
    assert found.reasons == (f"the teacher has {teacher_width} rows, the student {student_width}",)
    logits = torch.randn(5, teacher_width)
    logits[:, len(WIDE) :] = -30.0
    mapped = Projection(found, student_width=student_width)(logits.log_softmax(-1))
    assert mapped.shape == (5, student_width)
    assert torch.equal(mapped[:, :400], logits.log_softmax(-1)[:, :400])
    assert torch.allclose(mapped.exp().sum(-1), torch.ones(5))


def test_equal_widths_prove_nothing() -> None:
    """Two tokens that changed places are found, named and mapped."""
    teacher, student = Side.of(WIDE), Side.of(swapped())
    found = align(teacher, student, TEXTS)
    assert found.rung is Rung.MAPPED
    assert (
        found.reasons[0]
        == f"id {WIDE.get_vocab()['A']} is 'A' to the teacher and 'B' to the student"
    )
    assert found.to_student is not None
    letters = WIDE.convert_tokens_to_ids(["A", "B"])
    assert found.to_student[letters].tolist() == letters[::-1]


def test_same_tokens_split_otherwise() -> None:
    """Equal tokens are not enough: the splits before the merges count."""
    teacher, student = knows_twelve(splits_digits=True), knows_twelve(splits_digits=False)
    assert align(Side.of(teacher), Side.of(student), ["a 3."]).rung is Rung.SAME
    found = align(Side.of(teacher), Side.of(student), ["a 3.", "a 12."])
    assert found.rung is Rung.MAPPED
    assert found.reasons == (
        "text 1 is split into 5 tokens by the teacher and 4 by the student, though the tokens are "
        "the same",
    )


@pytest.mark.parametrize(("teacher", "student"), [(WIDE, NARROW), (NARROW, WIDE)])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40) | st.sampled_from(TEXTS), min_size=1, max_size=3))
def test_a_certain_teacher_stays_certain(
    teacher: Tokenizer, student: Tokenizer, answers: list[str]
) -> None:
    """What the teacher is sure of is the student's right token, whatever the splits."""
    left, right, found = aligned(teacher, student)
    assert found.rung is Rung.MAPPED
    theirs, ours = (encode(example(*answers), tokenizer) for tokenizer in (teacher, student))
    mass, targets = carried(left, right, (theirs, ours), found)
    assert torch.equal(mass[torch.arange(len(targets)), targets], torch.ones(len(targets)))
    assert torch.all(mass.sum(-1) <= 1.0)
    ends = int((ours.input_ids[ours.targets] == student.eos_token_id).sum())
    assert int((targets == student.eos_token_id).sum()) == ends == len(answers)


@pytest.mark.parametrize("form", ["llama", "first", "gemma"])
def test_a_sentencepiece_student_is_told_of_the_tokens_that_it_writes(
    tmp_path: Path, form: str
) -> None:
    """Letters, not the bytes that are spelled the same; of a longer token the first of its text.

    It may put a blank in front of all that it is given, so a text alone begins with that.
    """
    build_sentencepiece(tmp_path, form=form)
    student = load_tokenizer(tmp_path)
    to_student = align(Side.of(WIDE), Side.of(student), TEXTS[:1]).to_student
    assert to_student is not None
    asked = 0
    for token, id_ in WIDE.get_vocab().items():
        text = WIDE.backend_tokenizer.decoder.decode([token])
        if id_ in WIDE.all_special_ids or "\ufffd" in text:
            continue
        _, *_, mark = before = student.tokenize("\u00e9!")  # both are bytes to it
        said = student.tokenize(f"\u00e9!{text}")
        assert said[: len(before)] == before
        assert mark == "<0x21>"
        assert student.convert_ids_to_tokens(int(to_student[id_])) == said[len(before)], text
        asked += 1
    assert asked > 100


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=60))
def test_holes_are_only_where_no_token_begins(text: str) -> None:
    """With fewer tokens than the teacher's, the student has a hole inside of each longer one."""
    left, right, _ = aligned(WIDE, NARROW)
    encoded = [encode(example(text), tokenizer) for tokenizer in (WIDE, NARROW)]
    places = match_positions(
        *encoded, teacher_vocabulary=left.vocabulary, student_vocabulary=right.vocabulary
    )
    assert len(places.teacher) - places.holes == len(encoded[0].targets)
    used = places.teacher[places.teacher != HOLE]
    assert used.tolist() == list(range(len(encoded[0].targets)))


def test_mass_never_grows() -> None:
    """Any distribution, carried over with spans, sums to 1 or less."""
    left, right = Side.of(NARROW), Side.of(WIDE)
    found = align(left, right, TEXTS)
    torch.manual_seed(0)
    logprobs = torch.randn(200, left.vocabulary.width).mul(4).log_softmax(-1)
    taken = torch.randint(left.vocabulary.width, (200,))
    own = logprobs.gather(1, taken[:, None])[:, 0]
    spans = torch.where(torch.rand(200) < 0.5, own - torch.rand(200), float("nan"))
    mapped = Projection(found, student_width=right.vocabulary.width)(
        logprobs,
        taken=taken,
        span_logprobs=spans,
        targets=torch.randint(right.vocabulary.width, (200,)),
    )
    assert torch.all(mapped.exp().sum(-1) <= 1.0 + 1e-5)
    plain = spans.isnan()
    assert torch.allclose(mapped[plain].exp().sum(-1), torch.ones(int(plain.sum())))


def test_a_blank_in_front_of_a_text_is_no_difference() -> None:
    """Where tokens begin is told from the text's end, as it is when they are matched."""
    sentencepiece = with_a_blank_in_front()
    text = "the food the food"
    assert sentencepiece.tokenize(text)[:2] == ["▁the", "▁food"]
    left, right = Side.of(WIDE), Side.of(sentencepiece)
    found = align(left, right, [text])
    assert found.rung is Rung.MAPPED
    assert align(right, right, [text]).rung is Rung.SAME


def test_text_alone_where_splits_have_nothing_in_common() -> None:
    """Words to the one, letters to the other: distributions are of no use."""
    found = align(
        Side.of(WIDE), Side.of(build_tiny_tokenizer(vocab_size=259)), ["negative positive"]
    )
    assert (found.rung, found.to_student) == (Rung.SEQUENCE, None)
    assert "for any loss of distributions" in found.sentence
    assert "begin where one of the teacher's does" in found.reasons[-1]
    with pytest.raises(TrainingError, match="cannot be carried over"):
        Projection(found, student_width=259)


def test_a_student_that_cannot_say_the_answer_is_refused() -> None:
    """A tokenizer that changes the text, and one that cannot end."""
    lower = build_tiny_tokenizer()
    lower._tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(TrainingError, match="cannot write answer 0"):
        align(Side.of(WIDE), Side.of(lower), TEXTS)
    vocabulary = Side.of(WIDE).vocabulary
    endless = Vocabulary(vocabulary.tokens, vocabulary.special, None, vocabulary.width)
    with pytest.raises(TrainingError, match="no end token"):
        align(Side.of(WIDE), Side(endless, WIDE), TEXTS)


def test_vocabularies_are_read_as_bytes() -> None:
    """Every text is its tokens' bytes; an unknown kind of tokenizer is refused."""
    vocabulary = Side.of(WIDE).vocabulary
    for text in TEXTS:
        ids = WIDE(text, add_special_tokens=False)["input_ids"]
        assert b"".join(map(vocabulary.spelled, ids)) == text.encode()
    assert vocabulary.spelled(10**6) == b""
    strange = build_tiny_tokenizer()
    strange._tokenizer.decoder = None
    with pytest.raises(ModelError, match="cannot be read as bytes"):
        read_vocabulary(strange, width=384)
    with pytest.raises(ModelError, match="has a token 383, the model has 300 rows"):
        read_vocabulary(WIDE, width=300)
