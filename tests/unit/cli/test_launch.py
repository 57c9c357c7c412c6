"""What a command leaves for ``torchrun`` never stands in the way of what it tells."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ollama_bridge.cli.launch import launch


@pytest.fixture(autouse=True)
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that no attempt takes."""
    monkeypatch.setattr(sys, "argv", ["training/distill.py", "chat", "--strat", "x"])


def test_an_error_is_told_where_it_cannot_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk that torchrun writes to may be full, and that be the error."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "file" / "error.json"))
    with pytest.raises(SystemExit) as ended:
        launch("distill")
    assert ended.value.code == 2
    assert "error: no such option: --strat" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "is_tried"), [('{"exit_code": 2}', False), ('{"exit_code": 1}', True), ("{", True)]
)
def test_what_the_attempt_before_left_is_read(
    before: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    is_tried: bool,
) -> None:
    """Half a file says nothing: the command is tried, as after any other end."""
    files = [tmp_path / f"attempt_{attempt}" / "0" / "error.json" for attempt in range(2)]
    for file in files:
        file.parent.mkdir(parents=True)
    files[0].write_text(before)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(files[1]))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(SystemExit) as ended:
        launch("distill")
    assert ended.value.code == 2
    assert ("no such option" in capsys.readouterr().err) == is_tried
    assert json.loads(files[1].read_text())["exit_code"] == 2


_TRAINS_FOR_EVER = """
import contextlib, sys, time, types
from ollama_bridge.cli.launch import launch

@contextlib.contextmanager
def joined():
    print("joined", flush=True)
    time.sleep(600)
    yield

sys.modules["ollama_bridge.train.ranks"] = types.SimpleNamespace(joined=joined)
launch("distill")
"""
_TORCHRUN = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(worker.pid, flush=True)
worker.wait()
"""


def test_no_process_outlives_torchrun() -> None:
    """Killed, it can tell nobody to end, and what trains on would hold the run's lock."""
    with subprocess.Popen(
        [sys.executable, "-c", _TORCHRUN, _TRAINS_FOR_EVER],
        env={**os.environ, "TORCHELASTIC_RUN_ID": "none"},
        stdout=subprocess.PIPE,
        text=True,
    ) as torchrun:
        assert torchrun.stdout is not None
        worker = int(torchrun.stdout.readline())
        try:
            assert torchrun.stdout.readline() == "joined\n"
            torchrun.kill()
            # The pipe that both of them write to is closed when both have ended.
            reader = threading.Thread(target=torchrun.stdout.read)
            reader.start()
            reader.join(60)
            assert not reader.is_alive()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
