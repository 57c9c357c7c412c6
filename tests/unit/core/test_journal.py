"""The journal loses nothing that it took, whenever the kill comes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from fakes.stops import Killed, disk_full_from, killed_at, power_may_fail

from ollama_bridge.errors import ArtifactError, DiskFullError
from ollama_bridge.storage.journal import Journal


def test_every_cut_keeps_all_whole_records(tmp_path: Path) -> None:
    """Wherever the file is torn, the records before the tear are read and appending goes on."""
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for number in range(3):
            journal.append({"id": number, "text": "é\n"})
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        with Journal(path) as journal:
            assert [record["id"] for record in journal.records] == list(range(kept))
            journal.append({"id": "next"})
        with Journal(path) as journal:
            assert [record["id"] for record in journal.records] == [*range(kept), "next"]


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    """A damaged line that more lines follow is no torn end."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id"\n{"id": 3}\n')
    with pytest.raises(ArtifactError, match="line 2") as caught:
        Journal(path)
    assert str(caught.value.hint).endswith(f"rm {path}")  # what lies beside it is not its own


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room: the error that says so, and the file as it was."""
    path = tmp_path / "journal.jsonl"

    def no_room(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path) as journal:
        journal.append({"id": 1})
        monkeypatch.setattr(os, "fsync", no_room)
        with pytest.raises(DiskFullError):
            journal.append({"id": 2})
    with Journal(path) as journal:
        assert journal.records == [{"id": 1}]


@pytest.mark.parametrize("stop", [killed_at, disk_full_from])
def test_forgetting_is_all_or_nothing(
    tmp_path: Path, stop: Callable[[int], AbstractContextManager[None]]
) -> None:
    """At whatever call it stops, all records are there or those that were to stay, as written."""
    records = [{"id": number, "text": "\u2028\ud83d"} for number in range(4)]
    step, outcomes = 0, set()
    while True:
        path = tmp_path / f"{step}.jsonl"
        with Journal(path) as journal:
            for record in records:
                journal.append(record)
            was_stopped = True
            with contextlib.suppress(Killed), stop(step):
                journal.keep_only(lambda record: record["id"] % 2 == 1)
                was_stopped = False
        with Journal(path) as journal:
            assert journal.records in (records, records[1::2]), f"call {step}"
            outcomes.add(len(journal.records))
            journal.append({"id": "next"})
        if not was_stopped and outcomes == {2, 4}:
            break
        step += 1
    with Journal(path) as journal:
        journal.keep_only(lambda record: record["id"] == 1)
        journal.append({"id": "last"})
        assert journal.records == [records[1], {"id": "last"}]
    with Journal(path) as journal:
        assert journal.records == [records[1], {"id": "last"}]


def test_a_power_cut_takes_no_record(tmp_path: Path) -> None:
    """A record that was appended is on the disk, and so is the name of its file."""
    path = tmp_path / "journal.jsonl"
    with power_may_fail() as disk, Journal(path) as journal:
        assert disk.has(tmp_path)
        for number in range(2):
            journal.append({"id": number})
            assert disk.has(path)
