"""Checkpoint -> GGUF, as a stage."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf.constants import GGML_QUANT_SIZES

from ollama_bridge.artifacts import Checkpoint, Corpus, GGUFFile, Work, digest_file
from ollama_bridge.conversion.budget_search import Target
from ollama_bridge.conversion.imatrix import read_importance
from ollama_bridge.conversion.tensors import TensorPlan, plan_tensors, source_notes
from ollama_bridge.conversion.tokenizer import TokenizerSection
from ollama_bridge.conversion.writer import write_gguf
from ollama_bridge.drafts import open_draft
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.entries import Entry, number, text
from ollama_bridge.models.general import (
    derived_model_entries,
    general_of,
    same_model_entries,
)
from ollama_bridge.models.gguf_weights import GGUFWeights
from ollama_bridge.models.model_card import card_entries
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.stored import open_weights
from ollama_bridge.models.tensor_match import match_tensors
from ollama_bridge.models.weights import Weights
from ollama_bridge.quantization.encoders import Float32Array
from ollama_bridge.quantization.file_types import NUMBERS, parse
from ollama_bridge.quantization.mixes import ModelShape, TypePlan, base_type, plan_types
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, Timed

if TYPE_CHECKING:
    from ollama_bridge.conversion.budget import Chosen

# Raised when the same checkpoint gives other bytes.
_VERSION = 3
_QUANTIZATION_VERSION = 2  # of the block formats; the only one in use


def convert(
    checkpoint: Checkpoint,
    *,
    type: str = "f16",  # noqa: A002  the word of recipes and of the command line
    out_dir: Path,
    reporter: Reporter | None = None,
    chat_template: bool | None = None,
    name: str | None = None,
    imatrix: Path | None = None,
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
            reference values say that the daemon has to run it. Else it is kept under a key of
            ours for a later import, because a tag needs one authority on rendering: with a
            TEMPLATE too, Ollama decides by rules of its own which one it follows.
        name: ``general.name``; None: made from the base model's name and the stage.
        imatrix: An importance matrix, in a format of llama.cpp; types of blocks spare the columns
            that count.
        target: A quality budget or a size: the type of each matrix is chosen by measurement, and
            ``type`` is not used.
        corpus: Its held-out texts are what a target is measured on; None: the model's own answers.

    Raises:
        ModelError: the folder cannot be used.
        ConversionError: no such type, something cannot be expressed in a GGUF, or the target cannot
            be kept.
        DataError: the corpus has too few texts to measure on.
        DiskFullError: there is no room.
    """
    reporter = reporter or NullReporter()
    type = parse(type)  # noqa: A001
    importance = read_importance(imatrix) if imatrix is not None else {}
    inputs = {"checkpoint": checkpoint.digest}
    if imatrix is not None:
        inputs["imatrix"] = digest_file(imatrix)
    if chat_template is None:
        chat_template = _is_rendered_by_daemon(checkpoint)
    settings = {"type": type, "chat_template": chat_template, "name": name}
    if target is not None:
        # They load torch, which takes longer than a conversion that does without.
        from ollama_bridge.conversion.budget import Model, choose_types
        from ollama_bridge.conversion.budget_picture import draw
        from ollama_bridge.conversion.budget_record import budget_entries, budget_notes, head_bytes

        settings |= {"type": None, "target": asdict(target)}
        if corpus is not None:
            inputs["corpus"] = corpus.digest
    work = Work(
        kind=GGUFFile.kind, stage="convert", version=_VERSION, inputs=inputs, settings=settings
    )
    with Timed(reporter, "convert") as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return GGUFFile(out_dir, draft.finished)
        config = check_folder(checkpoint.path)
        architecture = ARCHITECTURES[read_architecture(checkpoint.path, config)]
        tokenizer = TokenizerSection(checkpoint.path, config)
        metadata = architecture.entries(config)
        weights = open_weights(checkpoint.path, config)
        plans = plan_tensors(architecture, config, weights)
        dims = architecture.dimensions(config)
        shape = ModelShape(architecture.name, dims.layers, dims.heads, dims.kv_heads)
        shapes = {plan.name: plan.shape for plan in plans}
        _check_importance(importance, plans)
        parameters = sum(math.prod(plan.shape) for plan in plans)

        def entries(type: str, chosen: Chosen | None) -> list[Entry]:  # noqa: A002
            return [
                *_general(checkpoint, config, weights, type, parameters=parameters, name=name),
                *metadata,
                *_imatrix(inputs.get("imatrix"), importance),
                *(budget_entries(target, chosen) if target is not None else ()),
                *tokenizer.entries(chat_template=chat_template),
                *_reference(checkpoint),
            ]

        chosen = None
        if target is None:
            types: TypePlan = plan_types(type, shapes, shape, with_importance=imatrix is not None)
        else:
            chosen = choose_types(
                Model(
                    checkpoint.path,
                    shape,
                    shapes,
                    match_tensors(architecture, config, weights),
                    weights,
                    importance,
                    tied=architecture.tied(config),
                ),
                target,
                corpus=corpus,
                overhead_bytes=head_bytes(
                    draft.path / ".head", architecture.name, entries("f16", None), plans
                ),
                scratch=draft.path / "resume-budget.json",
                reporter=reporter,
            )
            type = chosen.file_type  # noqa: A001
            types = chosen.types
        notes = [
            *architecture.notes(config),
            *tokenizer.notes,
            *source_notes(weights),
            *(_fallbacks(plans, types, type) if chosen is None else budget_notes(target, chosen)),
        ]
        for note in notes:
            reporter.emit(Note("convert", "warning", note))
        sha256 = write_gguf(
            draft.path / "model.gguf",
            architecture=architecture.name,
            entries=entries(type, chosen),
            plans=plans,
            types=types,
            importance=importance,
            on_tensor=lambda done: reporter.emit(Progress("convert", done, len(plans), "tensors")),
        )
        if checkpoint.reference_path.is_file():
            shutil.copyfile(checkpoint.reference_path, draft.path / "reference.json")
        facts = {
            "type": type,
            "architecture": architecture.name,
            "parameters": parameters,
            "layers": config["num_hidden_layers"],
            "context_length": config["max_position_embeddings"],
            "size_bytes": (draft.path / "model.gguf").stat().st_size,
            "chat_template": chat_template,
            "end_tokens": list(tokenizer.end_tokens),
            "notes": notes,
        }
        if chosen is not None:
            facts["budget"] = chosen.facts()
            (draft.path / "tradeoff.svg").write_text(draw(chosen), encoding="utf-8")
        manifest = draft.commit(facts, digests={"model.gguf": sha256})
        timer.finish(out_dir, facts)
        return GGUFFile(out_dir, manifest)


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
            "the importance matrix knows no tensor of this checkpoint",
            hint="measure it on this model: ollama-bridge importance --help",
        )


