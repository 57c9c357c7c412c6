"""Soft labels of a teacher in Ollama, for students whose tokenizer may be another.

Answers that the daemon wrote came with their likeliest 20 tokens (``alignment``); given text is
asked about prefix by prefix (``scoring``). Where neither says anything about a student's token, the
store holds its hard label as a distribution that is certain, so the loss there is the
cross-entropy whatever its weights are. How many tokens these are is a fact of the artefact.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ollama_bridge.client.jobs.batch_log import BatchLog
from ollama_bridge.client.jobs.jobs import Away, BatchLimits, GivenUp
from ollama_bridge.client.jobs.runner import run_batch
from ollama_bridge.encoding.encode import EncodedExample, Tokenizer, tokenizer_digest
from ollama_bridge.encoding.row_keys import key_of_rows
from ollama_bridge.errors import ConfigError, DaemonUnreachableError
from ollama_bridge.examples import read_examples
from ollama_bridge.label_store.formats import TopKFormat
from ollama_bridge.label_store.info import StoreInfo, row_key
from ollama_bridge.label_store.segments import Row
from ollama_bridge.label_store.shared import SharedStore, open_store
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.config import SoftLabelsSection, TeacherSection
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, StageStarted, Timed
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.storage.drafts import Draft, open_draft
from ollama_bridge.storage.journal import JSONRecord
from ollama_bridge.teacher.alignment import Distribution
from ollama_bridge.teacher.named_targets import soft_targets
from ollama_bridge.teacher.replies import LOGPROBS_NAME
from ollama_bridge.teacher.respondent import TOP_LOGPROBS, Respondent, keep_identity
from ollama_bridge.teacher.scoring import Part, score
from ollama_bridge.teacher.splits import counts_of, read_splits
from ollama_bridge.teacher.token_bytes import TokenBytes
from ollama_bridge.teacher.turns import Origin, SplitReader, Turn, begins_in_blanks
from ollama_bridge.teacher.unusable import no_distribution

STAGE = "label"

_EXAMPLES_AT_ONCE = 256


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
        max_length: Tokens; longer examples are left out, as in training.
        out_dir: Folder of the store; what was asked is kept in a log beside it.

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
            hint="set teacher.score=generated",
        )
    tokenizer = load_tokenizer(student.path)
    vocabulary = TokenBytes(tokenizer)
    train = read_examples(corpus.split_path("train"))
    said = (one for one in train if one.is_answered and one.messages[-1].content)
    first = next(said, None)  # a call alone has no text to begin
    in_blanks = first is not None and begins_in_blanks(first, tokenizer, vocabulary)
    work = _work(
        corpus,
        student,
        settings,
        teacher,
        identity=respondent.identity,
        max_length=max_length,
        in_blanks=in_blanks,
        falls_back=vocabulary.falls_back,
        rows=key_of_rows(tokenizer, corpus),
    )
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work, reporter=reporter) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return SoftLabels(out_dir, draft.finished)
        keep_identity(respondent, draft.path)
        info = _info(respondent, settings, tokenizer)
        splits = read_splits(corpus, tokenizer, max_length=max_length)
        facts: dict[str, object] = {
            "content_key": info.content_key,
            "teacher": respondent.name,
            **counts_of(splits),
        }
        readers = {}
        for name, split in splits.items():
            kept = corpus.path / f"{name}-{LOGPROBS_NAME}"
            readers[name] = SplitReader(split, kept, teacher, vocabulary, top_k=info.top_k)
        # Beside the artefact: what was said of a passage is not asked again for other labels.
        with BatchLog(out_dir.absolute().with_name(f"{out_dir.name}-scores.jsonl")) as log:
            asker = _Asker(respondent, teacher.in_flight, log, reporter)
            if teacher.score != "generated":
                asker.run(turn for reader in readers.values() for turn in reader.turns())
            origins, facts["bytes_per_token"] = _fill(draft, readers, asker, info, respondent.name)
        facts |= _describe_origins(origins, respondent.name, teacher, reporter, corpus)
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return SoftLabels(out_dir, manifest)


def _work(
    corpus: Corpus,
    student: Checkpoint,
    settings: SoftLabelsSection,
    teacher: TeacherSection,
    *,
    identity: str,
    max_length: int,
    in_blanks: bool,
    falls_back: bool,
    rows: Mapping[str, str],
) -> Work:
    """What decides the labels.

    ``identity`` is the respondent's, ``rows`` are of ``row_keys``; ``falls_back`` is of the
    student's ``TokenBytes``.
    """
    return Work(
        kind=SoftLabels.kind,
        stage=STAGE,
        # 2: thoughts that the prompt opens have distributions. 3: none where the teacher cuts
        # a text otherwise, in holes as well. 4: tokens to fall back to are no other token's name.
        version=4 if falls_back else 3,
        inputs={"model": identity, "corpus": corpus.digest, "student": student.digest},
        settings={
            "top_k": settings.top_k,
            "score": teacher.score,
            "thinking": teacher.thinking,
            "max_length": max_length,
            # Such tokens had none before.
            **({"first token": "with its blanks"} if in_blanks else {}),
            **rows,
        },
    )


def _info(respondent: Respondent, settings: SoftLabelsSection, tokenizer: Tokenizer) -> StoreInfo:
    return StoreInfo(
        method="top_k",
        vocab_size=len(tokenizer),
        teacher=respondent.identity,
        tokenizer=tokenizer_digest(tokenizer),
        dtype="daemon",
        top_k=min(settings.top_k, TOP_LOGPROBS),
    )


class _Asker:
    """Asks for what did not come along; the log keeps what was said."""

    def __init__(
        self, respondent: Respondent, in_flight: int, log: BatchLog, reporter: Reporter
    ) -> None:
        self._respondent = respondent
        # A row that only waits drives the others' prompts out of the daemon's cache: with one slot
        # two rows in flight took 1.3 times as long a token as one.
        self._limits = BatchLimits(in_flight=max(1, in_flight - 1))
        self._log = log
        self._reporter = reporter

    def answers(self, turn: Turn) -> Iterator[JSONRecord]:
        """What was said of a turn's passage, part by part, as far as it was not refused."""
        for part in self._parts(turn):
            value = self._log.read(part.job.key).value
            if value is not None:
                yield value

    def run(self, turns: Iterable[Turn]) -> None:
        """Ask, after saying how long it will take."""
        for given_up in self._respondent.away:
            self._tell(given_up)
        parts = {part.job.key: part for turn in turns for part in self._parts(turn)}
        todo = [part for key, part in parts.items() if key not in self._log]
        if len(todo) < len(parts):
            self._reporter.emit(StageStarted(STAGE, resumed_from=len(parts) - len(todo)))
        # The first loads the model, one of middle length tells the time.
        by_length = sorted(todo, key=lambda part: part.questions)
        for probe in (by_length[:1], by_length[len(todo) // 2 :][:1]):
            start_s = time.monotonic()
            self._settle(probe, todo)
        if len(todo) > 2:
            questions = by_length[len(todo) // 2].questions
            self._estimate((time.monotonic() - start_s) / questions, todo)
        self._settle(todo, todo)

    def _parts(self, turn: Turn) -> list[Part]:
        if turn.passage is None:
            return []
        return score(self._respondent.name, turn.passage, identity=self._respondent.identity)

    def _estimate(self, question_s: float, todo: Sequence[Part]) -> None:
        left = sum(part.questions for part in todo if part.job.key not in self._log)
        minutes = left * question_s / len(self._respondent.endpoints) / 60
        message = (
            f"{left} tokens are asked about one by one: about {math.ceil(minutes)} min "
            f"({question_s * 1000:.0f} ms a token, {len(self._respondent.endpoints)} daemon(s))"
        )
        self._reporter.emit(Note(STAGE, "info", message))

    def _tell(self, given_up: GivenUp) -> None:
        message = f"{given_up.name} is no longer asked: {given_up.error.message}"
        self._reporter.emit(Note(STAGE, "warning", message))

    def _settle(self, parts: Sequence[Part], todo: Sequence[Part]) -> None:
        questions = {part.job.key: part.questions for part in todo}
        done = sum(count for key, count in questions.items() if key in self._log)
        jobs = [part.job for part in parts]
        total = sum(questions.values())
        try:
            for event in run_batch(jobs, self._respondent.endpoints, self._log, self._limits):
                if isinstance(event, Away):
                    self._reporter.emit(Note(STAGE, "warning", event.text))
                    continue
                if isinstance(event, GivenUp):
                    self._tell(event)
                    continue
                done += questions[event.key]
                self._reporter.emit(Progress(STAGE, done, total, "tokens"))
        except DaemonUnreachableError:
            kept = f"{done} of {total} tokens are kept: the same command goes on from there"
            self._reporter.emit(Note(STAGE, "info", kept))
            raise


def _fill(
    draft: Draft,
    readers: Mapping[str, SplitReader],
    asker: _Asker,
    info: StoreInfo,
    teacher: str,
) -> tuple[dict[str, Counter[str]], float]:
    """Write the rows of all splits; gives from where their distributions are, and bytes a token."""
    # Of this artefact alone: what a row's labels are depends on what came along with it.
    stores = draft.path / "resume-stores"
    with open_store(stores, info, teacher_path=Path(teacher)) as store:
        origins = {name: _write(reader, asker, store, info) for name, reader in readers.items()}
        keys = [_key_of(one) for reader in readers.values() for one in reader.encoded]
        return origins, store.link_into(draft.path, keys, user=draft.out_dir)


def _write(reader: SplitReader, asker: _Asker, store: SharedStore, info: StoreInfo) -> Counter[str]:
    """Write the rows of a split; returns from where its tokens' distributions are."""
    origins: Counter[str] = Counter()
    for start in range(0, len(reader.encoded), _EXAMPLES_AT_ONCE):
        rows = {}
        for encoded in reader.encoded[start : start + _EXAMPLES_AT_ONCE]:
            tokens: list[int] = []
            found: list[tuple[Distribution | None, Origin]] = []
            for turn in reader.turns_of(encoded):
                tokens += turn.tokens
                found += reader.distributions(turn, asker.answers(turn))
            origins.update(origin for _, origin in found)
            key = _key_of(encoded)
            if key not in store:
                known = [distribution for distribution, _ in found]
                rows[key] = _row(key, tokens, known, info)
        store.append(list(rows.values()))
    return origins


def _row(
    key: bytes, tokens: Sequence[int], found: Sequence[Distribution | None], info: StoreInfo
) -> Row:
    target = soft_targets(found, tokens, top_k=info.top_k, vocab_size=info.vocab_size)
    (block,) = TopKFormat(info).pack(target, [len(target)])
    return Row(key, len(target), block)


def _key_of(encoded: EncodedExample) -> bytes:
    """Of an example's row in the store."""
    return row_key(encoded.input_ids, encoded.supervised)


def _describe_origins(
    origins: Mapping[str, Counter[str]],
    tag: str,
    teacher: TeacherSection,
    reporter: Reporter,
    corpus: Corpus,
) -> dict[str, object]:
    """For the manifest and for people: how many tokens are learnt of the teacher.

    Raises:
        DaemonError: not one of them is.
    """
    total = sum(origins.values(), Counter[str]())
    if not total["generated"] + total["scored"]:
        wrote = corpus.manifest.work
        written_alone = wrote.stage == "answers" and not wrote.settings.get("logprobs")
        tokens = f"any of {total.total()} tokens"
        raise no_distribution(tag, tokens, teacher, written_alone=written_alone)
    share = total["hard"] / total.total()
    message = (
        f"{share:.1%} of {total.total()} tokens have no distribution and are learnt as hard "
        f"labels ({total['generated']} came with written answers, {total['scored']} were asked)"
    )
    reporter.emit(Note(STAGE, "info", message))
    return {
        "tokens_by_origin": {name: dict(counts) for name, counts in origins.items()},
        "hard_share": round(share, 4),
    }
