"""What a live teacher of another tokenizer or chat template reads: its own tokens of each row.

Its predictions stand where the text of an answer says that they do (``alignment.positions``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ollama_bridge.alignment.classes import common_classes
from ollama_bridge.alignment.ladder import Rung, Side, align
from ollama_bridge.alignment.positions import HOLE, match_positions
from ollama_bridge.alignment.vocabulary import Vocabulary
from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.encoding.encode import EncodedExample, Tokenizer, encode_split
from ollama_bridge.encoding.spread import spread_out
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.config import DistillSection
from ollama_bridge.recipe.losses import CrossEntropyLoss, HybridUniversalLoss, UniversalLoss
from ollama_bridge.reporting import Note, NullReporter, Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.train.live_teacher import token_difference
from ollama_bridge.train.losses.hybrid import MatchedTokens

_PROBED_EXAMPLES = 200  # to find out what two vocabularies have in common
_ACROSS = (HybridUniversalLoss, UniversalLoss)  # what compares other tokens
_MANY_HARD = 0.3  # with more the student is rather trained than taught


class TeacherRows:
    """Some rows as the teacher reads them, beside the same rows as the student does.

    Args:
        theirs: The rows, for the teacher.
        ours: The same rows, for the student.
        teacher: The teacher's vocabulary.
        student: The student's.
        tokens: Those of both by the classes that they have in common.
        pad_id: Fills up the teacher's batches.
    """

    def __init__(
        self,
        theirs: Sequence[EncodedExample],
        ours: Sequence[EncodedExample],
        *,
        teacher: Vocabulary,
        student: Vocabulary,
        tokens: MatchedTokens,
        pad_id: int,
    ) -> None:
        self.tokens = tokens
        self._batches = Batches(theirs, batch_tokens=sys.maxsize, pad_id=pad_id)
        self._places = [
            match_positions(*pair, teacher_vocabulary=teacher, student_vocabulary=student).teacher
            for pair in zip(theirs, ours, strict=True)
        ]

    @property
    def positions(self) -> int:
        """Of the student, those that predict a token to be learnt."""
        return sum(map(len, self._places))

    @property
    def matched(self) -> int:
        """Of these, how many have a prediction of the teacher's at the same byte."""
        return sum(int((places != HOLE).sum()) for places in self._places)

    def batch(self, ours: Batch) -> Batch:
        """The same examples in the teacher's tokens, on the same device."""
        return self._batches.collate(ours.members).to(ours.targets.device)

    def places(self, ours: Batch) -> torch.Tensor:
        """(S,) int64: for each supervised position of a batch the teacher's.

        Counted over those of :meth:`batch`; ``HOLE`` where there is none.
        """
        found, first = [], 0
        for member in ours.members:
            places = self._places[member]
            found.append(np.where(places == HOLE, HOLE, places + first))
            first += len(self._batches.examples[member].targets)
        return torch.from_numpy(np.concatenate(found)).to(ours.targets.device)


def reads_own_tokens(teacher: Checkpoint, start: Checkpoint, settings: DistillSection) -> bool:
    """Whether a live teacher reads its own tokens, since the student's are others.

    Args:
        teacher: The checkpoint.
        start: The student's, with its tokens before they are trimmed.
        settings: Losses, all of which have to do without common ids: hard labels, and those of two
            vocabularies. Without hard labels nothing would be learnt where no text is matched, and
            sorted probabilities do not say which token is meant.

    Raises:
        TrainingError: its tokens are the student's, and a loss is for others.
    """
    terms = settings.loss_terms
    can = (
        settings.teacher == "live"
        and settings.on_policy is None
        and settings.hidden_epochs == 0
        and any(isinstance(term, CrossEntropyLoss) for term in terms)
        and all(isinstance(term, (CrossEntropyLoss, *_ACROSS)) for term in terms)
    )
    is_for_others = any(isinstance(term, HybridUniversalLoss) for term in terms)
    if not (can or is_for_others):
        return False
    is_other = token_difference(teacher, load_tokenizer(start.path)) is not None
    if is_for_others and not is_other:
        raise TrainingError(
            f"the teacher in {teacher.path} has the student's tokenizer and chat template: "
            "hybrid_universal is for others, of one vocabulary it would be kl_forward",
            hint="--set 'distill.losses=[{loss: cross_entropy}, {loss: kl_forward}]', with the "
            "weights of yours",
        )
    return can and is_other


