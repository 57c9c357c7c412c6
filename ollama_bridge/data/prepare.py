"""The stage ``prepare``: a source of the recipe -> cleaned, deduplicated, split corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.data.candidates import SPLITS, Collected, Tally
from ollama_bridge.data.chats.messages import collect_messages
from ollama_bridge.data.chats.spoken_calls import has_joined
from ollama_bridge.data.chats.tool_forms import has_tools
from ollama_bridge.data.chats.written_tools import has_written_tools
from ollama_bridge.data.dialogues import collect_dialogues, dialogue_files
from ollama_bridge.data.making_splits import make_splits
from ollama_bridge.data.rows import is_json_lines
from ollama_bridge.data.snippets import (
    FILES,
    REVIEW_SOURCES,
    collect_reviews,
    collect_vader,
    snippet_files,
)
from ollama_bridge.data.table import collect_table
from ollama_bridge.data.task_prompt import advice_on_prompt
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import DataError
from ollama_bridge.examples import write_examples
from ollama_bridge.recipe.config import DataSection, TaskSection
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Corpus, Work
from ollama_bridge.storage.atomic_files import write_json_atomic
from ollama_bridge.storage.drafts import open_draft

_STAGE = "prepare"
_VERSION = 11  # raised when another corpus comes of the same files
_DIALOGUE = "dialogue:"  # before a topic, as the name of an input


def prepare(
    data: DataSection,
    task: TaskSection,
    *,
    seed: int,
    out_dir: str | Path,
    reporter: Reporter | None = None,
) -> Corpus:
    """Collect, clean, deduplicate and split the examples of a recipe.

    Args:
        data: Where they come from and how many of them.
        task: Gives the system turn and the labels.
        seed: Of the split and of every choice of examples.

    Raises:
        DataError: naming file, rows and what to do.
        ConfigError: labels that do not fit the task.
    """
    out_dir = Path(out_dir)
    reporter = reporter or NullReporter()
    with Timed(reporter, _STAGE) as timer:
        if advice := advice_on_prompt(task.system, task.labels):
            reporter.emit(Note(_STAGE, "warning", advice))
        inputs = _find_inputs(data, reporter)
        work = _work(inputs, data, task, seed=seed)
        with open_draft(out_dir, work) as draft:
            if draft.finished is not None:
                timer.reuse(out_dir)
                return Corpus(out_dir, draft.finished)
            collected = _collect(inputs, data, task, seed=seed)
            parts, card = make_splits(collected, data, task, seed=seed, reporter=reporter)
            card["inputs"] = {
                name: {"sha256": work.inputs[name], "size_bytes": path.stat().st_size}
                for name, path in inputs.files.items()
            }
            facts: dict[str, object] = {}
            for name in SPLITS:
                examples = (candidate.example for candidate in parts[name])
                # What is scored is asked for answer by answer anyway, or for the last alone.
                if data.each_answer and task.kind == "reply" and name != "test":
                    examples = (part for one in examples for part in one.up_to_each_answer())
                facts[name] = write_examples(draft.path / f"{name}.jsonl", examples)
            write_json_atomic(draft.path / "card.json", card)
            if offered := sum(bool(one.example.tools) for part in parts.values() for one in part):
                facts["with_tools"] = offered
            if inputs.packages:
                facts["datasets"] = list(inputs.packages)
            manifest = draft.commit(facts)
            timer.finish(out_dir, facts)
            return Corpus(out_dir, manifest)


@dataclass(frozen=True)
class _Inputs:
    """Files of a source by the name that the card and the key have them under.

    Attributes:
        files: By name.
        format: Of a file of the user's.
        packages: That the others come from.
        has_tools: Whether it may have conversations with tools.
        has_joined: Whether calls of an answer may be turns of their own.
        has_written_tools: Whether it may have such of tools and calls in their texts.
    """

    files: Mapping[str, Path]
    format: str = ""
    packages: tuple[str, ...] = ()
    has_tools: bool = False
    has_joined: bool = False
    has_written_tools: bool = False


def _work(inputs: _Inputs, data: DataSection, task: TaskSection, *, seed: int) -> Work:
    """What decides the corpus."""
    # Keys that came later: without them corpora are the ones that they were.
    later = {name for name in ("split_col", "each_answer") if not getattr(data, name)}
    may_be_read = inputs.has_written_tools and task.kind == "reply"
    return Work(
        kind=Corpus.kind,
        stage=_STAGE,
        version=_VERSION,
        inputs={name: digest_file(path) for name, path in inputs.files.items()},
        settings={
            "data": data.model_dump(mode="json", exclude={"path", *later}),
            "format": inputs.format,
            "task": task.model_dump(mode="json"),
            # Before: documents of several texts first. Where each has one, nothing has changed.
            **({"placed": "in one order"} if _has_documents(data, task) else {}),
            # Before: not read, and calls left out. "learnt": without nulls that a text says, and
            # parameters of any type; with schemas that Ollama refuses.
            **({"tools": "as Ollama takes them"} if inputs.has_tools else {}),
            # Before: left out.
            **({"calls": "joined"} if inputs.has_joined else {}),
            # Before: texts as any other, or left out.
            **({"written_tools": "read"} if may_be_read else {}),
        },
        seed=seed,
    )


def _has_documents(data: DataSection, task: TaskSection) -> bool:
    """Whether texts of a user's file may belong together: by a question, or by what they are of."""
    is_free = task.kind == "reply"
    return data.source == "messages" or (
        data.source == "table" and (is_free or data.group_col is not None)
    )


