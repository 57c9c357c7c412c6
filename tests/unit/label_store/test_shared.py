"""Stores that runs share."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.label_rows import INFO, TEACHER, fill, row
from fakes.stops import Killed

from ollama_bridge.errors import ArtifactError, ConfigError, DiskFullError
from ollama_bridge.label_store import segments, shared
from ollama_bridge.label_store.catalogue import find_store, list_stores, remove_store
from ollama_bridge.label_store.info import INFO_NAME, read_info
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.label_store.segments import LABELS_NAME, OPEN_NAME, ROWS_NAME
from ollama_bridge.label_store.shared import open_store


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_rows_are_computed_once_and_linked_by_all(tmp_path: Path) -> None:
    """A second run adds its own rows alone; both read all of theirs, and share the bytes."""
    fill(tmp_path / "stores", [1, 2], tmp_path / "a")
    fill(tmp_path / "stores", [2, 3], tmp_path / "b")
    reader = LabelReader(tmp_path / "b")
    for number in (1, 2, 3):
        assert len(reader.read([row(number).key])) == number + 1
    assert row(3).key not in LabelReader(tmp_path / "a")
    (store,) = list_stores(tmp_path / "stores")
    assert (store.rows, store.positions, store.segments, store.finished) == (3, 9, 2, True)
    linked = next((tmp_path / "a").glob(f"*/{LABELS_NAME}"))
    assert linked.stat().st_nlink == 3
    assert read_info(tmp_path / "a") == INFO


def test_artifact_outlives_its_store(tmp_path: Path) -> None:
    """Removing a store frees what nobody links, and takes nothing from who does."""
    fill(tmp_path / "stores", [1, 2], tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    fill(tmp_path / "stores", [4], tmp_path / "b")
    before = files(tmp_path / "a")
    (store,) = list_stores(tmp_path / "stores")
    assert store.used_by == (tmp_path / "a",)  # b was never finished
    free, kept = remove_store(find_store(tmp_path / "stores", INFO.store_id[:5]))
    assert kept == sum(len(content) for content in files(tmp_path / "b").values()) + sum(
        len(content) for name, content in before.items() if name.endswith(".bin")
    )
    assert free > 0
    assert list_stores(tmp_path / "stores") == []
    assert files(tmp_path / "a") == before
    assert len(LabelReader(tmp_path / "a").read([row(2).key])) == 3
    with pytest.raises(ConfigError, match="no soft labels"):
        find_store(tmp_path / "stores", INFO.store_id)


def test_a_removal_that_was_killed_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever labels next, or removes another store; what is left of it is in no list."""
    stores = tmp_path / "stores"
    other = replace(INFO, teacher="another")

    def killed(path: Path) -> None:
        raise Killed

    def label_other() -> None:
        with open_store(stores, other, teacher_path=TEACHER):
            pass

    for number, act in enumerate((label_other, lambda: remove_store(stores / other.store_id))):
        fill(stores, [1, 2], tmp_path / str(number))
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(shutil, "rmtree", killed)
            remove_store(stores / INFO.store_id)
        assert (stores / f".{INFO.store_id}.removed").exists()
        act()
        assert not (stores / f".{INFO.store_id}.removed").exists()


