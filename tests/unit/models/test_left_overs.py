"""What the copy of a checkpoint goes without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes.adapters import build_adapter, change_settings
from fakes.architectures import build_checkpoint
from fakes.json_files import change_json
from fakes.listening import Listener

from ollama_bridge.conversion.source import Source
from ollama_bridge.errors import ModelError
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.resolve import resolve_model

IMAGE = "<image_soft_token>"


def add_token(folder: Path, token: str = IMAGE, *, in_vocabulary: bool = False) -> Path:
    """A token more than the model has rows, named as Gemma 3's image token is."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    size = len(document["model"]["vocab"])
    document["added_tokens"].append(
        {**document["added_tokens"][0], "id": size, "content": token, "special": True}
    )
    if in_vocabulary:
        document["model"]["vocab"][token] = size
    path.write_text(json.dumps(document))
    change_json(
        folder / "tokenizer_config.json",
        added_tokens_decoder={str(size): {"content": token, "special": True}},
        extra_special_tokens={"image_token": token},
        image_token=token,
    )
    return folder


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_token_that_the_model_has_no_row_for_is_left_out(tmp_path: Path, *, again: bool) -> None:
    """Gemma 3's 270M and 1B are published with the one that stands for an image in others."""
    folder = add_token(build_checkpoint("gemma3", tmp_path / "gemma"))
    listener = Listener()
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache", reporter=listener)
    assert any(IMAGE in note for note in listener.notes)
    if again:
        checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    tokenizer = load_tokenizer(checkpoint.path)
    assert len(tokenizer) == 384
    assert IMAGE not in tokenizer.get_vocab()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert IMAGE in (folder / name).read_text()
        assert IMAGE not in (checkpoint.path / name).read_text()
    assert Source(checkpoint).tokenizer.end_tokens == ("<|im_end|>",)


def test_one_that_came_with_an_adapter_is_left_out_and_said(tmp_path: Path) -> None:
    """Trainers save the tokenizer beside an adapter, too; a token that was trained is lost so."""
    base = build_checkpoint("gemma3", tmp_path / "gemma")
    adapter = build_adapter(base, tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter / name)
    add_token(adapter, in_vocabulary=True)
    change_settings(adapter, base_model_name_or_path=str(base))
    listener = Listener()
    checkpoint = resolve_model(str(adapter), cache_dir=tmp_path / "cache", reporter=listener)
    assert len(load_tokenizer(checkpoint.path)) == 384
    Source(checkpoint)
    said = next(note for note in listener.notes if "no row" in note)
    assert said.startswith(f"adapter: its model has no row for {IMAGE}, which is left out")
    assert "save_embedding_layers=True" in said


def test_one_that_only_pads_is_left_out(tmp_path: Path) -> None:
    """The line of every tutorial, without a resize: nobody pads what is served."""
    folder = add_token(build_checkpoint("llama", tmp_path / "llama"), "[PAD]")
    for name, setting in (
        ("tokenizer_config.json", {"pad_token": "[PAD]"}),
        ("config.json", {"pad_token_id": 384}),
        ("generation_config.json", {"pad_token_id": 384}),
    ):
        change_json(folder / name, **setting)
    listener = Listener()
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache", reporter=listener)
    assert any("no row for [PAD], which is left out" in note for note in listener.notes)
    assert load_tokenizer(checkpoint.path).pad_token is None
    assert load_model(checkpoint.path).config.pad_token_id is None
    entries = Source(checkpoint).tokenizer.entries(chat_template=False)
    assert "tokenizer.ggml.padding_token_id" not in {entry.key for entry in entries}


@pytest.mark.parametrize("place", ["template", "role"])
def test_one_that_is_used_is_missed(tmp_path: Path, place: str) -> None:
    """A chat format's own mark without a row is a model that was not saved as it was trained."""
    folder = add_token(build_checkpoint("gemma3", tmp_path / "gemma"))
    if place == "template":
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text() + "{{ '" + IMAGE + "' }}")
    else:
        change_json(folder / "tokenizer_config.json", eos_token=IMAGE)
    with pytest.raises(ModelError, match="no row for") as caught:
        resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert f"{folder}: its tokenizer has {IMAGE}" in str(caught.value)


def test_one_that_is_used_is_missed_of_an_adapter(tmp_path: Path) -> None:
    """Its row was trained and not saved: no other call brings it back."""
    base = build_checkpoint("llama", tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter / name)
    add_token(adapter, "<|eot|>")
    change_json(adapter / "tokenizer_config.json", eos_token="<|eot|>")
    change_settings(adapter, base_model_name_or_path=str(base))
    with pytest.raises(ModelError) as caught:
        resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    assert f"{adapter}: its tokenizer has <|eot|>" in str(caught.value)
    assert "save_embedding_layers=True" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"eos_token_id": [2, 5000]}', "eos_token_id 5000 is no token"),
        ('{"eos', "cannot be read"),
        ('{"top_k": "x"}', "top_k is 'x', expected a number"),
        ('{"temperature": Infinity}', "temperature is inf, expected a number"),
    ],
)
def test_bad_settings_are_named_where_their_owner_can_mend_them(
    tmp_path: Path, written: str, said: str
) -> None:
    """Not in the copy of them, and nothing is kept of it."""
    folder = build_checkpoint("llama", tmp_path / "llama")
    (folder / "generation_config.json").write_text(written)
    with pytest.raises(ModelError, match=said) as caught:
        resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert str(caught.value).startswith(str(folder / "generation_config.json"))
    assert caught.value.hint
    assert not list((tmp_path / "cache").glob("folder-*"))
