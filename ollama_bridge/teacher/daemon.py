"""The teacher in the daemon: writes the answers that a corpus lacks.

Sequence-level distillation, for teachers whose weights are not at hand too. Answers that nobody
should learn from (cut off, empty, going round in circles) are left out and counted.

Source: Kim and Rush, "Sequence-Level Knowledge Distillation" (EMNLP 2016).
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ollama_bridge.client.jobs.batch_log import BatchLog
from ollama_bridge.client.jobs.jobs import Away, BatchLimits, GivenUp, Job
from ollama_bridge.client.jobs.records import reply_from_record
from ollama_bridge.client.jobs.runner import run_batch
from ollama_bridge.errors import DaemonUnreachableError
from ollama_bridge.examples import Example, read_examples, write_examples
from ollama_bridge.recipe.config import TeacherSection
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, StageStarted, Timed
from ollama_bridge.storage.artifacts import Corpus, Manifest, Work
from ollama_bridge.storage.atomic_files import (
    open_atomic,
    write_json_atomic,
    write_json_lines_atomic,
)
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.storage.journal import JSONRecord
from ollama_bridge.teacher.own_words import told_of_own_words
from ollama_bridge.teacher.replies import (
    LOGPROBS_NAME,
    logprobs_line,
    read_tagged,
)
from ollama_bridge.teacher.respondent import Respondent, keep_identity
from ollama_bridge.teacher.traces import KEPT
from ollama_bridge.teacher.unusable import (
    STAGE,
    check_labels,
    refusal,
    set_aside,
    tell_left_out,
)
from ollama_bridge.teacher.writing import Trial, Writing, deciding, with_answer

_SPLITS = ("test", "validation", "train")  # the small ones first: nothing is scored without them
_GOLD = "had an answer"
# Of the test split: what the teacher says wrong, or not at all, is what is measured.
_LABEL = "answered by its label"
_LEARNT = (KEPT, _GOLD, _LABEL)
_TAGGED = "tags of thinking in replies"  # a fact


def write_answers(
    corpus: Corpus,
    settings: TeacherSection,
    *,
    respondent: Respondent,
    out_dir: Path,
    labels: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Corpus:
    """Let a model answer every example that ends on the user.

    With ``settings.rewrite`` it also answers the examples of the training and the validation split
    that have an answer. Where an answer does not say the example's label, the example is left out
    (of the test split its answer is the label: else scores would be taken on what the teacher
    knows); where the answer was the label, it is so again, as the task spells it.
    Some requests are in flight at a time, each reply is synced to disk as it comes, in a log beside
    ``out_dir``: a run that is killed, or that treats thinking differently, goes on with what it
    has.

    Args:
        corpus: Examples with answers of their own are kept as they are.
        settings: Limit and temperature of the answers, and what becomes of thinking.
        labels: Of a classification: each that is in the training split has to stay there. Of two
            that differ in case alone only the right one's own case says it.

    Raises:
        ModelNotFoundError: the daemon has no such model.
        DaemonError: the daemon fails, or refuses request after request, or no usable answer came
            at first, for a split, or for a label that is not rare. What was answered is kept.
    """
    reporter = reporter or NullReporter()
    work = _work(corpus, settings, labels, identity=respondent.identity)
    writing = Writing(respondent, settings, labels, seed=work.seed)
    # Beside the artefact: another treatment of the same replies asks for none of them again.
    log_path = out_dir.absolute().with_name(f"{out_dir.name}-replies.jsonl")
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            if not _is_of_before(draft.finished, corpus, writing, log_path):
                timer.reuse(out_dir)
                return Corpus(out_dir, draft.finished)
            draft.restart()
        keep_identity(respondent, draft.path)
        splits = {name: list(read_examples(corpus.split_path(name))) for name in _SPLITS}
        with BatchLog(log_path) as log:
            examples = _asked(splits, writing)
            _ask(examples, writing, log, reporter)
            outcomes = {}
            for name in ("train", "validation", "test"):
                outcomes[name], said = _write_split(name, splits[name], writing, log, draft.path)
                if name == "train":
                    before = Counter(example.label for example in splits[name])
                    check_labels(
                        labels,
                        before,
                        said,
                        teacher=respondent.name,
                        settings=settings,
                        reporter=reporter,
                    )
        if writing.refused:
            write_json_lines_atomic(draft.path / "refused.jsonl", writing.refused)
        facts = _write_card(corpus, respondent, outcomes, draft.path)
        total = sum(outcomes.values(), Counter[str]())
        left_out = total - Counter({outcome: total[outcome] for outcome in _LEARNT})
        if left_out:
            tell_left_out(left_out, total, settings, reporter)
        if tagged := read_tagged(log_path)[1] & {writing.job(one).key for one in examples}:
            facts[_TAGGED] = len(tagged)
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return Corpus(out_dir, manifest)


def _work(
    corpus: Corpus, settings: TeacherSection, labels: Sequence[str], *, identity: str
) -> Work:
    """What decides the answers; ``identity`` is the respondent's."""
    return Work(
        kind=Corpus.kind,
        stage=STAGE,
        # 2: labels as the task spells them. 3: of the test split nothing that has one is left out.
        # 4: what an API's server leaves in an answer of the thoughts is told from it. Of a
        # daemon's answers see `_is_of_before`.
        version=3 if settings.base_url is None else 4,
        inputs={"corpus": corpus.digest, "model": identity},
        settings={
            **deciding(settings, labels),
            # Before: only the arguments themselves came by name, not what is in them.
            **({"calls": "by name"} if corpus.manifest.facts.get("with_tools") else {}),
        },
        seed=corpus.manifest.work.seed,
    )


