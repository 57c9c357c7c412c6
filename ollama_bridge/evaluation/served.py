"""The stage ``evaluate_served``: models asked through the daemon, as a user would ask them.

Teacher and student take turns (see ``interview``), so the ratio of their speeds is what to read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from ollama_bridge.client.model_names import require_model
from ollama_bridge.client.wire.address import DEFAULT_PORT, read_address
from ollama_bridge.digests import canonical_json
from ollama_bridge.evaluation.alike import tell_of_replies
from ollama_bridge.evaluation.calls import each_answer
from ollama_bridge.evaluation.held_out import (
    held_out_examples,
    teaches_thoughts,
    write_predictions,
)
from ollama_bridge.evaluation.interview import (
    NO_TOOLS,
    REPETITION,
    UNREADABLE,
    Answered,
    Interview,
    Options,
    TaggedModel,
    forget_other_models,
    read_answers,
)
from ollama_bridge.evaluation.metrics import CUT_LABELS, CUT_REPLIES, FEW_CUT, answer_scores
from ollama_bridge.evaluation.report import complete_report
from ollama_bridge.recipe.config import EvaluateSection, TaskSection
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Corpus, EvalReport, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.storage.journal import Journal, JSONRecord

if TYPE_CHECKING:
    from ollama_bridge.client import Client, ModelDetails, ModelSummary

STAGE = "served"
_VERSION = 5


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
        task: Kind, labels, and the system prompt that the tags have themselves.

    Raises:
        ModelNotFoundError: the daemon lacks a tag.
        DaemonError: the daemon fails; what was answered is kept.
        DataError: the test split has no answers.
    """
    reporter = reporter or NullReporter()
    exam = _Exam.of(tags, corpus, settings, task, client)
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, exam.work()) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return EvalReport(out_dir, draft.finished)
        examples = each_answer(
            held_out_examples(corpus, limit=exam.limit, by_label=task.kind == "classify")
        )
        models = exam.models()
        answers_path = out_dir.absolute().with_name(f"{out_dir.name}-answers.jsonl")
        with Journal(answers_path) as journal:
            interview = Interview(client, models, task, journal, stage=STAGE, reporter=reporter)
            interview.run(examples)
            answered = read_answers(journal, models, examples, task, exam.thinking)
        exam.tell(answered, reporter)
        said = {name: one.answers for name, one in answered.items()}
        if task.kind == "reply":
            tell_of_replies(STAGE, examples, said, reporter)
        write_predictions(draft.path / "predictions.jsonl", examples, said)
        manifest = complete_report(
            draft,
            "Scores as served by Ollama",
            task,
            examples,
            {name: exam.entry(name, one) for name, one in answered.items()},
            said,
            bootstrap_samples=settings.bootstrap_samples,
        )
        forget_other_models(answers_path, models, corpus, task)
        timer.finish(out_dir, manifest.facts)
        return EvalReport(out_dir, manifest)


