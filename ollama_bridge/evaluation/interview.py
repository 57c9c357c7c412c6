"""Asks tags about texts, each answer kept on disk as it comes.

The models take turns, block by block over the same texts, so that what else the machine does slows
all alike. Loading is not counted: every turn begins with a short question that is not measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollama_bridge.answer_text import without_thought
from ollama_bridge.client.model_names import name_key
from ollama_bridge.client.wire.retries import is_passing
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonError,
    RepetitionError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.evaluation.calls import as_said, each_answer
from ollama_bridge.evaluation.held_out import held_out_examples
from ollama_bridge.examples import Call, Example
from ollama_bridge.recipe.config import TaskSection
from ollama_bridge.reporting import Progress, Reporter, StageStarted
from ollama_bridge.storage.artifacts import Corpus
from ollama_bridge.storage.journal import Journal, JSONRecord

if TYPE_CHECKING:
    from ollama_bridge.client import Client

# Why an answer ended: Ollama ended it, for one token came on and on; it was never begun, for the
# prompt has no room in the context, or for the tag takes no tools; its PARSER could not read it.
REPETITION, OVERFLOW, NO_TOOLS = "repetition", "overflow", "no tools"
UNREADABLE = "unreadable"
_BLOCK_TEXTS = 50
_WARM_UP = "Hello."

Options = dict[str, float]  # of a request, by Ollama's names


@dataclass(frozen=True)
class Answered:
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
        """The texts; where tools were offered as ``calls`` keeps them."""
        return [
            as_said(text, _calls(record)) if "calls" in record else text
            for text, record in zip(self._texts, self.records, strict=True)
        ]

    @property
    def shown(self) -> list[str]:
        """What was said, calls included."""
        return [
            text or "\n".join(str(call) for call in record.get("calls", ()))
            for text, record in zip(self._texts, self.records, strict=True)
        ]

    @property
    def _texts(self) -> list[str]:
        texts = [str(record["answer"]) for record in self.records]
        return [without_thought(text) for text in texts] if self.thinks else texts

    @property
    def ended(self) -> list[bool]:
        """Whether the model ended each, rather than the limit."""
        return [record["done_reason"] == "stop" for record in self.records]

    @property
    def too_long(self) -> list[JSONRecord]:
        """The records of texts that the tag's context has no room for."""
        return [record for record in self.records if record["done_reason"] == OVERFLOW]


@dataclass(frozen=True)
class TaggedModel:
    """A tag that is asked.

    Attributes:
        tag: Its name.
        options: Of every request.
        identity: What it is, and beside which others it is asked: times of another occasion are
            not compared with theirs.
        takes_tools: Whether it can be offered tools; else it is not asked where there are any.
    """

    tag: str
    options: Options
    identity: str
    takes_tools: bool = True

    def key(self, example: Example | None, task: TaskSection) -> str:
        """Of the record of an answer; without an example of what the loaded model takes."""
        asked = None if example is None else [example.id, _turns(example, task)]
        if example is not None and asked is not None and example.tools:
            asked.append(list(map(dict, example.tools)))
        return digest_text(canonical_json([self.identity, asked]))


