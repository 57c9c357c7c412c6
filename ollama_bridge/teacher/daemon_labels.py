"""Soft labels of a teacher in Ollama, for students whose tokenizer may be another.

Answers that the daemon wrote came with their likeliest 20 tokens (``alignment``); given text is
asked about prefix by prefix (``scoring``). Where neither says anything about a student's token, the
store holds its hard label as a distribution that is certain, so the loss there is the
cross-entropy whatever its weights are. How many tokens these are is a fact of the artefact.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ollama_bridge.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.client import AsyncClient
from ollama_bridge.client.batch import run_batch
from ollama_bridge.client.batch_log import BatchLog
from ollama_bridge.client.coordinator import BatchLimits, GivenUp, Job
from ollama_bridge.client.records import reply_from_record
from ollama_bridge.config import SoftLabelsSection, TeacherSection
from ollama_bridge.drafts import open_draft
from ollama_bridge.encoding import EncodedExample, encode_split, tokenizer_digest
from ollama_bridge.errors import ConfigError, DaemonError
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.label_store.formats import TopKFormat
from ollama_bridge.label_store.info import StoreInfo, row_key
from ollama_bridge.label_store.segments import Row
from ollama_bridge.label_store.shared import SharedStore, open_store
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, StageStarted, Timed
from ollama_bridge.teacher.alignment import Distribution, Span, align, spans_of
from ollama_bridge.teacher.daemon import LOGPROBS_NAME
from ollama_bridge.teacher.named_targets import soft_targets
from ollama_bridge.teacher.respondent import TOP_LOGPROBS, Respondent
from ollama_bridge.teacher.scoring import Passage, Place, places_of, read_scores, score
from ollama_bridge.teacher.token_bytes import TokenBytes

STAGE = "label"
SPLITS = ("train", "validation")

_EXAMPLES_AT_ONCE = 256

Positions = np.ndarray[Any, np.dtype[np.intp]]
Origin = Literal["generated", "scored", "hard"]


def label_by_daemon(
    corpus: Corpus,
    student: Checkpoint,
    settings: SoftLabelsSection,
    teacher: TeacherSection,
    *,
    respondent: Respondent,
    max_length: int,
    out_dir: Path,
    reporter: Reporter | None = None,
) -> SoftLabels:
    """Write a daemon's distributions on the supervised positions of a corpus.

    Args:
        corpus: What the student will be trained on; from :func:`write_answers` if ``teacher.score``
            asks for distributions of written answers.
        student: Its tokenizer and chat template decide what the positions are.
        settings: How much is kept of a distribution; of a daemon's, 20 tokens at most.
        teacher: What is asked, and what became of thinking.
        respondent: Who is asked.
        max_length: Tokens; longer examples are left out, as in training.
        out_dir: Folder of the store.
        reporter: Hears of progress.

    Raises:
        ConfigError: the respondent cannot be asked about given text.
        DataError: a split has no usable example.
        TrainingError: the chat template cannot be used for training.
        DaemonError: the daemon fails, or not one position got a distribution. What was asked is
            kept.
    """
    reporter = reporter or NullReporter()
    if teacher.score != "generated" and not respondent.scores:
        raise ConfigError(
            f"{respondent.name} cannot be asked about text that it did not write",
            hint="say teacher.score=generated",
        )
    work = Work(
        kind=SoftLabels.kind,
        stage=STAGE,
        version=1,
        inputs={"model": respondent.identity, "corpus": corpus.digest, "student": student.digest},
        settings={
            "top_k": settings.top_k,
            "score": teacher.score,
            "thinking": teacher.thinking,
            "max_length": max_length,
        },
    )
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return SoftLabels(out_dir, draft.finished)
        tokenizer = load_tokenizer(student.path)
        info = StoreInfo(
            method="top_k",
            vocab_size=len(tokenizer),
            teacher=respondent.identity,
            tokenizer=tokenizer_digest(tokenizer),
            dtype="daemon",
            top_k=min(settings.top_k, TOP_LOGPROBS),
        )
        vocabulary = TokenBytes(tokenizer)
        readers: dict[str, _SplitReader] = {}
        facts: dict[str, object] = {"content_key": info.content_key}
        for name in SPLITS:
            examples = list(read_examples(corpus.split_path(name)))
            split = encode_split(examples, tokenizer, max_length=max_length, name=name)
            generated = _Generated(corpus.path / f"{name}-{LOGPROBS_NAME}")
            readers[name] = _SplitReader(
                examples, split.examples, generated, teacher, vocabulary, info.top_k
            )
            facts[f"{name}_examples"] = len(split.examples)
            facts[f"{name}_tokens"] = split.supervised_tokens
            facts[f"{name}_too_long"] = split.too_long
        with BatchLog(draft.path / "resume-scores.jsonl") as log:
            asker = _Asker(respondent, teacher.in_flight, reporter)
            asker.run([turn for reader in readers.values() for turn in reader.turns()], log)
            # Of this artefact alone: what a row's labels are depends on what came along with it.
            stores = draft.path / "resume-stores"
            with open_store(stores, info, teacher_path=Path(respondent.name)) as store:
                origins = {
                    name: _write(reader, asker, log, store, vocabulary, info)
                    for name, reader in readers.items()
                }
                keys = [key for reader in readers.values() for key in reader.row_keys()]
                facts["bytes_per_token"] = store.link_into(draft.path, keys, user=draft.out_dir)
        total = sum(origins.values(), Counter[str]())
        _check(total, respondent.name, teacher)
        facts["tokens_by_origin"] = {name: dict(counts) for name, counts in origins.items()}
        share = total["hard"] / total.total()
        facts["hard_share"] = round(share, 4)
        message = (
            f"{share:.1%} of {total.total()} tokens have no distribution and are learnt as hard "
            f"labels ({total['generated']} came with written answers, {total['scored']} were asked)"
        )
        reporter.emit(Note(STAGE, "info", message))
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return SoftLabels(out_dir, manifest)


@dataclass(frozen=True)
class _Turn:
    """One assistant turn: its tokens, and what is known of them or has to be asked."""

    tokens: tuple[int, ...]
    known: tuple[Distribution | None, ...]
    passage: Passage | None


class _Generated:
    """The replies of a split that came with distributions, read when they are needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts: dict[str, int] = {}
        if path.exists():
            with path.open("rb") as stream:
                start = 0
                for line in stream:
                    self._starts[str(json.loads(line)["id"])] = start
                    start += len(line)

    def read(self, example_id: str) -> Mapping[str, object] | None:
        if example_id not in self._starts:
            return None
        with self._path.open("rb") as stream:
            stream.seek(self._starts[example_id])
            record: Mapping[str, object] = json.loads(stream.readline())["reply"]
            return record


