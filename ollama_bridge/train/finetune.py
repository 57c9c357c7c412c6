"""Tunes a checkpoint on a task by LoRA; the result is merged and as complete as any other."""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.artifacts import Checkpoint, Corpus, Work
from ollama_bridge.config import TuneSection
from ollama_bridge.models.load import load_model
from ollama_bridge.reporting import NullReporter, Reporter, Timed
from ollama_bridge.train.loop import Phase, train
from ollama_bridge.train.lora import add_lora, merge_lora
from ollama_bridge.train.material import complete_checkpoint, key_settings, load_material
from ollama_bridge.train.objective import Objective
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.validation import Validator

STAGE = "finetune"


def finetune(
    base: Checkpoint,
    corpus: Corpus,
    settings: TuneSection,
    *,
    system: str | None,
    labels: tuple[str, ...] = (),
    out_dir: Path,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Tune a checkpoint on the answers of a corpus by LoRA, and merge.

    Args:
        base: Where to start.
        corpus: Its training split is learnt, its validation split scored after every epoch.
        settings: Optimizer and LoRA.
        system: System prompt of the task, for the reference values.
        labels: Answers of a classification, for the reference values.
        out_dir: Folder of the new checkpoint.
        reporter: Hears of progress.

    Returns:
        A float32 checkpoint: weights, tokenizer, ``reference.json`` and ``training.json``.

    Raises:
        DataError: the corpus has no usable example.
        TrainingError: training cannot start or went wrong.
        ModelError: the checkpoint cannot be loaded.
    """
    ranks = Ranks.current()
    reporter = ranks.reporter(reporter or NullReporter())
    effective = key_settings(settings)
    work = Work(
        kind=Checkpoint.kind,
        stage=STAGE,
        version=2,
        inputs={"base": base.digest, "corpus": corpus.digest},
        settings={**effective, "system": system, "labels": list(labels)},
        seed=settings.seed,
    )
    with Timed(reporter, STAGE) as timer, ranks.open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        precision = ranks.pinned_precision(draft.path / "resume-precision.json", settings.dtype)
        material = load_material(
            base.path,
            corpus,
            settings,
            stage=STAGE,
            reporter=reporter,
            max_examples=settings.max_examples,
        )
        model = load_model(base.path)
        adapted = add_lora(model, settings.lora, seed=settings.seed)
        result = train(
            model,
            [Phase("answers", settings.epochs, settings.lr, Objective(model))],
            material.training,
            settings,
            stage=STAGE,
            precision=precision,
            state_dir=draft.path,
            reporter=reporter,
            validate=Validator(model, material.validation, precision=precision),
        )
        checkpoint = complete_checkpoint(
            draft,
            merge_lora(adapted),
            material.tokenizer,
            result,
            settings={**effective, "dtype": precision.dtype_name, "threads": precision.threads},
            facts={**material.facts, "dtype": precision.dtype_name},
            system=system,
            labels=labels,
            reporter=reporter,
        )
        timer.finish(out_dir, checkpoint.facts)
        return checkpoint