def _asked(splits: Mapping[str, Sequence[Example]], writing: Writing) -> list[Example]:
    """Whom the respondent answers."""
    return [
        example
        for name in _SPLITS
        for example in splits[name]
        if writing.is_asked(example, split=name)
    ]


def _is_of_before(finished: Manifest, corpus: Corpus, writing: Writing, log_path: Path) -> bool:
    """Whether a daemon's replies had tags of thinking in their text when those were left there.

    Only such answers have become others. They are made again of the replies, so only while all of
    these are there: nobody is asked for what was finished.
    """
    if writing.settings.base_url is not None or _TAGGED in finished.facts:
        return False
    settled, tagged = read_tagged(log_path)
    if not tagged:
        return False
    splits = {name: list(read_examples(corpus.split_path(name))) for name in _SPLITS}
    keys = {writing.job(example).key for example in _asked(splits, writing)}
    return bool(keys & tagged) and keys <= settled


def _ask(examples: Sequence[Example], writing: Writing, log: BatchLog, reporter: Reporter) -> None:
    """Ask for what the log does not have yet."""
    jobs: dict[str, Job[object]] = {}
    asked: dict[str, Example] = {}
    for example in examples:
        job = writing.job(example)
        jobs[job.key], asked[job.key] = job, example
    kept = [key for key in jobs if key in log]
    done = len(kept)
    if done:
        reporter.emit(StageStarted(STAGE, resumed_from=done))
    if told := told_of_own_words(writing.respondent, examples):
        reporter.emit(Note(STAGE, "info", told))
    tokens, start_s = 0, time.monotonic()
    limits = BatchLimits(in_flight=writing.settings.in_flight)
    trial = Trial(writing)
    try:
        for key in itertools.takewhile(lambda _: not trial.is_over, kept):
            trial.see(asked[key], log.read(key))
        for event in itertools.chain(
            writing.respondent.away,
            run_batch(jobs.values(), writing.respondent.endpoints, log, limits),
        ):
            if isinstance(event, Away):
                reporter.emit(Note(STAGE, "warning", event.text))
                continue
            if isinstance(event, GivenUp):
                message = f"{event.name} is no longer asked: {event.error.message}"
                reporter.emit(Note(STAGE, "warning", message))
                continue
            done += 1
            tokens += int((event.value or {}).get("generated_tokens", 0))
            speed = tokens / max(1e-9, time.monotonic() - start_s)
            reporter.emit(Progress(STAGE, done, len(jobs), "answers", {"tok_s": speed}))
            trial.see(asked[event.key], event)
    except DaemonUnreachableError:
        message = f"{done} of {len(jobs)} answers are kept: the same command goes on from there"
        reporter.emit(Note(STAGE, "info", message))
        raise


def _write_split(
    name: str, examples: Sequence[Example], writing: Writing, log: BatchLog, folder: Path
) -> tuple[Counter[str], Counter[str | None]]:
    """Write what was answered well, and beside it what was not and what came along.

    Returns:
        How many replies were judged how, and how many examples of each label are left.
    """
    outcomes: Counter[str] = Counter()
    labels: Counter[str | None] = Counter()

    def kept(logprobs: TextIO) -> Iterator[Example]:
        for example in examples:
            if not writing.is_asked(example, split=name):
                outcomes[_GOLD] += 1
                labels[example.label] += 1
                yield example
                continue
            outcome = log.read(writing.job(example).key)
            if outcome.value is None:
                writing.refused.append(refusal(example, outcome))
                verdict, answered = set_aside(outcome), example
            else:
                verdict, answered = writing.take(example, reply_from_record(outcome.value))
            if verdict != KEPT and name == "test" and example.label is not None:
                verdict, answered = _LABEL, with_answer(example, example.label)
            outcomes[verdict] += 1
            if verdict not in _LEARNT:
                continue
            reply = outcome.value
            asked = writing.logprobs and name != "test"
            if asked and reply and _is_as_said(answered, reply):
                logprobs.write(logprobs_line(example.id, reply))
            labels[example.label] += 1
            yield answered

    logprobs_path = folder / f"{name}-{LOGPROBS_NAME}"
    # Both at a time: the likeliest tokens of many answers do not fit into memory.
    with open_atomic(logprobs_path) as logprobs:
        count = write_examples(folder / f"{name}.jsonl", kept(logprobs))
    if not logprobs_path.stat().st_size:
        logprobs_path.unlink()
    if examples and not count:
        raise writing.nothing_usable(f"for the {name} split", outcomes)
    return outcomes, labels


def _write_card(
    corpus: Corpus, respondent: Respondent, outcomes: Mapping[str, Counter[str]], folder: Path
) -> dict[str, object]:
    """Write who answered how, by split; gives the facts of it."""
    card = {
        "model": respondent.name,
        "model_digest": respondent.identity,
        "outcomes": {name: dict(sorted(counts.items())) for name, counts in outcomes.items()},
        "corpus": json.loads((corpus.path / "card.json").read_text(encoding="utf-8")),
    }
    write_json_atomic(folder / "card.json", card)
    facts: dict[str, object] = {
        name: sum(counts[outcome] for outcome in _LEARNT) for name, counts in outcomes.items()
    }
    facts["answers"] = dict(sorted(sum(outcomes.values(), Counter[str]()).items()))
    facts["teacher"] = respondent.name
    if corpus.datasets:
        facts["datasets"] = list(corpus.datasets)
    if offered := corpus.manifest.facts.get("with_tools"):
        facts["with_tools"] = offered
    return facts


def _is_as_said(answered: Example, reply: JSONRecord) -> bool:
    """What was likely between other marks says little about the label alone.

    Nor are the marks of a call in what the daemon says of it.
    """
    if reply.get("tool_calls"):
        return False
    return answered.messages[-1].content.endswith(str(reply["text"]).strip())
