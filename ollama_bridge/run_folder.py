"""The folder of a run: where it is, and that one process builds in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.assets import home_dir
from ollama_bridge.drafts import locked

if TYPE_CHECKING:
    from ollama_bridge.config import Recipe


def run_dir_of(recipe: Recipe, out_dir: Path | None = None) -> Path:
    """Where a recipe's artefacts go: ``out_dir``, else ``runs/NAME`` in our home folder."""
    return (out_dir or home_dir() / "runs" / recipe.name).absolute()


@contextlib.contextmanager
def hold_run(
    run_dir: Path, *, hint: str = "wait for it, or choose another --out"
) -> Iterator[None]:
    """Keep a second build out of a run, whose stages would read what the other one replaces.

    Raises:
        ArtifactError: another process builds there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with locked(run_dir / ".run.lock", run_dir, hint=hint):
        yield