def _find_inputs(data: DataSection, reporter: Reporter) -> _Inputs:
    if data.path is not None and data.source in ("table", "messages"):
        if not data.path.is_file():
            there = data.path.exists()  # a folder; or a pipe, which can be read but once
            raise DataError(
                f"{data.path}: {'not a regular file' if there else 'no such file'}",
                hint="check data.path, or pass --data FILE",
            )
        is_jsonl = data.source == "messages" or is_json_lines(data.path)
        return _Inputs(
            {"data": data.path},
            "jsonl" if is_jsonl else "csv",
            has_tools=data.source == "messages" and has_tools(data.path),
            has_joined=data.source == "messages" and has_joined(data.path),
            has_written_tools=data.source == "messages" and has_written_tools(data.path),
        )
    from ollama_bridge.data.packages import ASSETS, fetch_package_file

    assets = ["vader-ratings"]
    folder = fetch_package_file("vader-ratings", reporter=reporter)
    sources = tuple(FILES) if data.source == "vader" else REVIEW_SOURCES
    files = snippet_files(folder, sources)
    if data.source == "reviews" and data.dialogue_examples:
        assets.append("chatterbot-corpus")
        dialogues = fetch_package_file("chatterbot-corpus", reporter=reporter)
        files |= {f"{_DIALOGUE}{topic}": path for topic, path in dialogue_files(dialogues).items()}
    return _Inputs(files, packages=tuple(ASSETS[asset].package.name for asset in assets))


def _collect(inputs: _Inputs, data: DataSection, task: TaskSection, *, seed: int) -> Collected:
    files = dict(inputs.files)
    if data.source == "table":
        return collect_table(files["data"], data, task)
    if data.source == "messages":
        return collect_messages(files["data"], data, task)
    if data.source == "vader":
        return collect_vader(files, data, task)
    topics = {
        name.removeprefix(_DIALOGUE): path
        for name, path in files.items()
        if name.startswith(_DIALOGUE)
    }
    reviews = collect_reviews({source: files[source] for source in REVIEW_SOURCES}, task)
    if not topics:
        return reviews
    talks = collect_dialogues(topics, task, count=data.dialogue_examples, seed=seed)
    tally = Tally(reviews.tally.read + talks.tally.read)
    tally.left_out = reviews.tally.left_out | talks.tally.left_out  # reasons differ
    return Collected(reviews.candidates + talks.candidates, tally, reviews.notes + talks.notes)
