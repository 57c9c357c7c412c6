"""The stage ``evaluate_served``: models asked through the daemon, as a user would ask them.

Teacher and student take turns, block by block over the same texts, so that what else the machine
does slows both alike; the ratio is what to read. Loading is not counted: every turn begins with a
short question that is not measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ollama_bridge.answer_text import without_thought
from ollama_bridge.artifacts import Corpus, EvalReport, Work, canonical_json, digest_text
from ollama_bridge.client.address import DEFAULT_PORT, read_address
from ollama_bridge.client.values import find_model, name_key
from ollama_bridge.config import EvaluateSection, TaskSection
from ollama_bridge.drafts import open_draft
from ollama_bridge.errors import ContextOverflowError, ModelNotFoundError
from ollama_bridge.evaluation.held_out import (
    held_out_examples,
    teaches_thoughts,
    write_predictions,
)
from ollama_bridge.evaluation.metrics import FEW_CUT, answer_scores
from ollama_bridge.evaluation.report import complete_report
from ollama_bridge.examples import Example
from ollama_bridge.journal import Journal, JSONRecord
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, StageStarted, Timed

if TYPE_CHECKING:
    from ollama_bridge.client import Client, ModelDetails, ModelSummary

STAGE = "served"
_VERSION = 4
_BLOCK_TEXTS = 50
_WARM_UP = "Hello."

_Options = dict[str, float]  # of a request, by Ollama's names


def evaluate_served(
    tags: Mapping[str, str],
    corpus: Corpus,
    settings: EvaluateSection,
    task: TaskSection,
    *,
    client: Client,
    out_dir: Path,
    reporter: Reporter | None = None,
) -> EvalReport:
    """Ask tags in the daemon about the held-out texts.

    A classification counts what is answered word for word, at temperature 0, behind a thought where
    the tag thinks or the corpus teaches to; a reply is sampled as the tag's own Modelfile says. No
    tag may say more than its own ``num_predict`` lets it. Every answer is synced to disk as it
    comes, beside the report, and never asked for twice of the same tags: where more texts are
    asked, or other bootstrap samples wanted, it is found again. Answers of other tags and settings
    are forgotten when the report is complete.

    Args:
        tags: By the name that the report gives them, such as ``teacher`` and ``student``.
        corpus: Its test split is asked.
        settings: How many texts, bootstrap samples and tokens.
        task: Kind, labels, and the system prompt that the tags have themselves.
        client: Of the daemon.
        out_dir: Folder of the report.
        reporter: Hears of progress.

    Raises:
        ModelNotFoundError: the daemon lacks a tag.
        DaemonError: the daemon fails; what was answered is kept.
        DataError: the test split has no answers.
    """
    reporter = reporter or NullReporter()
    served = _find_models(client, tags)
    details = {name: client.show(tag) for name, tag in tags.items()}
    thinking = _that_think(details, corpus) if task.kind == "classify" else []
    options = {
        name: _options(settings, task, one, thinks=name in thinking)
        for name, one in details.items()
    }
    limit = min(
        (one for one in (settings.max_examples, settings.served_examples) if one), default=None
    )
    version, where = client.version(), _machine(client.host)
    work = Work(
        kind=EvalReport.kind,
        stage=STAGE,
        version=_VERSION,
        inputs={"corpus": corpus.digest, **{f"tag {name}": served[name].digest for name in tags}},
        settings={
            "tags": dict(tags),
            "task": task.model_dump(mode="json"),
            "examples": limit,
            "bootstrap_samples": settings.bootstrap_samples,
            "reply_tokens": settings.reply_tokens,
            "daemon": [version, where],
            **({"thinking": thinking} if thinking else {}),
        },
    )
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return EvalReport(out_dir, draft.finished)
        examples = held_out_examples(corpus, limit=limit, by_label=task.kind == "classify")
        asked = canonical_json(
            [version, where, [[name, served[name].digest, options[name]] for name in tags]]
        )
        models = {name: _Model(tags[name], options[name], f"{name} of {asked}") for name in tags}
        answers_path = out_dir.absolute().with_name(f"{out_dir.name}-answers.jsonl")
        with Journal(answers_path) as journal:
            _Interview(client, models, task, journal, reporter).run(examples)
            answered = _read_journal(journal, models, examples, task, thinking)
        for name in thinking:
            _tell_of_cuts(name, answered[name], options[name]["num_predict"], reporter)
        said = {name: one.answers for name, one in answered.items()}
        write_predictions(draft.path / "predictions.jsonl", examples, said)
        manifest = complete_report(
            draft,
            "Scores as served by Ollama",
            task,
            examples,
            {name: _describe(tags[name], served[name], answered[name], task) for name in tags},
            said,
            bootstrap_samples=settings.bootstrap_samples,
        )
        _forget_other_models(answers_path, models, corpus, task)
        timer.finish(out_dir, manifest.facts)
        return EvalReport(out_dir, manifest)


@dataclass(frozen=True)
class _Answered:
    """What one model answered.

    Attributes:
        records: Of the journal, in the order of the examples.
        memory_bytes: Of the loaded model; None where the daemon did not list it.
        thinks: Whether its texts may begin with a thought, which is no part of the answer.
    """

    records: Sequence[JSONRecord]
    memory_bytes: int | None
    thinks: bool

    @property
    def answers(self) -> list[str]:
        """The texts."""
        texts = [str(record["answer"]) for record in self.records]
        return [without_thought(text) for text in texts] if self.thinks else texts

    @property
    def ended(self) -> list[bool]:
        """Whether the model ended each, rather than the limit."""
        return [record["done_reason"] == "stop" for record in self.records]


@dataclass(frozen=True)
class _Model:
    """A tag that is asked.

    Attributes:
        tag: Its name.
        options: Of every request.
        identity: What it is, and beside which others it is asked: times of another occasion are
            not compared with theirs.
    """

    tag: str
    options: _Options
    identity: str

    def key(self, example: Example | None, task: TaskSection) -> str:
        """Of the record of an answer; without an example of what the loaded model takes."""
        asked = None if example is None else [example.id, _turns(example, task)]
        return digest_text(canonical_json([self.identity, asked]))


class _Interview:
    """Asks what the journal does not have yet, the models taking turns."""

    def __init__(
        self,
        client: Client,
        models: Mapping[str, _Model],
        task: TaskSection,
        journal: Journal,
        reporter: Reporter,
    ) -> None:
        self._client = client
        self._models = models
        self._task = task
        self._journal = journal
        self._reporter = reporter
        self._known = {record.get("key") for record in journal.records}

    def run(self, examples: Sequence[Example]) -> None:
        total = len(examples) * len(self._models)
        done = sum(
            model.key(one, self._task) in self._known
            for one in examples
            for model in self._models.values()
        )
        if done:
            self._reporter.emit(StageStarted(STAGE, resumed_from=done))
        for number, start in enumerate(range(0, len(examples), _BLOCK_TEXTS)):
            block = examples[start : start + _BLOCK_TEXTS]
            models = list(self._models.values())
            if number % 2:
                models.reverse()  # nobody always goes first
            for model in models:
                todo = [one for one in block if model.key(one, self._task) not in self._known]
                if todo:
                    self._warm_up(model)
                for example in todo:
                    self._ask(model, example)
                    done += 1
                    self._reporter.emit(Progress(STAGE, done, total, "answers"))

    def _warm_up(self, model: _Model) -> None:
        """Load the model outside of the measured time, and note once what it takes."""
        self._client.chat(model.tag, _WARM_UP, options={**model.options, "num_predict": 1})
        key = model.key(None, self._task)
        if key in self._known:
            return
        running = {name_key(one.name): one.size_bytes for one in self._client.ps()}
        if name_key(model.tag) in running:
            self._journal.append({"key": key, "memory_bytes": running[name_key(model.tag)]})
            self._known.add(key)

    def _ask(self, model: _Model, example: Example) -> None:
        record: JSONRecord = {"key": model.key(example, self._task)}
        start_s = time.perf_counter()
        try:
            turns = _turns(example, self._task)
            reply = self._client.chat(model.tag, turns, options=model.options)
        except ContextOverflowError:
            record |= {"answer": "", "done_reason": "overflow", "generated_tokens": 0}
        else:
            record |= {
                "answer": reply.text.strip(),
                "done_reason": reply.done_reason,
                "wall_s": time.perf_counter() - start_s,
                "prompt_tokens": reply.prompt_tokens,
                "prompt_s": reply.timings.prompt_s,
                "generated_tokens": reply.generated_tokens,
                "generate_s": reply.timings.generate_s,
            }
        self._journal.append(record)


def _turns(example: Example, task: TaskSection) -> list[dict[str, str]]:
    """What is sent: not the task's system turn, which the tag has and has to say itself."""
    turns = list(example.prompt)
    if turns[0].role == "system" and turns[0].content == task.system:
        turns = turns[1:]
    return [turn.to_dict() for turn in turns]


