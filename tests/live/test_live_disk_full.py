"""Disks without room, beside a real daemon: the error says so, and nothing half is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.disks import small_disk
from fakes.exports import Exports, modelfile_of, tiny_exports
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import Client
from ollama_bridge.errors import DaemonError, DiskFullError, OllamaBridgeError
from ollama_bridge.inspection import verify
from ollama_bridge.packaging.package import package
from ollama_bridge.registration import register

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A random two-layer Llama: half a megabyte as F32."""
    return tiny_exports(tmp_path_factory.mktemp("tiny"), seed=31)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A model store with 100 kB of room."""
    with small_disk(tmp_path / "models", size_kib=100) as mount:
        yield mount


@pytest.fixture
def scrap(tmp_path: Path) -> Iterator[Path]:
    """A disk that weights can be linked onto, which has no room for what is written beside them."""
    with small_disk(tmp_path / "scrap", size_kib=16) as mount:
        yield mount


def test_verifying_onto_a_full_disk(
    tiny: Exports, daemon: PrivateDaemon, client: Client, scrap: Path
) -> None:
    """What is computed of the checkpoint has no room: nothing finished is left."""
    gguf = tiny.gguf("f16")
    client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    client.create(modelfile_of(gguf).to_request("live-full", blob_digest=gguf.blob_digest))
    with pytest.raises(DiskFullError, match="no space left"):
        verify(
            "live-full",
            against=str(tiny.checkpoint.path),
            out_dir=scrap / "verify",
            host=daemon.host,
        )
    assert not (scrap / "verify" / "checkpoint").exists()
    client.delete("live-full")


def test_packaging_onto_a_full_disk(
    tiny: Exports, daemon: PrivateDaemon, client: Client, scrap: Path
) -> None:
    """No room for what is computed: no tag, and no folder that looks finished."""
    with pytest.raises(DiskFullError, match="no space left"):
        package(
            str(tiny.checkpoint.path),
            "live-full-run",
            gguf_type="f32",
            out_dir=scrap / "run",
            host=daemon.host,
        )
    assert not [path for path in (scrap / "run").glob("[!.]*") if path.is_dir()]
    assert not any(model.name.startswith("live-full-run") for model in client.list())


@pytest.mark.parametrize(("link", "error"), [(True, DiskFullError), (False, DaemonError)])
def test_a_full_store_gets_nothing(
    tiny: Exports,
    ollama_binary: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    link: bool,
    error: type[OllamaBridgeError],
) -> None:
    """Copied there (another file system cannot be linked to) or uploaded."""
    gguf = tiny.gguf("f32")
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    # Its root holds log and keys; its store is the small disk.
    with (
        PrivateDaemon(
            tmp_path / "daemon", binary=ollama_binary, env={"OLLAMA_MODELS": str(store)}
        ) as daemon,
        daemon.client() as client,
    ):
        (store / "blobs").mkdir(exist_ok=True)
        with pytest.raises(error, match="no space left"):
            register(
                gguf,
                modelfile_of(gguf),
                "full:latest",
                client=client,
                out_dir=tmp_path / "out",
                link=link,
            )
        assert client.list() == []
    assert list((store / "blobs").iterdir()) == []
    assert not (tmp_path / "out").exists()
