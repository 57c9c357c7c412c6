"""Reads the soft labels of an artefact that ``label`` made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ollama_bridge.errors import ArtifactError
from ollama_bridge.label_store.formats import format_of
from ollama_bridge.label_store.info import read_info
from ollama_bridge.label_store.labels import Targets
from ollama_bridge.label_store.segments import Segment, segments_of


class LabelReader:
    """The labels of rows by their content, memory-mapped.

    Raises:
        ArtifactError: damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = read_info(folder)
        self._format = format_of(self.info)
        self._where: dict[bytes, tuple[Segment, int]] = {}
        for segment in segments_of(folder):
            for number, key in enumerate(segment.keys()):
                self._where[key] = (segment, number)

    def __contains__(self, key: bytes) -> bool:
        """Whether a row has labels."""
        return key in self._where

    def read(self, keys: Sequence[bytes]) -> Targets:
        """The distributions on all supervised positions of some rows, one row after another.

        Args:
            keys: See ``info.row_key``; at least one.

        Raises:
            ArtifactError: a row has no labels, or they were changed after they were written.
        """
        blocks = []
        for key in keys:
            if key not in self._where:
                raise ArtifactError(
                    f"{self.folder} has no soft labels for row {key.hex()}",
                    hint="label this corpus with this teacher: ollama-bridge label",
                )
            segment, number = self._where[key]
            row = segment.row(number)
            blocks.append((row.block, row.positions))
        return self._format.read(blocks)
