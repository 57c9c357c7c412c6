"""A teacher that runs beside the student: frozen, without gradient."""

from __future__ import annotations

import torch

from ollama_bridge.alignment.ladder import Rung, Side, align
from ollama_bridge.alignment.roles import role_difference
from ollama_bridge.encoding.batches import Batch
from ollama_bridge.encoding.encode import Tokenizer, ids_digest
from ollama_bridge.errors import TrainingError
from ollama_bridge.models.compute.forward import CausalModel, States, run_decoder
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.compute.products import cast_products
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.pruning.tokens import keep_tokens
from ollama_bridge.models.pruning.vocabulary import Vocabulary
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.train.ranks import Ranks


class LiveTeacher:
    """What a teacher computes on a batch.

    Args:
        model: Moved to where the student computes before it is asked; its weights get no gradient.
    """

    def __init__(self, model: CausalModel) -> None:
        self.model = model.requires_grad_(False).eval()
        self._head = VocabularyHead(model)

    def share_frozen(self, student: CausalModel) -> None:
        """Read the student's embedding and output matrix where they are the same, and not trained.

        A student that was cut from its teacher has them from there; kept once they are, with a
        large vocabulary, a good part of a small teacher's memory.

        Args:
            student: In memory for as long as the teacher.
        """
        for mine, theirs in (
            (self.model.get_input_embeddings(), student.get_input_embeddings()),
            (self.model.get_output_embeddings(), student.get_output_embeddings()),
        ):
            if not theirs.weight.requires_grad and _is_same(mine.weight, theirs.weight):
                mine.weight = theirs.weight

    @torch.no_grad()
    def states(self, batch: Batch, *, all_layers: bool, attentions: bool) -> States:
        """What layers compute; see :func:`~ollama_bridge.models.compute.forward.run_decoder`."""
        return run_decoder(self.model, batch, all_layers=all_layers, attentions=attentions)

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Its logits (n, V) in float32 of some of its last hidden states (n, D)."""
        return self._head.frozen_logits(hidden).float()


def load_live_teacher(
    teacher: Checkpoint,
    tokenizer: Tokenizer,
    precision: Precision,
    *,
    student: CausalModel,
    attentions: bool,
    vocabulary: Vocabulary | None = None,
    reads_own: bool = False,
) -> LiveTeacher:
    """Load a teacher as batches can be given to it.

    Args:
        teacher: The checkpoint.
        tokenizer: The student's.
        precision: Where and in what the student computes.
        student: In memory for as long as the teacher; see :meth:`LiveTeacher.share_frozen`.
        attentions: Whether its attention maps will be asked for.
        vocabulary: The student's, if it was trimmed: the teacher reads and says its ids then.
        reads_own: Its batches are of its own tokens (``teacher_rows``), and not the student's.

    Raises:
        TrainingError: its tokens are others than the student's.
        ModelError: the checkpoint cannot be loaded.
    """
    if not reads_own:
        check_same_tokens(teacher, tokenizer, vocabulary)
    purpose = "holding a teacher beside its student"
    Ranks.current().check_room(teacher.path, precision, purpose=purpose, frozen=True)
    model: CausalModel = load_model(teacher.path)
    if vocabulary is not None and not reads_own:
        model = keep_tokens(model, vocabulary)
    if attentions:
        model.set_attn_implementation("eager")
    # Still on the CPU, as the student is: what both have is found, and half of it moves.
    live = LiveTeacher(model)
    live.share_frozen(student)
    if precision.dtype != torch.float32:
        cast_products(model.base_model, precision.dtype)
        shared = set(student.parameters())
        if model.get_output_embeddings().weight not in shared:
            cast_products(model.get_output_embeddings(), precision.dtype)
        # A file stays mapped, and what was read of it in memory, for as long as one tensor is.
        for parameter in model.parameters():
            if parameter not in shared:
                parameter.data = parameter.data.clone()
    model.to(precision.device)
    return live


def check_same_tokens(
    teacher: Checkpoint, tokenizer: Tokenizer, vocabulary: Vocabulary | None = None
) -> None:
    """Make sure that a teacher reads the student's tokens as they are.

    Raises:
        TrainingError: saying what differs.
    """
    difference = token_difference(teacher, tokenizer, vocabulary)
    if difference is None:
        return
    why = f" ({difference})" if difference else ""
    raise TrainingError(
        f"the teacher in {teacher.path} has another tokenizer or chat template than the "
        f"student: it cannot read the student's tokens{why}",
        hint="start the student from layers of the teacher, or from a checkpoint with the "
        "same tokenizer and chat template, or take losses that need no common ids: --set "
        "distill.teacher=live --set 'distill.losses=[{loss: cross_entropy}, "
        "{loss: hybrid_universal}]', without on_policy and hidden_epochs",
    )


def token_difference(
    teacher: Checkpoint, tokenizer: Tokenizer, vocabulary: Vocabulary | None = None
) -> str | None:
    """What keeps a teacher from reading the student's tokens; None: nothing.

    Args:
        teacher: The checkpoint.
        tokenizer: The student's.
        vocabulary: The student's, if it was trimmed; then the words may be missing.
    """
    own = ids_digest(tokenizer) if vocabulary is None else vocabulary.source_ids_digest
    theirs = load_tokenizer(teacher.path)
    if ids_digest(theirs) == own:
        return role_difference(theirs, tokenizer)
    return "" if vocabulary is not None else _difference(theirs, tokenizer)


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    alike = one.dtype == other.dtype and one.device == other.device and one.shape == other.shape
    return alike and torch.equal(one, other)


def _difference(teacher: Tokenizer, student: Tokenizer) -> str:
    """What two tokenizers disagree on, as the alignment ladder finds it."""
    found = align(Side.of(teacher), Side.of(student), texts=())
    if found.rung <= Rung.PADDED:
        return f"{found.sentence}; the chat templates differ, or how text is split"
    return found.reasons[0]
