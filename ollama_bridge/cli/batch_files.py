"""The files of ``batch``: questions in, answers out, in the order of the questions."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollama_bridge.errors import ConfigError, DataError, DiskFullError
from ollama_bridge.storage.atomic_files import open_atomic

if TYPE_CHECKING:
    from ollama_bridge.client.jobs.jobs import Answered

_IN_MEMORY_BYTES = 16 * 2**20


def read_questions(
    path: Path, defaults: dict[str, Any], options_: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[object]]:
    """Questions with what they leave out, and their ids, else their numbers; every problem told.

    Raises:
        DataError: it cannot be read, holds no question, or lines that are none.
    """
    from ollama_bridge.client.questions import to_asking_call
    from ollama_bridge.client.requests import encode_body

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise DataError(f"{path} cannot be read: {reason}") from exc
    requests: list[dict[str, Any]] = []
    ids: list[object] = []
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold other ends of lines
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("not an object")
            ids.append(row.pop("id", number))
            given = {name: value for name, value in defaults.items() if value is not None}
            request = given | row
            if options_ or "options" in row:
                own = row.get("options") or {}
                request["options"] = {**options_, **own} if isinstance(own, dict) else own
            encode_body(to_asking_call(request).json or {})
            requests.append(request)
        except ConfigError as error:
            problems.append(f"line {number}: {error.message}")
        except (ValueError, TypeError, RecursionError) as exc:
            problems.append(f"line {number}: {exc}")
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(
            f"{path} has {len(problems)} line(s) that are not valid questions:\n{shown}{more}",
            hint='a line looks like {"id": 1, "prompt": "..."}; name the model with --model TAG',
        )
    if not requests:
        raise DataError(f"{path} has no questions", hint="write one on each line")
    return requests, ids


class AnswerLines:
    """Lines that come in any order, and are read in theirs; many are in a file without a name."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            _IN_MEMORY_BYTES, dir=str(folder)
        )
        self._places: list[tuple[int, int] | None] = [None] * count

    def put(self, index: int, line: str) -> None:
        """Keep a line.

        Raises:
            DiskFullError: no room.
        """
        data = f"{line}\n".encode()
        self._places[index] = (self._file.tell(), len(data))
        try:
            self._file.write(data)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(self._folder) from exc
            raise ConfigError(f"{self._folder} cannot be written to: {exc.strerror}") from exc

    def __iter__(self) -> Iterator[str]:
        """Those that came."""
        for begin, length in filter(None, self._places):
            self._file.seek(begin)
            yield self._file.read(length).decode()

    def close(self) -> None:
        """Forget them."""
        self._file.close()


def answer_line(answered: Answered, id_: object) -> str:
    """An answer, or the error of a question that was set aside, as a line without its end."""
    from ollama_bridge.cli.answers import reply_record

    record: dict[str, Any] = {"id": id_}
    if answered.reply is None:
        record["error"] = answered.error
    else:
        record |= reply_record(answered.reply)
    record["attempts"] = answered.attempts
    line = json.dumps(record, ensure_ascii=False, default=list)  # bytes as Ollama writes them
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can write as an escape
        return json.dumps(json.loads(line))
    return line


def write_answers(path: Path, lines: AnswerLines) -> None:
    """Replace a file by the lines at once.

    Raises:
        ConfigError: it cannot be written.
        DiskFullError: no room.
    """
    try:
        with open_atomic(path) as stream:
            stream.writelines(lines)
    except DiskFullError as exc:
        raise _disk_full(path) from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc


def _disk_full(path: Path) -> DiskFullError:
    from ollama_bridge.client.jobs.batch_log import MOVE_THE_LOG

    return DiskFullError(path, elsewhere=MOVE_THE_LOG)
