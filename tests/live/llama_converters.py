"""llama.cpp's own converters, as oracles: started once, asked often."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ollama_bridge.closing import Closing

DRIVER = Path(__file__).parent / "llama_cpp_converter.py"


class LlamaCpp(Closing):
    """A process that runs llama.cpp's converters; use as a context manager.

    Args:
        source: Folder of llama.cpp's sources.
        log_path: Where the converters write what they say.
    """

    def __init__(self, source: Path, log_path: Path) -> None:
        self._log_path = log_path
        with log_path.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, DRIVER, source],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def run(self, script: str, *arguments: str | Path) -> None:
        """Run one of its scripts to the end; fails with its last words if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said_before = self._log_path.stat().st_size
        print(json.dumps([script, *map(str, arguments)]), file=self._process.stdin, flush=True)
        code = self._process.stdout.readline()
        assert code == "0\n", self._log_path.read_text()[said_before:][-2000:]

    def close(self) -> None:
        with self._process:  # closes stdin, which ends it
            pass
