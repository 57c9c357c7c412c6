"""Soft labels where teacher and student do not end their turns in the same way."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes.listening import Listener
from fakes.models import CHAT_TEMPLATE
from fakes.trainable import SPLITS, commit, corpus_of, sentiment_examples
from fakes.turn_ends import MANNERS, build_speaker

from ollama_bridge.encoding.encode import EncodedExample, encode_split, tokenizer_digest
from ollama_bridge.encoding.end_keys import key_of_ends
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Example, Message, read_examples
from ollama_bridge.label_store.info import row_key
from ollama_bridge.label_store.labels import SoftTargets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import SoftLabelsSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher.local import label

WHOLE = SoftLabelsSection(top_k=384)


def speaker(manner: str, folder: Path, *, width: int | None = None) -> Checkpoint:
    def fill(path: Path) -> None:
        build_speaker(manner, path, vocab_size=384, width=width)

    return commit(Checkpoint, folder, fill, name=f"{manner} {width}")


def everywhere(folder: Path, examples: Sequence[Example]) -> Corpus:
    """A corpus whose splits are the same."""
    return corpus_of(folder, dict.fromkeys(SPLITS, examples))


def dialogues(answers: int) -> list[Example]:
    """Each answer is said once in a conversation, so that none is taken for another."""
    found = []
    for number in range(8):
        messages = []
        for turn in range(answers):
            messages += [
                Message("user", f"Was visit {number} good?"),
                Message("assistant", "great food, awful service"[: 10 + 7 * turn]),
            ]
        found.append(Example(f"e{number}", tuple(messages), str(number)))
    return found


def labelled(
    teacher: Checkpoint,
    student: Checkpoint,
    corpus: Corpus,
    folder: Path,
    *,
    settings: SoftLabelsSection = WHOLE,
) -> tuple[SoftLabels, Listener]:
    heard = Listener()
    labels = label(
        teacher,
        corpus,
        settings,
        student=student,
        max_length=512,
        dtype="float32",
        out_dir=folder / "labels",
        store_dir=folder / "stores",
        reporter=heard,
    )
    return labels, heard


def encoded(of: Checkpoint, corpus: Corpus) -> list[EncodedExample]:
    examples = list(read_examples(corpus.split_path("train")))
    split = encode_split(examples, load_tokenizer(of.path), max_length=512, name="train")
    return list(split.examples)


def last_answers(
    teacher: Checkpoint,
    student: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels,
    *,
    tokens: int | None = None,
) -> Iterator[tuple[list[float], list[float]]]:
    """What both say of the last answer's tokens, with the one that ends it: stored, and by torch.

    The two split answers alike; of ``tokens`` the last ones alone.
    """
    model = load_model(teacher.path)
    end = load_tokenizer(teacher.path).convert_tokens_to_ids(MANNERS[teacher.path.name].end)
    own = load_tokenizer(student.path).convert_tokens_to_ids("<|im_end|>")
    reader = LabelReader(labels.path)
    for left, right in zip(encoded(teacher, corpus), encoded(student, corpus), strict=True):
        kept = reader.read([row_key(right.input_ids, right.supervised)])
        assert isinstance(kept, SoftTargets)
        ids = right.input_ids[right.targets].tolist()
        assert ids[-1] == own
        count = tokens or len(right.stretches[-1])
        stored = [
            dict(zip(kept.ids[place].tolist(), kept.logprobs[place].tolist(), strict=True))[
                ids[place]
            ]
            for place in range(len(ids) - count, len(ids))
        ]
        with torch.inference_mode():
            logprobs = (
                model(torch.from_numpy(left.input_ids).long()[None]).logits[0].log_softmax(-1)
            )
        stop = len(left.input_ids) - 1 - left.input_ids[::-1].tolist().index(end)
        places = range(stop - count + 1, stop + 1)
        said = [float(logprobs[place - 1, left.input_ids[place]]) for place in places]
        yield stored, said


@pytest.mark.parametrize("manner", ["gemma", "phi3", "reasoner"])
def test_a_teacher_that_ends_its_turns_otherwise(manner: str, tmp_path: Path) -> None:
    """Every token of the answer and its end have what the teacher says there."""
    teacher, student = speaker(manner, tmp_path / manner), speaker("instruct", tmp_path / "own")
    corpus = everywhere(tmp_path / "corpus", sentiment_examples(8, name="x"))
    labels, heard = labelled(teacher, student, corpus, tmp_path)
    assert labels.facts["alignment"] == "mapped"
    assert labels.facts["hard_share"] == 0
    assert not heard.warnings
    assert heard.notes[1] == "0.0% of the tokens to be learnt have hard labels only"
    for stored, said in last_answers(teacher, student, corpus, labels):
        assert stored == pytest.approx(said, abs=2e-2)


@pytest.mark.parametrize("manner", ["thinker", "spacious"])
def test_thoughts_that_are_not_written_alike(manner: str, tmp_path: Path) -> None:
    """The answers behind them have what the teacher says, with their ends; what differs is hard."""
    teacher, student = speaker(manner, tmp_path / manner), speaker("instruct", tmp_path / "own")
    said = "great food, awful service"
    answer = Message("assistant", f"<think>\nWas it good?\n</think>\n\n{said}")
    examples = [
        replace(one, messages=(*one.messages[:-1], answer))
        for one in sentiment_examples(8, name="x")
    ]
    corpus = everywhere(tmp_path / "corpus", examples)
    labels, _ = labelled(teacher, student, corpus, tmp_path)
    tokens = 1 + len(load_tokenizer(student.path)(said, add_special_tokens=False)["input_ids"])
    for stored, known in last_answers(teacher, student, corpus, labels, tokens=tokens):
        assert stored == pytest.approx(known, abs=2e-2)
    whole = len(encoded(student, corpus)[0].targets)
    assert 0 < labels.facts["hard_share"] <= 1 - tokens / whole


def test_an_instruct_teacher_of_its_base(tmp_path: Path) -> None:
    """The same ids and template, in more rows; eos alone differs (Qwen2.5 7B and 0.5B)."""
    teacher = speaker("instruct", tmp_path / "teacher", width=448)
    student = speaker("base", tmp_path / "student", width=416)
    corpus = everywhere(tmp_path / "corpus", sentiment_examples(8, name="x"))
    labels, _ = labelled(teacher, student, corpus, tmp_path)
    assert (labels.facts["alignment"], labels.facts["hard_share"]) == ("padded", 0)
    drawn, _ = labelled(
        teacher,
        student,
        corpus,
        tmp_path / "drawn",
        settings=SoftLabelsSection(method="sampled", draws=4),
    )
    reader, tokens = LabelReader(drawn.path), load_tokenizer(student.path)
    assert reader.info.tokenizer == tokenizer_digest(tokens)
    for example in encoded(student, corpus):
        reader.read([row_key(example.input_ids, example.supervised)])


def test_a_teacher_whose_prompts_begin_with_another_bos(tmp_path: Path) -> None:
    """Ids, template and eos are the student's: it reads its own BOS, and its labels have no other.

    Where no prompt has one, they are made as they were.
    """
    corpus = everywhere(tmp_path / "corpus", sentiment_examples(8, name="x"))
    for template, carried in (("{{ bos_token }}" + CHAT_TEMPLATE, True), (CHAT_TEMPLATE, False)):
        folder = tmp_path / str(carried)

        def begin(path: Path, bos: str, template: str = template) -> None:
            build_speaker("instruct", path)
            tokenizer = load_tokenizer(path)
            tokenizer.bos_token, tokenizer.chat_template = bos, template
            tokenizer.save_pretrained(path)

        teacher, student = (
            commit(Checkpoint, folder / name / "instruct", functools.partial(begin, bos=bos))
            for name, bos in (("teacher", "<|im_start|>"), ("student", "<|endoftext|>"))
        )
        labels, _ = labelled(teacher, student, corpus, folder)
        assert labels.facts.get("alignment") == ("same" if carried else None)
        for stored, said in last_answers(teacher, student, corpus, labels):
            assert stored == pytest.approx(said, abs=2e-2)


def test_a_teacher_whose_turns_are_written_with_another_eos(tmp_path: Path) -> None:
    """Ids and template are the student's: what is drawn at its ends is its own end, not theirs."""
    corpus = everywhere(tmp_path / "corpus", sentiment_examples(8, name="x"))

    def fill(path: Path, eos: str) -> None:
        build_speaker("instruct", path)
        tokenizer = load_tokenizer(path)
        tokenizer.eos_token = eos
        tokenizer.chat_template = CHAT_TEMPLATE.replace("'<|im_end|>'", "eos_token")
        tokenizer.save_pretrained(path)

    teacher, student = (
        commit(Checkpoint, tmp_path / name / "instruct", functools.partial(fill, eos=eos))
        for name, eos in (("teacher", "<|im_end|>"), ("student", "<|endoftext|>"))
    )
    drawn = SoftLabelsSection(method="sampled", draws=4)
    with pytest.raises(TrainingError, match=r"drawn at random .*turns end with '<.im_end.>' and"):
        labelled(teacher, student, corpus, tmp_path / "drawn", settings=drawn)
    labels, _ = labelled(teacher, student, corpus, tmp_path)
    assert (labels.facts["alignment"], labels.facts["hard_share"]) == ("mapped", 0)