class Interview:
    """Asks what the journal does not have yet, the models taking turns."""

    def __init__(
        self,
        client: Client,
        models: Mapping[str, TaggedModel],
        task: TaskSection,
        journal: Journal,
        *,
        stage: str,
        reporter: Reporter,
    ) -> None:
        self._client = client
        self._models = models
        self._task = task
        self._journal = journal
        self._stage = stage
        self._reporter = reporter
        self._known = {record.get("key") for record in journal.records}

    def run(self, examples: Sequence[Example]) -> None:
        """Ask every model about every text, in blocks.

        Raises:
            DaemonError: the daemon fails; what was answered is in the journal.
        """
        total = len(examples) * len(self._models)
        done = sum(
            model.key(one, self._task) in self._known
            for one in examples
            for model in self._models.values()
        )
        if done:
            self._reporter.emit(StageStarted(self._stage, resumed_from=done))
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
                    self._reporter.emit(Progress(self._stage, done, total, "answers"))

    def _warm_up(self, model: TaggedModel) -> None:
        """Load the model outside of the measured time, and note once what it takes."""
        self._client.chat(model.tag, _WARM_UP, options={**model.options, "num_predict": 1})
        key = model.key(None, self._task)
        if key in self._known:
            return
        running = {name_key(one.name): one.size_bytes for one in self._client.ps()}
        if name_key(model.tag) in running:
            self._journal.append({"key": key, "memory_bytes": running[name_key(model.tag)]})
            self._known.add(key)

    def _ask(self, model: TaggedModel, example: Example) -> None:
        record: JSONRecord = {"key": model.key(example, self._task)}
        tools = list(example.tools)
        if tools:
            record["calls"] = []
        if tools and not model.takes_tools:
            record |= {"answer": "", "done_reason": NO_TOOLS, "generated_tokens": 0}
            self._journal.append(record)
            return
        start_s = time.perf_counter()
        try:
            turns = _turns(example, self._task)
            ask = partial(self._client.chat, model.tag, turns, options=model.options)
            reply = ask(tools=tools) if tools else ask()
        except ContextOverflowError as error:
            record |= {
                "answer": "",
                "done_reason": OVERFLOW,
                "generated_tokens": 0,
                "needed_tokens": error.needed_tokens,
                "limit_tokens": error.limit_tokens,
            }
        except RepetitionError as error:
            answer = error.partial_text.strip()
            record |= {
                "answer": answer,
                "done_reason": REPETITION,
                "generated_tokens": error.pieces,
            }
        except (RunnerCrashedError, RequestRejectedError) as error:
            if not tools or not self._is_unreadable(error, model):
                raise
            record |= {
                "answer": error.partial_text.strip(),
                "calls": [["", {}]],  # one was begun, of nothing
                "done_reason": UNREADABLE,
                "generated_tokens": 0,
            }
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
            if tools:
                record["calls"] = [[one.name, dict(one.arguments)] for one in reply.tool_calls]
        self._journal.append(record)

    def _is_unreadable(self, error: DaemonError, model: TaggedModel) -> bool:
        """Whether it is the answer that failed: a call that its PARSER makes nothing of.

        Raises:
            DaemonError: it is the daemon: nor does it answer what has no tools.
        """
        if is_passing(error) or (
            isinstance(error, RequestRejectedError) and error.status_code < 500
        ):
            return False
        self._client.unload(model.tag)  # 0.24 has the runner of such an answer wait for ever
        self._warm_up(model)
        return True


def _calls(record: JSONRecord) -> list[Call]:
    return [Call(name, arguments) for name, arguments in record["calls"]]


def _turns(example: Example, task: TaskSection) -> list[dict[str, Any]]:
    """What is sent: not the task's system turn, which the tag has and has to say itself."""
    turns = list(example.prompt)
    if turns[0].role == "system" and turns[0].content == task.system:
        turns = turns[1:]
    return [turn.to_dict() for turn in turns]


def read_answers(
    journal: Journal,
    models: Mapping[str, TaggedModel],
    examples: Sequence[Example],
    task: TaskSection,
    thinking: Sequence[str],
) -> dict[str, Answered]:
    """What every model answered, by its name."""
    records = {record.get("key"): record for record in journal.records}
    return {
        name: Answered(
            [records[model.key(example, task)] for example in examples],
            records.get(model.key(None, task), {}).get("memory_bytes"),
            thinks=name in thinking,
        )
        for name, model in models.items()
    }


def forget_other_models(
    path: Path, models: Mapping[str, TaggedModel], corpus: Corpus, task: TaskSection
) -> None:
    """Keep what these models answered to any text of the corpus: a report of more may follow."""
    examples = [*each_answer(held_out_examples(corpus, limit=None, by_label=False)), None]
    keys = {model.key(example, task) for model in models.values() for example in examples}
    with Journal(path) as journal:
        journal.keep_only(lambda record: record.get("key") in keys)