class _SplitReader:
    """The turns of a split's examples, with what came along."""

    def __init__(
        self,
        examples: Sequence[Example],
        encoded: Sequence[EncodedExample],
        generated: _Generated,
        settings: TeacherSection,
        vocabulary: TokenBytes,
        top_k: int,
    ) -> None:
        self._examples = examples
        self.encoded = encoded
        self._generated = generated
        self._settings = settings
        self._vocabulary = vocabulary
        self._top_k = top_k

    def row_keys(self) -> list[bytes]:
        """Of all examples, in the store."""
        return [key_of(encoded) for encoded in self.encoded]

    def turns(self) -> Iterator[_Turn]:
        """Of all examples."""
        for encoded in self.encoded:
            yield from self.turns_of(encoded)

    def turns_of(self, encoded: EncodedExample) -> Iterator[_Turn]:
        """Of one example, in order; together they are its supervised tokens."""
        example = self._examples[encoded.row]
        places = [place for place, one in enumerate(example.messages) if one.role == "assistant"]
        runs = encoded.stretches
        if len(runs) != len(places):  # turns that the template writes without a gap
            tokens = tuple(int(token) for token in encoded.input_ids[encoded.targets])
            yield _Turn(tokens, (None,) * len(tokens), None)
            return
        for place, run in zip(places, runs, strict=True):
            tokens = tuple(int(token) for token in encoded.input_ids[run])
            is_last = place == len(example.messages) - 1
            reply = self._generated.read(example.id) if is_last else None
            yield self._turn(example, place, tokens, reply)

    def _turn(
        self,
        example: Example,
        place: int,
        tokens: tuple[int, ...],
        record: Mapping[str, object] | None,
    ) -> _Turn:
        answer = example.messages[place].content
        spans = spans_of(tokens, answer, self._vocabulary)
        known: Sequence[Distribution | None] = (None,) * len(tokens)
        if record is not None:
            known = self._known(spans, answer, record)
        places: list[Place] = []
        if self._settings.score != "generated":
            places = [
                one
                for one in places_of(tokens, spans, answer, self._vocabulary)
                if known[one.number] is None
            ]
        passage = Passage(example.messages[:place], answer, tuple(places)) if places else None
        return _Turn(tokens, tuple(known), passage)

    def _known(
        self, spans: Sequence[Span | None], answer: str, record: Mapping[str, object]
    ) -> Sequence[Distribution | None]:
        reply = reply_from_record(dict(record))
        if reply.thinking and self._settings.thinking != "keep":
            # What was likely behind a thought says little about an answer without it.
            return (None,) * len(spans)
        return align(spans, answer, reply.logprobs or (), self._vocabulary, top_k=self._top_k)


