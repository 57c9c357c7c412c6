"""The teacher in torch: one pass over the corpus, its distributions kept on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ollama_bridge.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.batches import Batches
from ollama_bridge.config import SoftLabelsSection
from ollama_bridge.drafts import open_draft
from ollama_bridge.encoding import EncodedSplit, encode_split, tokenizer_digest
from ollama_bridge.examples import read_examples
from ollama_bridge.labels import SoftTargets, StoreInfo, StoreWriter, top_k_with_residual
from ollama_bridge.models.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.precision import DTypeChoice, Precision, pinned_precision
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, StageStarted, Timed

STAGE = "label"
SPLITS = ("train", "validation")

_BATCH_TOKENS = 2048
_BATCHES_PER_SHARD = 8  # some ten seconds of a small teacher: what a kill can lose
_POSITIONS_PER_CHUNK = 256


def label(
    teacher: Checkpoint,
    corpus: Corpus,
    settings: SoftLabelsSection,
    *,
    max_length: int,
    dtype: DTypeChoice = "auto",
    out_dir: Path,
    reporter: Reporter | None = None,
) -> SoftLabels:
    """Write the teacher's distributions on every supervised position of a corpus.

    One pass without gradient over the training and the validation split, logits on supervised
    positions only. A kill loses at most one shard.

    Args:
        teacher: Whose distributions.
        corpus: What the student will be trained on.
        settings: How much is kept of a distribution.
        max_length: Tokens; longer examples are left out, as in training.
        dtype: Compute type.
        out_dir: Folder of the store.
        reporter: Hears of progress.

    Raises:
        DataError: a split has no usable example.
        TrainingError: the chat template cannot be used for training.
        ModelError: the teacher cannot be loaded.
    """
    reporter = reporter or NullReporter()
    work = Work(
        kind=SoftLabels.kind,
        stage=STAGE,
        version=1,
        inputs={"teacher": teacher.digest, "corpus": corpus.digest},
        settings={
            **settings.model_dump(mode="json"),
            "max_length": max_length,
            "dtype": dtype,
        },
    )
    with Timed(reporter, STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return SoftLabels(out_dir, draft.finished)
        precision = pinned_precision(draft.path / "resume-precision.json", dtype)
        tokenizer = load_tokenizer(teacher.path)
        splits = {
            name: encode_split(
                list(read_examples(corpus.split_path(name))),
                tokenizer,
                max_length=max_length,
                name=name,
            )
            for name in SPLITS
        }
        model: CausalModel = load_model(teacher.path)
        vocab_size = int(model.get_output_embeddings().weight.shape[0])
        info = StoreInfo(
            top_k=min(settings.top_k, vocab_size),
            vocab_size=vocab_size,
            teacher=teacher.digest,
            corpus=corpus.digest,
            tokenizer=tokenizer_digest(tokenizer),
            max_length=max_length,
        )
        run = _LabelRun(model, precision, StoreWriter(draft.path, info), info, reporter)
        facts: dict[str, object] = {
            "bytes_per_token": info.bytes_per_token,
            "content_key": info.content_key,
            "dtype": precision.dtype_name,
        }
        facts |= run.write(splits, pad_id=tokenizer.pad_token_id or 0)
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return SoftLabels(out_dir, manifest)


class _LabelRun:
    """The pass itself: batches by length, a few to a shard."""

    def __init__(
        self,
        model: CausalModel,
        precision: Precision,
        writer: StoreWriter,
        info: StoreInfo,
        reporter: Reporter,
    ) -> None:
        self._model = model.to(precision.device).eval()
        self._precision = precision
        self._writer = writer
        self._top_k = info.top_k
        self._reporter = reporter

    @torch.inference_mode()
    def write(self, splits: dict[str, EncodedSplit], *, pad_id: int) -> dict[str, object]:
        """Write what is missing; returns facts."""
        total = sum(len(split.examples) for split in splits.values())
        done = resumed = tokens = 0
        start_s = time.monotonic()
        facts: dict[str, object] = {}
        for name, split in splits.items():
            batches = Batches(split.examples, batch_tokens=_BATCH_TOKENS, pad_id=pad_id)
            order = batches.sorted()
            for number, start in enumerate(range(0, len(order), _BATCHES_PER_SHARD)):
                shard = order[start : start + _BATCHES_PER_SHARD]
                members = [member for batch in shard for member in batch]
                if self._writer.has_shard(name, number):
                    resumed += len(members)
                else:
                    tokens += self._write_shard(name, number, batches, shard)
                done += len(members)
                speed = tokens / max(1e-9, time.monotonic() - start_s)
                if tokens:
                    fields = {"tok_s": speed}
                    self._reporter.emit(Progress(STAGE, done, total, "examples", fields))
            facts[f"{name}_examples"] = len(split.examples)
            facts[f"{name}_tokens"] = split.supervised_tokens
            facts[f"{name}_too_long"] = split.too_long
            if split.too_long:
                self._reporter.emit(
                    Note(STAGE, "warning", f"{split.too_long} {name} examples are too long")
                )
        if resumed:
            self._reporter.emit(StageStarted(STAGE, resumed_from=resumed))
        elapsed_s = time.monotonic() - start_s
        return {**facts, "tokens_per_s": round(tokens / max(1e-9, elapsed_s), 1)}

    def _write_shard(
        self, split: str, number: int, batches: Batches, shard: Sequence[Sequence[int]]
    ) -> int:
        rows: list[int] = []
        targets: list[SoftTargets] = []
        tokens = 0
        for members in shard:
            batch = batches.collate(members).to(self._precision.device)
            with self._precision.autocast():
                hidden = run_decoder(self._model, batch).supervised
                found = self._distributions(hidden)
            counts = torch.bincount(batch.owners, minlength=len(members)).tolist()
            parts = [
                torch.split(part, counts) for part in (found.ids, found.logprobs, found.residual)
            ]
            targets += [SoftTargets(*part) for part in zip(*parts, strict=True)]
            rows += [batches.examples[member].row for member in members]
            tokens += batch.tokens
        self._writer.write_shard(split, number, rows=rows, targets=targets)
        return tokens

    def _distributions(self, hidden: torch.Tensor) -> SoftTargets:
        chunks = [
            top_k_with_residual(vocabulary_logits(self._model, chunk), top_k=self._top_k)
            for chunk in torch.split(hidden, _POSITIONS_PER_CHUNK)
        ]
        return SoftTargets(
            torch.cat([chunk.ids for chunk in chunks]),
            torch.cat([chunk.logprobs for chunk in chunks]),
            torch.cat([chunk.residual for chunk in chunks]),
        )