def test_a_student_whose_template_writes_behind_its_end(tmp_path: Path) -> None:
    """Phi-3 has a line end and eos behind <|end|>: they are not learnt, so nothing is hard."""
    teacher, student = speaker("instruct", tmp_path / "teacher"), speaker("phi3", tmp_path / "own")
    corpus = everywhere(tmp_path / "corpus", dialogues(2))
    labels, _ = labelled(teacher, student, corpus, tmp_path)
    assert labels.facts["hard_share"] == 0
    tokenizer = load_tokenizer(student.path)
    for example in encoded(student, corpus):
        said = [tokenizer.decode(example.input_ids[one]) for one in example.stretches]
        assert said == ["great food<|end|>", "great food, awful<|end|>"]
    assert labels.manifest.work.settings["answers end"] == "before eos"


def thoughtful(examples: Sequence[Example]) -> list[Example]:
    """The same with a thought in the last answer."""
    return [
        replace(
            one,
            messages=(
                *one.messages[:-1],
                Message("assistant", f"<think>\nHm.\n</think>\n\n{one.messages[-1].content}"),
            ),
        )
        for one in examples
    ]


@pytest.mark.parametrize(
    ("manner", "examples"),
    [
        *((one, dialogues(2)) for one in MANNERS if one not in ("phi3", "plain", "twice")),
        ("plain", dialogues(1)),
        ("twice", dialogues(1)),
        ("instruct", thoughtful(dialogues(2))),
        ("thinker", thoughtful(dialogues(2))),
        ("base", thoughtful(dialogues(2))),
    ],
)
def test_who_never_learnt_past_an_end_has_the_keys_of_before(
    manner: str, examples: Sequence[Example], tmp_path: Path
) -> None:
    """What is there of them is found again."""
    tokenizer = load_tokenizer(build_speaker(manner, tmp_path / manner))
    assert key_of_ends(tokenizer, everywhere(tmp_path / "corpus", examples)) == {}


