"""From a tag to the file of its weights."""

from __future__ import annotations

import hashlib
import json
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from ollama_bridge.client import Client
from ollama_bridge.daemon.store import Blob, locate_blob
from ollama_bridge.daemon.tags import model_digest
from ollama_bridge.errors import DaemonError, ModelNotFoundError

_HEX = "ab" * 32
_DIGEST = f"sha256:{_HEX}"


@dataclass
class Summary:
    """A line of the daemon's list."""

    name: str
    digest: str
    size_bytes: int


@dataclass
class FakeClient:
    """A daemon that knows one tag."""

    modelfile: str
    models: tuple[Summary, ...] = ()

    def show(self, model: str) -> FakeClient:
        return self

    def list(self) -> tuple[Summary, ...]:
        return self.models


def locate(modelfile: str, *models: Summary, tag: str = "m:1") -> Blob:
    """What is found for a Modelfile and a list."""
    return locate_blob(cast(Client, FakeClient(modelfile, models)), tag)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model store, with one blob."""
    folder = tmp_path / "models"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / f"sha256-{_HEX}").write_bytes(b"GGUF")
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    return folder


def test_from_line_names_the_file(tmp_path: Path) -> None:
    """The first FROM is the model, wherever its store lies; later ones are not."""
    blob = tmp_path / f"sha256-{_HEX}"
    blob.write_bytes(b"GGUF..")
    text = f"# To build a new Modelfile\n\nFROM {blob}\nFROM /else/sha256-{'cd' * 32}\nSYSTEM x\n"
    assert locate(text) == Blob(_DIGEST, blob, 6)


@pytest.mark.parametrize("named", ["", "~unheard-of/models"])
def test_a_user_without_a_home_has_no_store_there(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon may be another's, and the file in a store that it names."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # no entry, as in a container
    monkeypatch.setenv("OLLAMA_MODELS", named)
    assert locate(f"FROM {tmp_path}/sha256-{_HEX}").path is None


def test_an_adapter_is_seen_and_a_text_about_one_is_not(store: Path) -> None:
    """The daemon shows it behind the model."""
    model = f"# To build a new Modelfile\n# FROM m\n\nFROM /data/blobs/sha256-{_HEX}\n"
    assert locate(f"{model}ADAPTER /data/blobs/sha256-{'cd' * 32}\nSYSTEM x\n").is_adapted
    assert not locate(f'{model}SYSTEM """Write\nADAPTER x\n"""\n').is_adapted


def test_a_path_of_another_machine_is_found_by_its_digest(store: Path) -> None:
    """Where the daemon's path is not here, a blob of the same digest in our store serves."""
    found = locate(f"FROM /data/blobs/sha256-{_HEX}")
    assert found == Blob(_DIGEST, store / "blobs" / f"sha256-{_HEX}", 4)


def test_remote_store_has_no_path(store: Path) -> None:
    """A blob that is nowhere here has a digest and no path."""
    listed = Summary("m:1", "sha256:00", 1234)
    other = "ef" * 32
    assert locate(f"FROM /data/blobs/sha256-{other}", listed) == Blob(f"sha256:{other}", None, 1234)


@pytest.mark.parametrize(
    ("tag", "path"),
    [
        ("m", "registry.ollama.ai/library/m/latest"),
        ("me/m:1", "registry.ollama.ai/me/m/1"),
        ("hf.co/org/m:Q8_0", "hf.co/org/m/Q8_0"),
    ],
)
def test_manifest_serves_where_from_is_no_path(store: Path, tag: str, path: str) -> None:
    """A FROM without a digest is looked up in the manifest, if it is the daemon's own."""
    raw = json.dumps(
        {
            "layers": [
                {"mediaType": "application/vnd.ollama.image.params", "digest": "sha256:11"},
                {"mediaType": "application/vnd.ollama.image.model", "digest": _DIGEST},
            ]
        }
    ).encode()
    manifest = store / "manifests" / path
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(raw)
    ours = Summary(tag, hashlib.sha256(raw).hexdigest(), 9)
    blob = Blob(_DIGEST, store / "blobs" / f"sha256-{_HEX}", 4)
    assert locate("FROM base", ours, tag=tag) == blob
    assert locate("FROM base", ours, tag=tag.upper()) == blob
    with pytest.raises(DaemonError, match="no weights"):
        locate("FROM base", Summary(tag, "00" * 32, 9), tag=tag)


def test_tag_without_weights_is_an_error(store: Path) -> None:
    """A cloud model has no file, and the message says which tag and what it is made from."""
    with pytest.raises(DaemonError, match=r"m:1 has no weights .*FROM big-model"):
        locate("FROM big-model")


@pytest.mark.parametrize(
    ("listed", "tag"),
    [
        ("my-model:latest", "My-Model"),
        ("my-model:latest", "registry.ollama.ai/library/my-model:latest"),
        ("me/m:1", "Registry.Ollama.ai/ME/m:1"),
        ("hf.co/a/B:Q4_K_M", "hf.co/a/b:q4_k_m"),
    ],
)
def test_names_of_one_model(listed: str, tag: str) -> None:
    """Ollama lists the first, and takes it for the other, whose digest is to be found."""
    client = cast(Client, FakeClient("", (Summary(listed, "d", 1),)))
    assert model_digest(client, tag) == "d"


@pytest.mark.parametrize(("tag", "digest"), [("My-M", "b"), ("library/my-m", "c"), ("MY-M", "a")])
def test_names_that_differ_in_case_alone(tag: str, digest: str) -> None:
    """Older daemons made several; the one of that very name is meant, else any."""
    names = {"MY-m:latest": "a", "My-M:latest": "b", "my-m:latest": "c"}
    listed = tuple(Summary(name, digest, 1) for name, digest in names.items())
    assert model_digest(cast(Client, FakeClient("", listed)), tag) == digest


@pytest.mark.parametrize("tag", ["m:2", "me/m", "hf.co/library/m", "mm"])
def test_names_of_other_models(tag: str) -> None:
    """Another version, namespace or registry."""
    client = cast(Client, FakeClient("", (Summary("m:latest", "d", 1),)))
    with pytest.raises(ModelNotFoundError):
        model_digest(client, tag)
