"""From references to checkpoints, through the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from fakes.adapters import build_adapter, change_settings
from fakes.listening import Listener
from fakes.models import build_tiny_checkpoint

from ollama_bridge import digests
from ollama_bridge.conversion import convert
from ollama_bridge.errors import ArtifactError, GGUFError, ModelError, ModelReferenceError
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources import cached
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.models.weights.stored import is_plain
from ollama_bridge.reporting import Event, StageFinished, StageReused, StageStarted
from ollama_bridge.storage.artifacts import Checkpoint

if TYPE_CHECKING:
    from ollama_bridge.client import Client


@dataclass(frozen=True)
class Blob:
    """What locate_blob gives."""

    digest: str
    path: Path | None
    size_bytes: int
    is_adapted: bool = False


@pytest.fixture(scope="module")
def gguf(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as GGUF."""
    root = tmp_path_factory.mktemp("resolve")
    checkpoint = resolve_model(str(tiny_checkpoint), cache_dir=root / "cache")
    return convert(checkpoint, type="f32", out_dir=root / "gguf").gguf_path


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("m/model.safetensors", "give the folder that it is in: {here}/m"),
        ("lora/adapter_model.safetensors", "give the folder that it is in: {here}/lora"),
        ("notes.txt", "ollama:NAME"),
    ],
)
def test_a_file_is_told_from_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, file: str, hint: str
) -> None:
    """Most often it is one of the checkpoint that is meant; it needs no ``./`` for that."""
    for name in (file, "m/config.json", "lora/adapter_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelReferenceError, match="is a file, not a folder") as caught:
        resolve_model(f"{prefix}{file}", cache_dir=tmp_path / "cache")
    assert hint.format(here=tmp_path) in str(caught.value.hint)


@pytest.mark.parametrize("name", ["adapters.safetensors", "sql/adapter_config.json", ".DS_Store"])
def test_adapters_beside_a_checkpoint_are_not_its_own(
    tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    """mlx_lm.lora writes them into the model's folder."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (folder / "adapters" / name).parent.mkdir(parents=True)
    (folder / "adapters" / name).write_text("{}")
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert is_plain(folder)
    load_model(checkpoint.path)


def test_the_chat_template_of_a_processor_is_taken(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Where transformers 4 left it for models that also see; the tokenizer's own goes first."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    own = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 'other' }}"}))
    first = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert load_tokenizer(first.path).chat_template == own
    (folder / "chat_template.jinja").unlink()
    listener = Listener()
    found = resolve_model(str(folder), cache_dir=tmp_path / "cache", reporter=listener)
    assert load_tokenizer(found.path).chat_template == "{{ 'other' }}"
    assert any("chat_template.json" in note for note in listener.notes)
    (folder / "chat_template.json").unlink()
    without = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert load_tokenizer(without.path).chat_template is None


def test_the_file_that_convert_made_is_offered(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of its folder, which is what `convert` prints."""
    found = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    made = convert(found, type="f16", out_dir=tmp_path / "made")
    with pytest.raises(ModelReferenceError, match="what `convert` made") as caught:
        resolve_model(str(made.path), cache_dir=tmp_path / "cache")
    assert str(caught.value.hint) == f"give its file: {made.gguf_path}"


def test_an_adapter_in_the_place_of_ours_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """It would be looked at as merged, and left behind."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    adapter = build_adapter(tiny_checkpoint, folder / "adapters" / "1")
    with pytest.raises(ModelError, match="holds both a model and an adapter") as caught:
        resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert f"{adapter} with --base {folder}" in (caught.value.hint or "")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, Blob]:
    """A daemon's store with the blobs that a test puts in."""
    blobs: dict[str, Blob] = {}
    module = types.ModuleType("ollama_bridge.daemon.store")
    module.locate_blob = lambda _client, tag: blobs[tag]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ollama_bridge.daemon.store", module)
    return blobs


NOBODY = cast("Client", object())  # never called: locate_blob is ours


def test_a_folder_becomes_a_checkpoint_without_a_copy(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Weights of a folder are linked, not copied, and load like the folder."""
    checkpoint = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path)
    weights = checkpoint.path / "model.safetensors"
    assert weights.samefile(tiny_checkpoint / "model.safetensors")
    load_model(checkpoint.path)
    load_tokenizer(checkpoint.path)


def test_a_folder_is_known_by_its_content(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The same content elsewhere is the same checkpoint; another content is another."""
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    other = build_tiny_checkpoint(tmp_path / "other", seed=1)
    digests = [
        resolve_model(str(folder), cache_dir=tmp_path / "cache").digest
        for folder in (tiny_checkpoint, copy, other)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_an_artefact_is_taken_as_it_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A folder that is a checkpoint artefact is opened, not linked again."""
    first = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path)
    assert resolve_model(str(first.path), cache_dir=tmp_path).path == first.path


def test_a_gguf_is_imported_once(gguf: Path, tmp_path: Path, hashed: list[str]) -> None:
    """The second reference to the same file finds the first one's checkpoint."""
    listener = Listener()
    first = resolve_model(str(gguf), cache_dir=tmp_path, reporter=listener)
    assert "config.json" in hashed
    assert "model.gguf" not in hashed  # its digest is the checkpoint's name
    Checkpoint.open(first.path, verify_digests=True)
    again = resolve_model(str(gguf), cache_dir=tmp_path, reporter=listener)
    assert first.digest == again.digest
    kinds = [type(event) for event in listener.events]
    assert kinds.count(StageFinished) == kinds.count(StageReused) == 1
    load_model(first.path)


def test_weights_overwritten_in_place_are_not_the_imported_ones(tmp_path: Path) -> None:
    """A link shares what is written into its file: an import is linked again to what was read."""
    folder = build_tiny_checkpoint(tmp_path / "model")
    saved = Path(shutil.copytree(folder, tmp_path / "saved"))
    adapter = build_adapter(folder, tmp_path / "adapter")
    cache = tmp_path / "cache"
    first = resolve_model(str(folder), cache_dir=cache)
    adapted = resolve_model(str(adapter), base=str(folder), cache_dir=cache)
    other = build_tiny_checkpoint(tmp_path / "other", seed=1)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    again = resolve_model(str(saved), cache_dir=cache)
    assert again.digest == first.digest
    Checkpoint.open(again.path, verify_digests=True)
    again = resolve_model(str(adapter), base=str(saved), cache_dir=cache)
    assert again.digest == adapted.digest
    Checkpoint.open(again.path, verify_digests=True)


@dataclass
class Writer:
    """Somebody who writes a file anew when it was hashed and is not read yet."""

    path: Path
    content: bytes
    stage: str

    def emit(self, event: Event) -> None:
        """Write when the stage begins."""
        if event == StageStarted(self.stage):
            self.path.unlink()
            self.path.write_bytes(self.content)


def source_with(name: str, root: Path, gguf: Path, checkpoint: Path) -> tuple[Path, str | None]:
    """A model that has a file of that name below a folder; an adapter with its base."""
    source = root / name.partition("/")[0]
    if name == "tiny.gguf":
        return shutil.copy(gguf, source), None
    if source.name == "model":
        return shutil.copytree(checkpoint, source), None
    build_adapter(checkpoint, source)
    return source, str(checkpoint)


def copy_up(path: Path) -> None:
    """Give a file another inode, as a container's overlay does to one of its image."""
    copy = path.with_name(".copied-up")
    shutil.copy2(path, copy)
    copy.replace(path)


@pytest.mark.parametrize(
    "name",
    [
        "model/chat_template.jinja",
        "model/model.safetensors",
        "tiny.gguf",
        "adapter/adapter_config.json",
    ],
)
def test_what_changes_while_it_is_read_is_not_filed_as_what_it_was(
    gguf: Path, tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    """Its digest is that of the earlier bytes, which would find it later."""
    source, base = source_with(name, tmp_path, gguf, tiny_checkpoint)
    cache, path = tmp_path / "cache", tmp_path / name
    earlier = path.read_bytes()
    writer = Writer(path, earlier + b"\n", "import" if base is None else "merge")
    with pytest.raises(ArtifactError, match="changed while it was read"):
        resolve_model(str(source), base=base, cache_dir=cache, reporter=writer)
    path.unlink()
    path.write_bytes(earlier)
    found = resolve_model(str(source), base=base, cache_dir=cache)
    expected = resolve_model(str(source), base=base, cache_dir=tmp_path / "fresh")
    assert {one: entry.digest for one, entry in found.manifest.files.items()} == {
        one: entry.digest for one, entry in expected.manifest.files.items()
    }
    Checkpoint.open(found.path, verify_digests=True)


@pytest.mark.parametrize(
    "name", ["model/model.safetensors", "tiny.gguf", "adapter/adapter_model.safetensors"]
)
def test_a_link_that_makes_another_file_of_its_source_changes_nothing(
    gguf: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A model of a container's image is copied when it is linked, imported before or not."""
    link = os.link

    def link_copied(source: Path, target: Path) -> None:
        copy_up(source)
        link(source, target)

    monkeypatch.setattr(os, "link", link_copied)
    own = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    source, base = source_with(name, tmp_path, gguf, own)
    cache, path, listener = tmp_path / "cache", tmp_path / name, Listener()
    for _ in range(2):
        copy_up(path)  # no longer the file of an earlier import
        found = resolve_model(str(source), base=base, cache_dir=cache, reporter=listener)
        assert any(path.samefile(file) for file in found.path.rglob("*"))
        Checkpoint.open(found.path, verify_digests=True)
    assert StageReused("import" if base is None else "merge", str(found.path)) in listener.events
    writer = Writer(path, path.read_bytes() + b"\n", "import" if base is None else "merge")
    with pytest.raises(ArtifactError, match="changed while it was read"):
        resolve_model(str(source), base=base, cache_dir=cache, reporter=writer)


def test_what_a_training_leaves_beside_an_adapter_is_not_read(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of its optimizer is gigabytes; only what is merged makes another model."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "checkpoint-500")
    (adapter / "tokenizer_config.json").write_text("{}")
    state = ("optimizer.pt", "rng_state.pth", "training_args.bin", "trainer_state.json")
    hashed, found = [], []

    def digest_file(path: Path) -> str:
        hashed.append(path.name)
        return digests.digest_file(path)

    monkeypatch.setattr(cached, "digest_file", digest_file)
    for content in ("of one run", "of another"):
        for name in state:
            (adapter / name).write_text(content)
        found.append(
            resolve_model(str(adapter), base=str(tiny_checkpoint), cache_dir=tmp_path / "cache")
        )
    assert found[0].path == found[1].path
    assert "adapter_model.safetensors" in hashed
    assert not set(state) & set(hashed)
    (adapter / "tokenizer_config.json").write_text('{"pad_token": null}')
    other = resolve_model(str(adapter), base=str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    assert other.path != found[0].path


def test_a_whole_model_beside_an_adapter_is_taken(tmp_path: Path) -> None:
    """An epoch of torchtune's LoRA: merged shards, the adapter, and no name of a base."""
    folder = build_tiny_checkpoint(tmp_path / "epoch")
    base = Path(shutil.copytree(folder, tmp_path / "base"))
    load_model(folder).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    build_adapter(base, tmp_path / "adapter")
    for path in (tmp_path / "adapter").iterdir():
        shutil.copy(path, folder)
    change_settings(folder, base_model_name_or_path=None)
    shutil.copy(base / "model.safetensors", folder / "consolidated.safetensors")
    listener = Listener()
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache", reporter=listener)
    shards = {path.name for path in folder.glob("model-*.safetensors")}
    assert {name for name in checkpoint.manifest.files if "safetensors" in name} == {
        "model.safetensors.index.json",
        *shards,
    }
    assert any("a whole model and an adapter" in note for note in listener.notes)
    adapted = resolve_model(str(folder), base=str(base), cache_dir=tmp_path / "cache")
    assert adapted.manifest.work.stage == "merge"


@pytest.mark.parametrize("reference", ["file", "tag"])
def test_a_gguf_overwritten_in_place_is_not_the_imported_one(
    gguf: Path, tmp_path: Path, store: dict[str, Blob], reference: str
) -> None:
    """The same of a single file, given or found in the daemon's store."""
    written = Path(shutil.copy(gguf, tmp_path / "written.gguf"))
    first = resolve_model(str(written), cache_dir=tmp_path)
    written.write_bytes(bytes(gguf.stat().st_size))
    store["a"] = Blob(f"sha256:{first.manifest.work.inputs['gguf']}", gguf, gguf.stat().st_size)
    name = "ollama:a" if reference == "tag" else str(gguf)
    again = resolve_model(name, cache_dir=tmp_path, client=NOBODY)
    assert again.digest == first.digest
    Checkpoint.open(again.path, verify_digests=True)
    store["a"] = Blob(store["a"].digest, written, gguf.stat().st_size)
    with pytest.raises(ModelError, match="was changed"):
        resolve_model("ollama:a", cache_dir=tmp_path, client=NOBODY)


def test_a_tag_resolves_to_its_blob(gguf: Path, tmp_path: Path, store: dict[str, Blob]) -> None:
    """ollama:tag is the blob of the daemon's store, filed by its digest."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    store["a:b"] = Blob(f"sha256:{digest}", gguf, gguf.stat().st_size)
    checkpoint = resolve_model("ollama:a:b", cache_dir=tmp_path, client=NOBODY)
    assert checkpoint.manifest.work.inputs == {"gguf": digest}
    assert checkpoint.digest == resolve_model(str(gguf), cache_dir=tmp_path).digest


def test_a_changed_blob_is_refused(gguf: Path, tmp_path: Path, store: dict[str, Blob]) -> None:
    """A blob whose content is not its name's is an error, for Ollama does not check."""
    store["a"] = Blob(f"sha256:{'0' * 64}", gguf, gguf.stat().st_size)
    with pytest.raises(ModelError, match="changed"):
        resolve_model("ollama:a", cache_dir=tmp_path, client=NOBODY)


def test_a_remote_store_is_said(tmp_path: Path, store: dict[str, Blob]) -> None:
    """Weights on another machine are an error that says so."""
    store["a"] = Blob(f"sha256:{'0' * 64}", None, 1)
    with pytest.raises(ModelError, match="in no model folder that can be read here"):
        resolve_model("ollama:a", cache_dir=tmp_path, client=NOBODY)


def test_a_tag_with_an_adapter_is_refused(
    gguf: Path, tmp_path: Path, store: dict[str, Blob]
) -> None:
    """Its file is the base alone, which is another model."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    store["a"] = Blob(f"sha256:{digest}", gguf, gguf.stat().st_size, is_adapted=True)
    with pytest.raises(ModelError, match="ollama:a is served with an ADAPTER") as caught:
        resolve_model("ollama:a", cache_dir=tmp_path, client=NOBODY)
    assert "--base" in (caught.value.hint or "")


def test_a_failed_import_leaves_no_checkpoint(gguf: Path, tmp_path: Path) -> None:
    """A truncated GGUF is an error each time, and nothing counts as imported."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf.read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(GGUFError, match=r"broken\.gguf"):
            resolve_model(str(broken), cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("gguf-*/manifest.json"))


@pytest.mark.parametrize("name", ["./nothing", "nothing.gguf", "/nothing/at/all"])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    """A missing file or folder is an error that names it."""
    with pytest.raises(ModelReferenceError, match="nothing"):
        resolve_model(name, cache_dir=tmp_path)


def test_a_file_is_no_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A path to the safetensors file asks for its folder."""
    with pytest.raises(ModelReferenceError, match="not a folder"):
        resolve_model(str(tiny_checkpoint / "model.safetensors"), cache_dir=tmp_path)


def test_the_hub_is_not_reached_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hf: without network and cache is a ModelError, not a traceback."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError, match="hf:org/nothing"):
        resolve_model("hf:org/nothing", cache_dir=tmp_path)


def test_a_repository_of_pickles_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub has besides safetensors is not fetched, and the error says what is missing."""
    shutil.copy(tiny_checkpoint / "config.json", tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match="hf:org/name has no safetensors at its top") as caught:
        resolve_model("hf:org/name", cache_dir=tmp_path / "cache")
    assert "hf download org/name --include 'FOLDER/*'" in str(caught.value.hint)


def test_a_resolved_folder_is_a_checkpoint_artefact(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What is resolved opens again as an artefact with all digests right."""
    checkpoint = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path)
    opened = Checkpoint.open(checkpoint.path, verify_digests=True)
    assert opened.digest == checkpoint.digest
