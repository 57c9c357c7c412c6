"""The durable log of a batch: what became of every piece of work, by its key.

JSON lines, one for every piece that is settled, each synced to disk before it counts::

    {"key": "3f...", "attempts": 1, "value": {...}}                   done
    {"key": "9a...", "attempts": 3, "error": "RunnerCrashedError: ..."}   set aside

Questions are not in it, only their digests. Values stay on disk until they are read. Of a key that
is asked anew the last line counts; until then the one before stands, whatever is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ollama_bridge.closing import Closing
from ollama_bridge.errors import ArtifactError, ContextOverflowError, DiskFullError
from ollama_bridge.storage.journal import JSONRecord, Place, SyncedLines

MOVE_THE_LOG = "move the log to another disk, and name the answers beside it"
_BEGINS = b'{"key": "'
_IS_TOO_LONG = f"{ContextOverflowError.__name__}: "


@dataclass(frozen=True)
class Outcome:
    """What became of one piece of work: it has a value, or was set aside with an error.

    Attributes:
        key: Of the work.
        value: What it gave; None if it was set aside.
        error: Why it was set aside; None if it was done.
        attempts: How often it was tried.
    """

    key: str
    value: JSONRecord | None
    error: str | None = None
    attempts: int = 1


class BatchLog(Closing):
    """A log that only one process writes.

    Args:
        path: Made if missing; a last line that a kill tore is cut off. What was too long for the
            context is not settled any more: to ask costs little, and the context may be another.
        retry_failed: Nothing is settled that was set aside, for whatever reason.

    Raises:
        ArtifactError: another process has it open, a line other than the last is damaged, or it is
            another file.
        DiskFullError: no room.
    """

    def __init__(self, path: Path, *, retry_failed: bool = False) -> None:
        self._path = path
        self._retries_failed = retry_failed
        self._places: dict[str, Place] = {}
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(_locked(path))
                self._lines = self._open(path)
                stack.callback(self._lines.close)
                self._stack = stack.pop_all()
        except OSError as exc:
            raise _unwritable(path, exc) from exc

    def __contains__(self, key: object) -> bool:
        """Whether this work is settled."""
        return key in self._places

    def __len__(self) -> int:
        """How much work is settled."""
        return len(self._places)

    def commit(self, outcome: Outcome) -> None:
        """Settle one piece of work; what is settled is never settled again.

        Raises:
            DiskFullError: no room; the outcome is not in the log.
            ArtifactError: it was removed, or cannot be written any more.
        """
        if outcome.key in self._places:
            raise AssertionError(f"{outcome.key} is settled already")
        record: JSONRecord = {"key": outcome.key, "attempts": outcome.attempts}
        record |= {"value": outcome.value} if outcome.error is None else {"error": outcome.error}
        try:
            self._places[outcome.key] = self._lines.append(record)
        except DiskFullError as exc:
            raise DiskFullError(self._path, elsewhere=MOVE_THE_LOG) from exc
        except OSError as exc:
            raise _unwritable(self._path, exc) from exc

    def read(self, key: str) -> Outcome:
        """What became of a piece of work that is settled."""
        record = self._lines.read(self._places[key])
        return Outcome(key, record.get("value"), record.get("error"), record["attempts"])

    def close(self) -> None:
        """Close the file and let others have it."""
        self._stack.close()

    def _open(self, path: Path) -> SyncedLines:
        try:
            return SyncedLines(path, self._index, begins=_BEGINS)
        except DiskFullError as exc:
            raise DiskFullError(path, elsewhere=MOVE_THE_LOG) from exc
        except ArtifactError as exc:  # it lies in a folder of the user's
            hint = f"mv {quote(str(path))} {quote(f'{path}.damaged')}   and run it again"
            raise ArtifactError(exc.message, hint=hint) from exc

    def _index(self, record: object, place: Place) -> None:
        kinds = {"key": str, "attempts": int}
        if not isinstance(record, dict) or not all(
            isinstance(record.get(name), kind) for name, kind in kinds.items()
        ):
            raise ArtifactError(f"{self._path} is not a batch log", hint="name another file")
        failed = record.get("error") is not None
        if not is_settled(record) or (failed and self._retries_failed):
            self._places.pop(record["key"], None)
        else:
            self._places[record["key"]] = place


def is_settled(record: JSONRecord) -> bool:
    """Whether a line settles its key: not where the question may fit the context given next."""
    return not is_too_long(str(record.get("error")))


def is_too_long(error: str) -> bool:
    """Whether this was set aside because it does not fit the context."""
    return error.startswith(_IS_TOO_LONG)


def _unwritable(path: Path, exc: OSError) -> ArtifactError:
    folder = quote(str(path.parent))
    is_missing = isinstance(exc, FileNotFoundError)
    return ArtifactError(
        f"{path} cannot be written: {exc.strerror}",
        hint=f"mkdir -p {folder}" if is_missing else f"name a place that can be: not {folder}",
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ArtifactError(
                f"another process is writing {path}",
                hint="wait for it, or choose another file",
            ) from exc
        yield
