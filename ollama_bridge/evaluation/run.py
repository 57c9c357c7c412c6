"""The stage ``evaluate``: models scored in torch on the same held-out texts, side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ollama_bridge.answer_text import without_thought
from ollama_bridge.digests import digest_text
from ollama_bridge.encoding.end_keys import key_of_ends
from ollama_bridge.encoding.row_dates import key_of_dates
from ollama_bridge.errors import ConfigError, ModelError
from ollama_bridge.evaluation.alike import tell_of_labels, tell_of_replies
from ollama_bridge.evaluation.calls import CallReader, each_answer, whole_conversations
from ollama_bridge.evaluation.classify import score_labels
from ollama_bridge.evaluation.held_out import (
    held_out_examples,
    teaches_thoughts,
    write_predictions,
)
from ollama_bridge.evaluation.metrics import CUT_LABELS, CUT_REPLIES, FEW_CUT, answer_scores
from ollama_bridge.evaluation.reply import Answer, measure_perplexity, write_greedily
from ollama_bridge.evaluation.report import complete_report
from ollama_bridge.examples import Example
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.memory import check_room, less_for_a_model, memory_is_enough
from ollama_bridge.models.compute.precision import Precision, choose_precision
from ollama_bridge.models.compute.products import freeze_in
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import EvaluateSection, TaskSection
from ollama_bridge.reporting import Metric, Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Artifact, Checkpoint, Corpus, EvalReport, Work
from ollama_bridge.storage.atomic_files import read_json_lines
from ollama_bridge.storage.drafts import open_draft

STAGE = "evaluate"
_VERSION = 5  # 4: labels of several tokens are chosen as greedy decoding does; 5: as below
_SCORES_VERSION = 4  # 3: as 4 above; 4: calls in OpenAI's form are read as Ollama reads them


class ModelScores(Artifact):
    """What one model says to the held-out texts: ``predictions.jsonl`` and facts."""

    kind = "model_scores"

    def predictions(self) -> list[dict[str, str]]:
        """Records with id, gold and prediction, in the order of the test split."""
        return read_json_lines(self.path / "predictions.jsonl")


def evaluate(
    models: Mapping[str, Checkpoint],
    corpus: Corpus,
    settings: EvaluateSection,
    task: TaskSection,
    *,
    out_dir: str | Path,
    reporter: Reporter | None = None,
) -> EvalReport:
    """Score models on the test split.

    Every model's scores are an artefact of their own (beside ``out_dir``, in ``NAME-models/``), so
    that a kill, or a change of one model, has only that one scored again.

    Args:
        models: By the name that the report gives them; those of teachers begin with ``teacher``,
            the last of them is what students are held against.
        corpus: Its test split is scored. Where its answers have thoughts, models of a
            classification write theirs: a label alone is not what they would say.

    Raises:
        ConfigError: no models.
        DataError: the test split has no answers, or texts do not fit a model's context.
        ModelError: a model cannot be loaded, or its device is out of memory.
    """
    out_dir = Path(out_dir)
    if not models:
        raise ConfigError("evaluate needs at least one model")
    reporter = reporter or NullReporter()
    writes = task.kind == "reply" or teaches_thoughts(corpus)
    rows = {name: _rows_key(checkpoint, corpus, task) for name, checkpoint in models.items()}
    work = _work(models, corpus, settings, task, writes=writes, rows=rows)
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return EvalReport(out_dir, draft.finished)
        examples = each_answer(
            held_out_examples(corpus, limit=settings.max_examples, by_label=task.kind == "classify")
        )
        scores_dir = out_dir.absolute().with_name(f"{out_dir.name}-models")
        folders = _folder_names(list(models))
        scored = {
            name: _score(
                checkpoint,
                corpus,
                examples,
                task,
                key=_settings_key(settings, task, writes=writes) | rows[name],
                writes=writes,
                max_tokens=settings.reply_tokens,
                out_dir=scores_dir / folders[name],
                reporter=reporter,
            )
            for name, checkpoint in models.items()
        }
        said = {
            name: [record["prediction"] for record in scores.predictions()]
            for name, scores in scored.items()
        }
        if task.kind == "classify":
            write_predictions(draft.path / "predictions.jsonl", examples, said)
            tell_of_labels(STAGE, examples, said, reporter)
        else:
            tell_of_replies(STAGE, examples, said, reporter)
        manifest = complete_report(
            draft,
            "Scores in torch",
            task,
            examples,
            {name: scores.facts for name, scores in scored.items()},
            said,
            bootstrap_samples=settings.bootstrap_samples,
            checkpoints={name: one.path for name, one in models.items()},
        )
        reporter.emit(Metric(STAGE, len(examples), _numbers(manifest.facts)))
        timer.finish(out_dir, manifest.facts)
        return EvalReport(out_dir, manifest)


def _work(
    models: Mapping[str, Checkpoint],
    corpus: Corpus,
    settings: EvaluateSection,
    task: TaskSection,
    *,
    writes: bool,
    rows: Mapping[str, Mapping[str, str]],
) -> Work:
    """What decides the report; ``rows`` are of :func:`_rows_key`, by the models' names."""
    return Work(
        kind=EvalReport.kind,
        stage=STAGE,
        version=_VERSION,
        inputs={
            "corpus": corpus.digest,
            **{f"model {name}": checkpoint.digest for name, checkpoint in models.items()},
        },
        settings={
            **_settings_key(settings, task, writes=writes),
            "bootstrap_samples": settings.bootstrap_samples,
            "names": list(models),
            **{f"model {name}": key for name, key in rows.items() if key},
        },
    )