def _imatrix(digest: str | None, weights: Mapping[str, Float32Array]) -> list[Entry]:
    """Which importance matrix shaped the file."""
    if digest is None:
        return []
    return [
        text("ollama_bridge.imatrix.sha256", digest),
        number("quantize.imatrix.entries_count", len(weights)),
    ]


def _is_rendered_by_daemon(checkpoint: Checkpoint) -> bool:
    if not checkpoint.reference_path.is_file():
        return False
    template = ReferenceValues.read(checkpoint.reference_path).template
    return template is not None and template.authority == "jinja"


def _reference(checkpoint: Checkpoint) -> list[Entry]:
    """What a daemon has to reproduce, inside the file: a tag can then be verified anywhere."""
    if not checkpoint.reference_path.is_file():
        return []
    values = ReferenceValues.read(checkpoint.reference_path)
    return [text(REFERENCE_KEY, values.to_json())]


def _general(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    weights: Weights,
    file_type: str,
    *,
    parameters: int,
    name: str | None,
) -> list[Entry]:
    """What the model is and where it comes from."""
    work = checkpoint.manifest.work
    source = general_of(config)
    size = _size_label(parameters)
    if isinstance(weights, GGUFWeights):  # an import as it is, and not what was made of it
        entries = same_model_entries(source, name=name)
    else:
        entries = derived_model_entries(source) or card_entries(checkpoint.path)
    if name is None:
        origin = source.get("name", f"model {size}")
        name = origin if work.stage in ("import", "link", "reference") else f"{origin} {work.stage}"
    own = [
        text("general.type", "model"),
        text("general.name", name),
        text("general.size_label", size),
        number("general.file_type", NUMBERS[file_type]),
        number("general.quantization_version", _QUANTIZATION_VERSION),
    ]
    said = {entry.key for entry in entries}
    entries += [entry for entry in own if entry.key not in said]
    entries += [
        text("ollama_bridge.checkpoint.digest", checkpoint.digest),
        text("ollama_bridge.checkpoint.stage", work.stage),
        *(
            text(f"ollama_bridge.input.{role}", digest)
            for role, digest in sorted(work.inputs.items())
        ),
    ]
    return entries


def _size_label(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            amount = parameters / size
            return f"{amount:.1f}{unit}" if amount < 10 else f"{amount:.0f}{unit}"
    return str(parameters)


def _fallbacks(plans: list[TensorPlan], types: TypePlan, file_type: str) -> list[str]:
    """What rows that do not divide into the type's blocks are written in instead."""
    block, _ = GGML_QUANT_SIZES[base_type(file_type)]
    odd = [plan for plan in plans if len(plan.shape) > 1 and plan.shape[-1] % block]
    if not odd:
        return []
    rows = sorted({plan.shape[-1] for plan in odd})
    instead = Counter(types[plan.name].name for plan in odd).most_common()
    return [
        f"rows of {', '.join(map(str, rows))} do not divide into {file_type}'s blocks of {block}: "
        + ", ".join(f"{count} matrices are {name}" for name, count in instead)
    ]
