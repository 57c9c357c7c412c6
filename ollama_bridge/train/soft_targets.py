"""The stored soft labels of what is trained, and the check that they belong to it."""

from __future__ import annotations

from ollama_bridge.artifacts import Corpus, SoftLabels
from ollama_bridge.encoding import tokenizer_digest
from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import LabelStore, read_info
from ollama_bridge.train.material import Material


def open_stores(
    labels: SoftLabels | None, corpus: Corpus, material: Material
) -> dict[str, LabelStore]:
    """The soft labels of both splits, after making sure that they belong to what is trained.

    Raises:
        TrainingError: they do not.
    """
    if labels is None:
        return {}
    hint = "label this corpus with this teacher first: ollama-bridge label"
    info = read_info(labels.path)
    if info.corpus != corpus.digest:
        raise TrainingError(
            f"the soft labels in {labels.path} were made on another corpus "
            f"({info.corpus[:12]}, not {corpus.digest[:12]})",
            hint=hint,
        )
    if info.tokenizer != tokenizer_digest(material.tokenizer):
        raise TrainingError(
            f"the soft labels in {labels.path} were made with another tokenizer or chat template "
            "than the student's: their positions and token ids mean other things",
            hint="start the student from layers of the teacher, or from a checkpoint with the "
            "same tokenizer and chat template",
        )
    stores = {name: LabelStore(labels.path, name) for name in ("train", "validation")}
    batches = {"train": material.training, "validation": material.validation}
    for name, store in stores.items():
        counts = store.counts
        for example in batches[name].examples:
            if counts.get(example.row) != len(example.targets):
                raise TrainingError(
                    f"row {example.row} of the {name} split has {len(example.targets)} supervised "
                    f"tokens, the soft labels in {labels.path} have "
                    f"{counts.get(example.row, 'none')}",
                    hint=hint,
                )
    return stores