def _score(
    checkpoint: Checkpoint,
    corpus: Corpus,
    examples: Sequence[Example],
    task: TaskSection,
    *,
    key: Mapping[str, object],
    writes: bool,
    max_tokens: int,
    out_dir: Path,
    reporter: Reporter,
) -> ModelScores:
    stage = f"{STAGE} {out_dir.name}"
    work = Work(
        kind=ModelScores.kind,
        stage=f"{STAGE}-model",
        version=_SCORES_VERSION,
        inputs={"model": checkpoint.digest, "corpus": corpus.digest},
        settings=key,
    )
    with Timed(reporter, stage) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return ModelScores(out_dir, draft.finished)
        with memory_is_enough(less_for_a_model(), refusal=ModelError):
            examinee = _Examinee.load(checkpoint, stage, reporter)
            if writes:
                said, facts = examinee.write_answers(examples, task, max_tokens=max_tokens)
            else:
                said, facts = examinee.choose_labels(examples, task)
        facts = examinee.facts() | facts
        write_predictions(draft.path / "predictions.jsonl", examples, {"prediction": said})
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return ModelScores(out_dir, manifest)


@dataclass(frozen=True)
class _Examinee:
    """A loaded model, and the two ways to have it answer."""

    model: CausalModel
    parameters: int  # numbers of the checkpoint: a tied matrix counts once
    tokenizer: Any  # transformers' fast tokenizer; its classes carry no useful types
    precision: Precision
    stage: str
    reporter: Reporter

    @classmethod
    def load(cls, checkpoint: Checkpoint, stage: str, reporter: Reporter) -> Self:
        precision = choose_precision()
        tokenizer = load_tokenizer(checkpoint.path)
        check_room(checkpoint.path, purpose="scoring a model", kept_bytes=precision.frozen_bytes)
        model: CausalModel = load_model(checkpoint.path)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        # Autocast would do so for every batch, beside float32. It casts a copy of a tied matrix.
        freeze_in(model, precision.dtype)
        return cls(model.to(precision.device), parameters, tokenizer, precision, stage, reporter)

    def facts(self) -> dict[str, object]:
        return {
            "parameters": self.parameters,
            "dtype": self.precision.dtype_name,
        }

    def choose_labels(
        self, examples: Sequence[Example], task: TaskSection
    ) -> tuple[list[str], dict[str, object]]:
        """The label of every text that it would say, and what else is worth reporting."""
        scores = score_labels(
            self.model,
            self.tokenizer,
            examples,
            task.labels,
            precision=self.precision,
            stage=self.stage,
            reporter=self.reporter,
        )
        facts: dict[str, object] = {
            "texts_per_s": round(scores.texts_per_s, 2),
            "says_label": round(scores.says_label, 4),
        }
        if not scores.fits.all():
            facts["too_long"] = int((~scores.fits).sum())
        return scores.predictions(task.labels), facts

    def write_answers(
        self, examples: Sequence[Example], task: TaskSection, *, max_tokens: int
    ) -> tuple[list[str], dict[str, object]]:
        """The greedy answer to every text, and what else is worth reporting."""
        facts: dict[str, object] = {}
        if task.kind == "reply":
            wholes = whole_conversations(examples)
            facts |= measure_perplexity(
                self.model, self.tokenizer, wholes, precision=self.precision
            )
            _tell_of_too_long(facts, len(wholes), self)
        answers = write_greedily(
            self.model,
            self.tokenizer,
            examples,
            max_tokens=max_tokens,
            precision=self.precision,
            stage=self.stage,
            reporter=self.reporter,
        )
        texts = [answer.text for answer in answers]
        facts |= answer_scores(
            texts,
            ended=[answer.ended for answer in answers],
            tokens=[answer.tokens for answer in answers],
        )
        facts["limit_tokens"] = max_tokens
        _tell_of_cuts(answers, max_tokens, task, self.stage, self.reporter)
        if task.kind == "classify":
            return [without_thought(text) for text in texts], facts
        reader = CallReader(self.tokenizer)
        return [reader.read(text, one) for text, one in zip(texts, examples, strict=True)], facts


