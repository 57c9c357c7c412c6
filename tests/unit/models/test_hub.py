"""What goes wrong on the way to the hub: its own library speaks, and nothing leaves here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from fakes.daemon import FakeDaemon
from fakes.json_files import change_json
from huggingface_hub.utils import filter_repo_objects
from pytest_httpserver import HTTPServer
from safetensors import safe_open

from ollama_bridge.errors import ConfigError, ModelError
from ollama_bridge.models.safety import is_packed
from ollama_bridge.models.sources.hub import _IGNORED, _PATTERNS, JUDGED, download, fetch, has_file
from ollama_bridge.models.sources.references import parse_reference
from ollama_bridge.models.sources.resolve import resolve_adapter, resolve_model

NOTHING = parse_reference("hf:org/nothing")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is online, has nothing, and reads the environment anew."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


def test_a_proxy_that_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its refusal is one error, without the password that it was asked with."""
    with FakeDaemon() as proxy:  # it knows no tunnels
        monkeypatch.setenv("ALL_PROXY", f"http://me:secret@{proxy.host}")
        with pytest.raises(ModelError, match="hf:org/nothing could not be downloaded: ") as caught:
            download(NOTHING)
        assert proxy.asked == []
    assert "ProxyError" in str(caught.value)
    assert "what was downloaded is kept" in str(caught.value.hint)
    assert "secret" not in str(caught.value)


def test_what_is_fetched_of_a_repository() -> None:
    """One format of the weights, and every chat template: one for tools is told of."""
    names = [
        *("config.json", "model-00001-of-00002.safetensors", "README.md", "chat_template.jinja"),
        "additional_chat_templates/tool_use.jinja",
        *("original/params.json", "original/model.safetensors", "docs/README.md", "model.bin"),
        *("consolidated.safetensors", "checkpoint-500/optimizer.pt", "run.py"),
    ]
    found = filter_repo_objects(names, allow_patterns=_PATTERNS, ignore_patterns=_IGNORED)
    assert list(found) == names[:5]


def test_a_repository_of_ggufs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no pickles, and a file of it is what can be named."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match="repository of GGUF files") as caught:
        download(parse_reference("hf:org/name-GGUF"))
    assert "hf download org/name-GGUF FILE.gguf" in str(caught.value.hint)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://me:sesame/secret@127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It is named as it is in front of a daemon or a registry."""
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        fetch(NOTHING, ["config.json"])
    assert "unset ALL_PROXY" in str(caught.value.hint)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM"),
        ({"architectures": ["XForCausalLM"], "auto_map": {"AutoModel": "x.X"}}, "code of its own"),
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "quantization_config": {"quant_method": "fp8"},
            },
            r"quantized \(fp8\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_before_its_weights_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object], message: str
) -> None:
    """Its small files say so, and that it is no adapter."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "config.json").write_text(json.dumps(config))
    names = {"model.layers.0.mlp.up_proj.weight_scale_inv": "model-00001-of-00009.safetensors"}
    (repository / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    asked: list[list[str]] = []

    def give(_: str, *, allow_patterns: list[str], **__: object) -> str:
        asked.append(allow_patterns)
        return str(repository)

    monkeypatch.setattr("huggingface_hub.snapshot_download", give)
    monkeypatch.setattr("huggingface_hub.file_exists", lambda *_, **__: False)
    with pytest.raises(ModelError, match=message):
        resolve_model("hf:org/name", cache_dir=tmp_path / "cache")
    with pytest.raises(ModelError, match="not a PEFT adapter"):
        resolve_adapter("hf:org/name", cache_dir=tmp_path / "cache")
    assert asked == [JUDGED, JUDGED]


def test_whole_weights_come_whatever_their_config_still_says(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was merged, or written in 16 bits again: the index names no scales."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    change_json(copy / "config.json", quantization_config={"quant_method": "fp8"})
    with safe_open(copy / "model.safetensors", "np") as weights:
        names = dict.fromkeys(weights.keys(), "model.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(copy))
    assert not is_packed(copy)
    # Of Gemma 3's eyes, whose projection has no name of its own for its weight.
    names["multi_modal_projector.mm_input_projection_weight"] = "model.safetensors"
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert not is_packed(copy)
    del names["multi_modal_projector.mm_input_projection_weight"]
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert resolve_model("hf:org/name", cache_dir=tmp_path / "cache")


def test_a_whole_file_goes_before_the_index_of_weights_that_were_packed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in transformers, which does not open the index: in a folder, and in a repository."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (copy / "config.json").write_text(json.dumps(config))
    names = {"model.layers.0.mlp.up_proj.weight_scale_inv": "model-00001-of-00009.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    expected = resolve_model(str(copy), cache_dir=tmp_path / "cache").digest
    small = tmp_path / "small"
    shutil.copytree(copy, small, ignore=shutil.ignore_patterns("*.safetensors"))

    def give(_: str, *, allow_patterns: list[str], **__: object) -> str:
        return str(small if allow_patterns == JUDGED else copy)

    def exists(repository: str, name: str, *, revision: str) -> bool:
        return (repository, name, revision) == ("org/name", "model.safetensors", "v1")

    monkeypatch.setattr("huggingface_hub.snapshot_download", give)
    monkeypatch.setattr("huggingface_hub.file_exists", exists)
    assert resolve_model("hf:org/name@v1", cache_dir=tmp_path / "cache").digest == expected
    with pytest.raises(ModelError, match=r"quantized \(fp8\)"):
        resolve_model("hf:org/name@v2", cache_dir=tmp_path / "cache")


def hub(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library take a server of the test's for the hub."""
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url_for("").rstrip("/"))


@pytest.mark.parametrize("code", ["EntryNotFound", "RevisionNotFound", "RepoNotFound"])
def test_a_file_that_is_not_there(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Only what the hub says of it is an answer."""
    hub(httpserver, monkeypatch)
    where = httpserver.expect_request("/org/name/resolve/main/model.safetensors")
    where.respond_with_data(status=404, headers={"X-Error-Code": code})
    assert not has_file(parse_reference("hf:org/name"), "model.safetensors")


def test_a_file_of_which_the_hub_says_nothing(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is offline, refused or not answered does not hear that the weights are quantized."""
    hub(httpserver, monkeypatch)
    asked, name = parse_reference("hf:org/name"), "model.safetensors"
    gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
    httpserver.expect_request(f"/org/name/resolve/main/{name}").respond_with_data(
        status=403, headers=gated
    )
    with pytest.raises(ModelError, match="the hub refused: Access is restricted") as refused:
        has_file(asked, name)
    assert "hf auth login" in str(refused.value.hint)

    def silent(*_: object, **__: object) -> None:
        raise TimeoutError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_exists", silent)
        with pytest.raises(ModelError, match="could not be downloaded: TimeoutError: no answer"):
            has_file(asked, name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(ModelError, match="the hub cannot be reached") as offline:
        has_file(asked, name)
    assert "HF_HUB_OFFLINE" in str(offline.value.hint)
