"""The files that a recipe asks for, and the tag that each of them gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ollama_bridge.client import Client
from ollama_bridge.conversion import Target, convert
from ollama_bridge.evaluation.held_out import teaches_thoughts
from ollama_bridge.quantization.sizes import parse_size
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.reference import noise_types_of
from ollama_bridge.renderer_choice import Chooser, with_values
from ollama_bridge.reporting import Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, GGUFFile
from ollama_bridge.template.authority import THINKING, TOOLS


def export(
    recipe: Recipe, student: Checkpoint, corpus: Corpus, run_dir: Path, reporter: Reporter
) -> Iterator[tuple[str, GGUFFile]]:
    """Convert a student to every file, one at a time: the main one first.

    Args:
        recipe: What to build.
        student: The distilled checkpoint.
        corpus: Its held-out texts are what a budget is measured on.
        run_dir: Folder of the run.
        reporter: Hears of progress.

    Yields:
        The tag, and the file that it gets.

    Raises:
        ConversionError: the student cannot be written as asked.
    """
    section = recipe.export
    for gguf_type in section.types:
        out_dir = run_dir / f"student-{gguf_type}"
        gguf = convert(student, type=gguf_type, out_dir=out_dir, reporter=reporter)
        yield tag_of(recipe, gguf_type), gguf
    target = target_of(recipe)
    if target is None:
        return
    out_dir = run_dir / "student-budget"
    gguf = convert(student, target=target, corpus=corpus, out_dir=out_dir, reporter=reporter)
    yield budget_tag_of(recipe), gguf


def with_proving_values(
    recipe: Recipe,
    checkpoint: Checkpoint,
    corpus: Corpus,
    client: Client,
    out_dir: Path,
    reporter: Reporter,
) -> Checkpoint:
    """A model with the values that prove its tag, for who renders the tag's prompts.

    What was trained just now has them; others, and those for what of Ollama's own gives back what
    a Go template loses, are computed.

    Args:
        recipe: What is built.
        checkpoint: Teacher or student.
        corpus: What it was trained on.
        client: Speaks to the daemon that is to serve it.
        out_dir: Folder of the values, in that of the run.
        reporter: Hears of progress.

    Raises:
        DaemonError: the daemon could not answer, or nothing in its version renders the chat
            template.
        ModelError: the checkpoint cannot be loaded, or memory is short.
    """
    chooser = Chooser(
        client=client,
        out_dir=out_dir.parent / "renderers",
        reporter=reporter,
        needed=lambda: _taught(corpus),
    )
    return with_values(
        checkpoint,
        system=recipe.task.system,
        labels=recipe.task.labels,
        noise_types=noise_types_of_files(recipe),
        chooser=chooser if recipe.modelfile.template == "auto" else None,
        out_dir=out_dir,
        reporter=reporter,
    )


def _taught(corpus: Corpus) -> tuple[str, ...]:
    """Of tools and thinking, what the training split has."""
    with corpus.split_path("train").open(encoding="utf-8") as lines:
        tools = any(json.loads(line).get("tools") for line in lines)
    return (
        *((TOOLS,) if tools else ()),
        *((THINKING,) if teaches_thoughts(corpus) else ()),
    )


def noise_types_of_files(recipe: Recipe) -> tuple[str, ...]:
    """Of ``reference.NOISE_TYPES``, those that the files of a recipe are held against.

    Students need no more. A teacher is tuned with the noise of all types: another recipe's files
    must not make it another teacher, whose texts would be labelled again.
    """
    asked = [noise for one in recipe.export.types for noise in noise_types_of(one)]
    return tuple(dict.fromkeys(asked))


def target_of(recipe: Recipe) -> Target | None:
    """The budget or size of a file whose types are chosen for it; None: there is no such file."""
    section = recipe.export
    if section.budget_nats is None and section.max_size is None:
        return None
    size_bytes = parse_size(section.max_size) if section.max_size is not None else None
    return Target(kl_nats=section.budget_nats, size_bytes=size_bytes)


def tag_of(recipe: Recipe, gguf_type: str) -> str:
    """The tag of one GGUF type: ``latest`` for the recipe's first, else the type's own name."""
    first = gguf_type == recipe.export.types[0]
    return f"{recipe.export.tag}:{'latest' if first else gguf_type}"


def teacher_tag_of(recipe: Recipe) -> str:
    """The tag of the teacher, as its student is held against it."""
    return f"{recipe.export.tag}:teacher"


def budget_tag_of(recipe: Recipe) -> str:
    """The tag of the file whose types a budget or a size chooses."""
    return f"{recipe.export.tag}:budget"
