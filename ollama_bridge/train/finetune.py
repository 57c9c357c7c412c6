"""Tunes a checkpoint on a task; adapters are merged, so the result is as complete as any other."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ollama_bridge.encoding.row_keys import key_of_rows
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.memory import memory_is_enough
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import TuneSection
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import MANIFEST_NAME, Checkpoint, Corpus, Work
from ollama_bridge.train.frozen_products import cast_beside_adapters
from ollama_bridge.train.loop import train
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.material import (
    Material,
    complete_checkpoint,
    key_settings,
    load_material,
)
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.plan import less_memory
from ollama_bridge.train.qlora import check_backend, load_quantized
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.result import TrainingResult
from ollama_bridge.train.stopping import (
    answers_of_task,
    key_of_last_answers,
    score_of_task,
)
from ollama_bridge.train.validation import Validator, probe_logits

if TYPE_CHECKING:
    # Loaded where adapters are made: PEFT brings all of transformers' modelling, seconds that
    # nobody has to wait who finds the work done.
    from ollama_bridge.train.lora import Adapter

STAGE = "finetune"

# Why all of a base is held in the end; the adapter of qlora is trained beside less.
_WHOLE = {
    "lora": "training a model",
    "full": "training a model",
    "qlora": "merging what qlora trains",
}


def finetune(
    base: Checkpoint,
    corpus: Corpus,
    settings: TuneSection,
    *,
    system: str | None,
    labels: tuple[str, ...] = (),
    out_dir: str | Path,
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
        ModelError: the checkpoint cannot be loaded, or does not fit into memory.
        ConfigError: ``qlora`` cannot be done here.
    """
    out_dir = Path(out_dir)
    ranks = Ranks.current()
    reporter = ranks.reporter(reporter or NullReporter())
    work = _work(base, corpus, settings, system=system, labels=labels)
    with (
        Timed(reporter, STAGE) as timer,
        ranks.open_draft(out_dir, work, reporter) as draft,
        memory_is_enough(less_memory(settings)),
    ):
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        if settings.method == "qlora":
            check_backend()
        precision = ranks.pinned_precision(draft.path / "resume-precision.json", settings.dtype)
        material = load_material(
            base.path,
            corpus,
            settings,
            stage=STAGE,
            reporter=reporter,
            max_examples=settings.max_examples,
        )
        ranks.check_room(
            base.path,
            precision,
            purpose=_WHOLE[settings.method],
            all_take_back=settings.method != "full" or settings.shard_layers,
        )
        run = _Run(base, material, settings, labels, precision, draft.path, reporter)
        model, result, gap = run.tuned()
        checkpoint = complete_checkpoint(
            draft,
            model,
            material,
            result,
            precision=precision,
            settings=_effective(settings),
            facts=gap,
            start=base,
            corpus=corpus,
            system=system,
            labels=labels,
            reporter=reporter,
        )
        timer.finish(out_dir, checkpoint.facts)
        return checkpoint


def _work(
    base: Checkpoint,
    corpus: Corpus,
    settings: TuneSection,
    *,
    system: str | None,
    labels: tuple[str, ...],
) -> Work:
    """What decides the tuned checkpoint."""
    return Work(
        kind=Checkpoint.kind,
        stage=STAGE,
        version=3,
        inputs={"base": base.digest, "corpus": corpus.digest},
        settings={
            **_effective(settings),
            "system": system,
            "labels": list(labels),
            **key_of_rows(load_tokenizer(base.path), corpus),
            **key_of_last_answers(settings, corpus, labels),
        },
        seed=settings.seed,
    )


def _effective(settings: TuneSection) -> dict[str, Any]:
    """The settings that decide the result."""
    values = key_settings(settings)
    values = {name: value for name, value in values.items() if name not in ("method", "lora")}
    return {**values, **settings.trained()}


def check_tuning(settings: TuneSection | None, out_dir: Path) -> None:
    """Make sure that a model can be tuned so, unless it is already: elsewhere, perhaps.

    Raises:
        ConfigError: ``qlora`` cannot be done here.
    """
    if settings is None or settings.method != "qlora":
        return
    if not (out_dir / MANIFEST_NAME).exists():
        check_backend()


@dataclass(frozen=True)
class _Run:
    """One base, tuned in one of the ways."""

    base: Checkpoint
    material: Material
    settings: TuneSection
    labels: tuple[str, ...]
    precision: Precision
    state_dir: Path
    reporter: Reporter

    def tuned(self) -> tuple[CausalModel, TrainingResult, dict[str, float]]:
        """The model in float32, what the loop has to say, and what merging an adapter changed."""
        from ollama_bridge.train.lora import add_lora, merge_lora

        if self.settings.method == "qlora":
            adapter, result, before = self._beside_four_bits()
            # On the CPU: it may be too large for the device that the quantized one was on.
            model = merge_lora(adapter.onto(load_model(self.base.path)))
            return model, result, self._gap(model, before)
        model = load_model(self.base.path)
        if self.settings.method == "full":
            return model, self._train(model), {}
        adapted = add_lora(model, self.settings.lora, seed=self.settings.seed)
        result = self._train(model)
        before = probe_logits(model, self.material.validation)
        model = merge_lora(adapted)
        return model, result, self._gap(model, before)

    def _beside_four_bits(self) -> tuple[Adapter, TrainingResult, torch.Tensor]:
        """An adapter, and the logits with it; the quantized model is let go of."""
        from ollama_bridge.train.lora import Adapter, add_lora

        model = load_quantized(self.base.path, self.precision)
        adapted = add_lora(model, self.settings.lora, seed=self.settings.seed)
        result = self._train(model)
        return Adapter.of(adapted), result, probe_logits(model, self.material.validation)

    def _train(self, model: CausalModel) -> TrainingResult:
        from ollama_bridge.train.adapted_products import one_function_each

        settings, validation = self.settings, self.material.validation
        with self._fewer_casts(model), one_function_each(model):
            return train(
                model,
                [
                    Phase(
                        "answers",
                        self.material.epochs,
                        settings.lr,
                        Objective(model),
                        asked_epochs=settings.epochs,
                    )
                ],
                self.material.training,
                settings,
                stage=STAGE,
                precision=self.precision,
                state_dir=self.state_dir,
                reporter=self.reporter,
                validate=Validator(
                    model,
                    validation,
                    precision=self.precision,
                    answers=answers_of_task(validation.examples, self.labels),
                ),
                score=score_of_task(validation.examples, self.labels),
            )

    def _fewer_casts(self, model: CausalModel) -> contextlib.AbstractContextManager[None]:
        """Weights beside adapters are cast once, not in every call; same results.

        DoRA reads the lengths of the weights beside it, and PiSSA has changed them: both keep them.
        """
        settings = self.settings
        if settings.method == "lora" and settings.lora.variant in ("lora", "rslora"):
            return cast_beside_adapters(model, self.precision.dtype, self.base.path)
        return contextlib.nullcontext()

    def _gap(self, merged: CausalModel, before: torch.Tensor) -> dict[str, float]:
        """How far the merged model's logits are from those of the model with its adapter."""
        difference = (probe_logits(merged, self.material.validation) - before).abs()
        gap = float(difference.max())
        message = f"merged, the logits differ from the adapter's by at most {gap:.2g}"
        self.reporter.emit(Note(STAGE, "info", message))
        return {
            "merge_max_logit_difference": gap,
            "merge_mean_logit_difference": float(difference.mean()),
        }