@pytest.mark.parametrize(
    ("manner", "examples", "key"),
    [
        ("phi3", dialogues(1), "before eos"),
        ("phi3", thoughtful(dialogues(2)), "before eos"),
        ("plain", dialogues(2), "each by itself"),
        ("twice", dialogues(2), "each by itself"),
        ("base thinker", thoughtful(dialogues(1)), "behind special tokens"),
    ],
)
def test_what_is_learnt_otherwise_than_before_is_other_work(
    manner: str, examples: Sequence[Example], key: str, tmp_path: Path
) -> None:
    """Rows of before are none of what is trained now: such labels would be refused without end."""
    tokenizer = load_tokenizer(build_speaker(manner, tmp_path / manner))
    corpus = everywhere(tmp_path / "corpus", examples)
    assert key_of_ends(tokenizer, corpus) == {"answers end": key}


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("plain", ["great food, awful\n\n<|endoftext|>"]),
        ("twice", ["great food<|endoftext|>", "great food, awful<|endoftext|>"]),
    ],
)
def test_no_answer_is_taught_without_its_end(manner: str, said: list[str], tmp_path: Path) -> None:
    """An eos of the whole conversation is left out only where an answer keeps one of its own."""
    student = speaker(manner, tmp_path / "own")
    tokenizer = load_tokenizer(student.path)
    for example in encoded(student, everywhere(tmp_path / "corpus", dialogues(2))):
        assert [tokenizer.decode(example.input_ids[one]) for one in example.stretches] == said
        assert example.ended_turns == example.turns == len(said)