@dataclass(frozen=True)
class _Exam:
    """Who is asked, and how.

    Attributes:
        tags: By the names that the report gives them, as is all that follows.
        served: What the daemon has under the tags.
        options: Of every question.
        thinking: Names of those that think before they say a label.
        taking_tools: Names of those that can be offered tools.
        daemon: Its version, and where it is.
    """

    tags: Mapping[str, str]
    served: Mapping[str, ModelSummary]
    options: Mapping[str, Options]
    thinking: Sequence[str]
    taking_tools: Sequence[str]
    daemon: Sequence[str]
    corpus: Corpus
    settings: EvaluateSection
    task: TaskSection

    @classmethod
    def of(
        cls,
        tags: Mapping[str, str],
        corpus: Corpus,
        settings: EvaluateSection,
        task: TaskSection,
        client: Client,
    ) -> Self:
        there = client.list()
        served = {name: require_model(there, tag) for name, tag in tags.items()}
        details = {name: client.show(tag) for name, tag in tags.items()}
        thinking = _that_think(details, corpus) if task.kind == "classify" else []
        options = {
            name: _options(settings, task, one, thinks=name in thinking)
            for name, one in details.items()
        }
        daemon = [client.version(), _machine(client.host)]
        able = [name for name, one in details.items() if "tools" in one.capabilities]
        return cls(tags, served, options, thinking, able, daemon, corpus, settings, task)

    @property
    def limit(self) -> int | None:
        """How many texts."""
        limits = (self.settings.max_examples, self.settings.served_examples)
        return min((one for one in limits if one), default=None)

    def work(self) -> Work:
        """What decides the report."""
        digests = {f"tag {name}": one.digest for name, one in self.served.items()}
        return Work(
            kind=EvalReport.kind,
            stage=STAGE,
            version=_VERSION,
            inputs={"corpus": self.corpus.digest, **digests},
            settings={
                "tags": dict(self.tags),
                "task": self.task.model_dump(mode="json"),
                "examples": self.limit,
                "bootstrap_samples": self.settings.bootstrap_samples,
                "reply_tokens": self.settings.reply_tokens,
                "daemon": list(self.daemon),
                **({"thinking": list(self.thinking)} if self.thinking else {}),
            },
        )

    def models(self) -> dict[str, TaggedModel]:
        """Each with what tells its answers from those of others."""
        asked = [[name, self.served[name].digest, self.options[name]] for name in self.tags]
        identity = canonical_json([*self.daemon, asked])
        return {
            name: TaggedModel(
                tag,
                self.options[name],
                f"{name} of {identity}",
                takes_tools=name in self.taking_tools,
            )
            for name, tag in self.tags.items()
        }

    def tell(self, answered: Mapping[str, Answered], reporter: Reporter) -> None:
        """Warn of what limits of answers and of contexts have cost."""
        for name, one in answered.items():
            limit = self.options[name]["num_predict"]
            if self.task.kind == "reply" or name in self.thinking:
                _tell_of_cuts(name, one, limit, self.task, reporter)
            _tell_of_too_long(name, one, limit, self.task, reporter)
            if unasked := sum(record["done_reason"] == NO_TOOLS for record in one.records):
                message = (
                    f"the {name} takes no tools as served: {unasked} questions that offer some "
                    "count as answered wrong"
                )
                reporter.emit(Note(STAGE, "warning", message))
            if unread := sum(record["done_reason"] == UNREADABLE for record in one.records):
                message = (
                    f"{unread} of {len(one.records)} answers of the {name} have calls that its "
                    "PARSER cannot read, for which Ollama gives an error: they count as wrong"
                )
                reporter.emit(Note(STAGE, "warning", message))

    def entry(self, name: str, answered: Answered) -> dict[str, object]:
        """A model's entry of the report, but for its scores against the labels."""
        records, answers, ended = answered.records, answered.answers, answered.ended
        entry: dict[str, object] = {
            "tag": self.tags[name],
            "size_bytes": self.served[name].size_bytes,
            "memory_bytes": answered.memory_bytes,
            **_speeds(records),
        }
        if answered.too_long:
            entry["too_long"] = len(answered.too_long)
        if self.task.kind == "classify":
            exact = sum(answer in self.task.labels for answer in answers)
            return entry | {
                "one_word": round(exact / len(answers), 5),
                "ended": round(sum(ended) / len(ended), 5),
            }
        tokens = [record["generated_tokens"] for record in records]
        repeated = [record["done_reason"] == REPETITION for record in records]
        entry |= answer_scores(answered.shown, ended=ended, tokens=tokens, repeated=repeated)
        return entry | {"limit_tokens": self.options[name]["num_predict"]}


def _machine(host: str) -> str:
    """Whose answers and times they are; empty: this machine's Ollama.

    Another version answers otherwise, and what another machine takes is another's time. A tunnel to
    one stands at a port of its own.
    """
    address = read_address(host)
    is_own = address.loopback and urlsplit(address.url).port == DEFAULT_PORT
    return "" if is_own else host


def _that_think(details: Mapping[str, ModelDetails], corpus: Corpus) -> list[str]:
    # What was taught to think does so, whatever Ollama finds in its template.
    taught = teaches_thoughts(corpus)
    return [name for name, one in details.items() if taught or "thinking" in one.capabilities]


def _options(
    settings: EvaluateSection, task: TaskSection, details: ModelDetails, *, thinks: bool
) -> Options:
    own = details.own_limit or math.inf
    if task.kind == "reply":
        return {"num_predict": min(settings.reply_tokens, own), "seed": 0}
    # No token is shorter than a byte, so every label and its end fit.
    tokens = max(len(label.encode()) for label in task.labels) + 1
    if thinks:
        tokens += settings.reply_tokens
    return {"temperature": 0, "num_predict": min(tokens, own), "seed": 0}


def _tell_of_cuts(
    name: str, answered: Answered, limit: float, task: TaskSection, reporter: Reporter
) -> None:
    total = len(answered.records)
    cut = sum(record["done_reason"] == "length" for record in answered.records)
    if cut > FEW_CUT * total:
        result = CUT_LABELS if task.kind == "classify" else CUT_REPLIES
        message = (
            f"{cut} of {total} answers of the {name} were cut at {limit:g} tokens, "
            f"{result}: raise evaluate.reply_tokens "
            "(--set evaluate.reply_tokens=2000), and the tag's num_predict where it is less"
        )
        reporter.emit(Note(STAGE, "warning", message))


def _tell_of_too_long(
    name: str, answered: Answered, limit: float, task: TaskSection, reporter: Reporter
) -> None:
    """What the context of a tag loses looks like what the model does not know."""
    refused = answered.too_long
    if not refused:
        return
    # Records of before have no numbers, nor has every daemon's error.
    needed = max(record.get("needed_tokens") or 0 for record in refused)
    room = max(record.get("limit_tokens") or 0 for record in refused)
    context = f"context of {room} tokens" if room else "context"
    result = "count as answered wrong" if task.kind == "classify" else "have no answer"
    size = f"{needed + limit:g}" if needed else "N"
    message = (
        f"{len(refused)} of {len(answered.records)} test texts are longer than the {context} that "
        f"the {name} is served with, and {result}: --set modelfile.parameters.num_ctx={size} "
        f"(package: -p num_ctx={size}) makes a tag that reads them"
    )
    reporter.emit(Note(STAGE, "warning", message))


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