def test_where_links_do_not_reach_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artefact on another file system has its own copy, and no link that could dangle."""

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    fill(tmp_path / "stores", [1, 2], tmp_path / "a")
    remove_store(tmp_path / "stores" / INFO.store_id)
    assert not any(path.is_symlink() for path in (tmp_path / "a").rglob("*"))
    assert len(LabelReader(tmp_path / "a").read([row(2).key])) == 3


def test_store_in_use_is_neither_written_nor_removed(tmp_path: Path) -> None:
    """While one run labels, another is refused, and so is removing."""
    with open_store(tmp_path, INFO, teacher_path=TEACHER) as store:
        store.append([row(0)])
        with (
            pytest.raises(ArtifactError, match="another process is writing"),
            open_store(tmp_path, INFO, teacher_path=TEACHER),
        ):
            pass
        with pytest.raises(ArtifactError, match="another process is writing"):
            remove_store(store.folder)
        (summary,) = list_stores(tmp_path)
        assert (summary.rows, summary.positions, summary.finished) == (1, 1, False)


@pytest.mark.parametrize("torn", ["labels", "entry", "entry without labels", "bits"])
def test_torn_end_is_cut_off(tmp_path: Path, torn: str) -> None:
    """Rows before the tear count, what is behind it is written again, and all bytes are equal."""
    fill(tmp_path / "whole", [1, 2, 3], tmp_path / "a")
    with open_store(tmp_path / "stores", INFO, teacher_path=TEACHER) as store:
        store.append([row(1), row(2)])
    labels, rows = (
        tmp_path / "stores" / INFO.store_id / OPEN_NAME / name for name in (LABELS_NAME, ROWS_NAME)
    )
    if torn == "labels":
        labels.write_bytes(labels.read_bytes() + row(3).block[:20])
    elif torn == "entry":
        labels.write_bytes(labels.read_bytes() + row(3).block)
        rows.write_bytes(rows.read_bytes() + row(3).key)
    elif torn == "entry without labels":
        labels.write_bytes(labels.read_bytes()[:-1])
    else:
        content = bytearray(labels.read_bytes())
        content[-1] ^= 1
        labels.write_bytes(content)
    with open_store(tmp_path / "stores", INFO, teacher_path=TEACHER) as store:
        assert row(1).key in store
        assert (row(2).key in store) == (torn in ("labels", "entry"))
    fill(tmp_path / "stores", [1, 2, 3], tmp_path / "b")
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_full_segment_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of any size is made of files of a bounded one."""
    monkeypatch.setattr(segments, "_FULL_BYTES", 50)
    with open_store(tmp_path / "stores", INFO, teacher_path=TEACHER) as store:
        for number in range(5):
            store.append([row(number)])
        store.link_into(tmp_path / "a", [row(4).key], user=tmp_path / "a")
    (summary,) = list_stores(tmp_path / "stores")
    assert (summary.rows, summary.segments) == (5, 4)
    assert len(list((tmp_path / "a").glob(f"*/{ROWS_NAME}"))) == 1


def test_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room is an error of ours; the rows before are found by the next run."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_store(tmp_path, INFO, teacher_path=TEACHER) as store:
        store.append([row(1)])
        with monkeypatch.context() as patch:
            patch.setattr(segments.os, "fsync", full)
            with pytest.raises(DiskFullError):
                store.append([row(2)])
    with open_store(tmp_path, INFO, teacher_path=TEACHER) as store:
        assert row(1).key in store
        assert row(2).key not in store


def damage_size(artifact: Path) -> None:
    path = next(artifact.glob(f"*/{LABELS_NAME}"))
    path.write_bytes(path.read_bytes()[:-5])


def damage_bits(artifact: Path) -> None:
    path = next(artifact.glob(f"*/{LABELS_NAME}"))
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def damage_info(artifact: Path) -> None:
    (artifact / INFO_NAME).write_text("[]")


def damage_format(artifact: Path) -> None:
    data = json.loads((artifact / INFO_NAME).read_text())
    (artifact / INFO_NAME).write_text(json.dumps({**data, "format_version": 99}))


def damage_labels(artifact: Path) -> None:
    next(artifact.glob(f"*/{LABELS_NAME}")).unlink()


@pytest.mark.parametrize(
    "damage", [damage_size, damage_bits, damage_info, damage_format, damage_labels]
)
def test_damage_is_an_error_of_ours(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Truncated, changed, foreign and missing files are refused."""
    fill(tmp_path / "stores", [1, 2], tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(ArtifactError) as caught:
        LabelReader(tmp_path / "a").read([row(2).key])
    assert str(tmp_path / "a") in str(caught.value.hint)


def test_row_without_labels_is_named(tmp_path: Path) -> None:
    """Asking for a row that was never labelled says what to do."""
    fill(tmp_path / "stores", [1], tmp_path / "a")
    with pytest.raises(ArtifactError, match="no soft labels for row 0707"):
        LabelReader(tmp_path / "a").read([row(7).key])


def test_row_entry_holds_the_checksum_of_its_block(tmp_path: Path) -> None:
    """The layout that the documentation promises: 28 bytes a row."""
    fill(tmp_path / "stores", [1], tmp_path / "a")
    entry = next((tmp_path / "a").glob(f"*/{ROWS_NAME}")).read_bytes()
    sizes = [2, len(row(1).block), zlib.crc32(row(1).block)]
    assert entry == row(1).key + b"".join(size.to_bytes(4, "little") for size in sizes)
    assert len(entry) == 28


def test_about_that_is_damaged_names_the_way_out(tmp_path: Path) -> None:
    """`labels ls` on a damaged store is an error with the command that removes it."""
    fill(tmp_path / "stores", [1], tmp_path / "a")
    (tmp_path / "stores" / INFO.store_id / shared.ABOUT_NAME).write_text("{}")
    with pytest.raises(ArtifactError) as caught:
        list_stores(tmp_path / "stores")
    assert caught.value.hint == f"ollama-bridge labels rm {INFO.store_id}"