def test_labels_of_a_teacher_that_ended_its_answers_otherwise_are_made_again(
    tmp_path: Path,
) -> None:
    """Of its conversations the last answer alone had any; of one answer they are as they were."""
    teacher, student = speaker("phi3", tmp_path / "phi3"), speaker("instruct", tmp_path / "own")
    carried = {}
    for answers in (1, 2):
        corpus = everywhere(tmp_path / f"corpus-{answers}", dialogues(answers))
        labels, _ = labelled(teacher, student, corpus, tmp_path / str(answers))
        carried[answers] = LabelReader(labels.path).info.carried
        ends = labels.manifest.work.settings.get("teacher's answers end")
        assert ends == {1: None, 2: "each by itself"}[answers]
    assert carried == {1: "mapped/2", 2: "mapped/2/each by itself"}


def test_a_teacher_that_has_the_last_turn_alone(tmp_path: Path) -> None:
    """DeepSeek-R1 drops past thoughts: the last answer is taught, and the others are told."""
    teacher = speaker("reasoner", tmp_path / "reasoner")
    student = speaker("instruct", tmp_path / "student")
    corpus = everywhere(tmp_path / "corpus", dialogues(3))
    labels, heard = labelled(teacher, student, corpus, tmp_path)
    ours = encoded(student, corpus)
    hard = sum(len(one.targets) - len(one.stretches[-1]) for one in ours)
    share = hard / sum(len(one.targets) for one in ours)
    assert labels.facts["hard_share"] == pytest.approx(share, abs=1e-4)
    for stored, said in last_answers(teacher, student, corpus, labels):
        assert stored == pytest.approx(said, abs=2e-2)
    (warning,) = heard.warnings
    assert warning.startswith(f"{share:.1%} of the tokens")
    assert "32 answers" in warning  # two of each conversation, in two splits


def test_a_student_that_has_the_last_turn_alone(tmp_path: Path) -> None:
    """The other way round: a thought that the teacher never has is hard, the answer is not."""
    teacher = speaker("instruct", tmp_path / "teacher")
    student = speaker("reasoner", tmp_path / "student")
    corpus = everywhere(tmp_path / "corpus", dialogues(3))
    labels, heard = labelled(teacher, student, corpus, tmp_path)
    last = [one.stretches[-1] for one in encoded(teacher, corpus)]
    tokens = sum(len(one.targets) for one in encoded(student, corpus))
    hard = 1 - sum(map(len, last)) / tokens
    assert labels.facts["hard_share"] == pytest.approx(hard, abs=1e-4)
    assert "answers that" not in heard.notes[-1]


def test_a_teacher_that_says_nothing_of_the_answers_is_refused(tmp_path: Path) -> None:
    """Before it is asked, and with nothing in the stores."""
    teacher, student = (
        speaker("shouting", tmp_path / "teacher"),
        speaker("instruct", tmp_path / "own"),
    )
    corpus = everywhere(tmp_path / "corpus", dialogues(1))
    with pytest.raises(TrainingError, match="has a distribution of the teacher's") as caught:
        labelled(teacher, student, corpus, tmp_path)
    assert "kd_weight: 0" in str(caught.value.hint)
    assert not (tmp_path / "stores").exists()
