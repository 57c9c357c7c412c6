"""What fine-tuning and distillation have in common before and after the loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import EncodedSplit, Tokenizer, encode_split
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.memory import to_cpu
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import load_tokenizer, save_checkpoint
from ollama_bridge.models.pruning.vocabulary import Vocabulary
from ollama_bridge.models.reference.values import write_reference_values
from ollama_bridge.models.safety import read_config
from ollama_bridge.models.sources.origin import origin_facts
from ollama_bridge.recipe.config import OptimizerSection
from ollama_bridge.reference import NOISE_TYPES
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, Manifest
from ollama_bridge.storage.drafts import Draft
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.result import TrainingResult

# When work is saved does not change what comes out of it; how a batch is computed changes rounding
# alone, and a run that was out of memory has to go on with less.
_NOT_IN_KEY = frozenset(
    {"checkpoint_interval_s", "shard_layers", "micro_batch_tokens", "activation_checkpointing"}
)
# Off unless a recipe sets them; left out of the key then, so that work done before they existed is
# found again.
_OFF_BY_DEFAULT = ("early_stopping", "min_steps")
# Of fewer steps a student has hardly begun to learn (training/LOG.md).
_FEW_STEPS = 100
# By stage, where they are not called alike: whose limits a note names.
_SECTIONS = {"finetune": "teacher.tune", "control": "distill"}


@dataclass(frozen=True)
class Material:
    """Tokenizer and batches.

    Attributes:
        tokenizer: The starting checkpoint's, or what was left of it.
        training: Batches of the training split.
        validation: Batches of the validation split.
        facts: Counts for the manifest.
        epochs: Passes over the training split: the recipe's, or more (``min_steps``).
        vocabulary: What the tokens were called before they became fewer; None: all are there.
    """

    tokenizer: Tokenizer
    training: Batches
    validation: Batches
    facts: Mapping[str, float]
    epochs: float
    vocabulary: Vocabulary | None = None


def key_settings(settings: OptimizerSection) -> dict[str, Any]:
    """What of the settings decides the result."""
    values = settings.model_dump(mode="json", exclude=set(_NOT_IN_KEY))
    early = settings.early_stopping
    if early is not None and early.metric != "ce" and settings.dtype != "float32":
        values["likeliest"] = "of float32 logits"  # before: of rounded ones
    return {
        name: value
        for name, value in values.items()
        if value is not None or name not in _OFF_BY_DEFAULT
    }


def load_material(
    folder: Path,
    corpus: Corpus,
    settings: OptimizerSection,
    *,
    stage: str,
    reporter: Reporter,
    max_examples: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> Material:
    """Encode a corpus for a checkpoint.

    Args:
        folder: Of the checkpoint; its tokenizer and chat template are used.
        corpus: Training and validation split are read.
        settings: Limits of lengths and batches; the seed of the choice below.
        stage: For events.
        reporter: Is told what is left out, and how often a small file is repeated.
        max_examples: Choose at most this many training examples, by the seed.
        vocabulary: Trimmed from the checkpoint's; None: all of it.

    Raises:
        DataError: a split has no usable example.
        TrainingError: the chat template cannot be used for training.
        ModelError: the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(folder) if vocabulary is None else vocabulary.tokenizer
    splits: dict[str, EncodedSplit] = {}
    facts: dict[str, float] = {}
    section = _SECTIONS.get(stage, stage)
    room = read_config(folder).get("max_position_embeddings") or sys.maxsize
    for name in ("train", "validation"):
        examples = list(read_examples(corpus.split_path(name)))
        split = encode_split(examples, tokenizer, max_length=settings.max_length, name=name)
        for message in _left_out(split, name, section, limit=settings.max_length, room=room):
            reporter.emit(Note(stage, "warning", message))
        if name == "train" and max_examples is not None and max_examples < len(split.examples):
            message = (
                f"{max_examples} of {len(split.examples)} examples are used: "
                f"--set {section}.max_examples=null takes them all"
            )
            reporter.emit(Note(stage, "info", message))
            split = _choose(split, max_examples, seed=settings.seed)
        if name == "train":
            _tell_unlearnt(split, examples, stage=stage, reporter=reporter)
        splits[name] = split
        facts[f"{name}_examples"] = len(split.examples)
        facts[f"{name}_too_long"] = split.too_long
    train = splits["train"]
    facts["train_tokens"] = train.tokens
    facts["train_supervised_tokens"] = train.supervised_tokens
    share = train.supervised_tokens / train.tokens
    message = f"{len(train.examples)} examples, {share:.1%} of their tokens are supervised"
    reporter.emit(Note(stage, "info", message))
    batches = {
        name: Batches(
            split.examples,
            batch_tokens=settings.batch_tokens,
            pad_id=tokenizer.pad_token_id or 0,
        )
        for name, split in splits.items()
    }
    epochs = settings.epochs
    if max_examples is None or facts["train_examples"] < max_examples:  # else it is meant so
        epochs = settings.passes(len(batches["train"]))
        _tell_steps(len(batches["train"]), epochs, settings, section, stage, reporter)
    if epochs != settings.epochs:
        facts["epochs"] = epochs
    return Material(tokenizer, batches["train"], batches["validation"], facts, epochs, vocabulary)


