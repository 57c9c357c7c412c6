"""The teacher in torch: one pass over the rows of a corpus that have no soft labels yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ollama_bridge.alignment.token_text import writes_bytes
from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import Tokenizer, tokenizer_digest
from ollama_bridge.encoding.row_keys import key_of_rows, key_of_teachers_rows
from ollama_bridge.errors import ModelError
from ollama_bridge.label_store.formats import TopKFormat, format_of
from ollama_bridge.label_store.info import StoreInfo, row_key
from ollama_bridge.label_store.segments import ROWS_NAME, Row
from ollama_bridge.label_store.shared import SharedStore, open_store
from ollama_bridge.models.compute.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.models.compute.memory import check_room, less_for_a_model, memory_is_enough
from ollama_bridge.models.compute.precision import DTypeChoice, Precision, pinned_precision
from ollama_bridge.models.compute.products import freeze_in
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import SoftLabelsSection
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, StageStarted, Timed
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.teacher.carried import Carried
from ollama_bridge.teacher.splits import CorpusSplit, counts_of, read_splits
from ollama_bridge.teacher.vocabularies import (
    STAGE,
    carry,
    is_carried,
    same_tokens,
    tell_hard_share,
    vocab_size_of,
)

_BATCH_TOKENS = 2048  # some seconds of a small teacher: what a kill can lose
_POSITIONS_PER_CHUNK = 256


def label(
    teacher: Checkpoint,
    corpus: Corpus,
    settings: SoftLabelsSection,
    *,
    student: Checkpoint | None = None,
    max_length: int,
    dtype: DTypeChoice = "auto",
    out_dir: str | Path,
    store_dir: str | Path | None = None,
    reporter: Reporter | None = None,
) -> SoftLabels:
    """Provide the teacher's distributions on every supervised position of a corpus.

    One pass without gradient over the rows of the training and the validation split that the
    store has no labels of; logits on supervised positions only. A kill loses at most one batch.

    Args:
        corpus: What the student will be trained on.
        student: Whose tokens the labels are about (see ``alignment``); None: the teacher's.
        max_length: Tokens; longer examples are left out, as in training.
        dtype: Compute type. auto: that of labels of this teacher that are there already, else the
            faster one.
        store_dir: Folder of the stores that runs share (see ``label_store``); None: the labels
            are made for this artefact alone.

    Raises:
        DataError: a split has no usable example.
        TrainingError: the chat template cannot be used for training, or the vocabularies have too
            little in common.
        ModelError: the teacher cannot be loaded, or its device is out of memory.
        ArtifactError: another process is labelling with this teacher, or the store is damaged.
        DiskFullError: no room; what is labelled is kept.
    """
    out_dir = Path(out_dir)
    store_dir = Path(store_dir) if store_dir is not None else None
    reporter = reporter or NullReporter()
    own_tokenizer = load_tokenizer((student or teacher).path)
    tokenizer = own_tokenizer if student is None else load_tokenizer(teacher.path)
    of_teacher: dict[str, str] = {}
    learner = student if student and is_carried(teacher, student, settings) else None
    if learner is not None:
        of_teacher = key_of_teachers_rows(tokenizer, corpus)
    work = _work(
        teacher,
        corpus,
        settings,
        student=student,
        max_length=max_length,
        dtype=dtype,
        rows={**key_of_rows(own_tokenizer, corpus), **of_teacher},
        falls_back=learner is not None and not writes_bytes(own_tokenizer),
    )
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work, reporter=reporter) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return SoftLabels(out_dir, draft.finished)
        stores = store_dir or draft.path / "resume-stores"
        read = splits = read_splits(corpus, own_tokenizer, max_length=max_length)
        carried = None
        info = _info(teacher, settings, student or teacher, own_tokenizer)
        if learner is not None:  # whatever is short enough for the student is read
            carried = carry(teacher, learner, splits["train"], settings, reporter)
            info = replace(info, carried="/".join([carried.rules, *of_teacher.values()]))
            read = read_splits(corpus, tokenizer, max_length=sys.maxsize)
        chosen = _dtype_of_earlier(stores, info) if dtype == "auto" else dtype
        precision = pinned_precision(draft.path / "resume-precision.json", chosen)
        info = replace(info, dtype=precision.dtype_name)
        rows = _Rows(read, splits, pad_id=tokenizer.pad_token_id or 0)
        facts = counts_of(splits)
        _warn_of_too_long(splits, max_length, reporter)
        if carried is not None:
            pairs = list(zip(rows.batches.examples, rows.own, strict=True))
            facts |= carried.facts | {"hard_share": tell_hard_share(carried, pairs, reporter)}
        with open_store(stores, info, teacher_path=teacher.path) as store:
            if missing := rows.missing(store):
                run = _LabelRun(teacher, precision, store, info, reporter, carried=carried)
                facts |= run.write(rows, missing)
            facts["bytes_per_token"] = store.link_into(draft.path, rows.by_key, user=draft.out_dir)
            facts |= {"dtype": precision.dtype_name, "content_key": info.content_key}
            facts["labelled_rows"] = sum(map(len, missing))
            manifest = draft.commit(facts, digests=store.digests())
        timer.finish(out_dir, facts)
        return SoftLabels(out_dir, manifest)


def _work(
    teacher: Checkpoint,
    corpus: Corpus,
    settings: SoftLabelsSection,
    *,
    student: Checkpoint | None,
    max_length: int,
    dtype: DTypeChoice,
    rows: Mapping[str, str],
    falls_back: bool,
) -> Work:
    """What decides the labels; ``rows`` are of ``row_keys``.

    ``falls_back``: the student has tokens of bytes that it writes where it has no other.
    """
    inputs = {"teacher": teacher.digest, "corpus": corpus.digest}
    if student is not None and not same_tokens(teacher, student):
        inputs["student"] = student.digest
    return Work(
        kind=SoftLabels.kind,
        stage=STAGE,
        # 4: ends of turns that are not eos, and last turns of a teacher that has those alone.
        # 5: answers behind thoughts that the two do not write alike.
        # 6: tokens to fall back to are no other token's name.
        version=(6 if falls_back else 5) if "student" in inputs else 2,
        inputs=inputs,
        settings={
            **settings.effective(),
            "max_length": max_length,
            "dtype": dtype,
            **rows,
        },
    )


def _info(
    teacher: Checkpoint, settings: SoftLabelsSection, student: Checkpoint, tokenizer: Tokenizer
) -> StoreInfo:
    vocab_size = vocab_size_of(student)
    top_k = settings.method == "top_k"
    return StoreInfo(
        method=settings.method,
        vocab_size=vocab_size,
        teacher=teacher.digest,
        tokenizer=tokenizer_digest(tokenizer),
        dtype="auto",
        top_k=min(settings.top_k, vocab_size) if top_k else 0,
        draws=0 if top_k else settings.draws,
        seed=0 if top_k else settings.seed,
    )


def _dtype_of_earlier(stores: Path, info: StoreInfo) -> DTypeChoice:
    """The compute type of labels that are there already, so that they are used again."""
    choices: tuple[DTypeChoice, ...] = ("bfloat16", "float32")
    for choice in choices:
        store = stores / replace(info, dtype=choice).store_id
        if any(store.glob(f"*/{ROWS_NAME}")):  # not of a pass that had no memory for its first rows
            return choice
    return "auto"


def _warn_of_too_long(
    splits: Mapping[str, CorpusSplit], max_length: int, reporter: Reporter
) -> None:
    for name, split in splits.items():
        count = split.encoded.too_long
        if count:
            message = (
                f"{count} {name} examples are longer than {max_length} tokens and get no labels: "
                f"--set distill.max_length={split.encoded.longest} has all of them labelled"
            )
            reporter.emit(Note(STAGE, "warning", message))


class _Rows:
    """The rows of all splits, and how they are batched."""

    def __init__(
        self, read: Mapping[str, CorpusSplit], splits: Mapping[str, CorpusSplit], *, pad_id: int
    ) -> None:
        """Take what the teacher reads, and the same rows as the student has them."""
        of_teacher = {
            (name, example.row): example
            for name, split in read.items()
            for example in split.encoded.examples
        }
        numbered = [
            (name, example)
            for name, split in splits.items()
            for example in split.encoded.examples
            if (name, example.row) in of_teacher
        ]
        examples = [of_teacher[name, example.row] for name, example in numbered]
        self.own = [example for _, example in numbered]
        # The beginning that is computed once a batch is that of the whole corpus, whatever is
        # missing: else a resumed pass would compute other last bits than an unbroken one.
        self.batches = Batches(examples, batch_tokens=_BATCH_TOKENS, pad_id=pad_id)
        keys = [row_key(example.input_ids, example.supervised) for example in self.own]
        self.by_key = {key: place for place, key in reversed(list(enumerate(keys)))}
        self.keys = keys

    def missing(self, store: SharedStore) -> list[list[int]]:
        """Batches of the rows without labels, short ones first.

        They are cut from the short end on, so what an interrupted pass left is cut as before.
        """
        places = [place for key, place in self.by_key.items() if key not in store]
        places.sort(key=lambda place: (self._length(place), place))
        batches: list[list[int]] = []
        for place in places:
            if not batches or (len(batches[-1]) + 1) * self._length(place) > _BATCH_TOKENS:
                batches.append([])
            batches[-1].append(place)
        return batches

    def _length(self, place: int) -> int:
        targets = self.batches.examples[place].targets
        return int(targets[-1]) if len(targets) else 1


class _LabelRun:
    """The pass itself, batch by batch."""

    def __init__(
        self,
        teacher: Checkpoint,
        precision: Precision,
        store: SharedStore,
        info: StoreInfo,
        reporter: Reporter,
        *,
        carried: Carried | None,
    ) -> None:
        purpose, kept_bytes = "labelling with the teacher", precision.frozen_bytes
        check_room(teacher.path, purpose=purpose, kept_bytes=kept_bytes)
        self._model: CausalModel = load_model(teacher.path)
        self._precision = precision
        self._store = store
        self._format = format_of(info)
        self._reporter = reporter
        self._carried = carried
        self._info = info

    def write(self, rows: _Rows, missing: Sequence[Sequence[int]]) -> dict[str, object]:
        """Label what is missing; returns facts."""
        with memory_is_enough(less_for_a_model(), refusal=ModelError):
            # Autocast would do so for every batch, beside float32.
            freeze_in(self._model, self._precision.dtype)
            self._model = self._model.to(self._precision.device).eval()
            return self._write(rows, missing)

    @torch.inference_mode()
    def _write(self, rows: _Rows, missing: Sequence[Sequence[int]]) -> dict[str, object]:
        total = len(rows.by_key)
        done = total - sum(len(members) for members in missing)
        if done:
            self._reporter.emit(StageStarted(STAGE, resumed_from=done))
        tokens, start_s = 0, time.monotonic()
        for members in missing:
            tokens += self._label(rows, members)
            done += len(members)
            fields = {"tok_s": tokens / max(1e-9, time.monotonic() - start_s)}
            self._reporter.emit(Progress(STAGE, done, total, "examples", fields))
        return {"tokens_per_s": round(tokens / max(1e-9, time.monotonic() - start_s), 1)}

    def _label(self, rows: _Rows, members: Sequence[int]) -> int:
        batch = rows.batches.collate(members).to(self._precision.device)
        with self._precision.autocast():
            hidden = run_decoder(self._model, batch).supervised
            keys = [rows.keys[member] for member in members]
            counts = [len(rows.own[member].targets) for member in members]
            if self._carried is None:
                blocks = self._format.blocks(self._logits(hidden), keys, counts)
            else:
                pairs = [(rows.batches.examples[member], rows.own[member]) for member in members]
                kept = self._carried.targets(self._model, hidden, pairs)
                blocks = TopKFormat(self._info).pack(kept, counts)
        self._store.append([Row(*row) for row in zip(keys, counts, blocks, strict=True)])
        return batch.tokens

    def _logits(self, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        for part in torch.split(hidden, _POSITIONS_PER_CHUNK):
            # Rows that only the teacher has hold no token: nothing is drawn of them.
            yield vocabulary_logits(self._model, part)[:, : self._info.vocab_size]
