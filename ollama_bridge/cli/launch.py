"""Commands that ``torchrun`` starts in several processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.errors import DiskFullError
from ollama_bridge.storage.atomic_files import write_text_atomic

if TYPE_CHECKING:
    from ollama_bridge.errors import OllamaBridgeError

_WRONG_INPUT = 2  # the exit code of what is wrong however often it is tried
# When one process has failed, torchrun ends the others within tenths of a second.
_FIRST_ONES_TURN_S = 5.0
_LOOK_INTERVAL_S = 1.0


def launch(command: str) -> None:
    """Run a command of ours, with the arguments behind the file's name, in all processes.

    Used by ``training/*.py``. The first process prints. An error of all processes is told once, and
    the last that torchrun prints; where it is of the input, restarts end without trying it again.
    """
    _end_with_torchrun()
    _end_as_before()
    from ollama_bridge.cli import main, output, quiet_libraries
    from ollama_bridge.errors import ConfigError

    quiet_libraries()  # before torch is loaded
    from ollama_bridge.train.ranks import joined

    def fail(error: OllamaBridgeError, *, as_json: bool) -> int:
        _leave_for_torchrun(error)
        return output.fail(error, as_json=as_json)

    sys.argv[:1] = ["ollama-bridge", command]  # as messages name it
    try:
        with joined() as ranks:
            if ranks.first:
                main(fail)
            else:
                with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                    main(fail)
    except ConfigError as error:  # of the joining: main ends with its own
        as_json = "--json" in sys.argv and is_first_process()
        sys.exit(fail(error, as_json=as_json))


def _end_with_torchrun() -> None:
    """End as torchrun ends its processes, where it is killed itself and cannot do so any more.

    They would train on, unseen, and hold the run's lock. What was saved last is kept.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_INTERVAL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _leave_for_torchrun(error: OllamaBridgeError) -> None:
    message = "\n".join([error.message, *([f"fix: {error.hint}"] if error.hint else [])])
    # torch's own form (ErrorHandler.record_exception); the exit code is for the next attempt.
    extra = {"timestamp": str(int(time.time()))}
    told = {"message": {"message": message, "extraInfo": extra}, "exit_code": error.exit_code}
    _leave(json.dumps(told))


def _leave(told: str) -> None:
    """Write an error where torchrun looks for it.

    A process whose error the first one has as well is ended while it waits here.
    """
    if not is_first_process():
        time.sleep(_FIRST_ONES_TURN_S)
    if (path := _error_file()) is not None:
        with contextlib.suppress(OSError, DiskFullError):  # it is told on stderr all the same
            write_text_atomic(path, told)


def _end_as_before() -> None:
    """End at once where a process of the attempt before was told that its input is wrong."""
    path, attempt = _error_file(), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if path is None or attempt == 0:
        return
    # torchrun's: attempt_N/PROCESS/error.json, a folder for each of this machine's processes.
    for earlier in path.parents[2].glob(f"attempt_{attempt - 1}/*/{path.name}"):
        with contextlib.suppress(OSError, ValueError):  # half of a file: it is tried again
            told = earlier.read_text(encoding="utf-8")
            if json.loads(told).get("exit_code") == _WRONG_INPUT:
                _leave(told)
                sys.exit(_WRONG_INPUT)


def _error_file() -> Path | None:
    """Where torchrun looks for what went wrong; None without it, or where it keeps no files."""
    name = os.environ.get("TORCHELASTIC_ERROR_FILE", os.devnull)
    return None if name == os.devnull else Path(name)


def is_first_process() -> bool:
    """Whether this is the process that tells, of those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def in_turn() -> contextlib.AbstractContextManager[None]:
    """What the block makes is made by the first process; the others then find it."""
    if "WORLD_SIZE" not in os.environ:
        return contextlib.nullcontext()
    from ollama_bridge.train.ranks import Ranks

    return Ranks.current().in_turn()
