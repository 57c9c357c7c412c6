"""Downloads: resumed, checked, complete or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes.registry import MemoryRegistry, breaks_after, layer_of, manifest_of

from ollama_bridge.errors import (
    DiskFullError,
    RegistryBusyError,
    RegistryContentError,
    RegistryError,
)
from ollama_bridge.registry.download import check_room, fetch_blob, fetch_manifest
from ollama_bridge.registry.manifest import Layer
from ollama_bridge.registry.session import Limits

CONTENT = bytes(range(256)) * 10


def fetch(registry: MemoryRegistry, folder: Path, layer: Layer | None = None) -> Path:
    """Get one file."""
    with registry.session() as session:
        return fetch_blob(session, layer or layer_of(CONTENT), folder, on_bytes=lambda _: None)


def test_a_file_is_named_by_its_digest(tmp_path: Path) -> None:
    """And nothing else lies beside it."""
    registry = MemoryRegistry()
    layer = registry.store(CONTENT)
    path = fetch(registry, tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == [layer.digest.replace(":", "-")]
    registry.asked.clear()
    assert fetch(registry, tmp_path / "new") == path
    assert not registry.asked


def test_empty_files_are_files(tmp_path: Path) -> None:
    """Nothing is asked for them."""
    registry = MemoryRegistry()
    assert fetch(registry, tmp_path, registry.store(b"")).read_bytes() == b""


@pytest.mark.parametrize("ranged", [True, False])
def test_what_came_is_not_fetched_again(tmp_path: Path, ranged: bool) -> None:
    """By Range; a registry that knows none sends all, and what is here is left out."""
    registry = MemoryRegistry(ranged=ranged)
    layer = registry.store(CONTENT)
    (tmp_path / f"{layer.digest.replace(':', '-')}.partial").write_bytes(CONTENT[:1000])
    assert fetch(registry, tmp_path).read_bytes() == CONTENT
    (asked,) = registry.asked
    assert asked.headers["Range"] == "bytes=1000-"


def test_it_waits_as_long_as_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has had too many requests says for how long."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    busy = iter([httpx.Response(429, headers={"Retry-After": "20"}), httpx.Response(503)])
    registry = MemoryRegistry(fault=lambda _: next(busy, None))
    layer = registry.store(CONTENT)
    with registry.session(limits=Limits()) as session:
        fetch_blob(session, layer, tmp_path, on_bytes=lambda _: None)
    assert pauses == [20.0, 2.0]


def test_a_break_goes_on_by_itself(tmp_path: Path) -> None:
    """As long as every attempt brings something."""
    registry = MemoryRegistry()
    registry.store(CONTENT)

    def fault(request: httpx.Request) -> httpx.Response:
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
        headers = {"Content-Range": f"bytes {begin}-2559/2560"} if begin else {}
        answer = breaks_after([CONTENT[begin : begin + 400]], **headers)
        answer.status_code = 206 if begin else 200
        return answer

    registry.fault = fault
    # httpx notices the break after the last byte too; the file is whole all the same.
    assert fetch(registry, tmp_path).read_bytes() == CONTENT
    assert len(registry.asked) == 7


def test_a_dead_registry_is_given_up(tmp_path: Path) -> None:
    """What came is kept for the next command."""
    registry = MemoryRegistry(fault=lambda request: breaks_after([CONTENT[:700]]))
    registry.ranged = False
    with pytest.raises(RegistryBusyError) as caught:
        fetch(registry, tmp_path)
    assert caught.value.hint
    (partial,) = tmp_path.iterdir()
    assert partial.read_bytes() == CONTENT[:700]
    registry.fault = None
    registry.store(CONTENT)
    assert fetch(registry, tmp_path).read_bytes() == CONTENT


def test_a_line_that_is_away_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back, and the download goes on: none of hours ends by itself."""
    clock = [0.0]

    def sleep(duration_s: float) -> None:
        clock[0] += duration_s

    def fault(_: httpx.Request) -> None:
        if clock[0] < 60.0:
            raise httpx.ConnectError("Network is unreachable")

    monkeypatch.setattr("time.sleep", sleep)
    registry = MemoryRegistry(fault=fault)
    layer = registry.store(CONTENT)
    with registry.session(limits=Limits()) as session:
        path = fetch_blob(session, layer, tmp_path, on_bytes=lambda _: None)
    assert path.read_bytes() == CONTENT