def complete_checkpoint(
    draft: Draft,
    model: CausalModel,
    material: Material,
    result: TrainingResult,
    *,
    precision: Precision,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    start: Checkpoint,
    corpus: Corpus,
    system: str | None,
    labels: tuple[str, ...],
    noise_types: Sequence[str] = NOISE_TYPES,
    reporter: Reporter,
) -> Checkpoint:
    """Write a trained model, its log and its reference values, and commit.

    Of several processes the first one does, and the others wait. What the model began as and was
    trained on is kept in its facts.

    Raises:
        DiskFullError: no room; the training state is kept.
    """
    ranks = Ranks.current()
    manifest: Manifest | None = None
    if ranks.first:
        to_cpu(model)
        save_checkpoint(model.eval(), material.tokenizer, draft.path)
        values = write_reference_values(
            draft.path,
            system=system,
            labels=labels,
            noise_types=noise_types,
            model=model,
            reporter=reporter,
        )
        computed = {"dtype": precision.dtype_name, "threads": precision.threads}
        result.write(draft.path, {**settings, "epochs": material.epochs, **computed})
        scores = {f"validation_{name}": score for name, score in result.validation.items()}
        own = {**material.facts, "dtype": precision.dtype_name, **facts}
        origin = origin_facts(start, corpus)
        manifest = draft.commit({**own, **scores, **result.facts, **origin, **values})
    manifest = ranks.agree(manifest)
    assert manifest is not None
    return Checkpoint(draft.out_dir, manifest)


def _left_out(
    split: EncodedSplit, name: str, section: str, *, limit: int, room: int
) -> Iterator[str]:
    """What of a split is not learnt, or longer than the model was made for, for people.

    Args:
        split: As it was encoded.
        name: Its own.
        section: Of the recipe, whose ``max_length`` it is.
        limit: ``max_length``.
        room: Tokens of the model's context.
    """
    if split.unanswered:
        yield f"{split.unanswered} {name} examples have no answer and were left out"
    if split.too_long:
        message = (
            f"{split.too_long} {name} examples are longer than {limit} tokens and were left out"
        )
        if room > limit:
            kept = "all" if split.longest <= room else "all that fit the model's context"
            longest = min(split.longest, room)
            message += f": --set {section}.max_length={longest} keeps them {kept}"
        yield message
    if beyond := sum(len(one.input_ids) > room for one in split.examples):
        yield (
            f"{beyond} {name} examples are longer than the model's context of {room} tokens: "
            f"--set {section}.max_length={room} leaves them out"
        )


def _tell_unlearnt(
    split: EncodedSplit, examples: Sequence[Example], *, stage: str, reporter: Reporter
) -> None:
    """Of a template that renders past answers otherwise, only the last ones are learnt."""
    given, learnt = set(), set()
    for encoded in split.examples:
        turns = examples[encoded.row].messages
        ends = [place for place, turn in enumerate(turns, start=1) if turn.role == "assistant"]
        given |= {turns[:end] for end in ends}
        learnt |= {turns[:end] for end in ends[-encoded.turns :]}
    if learnt != given:
        message = (
            f"{len(given - learnt)} of {len(given)} answers are not learnt: the chat template "
            "renders all but the last of a conversation differently from what a model writes "
            "(without their thoughts or ends); for conversations of a file of yours prepare or "
            "build with --set data.each_answer=true teaches them"
        )
        reporter.emit(Note(stage, "warning", message))


def _tell_steps(
    an_epoch: int,
    epochs: float,
    settings: OptimizerSection,
    section: str,
    stage: str,
    reporter: Reporter,
) -> None:
    """Of a small file a recipe's epochs may be over before anything is learnt."""
    steps = max(1, round(epochs * an_epoch))
    if epochs != settings.epochs:
        message = (
            f"{epochs:g} epochs in place of {settings.epochs:g}, for an epoch has {an_epoch} "
            f"steps (min_steps {settings.min_steps}): --set {section}.min_steps=null takes as few "
            "as they are"
        )
        reporter.emit(Note(stage, "info", message))
    elif steps < _FEW_STEPS and settings.min_steps is None:
        more = math.ceil(_FEW_STEPS / an_epoch)
        message = f"{steps} steps are few: --set {section}.epochs={more} makes {more * an_epoch}"
        reporter.emit(Note(stage, "warning", message))


def _choose(split: EncodedSplit, count: int, *, seed: int) -> EncodedSplit:
    chosen = np.random.default_rng(seed).permutation(len(split.examples))[:count]
    examples = tuple(split.examples[number] for number in sorted(chosen.tolist()))
    return replace(split, examples=examples)
