"""The stored soft labels of what is trained, and the check that they belong to it."""

from __future__ import annotations

from collections.abc import Sequence

from ollama_bridge.artifacts import SoftLabels
from ollama_bridge.encoding import EncodedExample, tokenizer_digest
from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.info import row_key
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.labels import Targets
from ollama_bridge.train.material import Material


class SplitLabels:
    """The soft labels of one split, by row number.

    Args:
        reader: Of the artefact.
        examples: Of the split.
    """

    def __init__(self, reader: LabelReader, examples: Sequence[EncodedExample]) -> None:
        self._reader = reader
        self._keys = {
            example.row: row_key(example.input_ids, example.supervised) for example in examples
        }

    def missing(self) -> list[int]:
        """Rows without soft labels."""
        return [row for row, key in self._keys.items() if key not in self._reader]

    def read(self, rows: Sequence[int]) -> Targets:
        """The distributions of some rows, one after another.

        Raises:
            ArtifactError: the files were changed after they were written.
        """
        return self._reader.read([self._keys[row] for row in rows])


def open_stores(labels: SoftLabels | None, material: Material) -> dict[str, SplitLabels]:
    """The soft labels of both splits, after making sure that they belong to what is trained.

    They may have been made for another corpus, as long as every row of this one is among them.

    Raises:
        TrainingError: they do not.
    """
    if labels is None:
        return {}
    reader = LabelReader(labels.path)
    if reader.info.tokenizer != tokenizer_digest(material.tokenizer):
        raise TrainingError(
            f"the soft labels in {labels.path} were made with another tokenizer or chat template "
            "than the student's: their positions and token ids mean other things",
            hint="start the student from layers of the teacher, or from a checkpoint with the "
            "same tokenizer and chat template",
        )
    stores = {}
    for name, batches in (("train", material.training), ("validation", material.validation)):
        stores[name] = SplitLabels(reader, batches.examples)
        missing = stores[name].missing()
        if missing:
            raise TrainingError(
                f"{len(missing)} of {len(batches.examples)} rows of the {name} split have no soft "
                f"labels in {labels.path} (the first is row {missing[0]}): they were made on "
                "another corpus, or with a smaller max_length",
                hint="label this corpus with this teacher first: ollama-bridge label",
            )
    return stores
