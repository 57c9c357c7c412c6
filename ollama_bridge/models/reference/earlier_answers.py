"""What the same weights answered before: a guess at what they will answer now, and no more.

Values of a checkpoint are computed again for each type of a file that it is packaged as, and for
``verify --against``. Most of that time goes into writing answers token by token. Those that lie in
our folders already need one pass, which proves them (``Scorer.greedy``): so nothing here has to be
right, and whatever cannot be read is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ollama_bridge.assets import home_dir
from ollama_bridge.errors import ArtifactError
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.storage.artifacts import Checkpoint, Manifest

Guesses = Mapping[tuple[int, ...], str]
_VALUES = "reference.json"


def earlier_answers(checkpoint: Checkpoint, out_dir: Path, *, stage: str) -> Guesses:
    """Answers of its own, by the tokens of their prompts.

    Args:
        checkpoint: The weights.
        out_dir: Where their values are to be; other runs are looked through as well.
        stage: That computes values.
    """
    found: dict[tuple[int, ...], str] = {}
    for folder in _folders(checkpoint, out_dir, stage):
        try:
            values = ReferenceValues.read(folder / _VALUES)
        except ArtifactError:  # such as those of another version
            continue
        for answer in values.answers:
            if answer.greedy:
                prompt = values.conversation(answer.conversation).token_ids
                found.setdefault(prompt, answer.text)
    return found


def _folders(checkpoint: Checkpoint, out_dir: Path, stage: str) -> Iterator[Path]:
    """Its own, if it was trained here, and those with values of it."""
    yield checkpoint.path
    beside, runs = out_dir.absolute().parent, home_dir() / "runs"
    for path in (*beside.glob(f"*/{_VALUES}"), *runs.glob(f"*/*/{_VALUES}")):
        try:
            work = Manifest.read(path.parent).work
        except ArtifactError:
            continue
        if work.stage == stage and work.inputs.get("checkpoint") == checkpoint.digest:
            yield path.parent
