"""The stored soft labels of what is trained, and the check that they belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ollama_bridge.encoding.encode import EncodedExample, tokenizer_digest
from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.info import row_key
from ollama_bridge.label_store.labels import SoftTargets, Targets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.models.pruning.vocabulary import Vocabulary
from ollama_bridge.storage.artifacts import SoftLabels
from ollama_bridge.train.material import Material
from ollama_bridge.train.trimmed_targets import into_vocabulary

IDs = np.ndarray[Any, np.dtype[np.int32]]


class SplitLabels:
    """The soft labels of one split, by row number.

    Args:
        reader: Of the artefact.
        examples: Of the split.
        trimmed: Their vocabulary, where it was trimmed from the labels'; None: it is the same.
    """

    def __init__(
        self,
        reader: LabelReader,
        examples: Sequence[EncodedExample],
        trimmed: Vocabulary | None = None,
    ) -> None:
        self._reader = reader
        self._new_ids = None
        if trimmed is not None:
            self._new_ids = torch.from_numpy(trimmed.new_ids(reader.info.vocab_size))
        self._keys = {
            example.row: row_key(_teacher_ids(example, trimmed), example.supervised)
            for example in examples
        }

    def missing(self) -> list[int]:
        """Rows without soft labels."""
        return [row for row, key in self._keys.items() if key not in self._reader]

    def read(self, rows: Sequence[int]) -> Targets:
        """The distributions of some rows, one after another.

        Raises:
            ArtifactError: the files were changed after they were written.
        """
        found = self._reader.read([self._keys[row] for row in rows])
        if self._new_ids is None:
            return found
        assert isinstance(found, SoftTargets)  # see `open_stores`
        return into_vocabulary(found, self._new_ids)


def _teacher_ids(example: EncodedExample, trimmed: Vocabulary | None) -> IDs:
    if trimmed is None:
        return example.input_ids
    ids: IDs = trimmed.source_ids[example.input_ids].astype(np.int32)
    return ids


def open_stores(labels: SoftLabels | None, material: Material) -> dict[str, SplitLabels]:
    """The soft labels of both splits, after making sure that they belong to what is trained.

    They may have been made for another corpus, as long as every row of this one is among them.

    Raises:
        TrainingError: they do not.
    """
    if labels is None:
        return {}
    reader = LabelReader(labels.path)
    trimmed = material.vocabulary
    own = tokenizer_digest(material.tokenizer) if trimmed is None else trimmed.source_digest
    if reader.info.tokenizer != own:
        raise TrainingError(
            f"the soft labels in {labels.path} were made with another tokenizer or chat template "
            "than the student's: their positions and token ids mean other things",
            hint="start the student from layers of the teacher, or from a checkpoint with the "
            "same tokenizer and chat template",
        )
    if trimmed is not None and reader.info.method != "top_k":
        raise TrainingError(
            "labels that are drawn at random cannot be carried into a trimmed vocabulary: what "
            "falls on a token that the student does without has nowhere to go",
            hint="set soft_labels.method to top_k, or student.vocabulary to full",
        )
    stores = {}
    for name, batches in (("train", material.training), ("validation", material.validation)):
        stores[name] = SplitLabels(reader, batches.examples, trimmed)
        missing = stores[name].missing()
        if missing:
            raise TrainingError(
                f"{len(missing)} of {len(batches.examples)} rows of the {name} split have no soft "
                f"labels in {labels.path} (the first is row {missing[0]}): they were made on "
                "another corpus, or with a smaller max_length",
                hint="label this corpus with this teacher first: ollama-bridge label",
            )
    return stores
