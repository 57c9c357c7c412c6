"""The folder of a run: where it is, whose data it is of, and that one process works in it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ollama_bridge.assets import home_dir
from ollama_bridge.digests import digest_text
from ollama_bridge.errors import ConfigError
from ollama_bridge.storage.atomic_files import raise_if_disk_full, write_json_atomic
from ollama_bridge.storage.locks import is_locked, locked

if TYPE_CHECKING:
    from ollama_bridge.recipe.config import Recipe

EVENTS_NAME = "events.jsonl"
_LOCK_NAME = ".run.lock"
_ORIGIN_NAME, _KEPT_IN = "origin.json", "run_dir"
_NAME_CHARS = 32


def run_dir_of(recipe: Recipe, out_dir: str | Path | None = None) -> Path:
    """Where a recipe's artefacts go: ``out_dir``, else ``runs/NAME`` in our home folder."""
    return Path(out_dir or home_dir() / "runs" / recipe.name).absolute()


def tag_file_name(tag: str) -> str:
    """A tag as the name of a file."""
    return tag.replace("/", "+").replace(":", "+")


def name_of_data(path: Path) -> str:
    """What a run and its tag are called after a data file: small letters, digits and hyphens.

    Letters lose their marks; a digest of the name stands for what these cannot say, and for the
    rest of a long one. It is not of the path: a file that is moved keeps its run.
    """
    stem = unicodedata.normalize("NFC", path.stem).lower()
    bare = unicodedata.normalize("NFKD", stem.casefold())
    letters = "".join(letter for letter in bare if not unicodedata.combining(letter))
    slug = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")
    says_all = not any(character.isalnum() and not character.isascii() for character in stem)
    if slug and says_all and len(slug) <= _NAME_CHARS:
        return slug
    kept = slug[:_NAME_CHARS].rstrip("-") or "data"
    return f"{kept}-{digest_text(stem)[:6]}"


@contextlib.contextmanager
def hold_run(
    run_dir: Path, *, hint: str = "wait for it, or choose another --out"
) -> Iterator[None]:
    """Keep a second process out of a run, whose stages would read what the other one replaces.

    What fails before anything was made leaves no folder.

    Raises:
        ArtifactError: another process works there.
        DiskFullError: no room.
    """
    try:
        is_new = not run_dir.exists() or is_note_alone(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        with locked(run_dir / _LOCK_NAME, run_dir, hint=hint):
            try:
                yield
            except BaseException:
                if is_new:
                    _remove_unbegun(run_dir)
                raise
    except OSError as exc:
        raise_if_disk_full(exc, run_dir)
        raise


def is_held(run_dir: Path) -> bool:
    """Whether a process works in a run now."""
    return is_locked(run_dir / _LOCK_NAME)


def _remove_unbegun(run_dir: Path) -> None:
    """Remove a run in which nothing was made, but for a note that names another one's folder."""
    with contextlib.suppress(OSError):  # the error that ended it is the one to be told
        left = [path for path in run_dir.iterdir() if not _is_lock(path)]
        if {path.name for path in left} - {EVENTS_NAME, _ORIGIN_NAME}:
            return
        if _kept_in(run_dir) is None:
            shutil.rmtree(run_dir)
        else:
            for path in run_dir.iterdir():
                if path.name != _ORIGIN_NAME:
                    path.unlink()


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".lock")


def note_origin(run_dir: Path, data: Path, *, out_dir: Path | None = None) -> None:
    """Write down after which data file a run is called, or the tag of one in another folder.

    Args:
        run_dir: Of that name in our home folder.
        data: The file.
        out_dir: The other folder.

    Raises:
        ConfigError: they are those of another file, which is still there.
    """
    path = run_dir / _ORIGIN_NAME
    if path.exists():
        other = Path(json.loads(path.read_text(encoding="utf-8"))["data"])
        if other.exists() and not other.samefile(data):
            # A note alone may be that of a run that begins now, or was moved, and has a tag.
            made = noted_run(run_dir) if is_note_alone(run_dir) else run_dir.name
            free = "rm" if made is None else "ollama-bridge runs rm"
            raise ConfigError(
                f"{run_dir.name} is the name of what was made of {other}; {data} would replace it",
                hint="give this one a folder and a tag of its own: --out FOLDER --tag TAG; or, if "
                f"the other is of no use any more: {free} {quote(str(made or path))}",
            )
        if other.exists() and out_dir is None:  # that of the other folder still has its tag
            out_dir = _kept_in(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    kept_in = {} if out_dir is None else {_KEPT_IN: str(out_dir.absolute())}
    write_json_atomic(path, {"data": str(data.absolute()), **kept_in})


def is_note_alone(run_dir: Path) -> bool:
    """Whether no run is there, but that its name is taken."""
    return [path.name for path in run_dir.glob("*")] == [_ORIGIN_NAME]


def noted_run(run_dir: Path) -> Path | None:
    """Where a run is whose name alone is noted; None: nowhere, or nobody wrote it down."""
    if not is_note_alone(run_dir):
        return None
    kept_in = _kept_in(run_dir)
    return kept_in if kept_in is not None and is_run(kept_in) else None


def _kept_in(run_dir: Path) -> Path | None:
    """The other folder that a note names; None: it names none, or there is no note."""
    path = run_dir / _ORIGIN_NAME
    if not path.exists():
        return None
    kept_in = json.loads(path.read_text(encoding="utf-8")).get(_KEPT_IN)
    return None if kept_in is None else Path(kept_in)


def is_run(folder: Path) -> bool:
    """Whether a build has begun there, or a package."""
    return (folder / EVENTS_NAME).is_file()