def read_teacher_rows(
    teacher: Checkpoint,
    tokenizer: Tokenizer,
    splits: Mapping[str, tuple[Sequence[Example], Sequence[EncodedExample]]],
    *,
    stage: str,
    reporter: Reporter,
) -> dict[str, TeacherRows]:
    """Read the rows of a corpus for a teacher, and say how many of its predictions have a place.

    Args:
        teacher: Its tokenizer and chat template are used.
        tokenizer: The student's.
        splits: By name, all examples of each, and those that are learnt as the student reads them;
            ``train`` among them.
        stage: For events.
        reporter: Hears which rung of the ladder was taken, and of hard labels.

    Raises:
        TrainingError: the two have too little in common, or no position of the training split is
            matched.
        ModelError: a tokenizer cannot be read.
    """
    own = load_tokenizer(teacher.path)
    theirs, ours = Side.of(own), Side.of(tokenizer)
    found = align(theirs, ours, _answers(*splits["train"]))
    if found.rung is Rung.SEQUENCE:
        raise TrainingError(
            f"{found.sentence} ({'; '.join(found.reasons)})",
            hint="--set distill.teacher=stored --set 'distill.losses=[]' --set "
            "distill.kd_weight=0, with answers that the teacher wrote (teacher.answers: daemon)",
        )
    classes = common_classes(theirs, ours, found)
    tokens = MatchedTokens.of(torch.from_numpy(classes.student), torch.from_numpy(classes.teacher))
    rows = {}
    for name, (examples, learnt) in splits.items():
        answered = [examples[one.row] for one in learnt]
        read = encode_split(answered, own, max_length=sys.maxsize, name=name)
        rows[name] = TeacherRows(
            read.examples,
            learnt,
            teacher=theirs.vocabulary,
            student=ours.vocabulary,
            tokens=tokens,
            pad_id=own.pad_token_id or 0,
        )
    train = rows["train"]
    if not train.matched:
        raise TrainingError(
            f"none of the {train.positions} tokens to be learnt has a distribution of the "
            "teacher's: its chat template does not write the answers as the student's does",
            hint="give both chat templates that leave answers as they are, or learn from the "
            "corpus alone: --set distill.teacher=stored --set 'distill.losses=[]' --set "
            "distill.kd_weight=0",
        )
    share = train.matched / train.positions
    message = (
        f"{found.sentence}; the teacher reads its own tokens and chat template, and both "
        f"distributions are compared at {share:.1%} of the tokens to be learnt, the others have "
        "hard labels only"
    )
    reporter.emit(Note(stage, "info" if 1 - share <= _MANY_HARD else "warning", message))
    return rows


def check_teacher_rows(
    teacher: Checkpoint, start: Checkpoint, corpus: Corpus, settings: DistillSection
) -> None:
    """Make sure that a live teacher of other tokens can teach, where it is to: before training.

    Args:
        teacher: The checkpoint.
        start: The student's.
        corpus: Some of its training examples are looked at.
        settings: Losses, and the length of what is learnt.

    Raises:
        TrainingError: the two have too little in common, or a chat template cannot be used.
        ModelError: a tokenizer cannot be read.
    """
    if not reads_own_tokens(teacher, start, settings):
        return
    examples = [one for one in read_examples(corpus.split_path("train")) if one.is_answered]
    examples = examples[:: 1 + len(examples) // _PROBED_EXAMPLES]
    if not examples:
        return
    tokenizer = load_tokenizer(start.path)
    encoded = encode_split(examples, tokenizer, max_length=sys.maxsize, name="train").examples
    # Where none of these is short enough, others of the split may be.
    if fitting := [one for one in encoded if len(one.input_ids) <= settings.max_length]:
        splits = {"train": (examples, fitting)}
        read_teacher_rows(teacher, tokenizer, splits, stage="distill", reporter=NullReporter())


def _answers(examples: Sequence[Example], learnt: Sequence[EncodedExample]) -> list[str]:
    """Some answers, of all labels."""
    probed = spread_out(learnt)[:_PROBED_EXAMPLES]
    return [
        message.text
        for row in sorted(one.row for one in probed)
        for message in examples[row].messages
        if message.role == "assistant"
    ]
