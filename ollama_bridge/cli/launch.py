"""Commands that ``torchrun`` starts in several processes."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def launch(command: str) -> None:
    """Run a command of ours, with the arguments behind the file's name, in all processes.

    Used by ``training/*.py``. The first process prints; errors are every process's own.
    """
    from ollama_bridge.cli import main, output, quiet_libraries
    from ollama_bridge.errors import ConfigError

    quiet_libraries()  # before torch is loaded
    from ollama_bridge.train.ranks import joined

    sys.argv[1:1] = [command]
    try:
        with joined() as ranks:
            if ranks.first:
                main()
            else:
                with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
                    main()
    except ConfigError as error:  # of the joining: main ends with its own
        as_json = "--json" in sys.argv and is_first_process()
        sys.exit(output.fail(error, as_json=as_json))


def is_first_process() -> bool:
    """Whether this is the process that tells, of those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def in_turn() -> contextlib.AbstractContextManager[None]:
    """What the block makes is made by the first process; the others then find it."""
    if "WORLD_SIZE" not in os.environ:
        return contextlib.nullcontext()
    from ollama_bridge.train.ranks import Ranks

    return Ranks.current().in_turn()
