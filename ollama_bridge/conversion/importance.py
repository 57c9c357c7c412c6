"""Checkpoint + corpus -> importance matrix, as a stage: which columns the model's inputs use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ollama_bridge.conversion.imatrix import Measured, write_importance
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.encoding.spread import spread_out
from ollama_bridge.examples import read_examples
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.compute.memory import check_room
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.reporting import NullReporter, Progress, Reporter, Timed
from ollama_bridge.storage.artifacts import Artifact, Checkpoint, Corpus, Work
from ollama_bridge.storage.drafts import open_draft

_STAGE = "importance"


class Importance(Artifact):
    """An importance matrix: ``imatrix.gguf``, for us and for llama.cpp."""

    kind = "importance"

    @property
    def imatrix_path(self) -> Path:
        """The matrix."""
        return self.path / "imatrix.gguf"


def importance(
    checkpoint: Checkpoint,
    corpus: Corpus,
    *,
    max_tokens: int = 50_000,
    max_length: int = 1024,
    out_dir: str | Path,
    reporter: Reporter | None = None,
) -> Importance:
    """Measure what the matrices of a checkpoint are multiplied with on its training texts.

    Args:
        checkpoint: The model that will be quantized.
        corpus: Its training split is read, texts of all labels first, as the chat
            template renders it.
        max_tokens: Enough is enough.
        max_length: Longer examples are left out, tokens.
        out_dir: Folder of the artefact.
        reporter: Hears of progress.

    Raises:
        ModelError: the checkpoint cannot be used, or memory is short.
        DataError: no example can be used.
        DiskFullError: there is no room.
    """
    out_dir = Path(out_dir)
    reporter = reporter or NullReporter()
    work = Work(
        kind=Importance.kind,
        stage=_STAGE,
        version=2,  # 2: of texts of all labels
        inputs={"checkpoint": checkpoint.digest, "corpus": corpus.digest},
        settings={"max_tokens": max_tokens, "max_length": max_length},
    )
    with Timed(reporter, _STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Importance(out_dir, draft.finished)
        config = check_folder(checkpoint.path)
        architecture = ARCHITECTURES[read_architecture(checkpoint.path, config)]
        targets = {rule.source: rule.target for rule in architecture.rules(config)}
        split = encode_split(
            list(read_examples(corpus.split_path("train"))),
            load_tokenizer(checkpoint.path),
            max_length=max_length,
            name="train",
        )
        check_room(checkpoint.path, purpose="measuring an importance matrix")
        model = load_model(checkpoint.path, dtype=torch.float32)
        total, tokens = min(max_tokens, split.tokens), 0
        with _measured(model, targets) as found, torch.inference_mode():
            for example in spread_out(split.examples):
                ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
                model(input_ids=ids, use_cache=False, logits_to_keep=1)
                tokens += ids.shape[1]
                reporter.emit(Progress(_STAGE, min(tokens, total), total, "tokens"))
                if tokens >= total:
                    break
        measured = {name: Measured(sums.numpy(), tokens) for name, sums in found.items()}
        write_importance(
            draft.path / "imatrix.gguf",
            measured,
            dataset=f"corpus {corpus.digest}",
            chunk_tokens=max_length,
        )
        facts = {"tokens": tokens, "matrices": len(measured)}
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return Importance(out_dir, manifest)


@contextmanager
def _measured(model: nn.Module, targets: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Inside the block, squares of all inputs of the layers' matrices are added up, by target.

    The output matrix is left out, as llama.cpp leaves it out.
    """
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))

    def add(target: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].float()
        sums[target] = sums[target] + values.square().sum(dim=tuple(range(values.dim() - 1)))

    hooks = [
        module.register_forward_pre_hook(partial(add, targets[f"{name}.weight"]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and targets.get(f"{name}.weight", "").startswith("blk.")
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
