"""Checkpoint -> GGUF, as a stage."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gguf.constants import GGML_QUANT_SIZES

from ollama_bridge.conversion.budget_search import Target
from ollama_bridge.conversion.imatrix import read_importance
from ollama_bridge.conversion.source import Source, read_reference
from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.conversion.writer import write_gguf
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ConfigError, ConversionError
from ollama_bridge.models.architectures.entries import Entry, number, text
from ollama_bridge.quantization.encoders import Float32Array
from ollama_bridge.quantization.file_types import parse
from ollama_bridge.quantization.mixes import TypePlan, base_type, plan_types
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, Timed
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, GGUFFile, Work
from ollama_bridge.storage.drafts import open_draft

if TYPE_CHECKING:
    from ollama_bridge.conversion.budget import Chosen

_VERSION = 13  # raised when a checkpoint gives other bytes


def convert(
    checkpoint: Checkpoint,
    *,
    type: str = "f16",  # noqa: A002  the word of recipes and of the command line
    out_dir: str | Path,
    reporter: Reporter | None = None,
    chat_template: bool | None = None,
    name: str | None = None,
    imatrix: str | Path | None = None,
    target: Target | None = None,
    corpus: Corpus | None = None,
) -> GGUFFile:
    """Write a checkpoint as one GGUF file.

    Args:
        checkpoint: A merged model with its tokenizer.
        type: One of ``quantization.file_types.FILE_TYPES``; case does not matter.
        out_dir: Folder of the artefact.
        reporter: Hears of progress.
        chat_template: Write the Jinja chat template where runtimes look for it; None: where the
            reference values say that the daemon has to run it, and where there are none. Else it
            is kept under a key of ours for a later import, because a tag needs one authority on
            rendering: with a TEMPLATE too, Ollama decides by rules of its own which one it follows.
        name: ``general.name``; None: made from the base model's name and the stage.
        imatrix: An importance matrix, in a format of llama.cpp; types of blocks spare the columns
            that count.
        target: A quality budget or a size: the type of each matrix is chosen by measurement, and
            ``type`` is not used.
        corpus: Its held-out texts are what a target is measured on; None: the model's own answers.

    Raises:
        ModelError: the folder cannot be used.
        ConversionError: something cannot be expressed in a GGUF, or the target cannot be kept.
        ConfigError: no such type, or the daemon needs the chat template that is to be left out.
        DataError: the corpus has too few texts to measure on.
        DiskFullError: there is no room.
    """
    out_dir = Path(out_dir)
    imatrix = Path(imatrix) if imatrix is not None else None
    reporter = reporter or NullReporter()
    asked = _Asked(
        type=parse(type),
        chat_template=_has_chat_template(checkpoint, asked=chat_template),
        name=name,
        importance=read_importance(imatrix) if imatrix is not None else {},
        imatrix_digest=digest_file(imatrix) if imatrix is not None else None,
        target=target,
        corpus=corpus,
    )
    work = asked.work(checkpoint)
    with Timed(reporter, "convert") as timer, open_draft(out_dir, work, reporter=reporter) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return GGUFFile(out_dir, draft.finished)
        source = Source(checkpoint)
        _check_importance(asked.importance, source.plans)
        types = _choose_types(source, asked, draft.path, reporter)
        notes = [*source.notes, *types.notes]
        for note in notes:
            reporter.emit(Note("convert", "warning", note))
        sha256 = _write(source, asked, types, draft.path / "model.gguf", reporter)
        facts = {
            "type": types.name,
            **source.facts(),
            "size_bytes": (draft.path / "model.gguf").stat().st_size,
            "chat_template": asked.chat_template,
            "notes": notes,
        }
        if checkpoint.reference_path.is_file():
            shutil.copyfile(checkpoint.reference_path, draft.path / "reference.json")
        if types.chosen is not None:
            facts["budget"] = types.chosen.facts()
            _draw_tradeoff(types.chosen, draft.path / "tradeoff.svg")
        manifest = draft.commit(facts, digests={"model.gguf": f"sha256:{sha256}"})
        timer.finish(out_dir, facts)
        return GGUFFile(out_dir, manifest)


@dataclass(frozen=True)
class _Asked:
    """What is asked of the file; see :func:`convert`."""

    type: str
    chat_template: bool
    name: str | None
    importance: Mapping[str, Float32Array]
    imatrix_digest: str | None
    target: Target | None
    corpus: Corpus | None

    def work(self, checkpoint: Checkpoint) -> Work:
        inputs = {"checkpoint": checkpoint.digest}
        if self.imatrix_digest is not None:
            inputs["imatrix"] = self.imatrix_digest
        settings = {"type": self.type, "chat_template": self.chat_template, "name": self.name}
        if self.target is not None:
            settings |= {"type": None, "target": asdict(self.target)}
            if self.corpus is not None:
                inputs["corpus"] = self.corpus.digest
        return Work(
            kind=GGUFFile.kind,
            stage="convert",
            version=_VERSION,
            inputs=inputs,
            settings=settings,
        )


@dataclass(frozen=True)
class _Types:
    """The type of the file and of each tensor, and how they were chosen."""

    name: str
    plan: TypePlan
    notes: list[str]
    chosen: Chosen | None = None


def _choose_types(source: Source, asked: _Asked, folder: Path, reporter: Reporter) -> _Types:
    """By the rules of one type, or by measurement where there is a target."""
    target = asked.target
    if target is None:
        plan = plan_types(
            asked.type,
            source.shapes,
            source.shape,
            with_importance=asked.imatrix_digest is not None,
        )
        return _Types(asked.type, plan, _fallbacks(source.plans, plan, asked.type))
    # They load torch, which takes longer than a conversion that does without.
    from ollama_bridge.conversion.budget import choose_types
    from ollama_bridge.conversion.budget_model import Model
    from ollama_bridge.conversion.budget_record import budget_notes, head_bytes

    chosen = choose_types(
        Model.of(
            source.checkpoint.path,
            source.architecture,
            source.config,
            source.weights,
            asked.importance,
        ),
        target,
        corpus=asked.corpus,
        overhead_bytes=head_bytes(
            folder / ".head",
            source.architecture.name,
            _entries(source, asked, "f16", None),
            source.plans,
        ),
        scratch=folder / "resume-budget.json",
        reporter=reporter,
    )
    return _Types(chosen.file_type, chosen.types, budget_notes(chosen), chosen)


def _entries(source: Source, asked: _Asked, file_type: str, chosen: Chosen | None) -> list[Entry]:
    """All metadata; without a choice, but with a target, as long as it will be."""
    entries = source.model_entries(file_type, name=asked.name)
    if asked.imatrix_digest is not None:
        entries += [
            text("ollama_bridge.imatrix.sha256", asked.imatrix_digest),
            number("quantize.imatrix.entries_count", len(asked.importance)),
        ]
    if asked.target is not None:
        from ollama_bridge.conversion.budget_record import budget_entries

        entries += budget_entries(asked.target, chosen)
    entries += source.tokenizer_entries(chat_template=asked.chat_template)
    return entries + source.reference_entries()


def _write(source: Source, asked: _Asked, types: _Types, path: Path, reporter: Reporter) -> str:
    """The file; gives its sha256, in hex."""
    total = len(source.plans)
    return write_gguf(
        path,
        architecture=source.architecture.name,
        entries=_entries(source, asked, types.name, types.chosen),
        plans=source.plans,
        types=types.plan,
        importance=asked.importance,
        on_tensor=lambda done: reporter.emit(Progress("convert", done, total, "tensors")),
    )


def _draw_tradeoff(chosen: Chosen, path: Path) -> None:
    from ollama_bridge.conversion.budget_picture import draw

    path.write_text(draw(chosen), encoding="utf-8")


def _check_importance(weights: Mapping[str, Float32Array], plans: list[TensorPlan]) -> None:
    for plan in plans:
        found = weights.get(plan.name)
        if found is not None and len(found) != plan.shape[-1]:
            raise ConversionError(
                f"the importance matrix has {len(found)} columns for {plan.name}, the checkpoint "
                f"{plan.shape[-1]}",
                hint="measure it on this model: ollama-bridge importance --help",
            )
    if weights and not any(plan.name in weights for plan in plans):
        raise ConversionError(
            "the importance matrix has no tensor of this checkpoint",
            hint="measure it on this model: ollama-bridge importance --help",
        )


def _has_chat_template(checkpoint: Checkpoint, *, asked: bool | None) -> bool:
    """Whether the file gets its chat template; see :func:`convert`."""
    values = read_reference(checkpoint)
    if values is None:  # so nobody made a TEMPLATE of it, and no tag of ours comes of the file
        return asked is not False
    daemon_renders = values.template is not None and values.template.authority == "jinja"
    if daemon_renders and asked is False:
        raise ConfigError(
            "no Go TEMPLATE can replace this chat template: the file has to hold it to become a "
            "tag",
            hint="leave --no-standalone out",
        )
    return daemon_renders if asked is None else asked


def _fallbacks(plans: list[TensorPlan], types: TypePlan, file_type: str) -> list[str]:
    """What rows that do not divide into the type's blocks are written in instead."""
    block, _ = GGML_QUANT_SIZES[base_type(file_type)]
    odd = [plan for plan in plans if len(plan.shape) > 1 and plan.shape[-1] % block]
    if not odd:
        return []
    rows = sorted({plan.shape[-1] for plan in odd})
    instead = Counter(types[plan.name].name for plan in odd).most_common()
    return [
        f"rows of {', '.join(map(str, rows))} cannot be divided into {file_type}'s blocks of "
        f"{block}: " + ", ".join(f"{count} matrices are {name}" for name, count in instead)
    ]
