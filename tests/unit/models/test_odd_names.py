"""Names that no file can have, or that mean another place elsewhere: an error with a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes.adapters import build_adapter, change_settings

from ollama_bridge.errors import ConfigError, ModelError, OllamaBridgeError
from ollama_bridge.modelfile import check_tag
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.models.weights.files import INDEX_NAME
from ollama_bridge.models.weights.tensors import SafetensorsWeights
from ollama_bridge.registry.reference import parse_registry_reference

NAMES = {
    "parent": "../x",
    "parents": "a/../../x",
    "absolute": "/etc/passwd",
    "home": "~/x",
    "nobody's home": "~nobody-is-called-so/x",
    "windows": "..\\..\\x",
    "drive": "C:\\models\\x",
    "share": "\\\\host\\share",
    "nul": "a\0b",
    "long": "x" * 5000,
    "half a pair": "\ud800",
    "turned": "model\u202etxt",
    "line": "a\nb",
}
odd_names = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())


@odd_names
def test_as_a_tag(name: str) -> None:
    """Refused before anything is looked at, in every part."""
    for tag in (name, f"team/{name}", f"{name}/x", f"m:{name.replace('/', '.')}/"):
        with pytest.raises(ConfigError, match="not a valid tag name"):
            check_tag(tag)


@odd_names
def test_as_a_place_in_a_registry(name: str) -> None:
    """No address is made of it."""
    for reference in (name, f"ghcr.io/team/{name}", f"ghcr.io/{name}/m", f"ghcr.io/team/m:{name}"):
        with pytest.raises(ConfigError):
            parse_registry_reference(reference)


@odd_names
def test_as_a_model(name: str, tmp_path: Path) -> None:
    """In every form of the grammar."""
    for reference in (name, f"./{name}", f"{name}.gguf", f"hf:{name}", f"ollama:{name}"):
        with pytest.raises(OllamaBridgeError) as caught:
            resolve_model(reference, cache_dir=tmp_path / "cache")
        assert caught.value.hint
    assert not (tmp_path / "cache").exists()


@odd_names
def test_as_a_shard(name: str, tmp_path: Path) -> None:
    """An index names files of its own folder, and only those."""
    index = tmp_path / INDEX_NAME
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match=r"outside|is missing") as caught:
        SafetensorsWeights.of_folder(tmp_path)
    assert caught.value.message.isprintable()  # nothing of it reaches a terminal as it is


def test_as_the_base_of_an_adapter(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What an adapter says of its base is somebody else's text."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    for name in NAMES.values():
        copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
        change_settings(copy, base_model_name_or_path=name)
        with pytest.raises(ModelError) as caught:
            resolve_model(str(copy), cache_dir=tmp_path / "cache")
        assert "--base" in (caught.value.hint or "")
        shutil.rmtree(copy)
