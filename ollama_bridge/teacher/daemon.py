"""The teacher in the daemon: writes the answers that a corpus lacks.

Sequence-level distillation, for teachers whose weights are not at hand too. Answers that nobody
should learn from (cut off, empty, going round in circles) are left out and counted.

Source: Kim and Rush, "Sequence-Level Knowledge Distillation" (EMNLP 2016).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.artifacts import Corpus, Work, digest_text, write_text_atomic
from ollama_bridge.config import TeacherSection
from ollama_bridge.drafts import open_draft
from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonError,
    ModelNotFoundError,
    RequestRejectedError,
)
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.journal import Journal, JSONRecord
from ollama_bridge.repetition import is_looping
from ollama_bridge.reporting import (
    Note,
    NullReporter,
    Progress,
    Reporter,
    StageStarted,
    Timed,
)

if TYPE_CHECKING:
    from ollama_bridge.client import Client, Reply

STAGE = "answers"
_SPLITS = ("test", "validation", "train")  # the small ones first: nothing is scored without them
# So many refusals one after the other are not the fault of the rows.
_MAX_REFUSED_IN_A_ROW = 5
_KEPT, _GOLD, _REFUSED = "kept", "had an answer", "refused"


def write_answers(
    corpus: Corpus,
    settings: TeacherSection,
    *,
    tag: str,
    model_digest: str,
    client: Client,
    out_dir: Path,
    reporter: Reporter | None = None,
) -> Corpus:
    """Let a model in Ollama answer every example that ends on the user.

    One request at a time, each answer synced to disk as it comes: a run that is killed goes on
    behind its last answer.

    Args:
        corpus: Examples with answers of their own are kept as they are.
        settings: Limit and temperature of the answers.
        tag: The model's name.
        model_digest: Digest of the tag, so that another model under the same name is other work.
        client: Of the daemon.
        out_dir: Folder of the answered corpus.
        reporter: Hears of progress.

    Raises:
        ModelNotFoundError: the daemon has no such model.
        DaemonError: the daemon fails, or refuses request after request, or no usable answer came
            for a split. What was answered is kept.
    """
    reporter = reporter or NullReporter()
    work = Work(
        kind=Corpus.kind,
        stage=STAGE,
        version=1,
        inputs={"corpus": corpus.digest, "model": model_digest},
        settings={
            "answer_tokens": settings.answer_tokens,
            "answer_temperature": settings.answer_temperature,
        },
        seed=corpus.manifest.work.seed,
    )
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Corpus(out_dir, draft.finished)
        splits = {name: list(read_examples(corpus.split_path(name))) for name in _SPLITS}
        with Journal(draft.path / "resume.jsonl") as journal:
            writer = _Writer(client, tag, settings, seed=work.seed, journal=journal)
            writer.run(
                [example for name in _SPLITS for example in splits[name] if _is_open(example)],
                reporter,
            )
            answers = {str(record["id"]): record for record in journal.records}
        outcomes: dict[str, Counter[str]] = {}
        for name, examples in splits.items():
            kept, outcomes[name] = _answered(examples, answers)
            if examples and not kept:
                raise DaemonError(
                    f"{tag} wrote no usable answer for the {name} split: {_counts(outcomes[name])}",
                    hint="raise teacher.answer_tokens, or choose another teacher",
                    model=tag,
                )
            write_examples(draft.path / f"{name}.jsonl", kept)
        refused = [record for record in answers.values() if record["outcome"] == _REFUSED]
        if refused:
            _write_json_lines(draft.path / "refused.jsonl", refused)
        card = {
            "model": tag,
            "model_digest": model_digest,
            "outcomes": {name: dict(sorted(counts.items())) for name, counts in outcomes.items()},
            "corpus": json.loads((corpus.path / "card.json").read_text(encoding="utf-8")),
        }
        write_text_atomic(
            draft.path / "card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n"
        )
        total = sum(outcomes.values(), Counter[str]())
        left_out = total - Counter({_KEPT: total[_KEPT], _GOLD: total[_GOLD]})
        if left_out:
            reporter.emit(Note(STAGE, "info", f"answers left out: {_counts(left_out)}"))
        facts: dict[str, object] = {
            **{
                name: sum(counts[outcome] for outcome in (_KEPT, _GOLD))
                for name, counts in outcomes.items()
            },
            "answers": dict(sorted(total.items())),
        }
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return Corpus(out_dir, manifest)


class _Writer:
    """Asks for what the journal does not have yet."""

    def __init__(
        self, client: Client, tag: str, settings: TeacherSection, *, seed: int, journal: Journal
    ) -> None:
        self._client = client
        self._tag = tag
        self._settings = settings
        self._seed = seed
        self._journal = journal
        self._refused: list[JSONRecord] = []

    def run(self, examples: Sequence[Example], reporter: Reporter) -> None:
        done_ids = {record["id"] for record in self._journal.records}
        todo = [example for example in examples if example.id not in done_ids]
        done = len(examples) - len(todo)
        if done:
            reporter.emit(StageStarted(STAGE, resumed_from=done))
        tokens, start_s = 0, time.monotonic()
        for example in todo:
            tokens += self._answer(example)
            done += 1
            speed = tokens / max(1e-9, time.monotonic() - start_s)
            reporter.emit(Progress(STAGE, done, len(examples), "answers", {"tok_s": speed}))
        self._accept_refused()

    def _answer(self, example: Example) -> int:
        try:
            reply = self._client.chat(
                self._tag,
                [message.to_dict() for message in example.messages],
                options={
                    "temperature": self._settings.answer_temperature,
                    "num_predict": self._settings.answer_tokens,
                    "seed": _seed_of(example, self._seed),
                },
            )
        except ModelNotFoundError:
            raise
        except RequestRejectedError as exc:
            self._refused.append(
                {
                    "id": example.id,
                    "outcome": _REFUSED,
                    "error": f"{exc.status_code}: {exc.message}",
                }
            )
            if isinstance(exc, ContextOverflowError):
                self._accept_refused()  # surely the row's own fault
            elif len(self._refused) >= _MAX_REFUSED_IN_A_ROW:
                raise
            return 0
        self._accept_refused()
        text = reply.text.strip()
        self._journal.append(
            {
                "id": example.id,
                "outcome": _judge(reply, text),
                "answer": text,
                "tokens": reply.generated_tokens,
            }
        )
        return reply.generated_tokens

    def _accept_refused(self) -> None:
        """Others were answered since, so these rows are at fault: they are not asked again."""
        for record in self._refused:
            self._journal.append(record)
        self._refused.clear()


def _is_open(example: Example) -> bool:
    return example.messages[-1].role == "user"


def _seed_of(example: Example, seed: int) -> int:
    # Answers of equal seeds resemble one another at temperatures above 0.
    return int(digest_text(f"{seed}/{example.id}")[:7], 16)


def _judge(reply: Reply, text: str) -> str:
    if reply.done_reason == "length":
        return "cut at the limit"
    if not text:
        return "empty"
    if is_looping(text):
        return "looping"
    return _KEPT


def _answered(
    examples: Sequence[Example], answers: dict[str, JSONRecord]
) -> tuple[list[Example], Counter[str]]:
    kept = []
    outcomes: Counter[str] = Counter()
    for example in examples:
        if not _is_open(example):
            outcomes[_GOLD] += 1
            kept.append(example)
            continue
        record = answers[example.id]
        outcomes[record["outcome"]] += 1
        if record["outcome"] == _KEPT:
            answer = Message("assistant", record["answer"])
            kept.append(replace(example, messages=(*example.messages, answer)))
    return kept, outcomes


def _counts(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


def _write_json_lines(path: Path, records: Sequence[JSONRecord]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_text_atomic(path, text)