def _machine(host: str) -> str:
    """Whose answers and times they are; empty: this machine's Ollama.

    Another version answers otherwise, and what another machine takes is another's time. A tunnel to
    one stands at a port of its own.
    """
    address = read_address(host)
    is_own = address.loopback and urlsplit(address.url).port == DEFAULT_PORT
    return "" if is_own else host


def _find_models(client: Client, tags: Mapping[str, str]) -> dict[str, ModelSummary]:
    there = client.list()
    found: dict[str, ModelSummary] = {}
    for name, tag in tags.items():
        if (listed := find_model(there, tag)) is None:
            raise ModelNotFoundError(
                f"the daemon has no model {tag!r}",
                status_code=404,
                model=tag,
                hint="ollama-bridge ls shows what it has",
            )
        found[name] = listed
    return found


def _that_think(details: Mapping[str, ModelDetails], corpus: Corpus) -> list[str]:
    # What was taught to think does so, whatever Ollama finds in its template.
    taught = teaches_thoughts(corpus)
    return [name for name, one in details.items() if taught or "thinking" in one.capabilities]


def _options(
    settings: EvaluateSection, task: TaskSection, details: ModelDetails, *, thinks: bool
) -> _Options:
    own = _own_limit(details)
    if task.kind == "reply":
        return {"num_predict": min(settings.reply_tokens, own), "seed": 0}
    # No token is shorter than a byte, so every label and its end fit.
    tokens = max(len(label.encode()) for label in task.labels) + 1
    if thinks:
        tokens += settings.reply_tokens
    return {"temperature": 0, "num_predict": min(tokens, own), "seed": 0}


