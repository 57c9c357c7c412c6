"""Events on their way to a file: no work fails because of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ollama_bridge.errors import DiskFullError
from ollama_bridge.reporting import JSONLReporter, Note, Timed

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="Linux has it")
def test_a_full_disk_hides_no_error() -> None:
    """What the stage says of it has a place and a hint."""
    with (
        pytest.raises(DiskFullError),
        JSONLReporter(FULL) as reporter,
        Timed(reporter, "convert"),
    ):
        reporter.emit(Note("convert", "info", "it goes on"))
        raise DiskFullError(FULL)


def test_half_a_line_is_no_beginning_of_the_next(tmp_path: Path) -> None:
    """A run may go on where the disk was full; what it tells can be read."""
    path = tmp_path / "events.jsonl"
    for number in range(3):
        with JSONLReporter(path) as reporter:
            reporter.emit(Note("convert", "info", str(number)))
        path.write_text(path.read_text() + '{"v": 1, "ti')
    with JSONLReporter(path):
        told = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    assert told == ["0", "1", "2"]


def test_a_folder_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    """The system allows it; the rest of the event is told."""
    path = tmp_path / "events.jsonl"
    with JSONLReporter(path) as reporter, Timed(reporter, "convert") as timer:
        timer.finish(Path(os.fsdecode(b"/data/caf\xe9")), {"tensors": 2})
    *_, event = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert (event["path"], event["facts"]) == ("/data/caf?", {"tensors": 2})