class _Asker:
    """Asks for what did not come along."""

    def __init__(self, respondent: Respondent, in_flight: int, reporter: Reporter) -> None:
        self._respondent = respondent
        # A row that only waits drives the others' prompts out of the daemon's cache: with one slot
        # two rows in flight took 1.3 times as long a token as one.
        self._limits = BatchLimits(in_flight=max(1, in_flight - 1))
        self._reporter = reporter

    def job(self, passage: Passage) -> Job[AsyncClient]:
        """The job of a passage."""
        return score(self._respondent.name, passage, identity=self._respondent.identity)

    def run(self, turns: Sequence[_Turn], log: BatchLog) -> None:
        """Ask, after saying how long it will take."""
        passages = {
            self.job(turn.passage).key: turn.passage for turn in turns if turn.passage is not None
        }
        todo = {key: one for key, one in passages.items() if key not in log}
        if len(todo) < len(passages):
            done = len(passages) - len(todo)
            self._reporter.emit(StageStarted(STAGE, resumed_from=done))
        keys = sorted(todo, key=lambda key: len(todo[key].places))
        # The first loads the model, one of middle length tells the time.
        for probe in (keys[:1], keys[len(keys) // 2 :][:1]):
            start_s = time.monotonic()
            self._settle(probe, todo, log)
        if len(keys) > 2:
            places = len(todo[keys[len(keys) // 2]].places)
            self._estimate((time.monotonic() - start_s) / places, todo, log)
        self._settle(keys, todo, log)

    def _estimate(self, place_s: float, todo: Mapping[str, Passage], log: BatchLog) -> None:
        left = sum(len(one.places) for key, one in todo.items() if key not in log)
        minutes = left * place_s / len(self._respondent.endpoints) / 60
        message = (
            f"{left} tokens are asked about one by one: about {math.ceil(minutes)} min "
            f"({place_s * 1000:.0f} ms a token, {len(self._respondent.endpoints)} daemon(s))"
        )
        self._reporter.emit(Note(STAGE, "info", message))

    def _settle(self, keys: Sequence[str], todo: Mapping[str, Passage], log: BatchLog) -> None:
        total = sum(len(one.places) for one in todo.values())
        done = sum(len(one.places) for key, one in todo.items() if key in log)
        jobs = [self.job(todo[key]) for key in keys]
        for event in run_batch(jobs, self._respondent.endpoints, log, self._limits):
            if isinstance(event, GivenUp):
                message = f"{event.name} is asked no more: {event.error.message}"
                self._reporter.emit(Note(STAGE, "warning", message))
                continue
            done += len(todo[event.key].places)
            self._reporter.emit(Progress(STAGE, done, total, "tokens"))


def _write(
    reader: _SplitReader,
    asker: _Asker,
    log: BatchLog,
    store: SharedStore,
    vocabulary: TokenBytes,
    info: StoreInfo,
) -> Counter[str]:
    """Write the rows of a split; returns from where its tokens' distributions came."""
    origins: Counter[str] = Counter()
    for start in range(0, len(reader.encoded), _EXAMPLES_AT_ONCE):
        shard = reader.encoded[start : start + _EXAMPLES_AT_ONCE]
        targets = []
        for encoded in shard:
            tokens: list[int] = []
            found: list[Distribution | None] = []
            for turn in reader.turns_of(encoded):
                scores: Mapping[int, Distribution] = {}
                if turn.passage is not None:
                    outcome = log.read(asker.job(turn.passage).key)
                    if outcome.value is not None:
                        scores = read_scores(
                            outcome.value, turn.passage, turn.tokens, vocabulary, top_k=info.top_k
                        )
                for place, known in enumerate(turn.known):
                    found.append(known or scores.get(place))
                    origin: Origin = "generated" if known else "scored"
                    origins[origin if found[-1] else "hard"] += 1
                tokens += turn.tokens
            targets.append(
                soft_targets(found, tokens, top_k=info.top_k, vocab_size=info.vocab_size)
            )
        rows = {}
        for encoded, target in zip(shard, targets, strict=True):
            key, count = key_of(encoded), len(target)
            if key not in store:
                (block,) = TopKFormat(info).pack(target, [count])
                rows[key] = Row(key, count, block)
        store.append(list(rows.values()))
    return origins


def key_of(encoded: EncodedExample) -> bytes:
    """Of an example's row in the store."""
    return row_key(encoded.input_ids, encoded.supervised)


def _check(total: Counter[str], tag: str, teacher: TeacherSection) -> None:
    if total["generated"] + total["scored"]:
        return
    hint = {
        "generated": "teacher.score=both also asks about given answers; or say teacher.answers="
        "daemon, so that there are written ones",
        "asked": "choose a student whose tokenizer cuts text as the teacher's does",
        "both": "choose a student whose tokenizer cuts text as the teacher's does",
    }[teacher.score]
    raise DaemonError(
        f"{tag} gave no distribution for any of {total.total()} tokens", hint=hint, model=tag
    )