def _own_limit(details: ModelDetails) -> float:
    """Tokens after which the tag's Modelfile ends an answer; infinite where it does not."""
    for line in details.parameters.splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "num_predict" and int(value) > 0:
            return int(value)
    return math.inf


def _tell_of_cuts(name: str, answered: _Answered, limit: float, reporter: Reporter) -> None:
    total = len(answered.records)
    cut = sum(record["done_reason"] == "length" for record in answered.records)
    if cut > FEW_CUT * total:
        message = (
            f"{cut} of {total} answers of the {name} were cut at {limit:g} tokens, "
            "thinking included, and count as wrong: raise evaluate.reply_tokens "
            "(--set evaluate.reply_tokens=2000), and the tag's num_predict where it is less"
        )
        reporter.emit(Note(STAGE, "warning", message))


def _read_journal(
    journal: Journal,
    models: Mapping[str, _Model],
    examples: Sequence[Example],
    task: TaskSection,
    thinking: Sequence[str],
) -> dict[str, _Answered]:
    """What every model answered, by its name."""
    records = {record.get("key"): record for record in journal.records}
    return {
        name: _Answered(
            [records[model.key(example, task)] for example in examples],
            records.get(model.key(None, task), {}).get("memory_bytes"),
            thinks=name in thinking,
        )
        for name, model in models.items()
    }


def _forget_other_models(
    path: Path, models: Mapping[str, _Model], corpus: Corpus, task: TaskSection
) -> None:
    """Keep what these models answered to any text of the corpus: a report of more may follow."""
    examples = [*held_out_examples(corpus, limit=None, by_label=False), None]
    keys = {model.key(example, task) for model in models.values() for example in examples}
    with Journal(path) as journal:
        journal.keep_only(lambda record: record.get("key") in keys)


def _describe(
    tag: str, served: ModelSummary, answered: _Answered, task: TaskSection
) -> dict[str, object]:
    """A model's entry of the report, but for its scores against the labels."""
    records, answers, ended = answered.records, answered.answers, answered.ended
    entry: dict[str, object] = {
        "tag": tag,
        "size_bytes": served.size_bytes,
        "memory_bytes": answered.memory_bytes,
        **_speeds(records),
    }
    if task.kind == "classify":
        exact = sum(answer in task.labels for answer in answers)
        return entry | {
            "one_word": round(exact / len(answers), 5),
            "ended": round(sum(ended) / len(ended), 5),
        }
    tokens = [record["generated_tokens"] for record in records]
    return entry | answer_scores(answers, ended=ended, tokens=tokens)


def _speeds(records: Sequence[JSONRecord]) -> dict[str, float]:
    """Speeds over all answers: sums of tokens by sums of the server's own times."""
    timed = [record for record in records if "wall_s" in record]

    def rate(amount: float, seconds: str) -> float:
        spent_s = sum(record[seconds] for record in timed)
        return round(amount / spent_s, 3) if spent_s > 0 else 0.0

    return {
        "texts_per_s": rate(len(timed), "wall_s"),
        "prompt_tokens_per_s": rate(sum(one["prompt_tokens"] for one in timed), "prompt_s"),
        "generated_tokens_per_s": rate(sum(one["generated_tokens"] for one in timed), "generate_s"),
    }