def _tell_of_too_long(facts: Mapping[str, object], total: int, examinee: _Examinee) -> None:
    """Models of other contexts have their perplexities of other texts."""
    if not facts["too_long"]:
        return
    message = (
        f"{facts['too_long']:.0f} of {total} test texts are longer than the model's context of "
        f"{examinee.model.config.max_position_embeddings} tokens: its perplexity is of the others "
        "alone, and what it answers to these says little; lower data.max_chars to leave them out"
    )
    examinee.reporter.emit(Note(examinee.stage, "warning", message))


def _tell_of_cuts(
    answers: Sequence[Answer], limit: int, task: TaskSection, stage: str, reporter: Reporter
) -> None:
    cut = sum(not answer.ended for answer in answers)
    if cut > FEW_CUT * len(answers):
        result = CUT_LABELS if task.kind == "classify" else CUT_REPLIES
        message = (
            f"{cut} of {len(answers)} answers were cut at {limit} tokens, {result}: --set "
            f"evaluate.reply_tokens={2 * limit} lets them finish"
        )
        reporter.emit(Note(stage, "warning", message))


def _folder_names(names: Sequence[str]) -> dict[str, str]:
    """Where each model's scores lie; names that read alike are told apart by a digest."""
    slugs = {name: re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names}
    often = Counter(slugs.values())
    return {
        name: slug if slug and often[slug] == 1 else f"{slug}-{digest_text(name)[:8]}".strip("-")
        for name, slug in slugs.items()
    }


def _rows_key(checkpoint: Checkpoint, corpus: Corpus, task: TaskSection) -> dict[str, str]:
    """What of the rows that a model reads has become another since models were first scored."""
    tokenizer = load_tokenizer(checkpoint.path)
    key = key_of_dates(tokenizer)
    if task.kind == "reply":  # of which the answers' tokens are scored, through their ends
        key |= key_of_ends(tokenizer, corpus, splits=["test"])
    return key


def _settings_key(
    settings: EvaluateSection, task: TaskSection, *, writes: bool
) -> dict[str, object]:
    return {
        "task": task.kind,
        "labels": list(task.labels),
        "max_examples": settings.max_examples,
        "likeliest": "of float32 logits",  # before: of rounded ones, but for labels of one token
        **({"reply_tokens": settings.reply_tokens} if writes else {}),
        **({"chosen": "by label"} if settings.max_examples and task.kind == "classify" else {}),
    }


def _numbers(facts: Mapping[str, object]) -> dict[str, float]:
    return {name: float(value) for name, value in facts.items() if isinstance(value, int | float)}
