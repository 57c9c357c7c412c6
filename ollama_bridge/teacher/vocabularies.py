"""Whether a local teacher can label for a student whose vocabulary is another, and how well."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from ollama_bridge.alignment import Side
from ollama_bridge.alignment.roles import role_difference
from ollama_bridge.encoding.encode import (
    EncodedExample,
    Tokenizer,
    encode_split,
    ids_digest,
    tokenizer_digest,
)
from ollama_bridge.encoding.spread import spread_out
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import read_examples
from ollama_bridge.models.architectures.config import integer
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.safety import check_folder
from ollama_bridge.recipe.config import SoftLabelsSection
from ollama_bridge.reporting import Note, NullReporter, Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.teacher.carried import Carried
from ollama_bridge.teacher.splits import CorpusSplit

STAGE = "label"

_PROBED_EXAMPLES = 200  # to find out what two vocabularies have in common
_MANY_HARD = 0.3  # with more the student is rather trained than taught


def check_can_label(
    teacher: Checkpoint,
    student: Checkpoint,
    corpus: Corpus,
    settings: SoftLabelsSection,
    *,
    max_length: int,
    answers_given: bool,
) -> None:
    """Make sure that a teacher's distributions can be the student's labels.

    Tokenizers and answers decide it, so it is known before anything is trained, and without the
    answers something of it before they are written.

    Args:
        student: Whose tokens the labels are about.
        corpus: Some of its training examples are looked at.
        max_length: Tokens; longer examples are left out, as in training.
        answers_given: Whether the student learns the corpus' answers, where it has any.

    Raises:
        TrainingError: the vocabularies have too little in common, or a chat template cannot be
            used.
        ModelError: a tokenizer cannot be read.
    """
    if not is_carried(teacher, student, settings):
        return
    examples = list(read_examples(corpus.split_path("train"))) if answers_given else []
    examples = [example for example in examples if example.is_answered]
    examples = examples[:: 1 + len(examples) // _PROBED_EXAMPLES]
    if examples:
        theirs, ours = (
            encode_split(examples, load_tokenizer(one.path), max_length=sys.maxsize, name="train")
            for one in (teacher, student)
        )
        # Where none of these is short enough, others of the split may be.
        fitting = tuple(one for one in ours.examples if len(one.input_ids) <= max_length)
        examples = examples if fitting else []
    if not examples:
        for one in (teacher, student):
            _side(one)
        return
    looked_at = CorpusSplit(examples, replace(ours, examples=fitting))
    carried = carry(teacher, student, looked_at, settings, NullReporter())
    carried.hard_share([(theirs.examples[one.row], one) for one in fitting])


def vocab_size_of(checkpoint: Checkpoint) -> int:
    """Rows of its output matrix."""
    return integer(check_folder(checkpoint.path), "vocab_size")


def is_carried(teacher: Checkpoint, student: Checkpoint, settings: SoftLabelsSection) -> bool:
    """Whether labels have to be brought from the teacher's vocabulary into the student's.

    Where only rows without a token are more or less, or eos is another that no template writes,
    what is drawn has the same ids.
    """
    if settings.method == "sampled" and _agree(teacher, student, ids_digest):
        return False
    return not same_tokens(teacher, student)


def same_tokens(teacher: Checkpoint, student: Checkpoint) -> bool:
    """Whether rows, ids, their number, eos, and what templates write by a name are the same."""
    same = _agree(teacher, student, tokenizer_digest)
    return same and vocab_size_of(teacher) == vocab_size_of(student)


def _agree(teacher: Checkpoint, student: Checkpoint, digest_of: Callable[[Tokenizer], str]) -> bool:
    if teacher.digest == student.digest:
        return True
    theirs, ours = (load_tokenizer(one.path) for one in (teacher, student))
    return digest_of(theirs) == digest_of(ours) and role_difference(theirs, ours) is None


def _side(checkpoint: Checkpoint) -> Side:
    return Side.of(load_tokenizer(checkpoint.path), width=vocab_size_of(checkpoint))


def carry(
    teacher: Checkpoint,
    student: Checkpoint,
    split: CorpusSplit,
    settings: SoftLabelsSection,
    reporter: Reporter,
) -> Carried:
    """What brings the teacher's distributions into the student's vocabulary.

    Some answers of the split, of all labels, decide how much the two have in common.
    """
    if settings.method != "top_k":
        theirs, ours = (load_tokenizer(one.path) for one in (teacher, student))
        why = role_difference(theirs, ours) if ids_digest(theirs) == ids_digest(ours) else None
        raise TrainingError(
            "labels that are drawn at random cannot be carried to a student of another tokenizer "
            "or chat template" + ("" if why is None else f" ({why})"),
            hint="set soft_labels.method to top_k",
        )
    probed = spread_out(split.encoded.examples)[:_PROBED_EXAMPLES]
    shown = [split.examples[row] for row in sorted(one.row for one in probed)]
    texts = [
        message.text
        for example in shown
        for message in example.messages
        if message.role == "assistant"
    ]
    carried = Carried(_side(teacher), _side(student), texts, top_k=settings.top_k)
    reporter.emit(Note(STAGE, "info", carried.alignment.sentence))
    return carried


def tell_hard_share(
    carried: Carried,
    pairs: Sequence[tuple[EncodedExample, EncodedExample]],
    reporter: Reporter,
) -> float:
    """Tell how much is learnt of the teacher, before it is asked.

    Returns:
        The share of tokens with hard labels alone, for the manifest.

    Raises:
        TrainingError: it is all of them.
    """
    share = carried.hard_share(pairs)
    message = f"{share:.1%} of the tokens to be learnt have hard labels only"
    left_out = sum(max(0, ours.turns - theirs.turns) for theirs, ours in pairs)
    if left_out:
        message += (
            f", among them {left_out} answers for which the teacher's chat template gives no "
            "labels: it leaves only the last answer of a conversation to learn"
        )
    reporter.emit(Note(STAGE, "info" if share <= _MANY_HARD else "warning", message))
    return round(share, 4)