def test_a_registry_that_gives_a_byte_at_a_time_is_given_up(tmp_path: Path) -> None:
    """Progress alone buys no time without end."""
    registry = MemoryRegistry()
    layer = registry.store(CONTENT)

    def fault(request: httpx.Request) -> httpx.Response:
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
        answer = breaks_after([CONTENT[begin : begin + 1]])
        if begin:
            answer.status_code = 206
            answer.headers["Content-Range"] = f"bytes {begin}-2559/2560"
        return answer

    registry.fault = fault
    with pytest.raises(RegistryBusyError):
        fetch(registry, tmp_path, layer)
    assert len(registry.asked) == 20


def test_a_reply_that_ends_early(tmp_path: Path) -> None:
    """Is no file, however cleanly it ends."""
    registry = MemoryRegistry(fault=lambda _: httpx.Response(200, content=iter([CONTENT[:100]])))
    with pytest.raises(RegistryBusyError, match="sent 100 of 2560 bytes"):
        fetch(registry, tmp_path)


@pytest.mark.parametrize("partial", [b"", b"x" * 1000, b"x" * 5000])
def test_other_bytes_are_refused(tmp_path: Path, partial: bytes) -> None:
    """A wrong digest leaves nothing behind; the same command then begins anew."""
    registry = MemoryRegistry()
    layer = layer_of(CONTENT)
    registry.blobs[layer.digest] = b"y" * len(CONTENT)
    (tmp_path / f"{layer.digest.replace(':', '-')}.partial").write_bytes(partial)
    with pytest.raises(RegistryContentError, match="other bytes"):
        fetch(registry, tmp_path)
    assert not list(tmp_path.iterdir())
    registry.store(CONTENT)
    assert fetch(registry, tmp_path).read_bytes() == CONTENT


def test_another_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The manifest says how long a file is."""
    registry = MemoryRegistry()
    layer = registry.store(CONTENT)
    for size_bytes in (5, 10**12):
        wrong = Layer(layer.media_type, layer.digest, size_bytes)
        with pytest.raises(RegistryContentError, match=r"has .* with 2560 bytes"):
            fetch(registry, tmp_path, wrong)


def test_an_endless_file_is_cut(tmp_path: Path) -> None:
    """Without a length nothing more is written than was due."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    registry = MemoryRegistry(fault=lambda _: httpx.Response(200, content=endless()))
    with pytest.raises(RegistryError, match="sends more than the 2560 bytes"):
        fetch(registry, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= len(CONTENT)


@pytest.mark.parametrize("sent", ["bytes 0-2559/2560", "bytes 7-2559/2560", "", "bytes x-y/z"])
def test_another_part_is_refused(tmp_path: Path, sent: str) -> None:
    """Bytes of another place would make a file of nobody."""
    layer = layer_of(CONTENT)
    (tmp_path / f"{layer.digest.replace(':', '-')}.partial").write_bytes(CONTENT[:1000])
    answer = httpx.Response(206, content=CONTENT, headers={"Content-Range": sent})
    with pytest.raises(RegistryContentError, match="another part"):
        fetch(MemoryRegistry(fault=lambda _: answer), tmp_path)


def test_a_length_beyond_all_reason(tmp_path: Path) -> None:
    """Is none; what comes is counted anyway."""
    headers = {"Content-Length": "9" * 5000}
    answer = httpx.Response(200, content=CONTENT, headers=headers)
    fetch(MemoryRegistry(fault=lambda _: answer), tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    """A manifest may name what the registry does not have."""
    with pytest.raises(RegistryError, match=r"404.*BLOB_UNKNOWN"):
        fetch(MemoryRegistry(), tmp_path)


def test_manifest() -> None:
    """Checked, and with its bytes as they are."""
    raw = manifest_of().to_bytes() + b"\n"
    registry = MemoryRegistry(manifests={"1": raw})
    with registry.session() as session:
        assert fetch_manifest(session) == (manifest_of(), raw)
        registry.manifests.clear()
        with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN") as caught:
            fetch_manifest(session)
    assert "check registry, name and tag" in (caught.value.hint or "")


def test_no_room_is_said_before_the_first_byte(tmp_path: Path) -> None:
    """Also for a manifest that claims terabytes."""
    with pytest.raises(DiskFullError):
        check_room(tmp_path, 2**43)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting needs root")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """One clear error; what came is kept, and goes on when there is room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this system allows no mounts")
    try:
        registry = MemoryRegistry()
        layer = registry.store(os.urandom(100_000))
        with pytest.raises(DiskFullError):
            fetch(registry, folder, layer)
        assert [file.suffix for file in folder.iterdir()] == [".partial"]
        subprocess.run(["mount", "-o", "remount,size=200k", str(folder)], check=True)
        fetch(registry, folder, layer)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
