"""Tunes a checkpoint on a task; adapters are merged, so the result is as complete as any other."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ollama_bridge.artifacts import Checkpoint, Corpus, Work
from ollama_bridge.batches import Batches
from ollama_bridge.config import TuneSection
from ollama_bridge.models.forward import CausalModel
from ollama_bridge.models.load import load_model
from ollama_bridge.models.memory import memory_is_enough
from ollama_bridge.models.precision import Precision
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.train.adapted_products import one_function_each
from ollama_bridge.train.fit import LESS_MEMORY
from ollama_bridge.train.frozen_products import cast_beside_adapters
from ollama_bridge.train.loop import train
from ollama_bridge.train.lora import Adapted, add_lora, merge_lora, onto
from ollama_bridge.train.material import complete_checkpoint, key_settings, load_material
from ollama_bridge.train.objective import Objective
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.qlora import load_quantized
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.validation import Validator, probe_logits

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
    """Tune a checkpoint on the answers of a corpus, by adapters that are merged or as a whole.

    Args:
        base: Where to start.
        corpus: Its training split is learnt, its validation split scored after every epoch.
        settings: Optimizer, and what is trained.
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
        ConfigError: ``qlora`` cannot be done here.
    """
    ranks = Ranks.current()
    reporter = ranks.reporter(reporter or NullReporter())
    values = key_settings(settings)
    values = {name: value for name, value in values.items() if name not in ("method", "lora")}
    effective = {**values, **settings.trained()}
    work = Work(
        kind=Checkpoint.kind,
        stage=STAGE,
        version=3,
        inputs={"base": base.digest, "corpus": corpus.digest},
        settings={**effective, "system": system, "labels": list(labels)},
        seed=settings.seed,
    )
    with (
        Timed(reporter, STAGE) as timer,
        ranks.open_draft(out_dir, work) as draft,
        memory_is_enough(LESS_MEMORY),
    ):
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
        model: CausalModel
        if settings.method == "qlora":
            model = load_quantized(base.path, precision)
        else:
            model = load_model(base.path)
        adapted = None
        if settings.method != "full":
            adapted = add_lora(model, settings.lora, seed=settings.seed)
        with _fewer_casts(model, base, settings, precision), one_function_each(model):
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
        facts: dict[str, object] = {**material.facts, "dtype": precision.dtype_name}
        if adapted is not None:
            model, gap = _merged(model, adapted, base, settings, material.validation)
            facts |= gap
            message = (
                "merged, the logits differ from the adapter's by at most "
                f"{gap['merge_max_logit_difference']:.2g}"
            )
            reporter.emit(Note(STAGE, "info", message))
        checkpoint = complete_checkpoint(
            draft,
            model,
            material.tokenizer,
            result,
            settings={**effective, "dtype": precision.dtype_name, "threads": precision.threads},
            facts=facts,
            start=base,
            corpus=corpus,
            system=system,
            labels=labels,
            reporter=reporter,
        )
        timer.finish(out_dir, checkpoint.facts)
        return checkpoint


def _fewer_casts(
    model: CausalModel, base: Checkpoint, settings: TuneSection, precision: Precision
) -> contextlib.AbstractContextManager[None]:
    """Weights beside adapters are cast once, not in every call; same results.

    DoRA reads the lengths of the weights beside it, and PiSSA has changed them: both keep them.
    """
    if settings.method == "lora" and settings.lora.variant in ("lora", "rslora"):
        return cast_beside_adapters(model, precision.dtype, base.path)
    return contextlib.nullcontext()


def _merged(
    model: CausalModel, adapted: Adapted, base: Checkpoint, settings: TuneSection, probes: Batches
) -> tuple[CausalModel, dict[str, float]]:
    """The model with its adapter merged into weights that are not quantized, and the difference."""
    before = probe_logits(model, probes)
    if settings.method == "qlora":
        device = model.device
        adapted = onto(adapted, load_model(base.path))
        model = merge_lora(adapted).to(device)
    else:
        model = merge_lora(adapted)
    difference = (probe_logits(model, probes) - before).abs()
    return model, {
        "merge_max_logit_difference": float(difference.max()),
        "merge_mean_logit_difference": float(difference.mean()),
    }
