"""Our export beside llama.cpp's own converter: equal but for named differences of metadata.

And what Ollama's own converter made, while it had one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.architectures import CASES, SAMPLING, build_checkpoint
from fakes.exports import Exports
from fakes.ggufs import decoded, metadata_of
from fakes.private_daemon import PrivateDaemon
from fakes.sentencepiece import RUN, SIZE, SPACE, build_sentencepiece, publish
from gguf import GGUFReader
from llama_converters import LlamaCpp

from ollama_bridge.conversion import convert
from ollama_bridge.models.gguf.pretokenizers import by_name
from ollama_bridge.models.load import load_model, load_tokenizer, save_checkpoint
from ollama_bridge.models.settings.general import SOURCE_KEY
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.template.comment import without_comment

pytestmark = pytest.mark.live

# Keys that only ours has, or has otherwise, and why.
DIFFERENCES = {
    "general.name": "made of the base model and the stage, not of the folder",
    "tokenizer.chat_template": "one authority on the prompt: a TEMPLATE goes with the tag",
    "tokenizer.ggml.add_bos_token": "explicit: a runtime's default has put BOS before prompts",
    "tokenizer.ggml.add_eos_token": "explicit",
    "tokenizer.ggml.add_space_prefix": "explicit",
    "tokenizer.ggml.eos_token_ids": "several end tokens, for Ollama",
    "tokenizer.ggml.eot_token_id": "the token that ends a turn, for llama.cpp",
    "tokenizer.ggml.pre": "found by what it does: the first of several names of one splitting",
    "tokenizer.ggml.scores": "ranks of tokenizer.json's merges, in the order of tokenizer.model's",
    "tokenizer.ggml.token_type": "<unk> is unknown, no control token; runs of spaces are normal",
    "tokenizer.ggml.tokens": "runs of spaces are U+2581 as in tokenizer.json, and so printed alike",
}
# What llama.cpp computes from other keys where it is missing; ours says it.
EXPLICIT = (
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
)


@pytest.mark.parametrize(
    ("case", "type_"), [*((case, "f16") for case in CASES), ("llama", "bf16"), ("llama", "q8_0")]
)
def test_same_file_but_for_named_differences(
    case: str, type_: str, llama_cpp: LlamaCpp, tmp_path: Path
) -> None:
    """Names, types and bytes of all tensors are equal, and so is every key not listed above."""
    source = build_checkpoint(case, tmp_path / "source")
    if case == "qwen2":
        path = source / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **SAMPLING}))
    keys = assert_same(source, type_, llama_cpp, tmp_path)
    assert_comes_back(tmp_path / "theirs.gguf", type_, tmp_path)
    sampling = {name for name in keys if name.startswith("general.sampling.")}
    assert len(sampling) == (5 if case == "qwen2" else 0)


@pytest.mark.parametrize(
    ("case", "form"),
    [
        ("llama", "llama"),
        ("mistral", "first"),
        ("phi3", "always"),
        ("gemma2", "gemma"),
        ("gemma3", "gemma"),
    ],
)
def test_pieces_are_the_same(case: str, form: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    """A vocabulary of SentencePiece, which llama.cpp reads from its own file."""
    source = build_checkpoint(case, tmp_path / "source", sizes={"vocab_size": SIZE})
    build_sentencepiece(source, form=form)
    publish(source)
    assert assert_same(source, "f16", llama_cpp, tmp_path)["tokenizer.ggml.model"] == "llama"
    assert_comes_back(tmp_path / "theirs.gguf", "f16", tmp_path)


def test_a_real_model_is_the_same(smollm: Exports, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct as a folder of transformers; llama.cpp knows its splitting itself."""
    imported = smollm.checkpoint.path
    source = tmp_path / "source"
    save_checkpoint(load_model(imported), load_tokenizer(imported), source)
    path = source / "config.json"
    config = json.loads(path.read_text())
    del config[SOURCE_KEY]  # no published one says what GGUF it was
    path.write_text(json.dumps(config))
    keys = assert_same(source, "f16", llama_cpp, tmp_path)
    assert len(keys["tokenizer.ggml.tokens"]) == 49152


def test_what_ollama_converted_has_the_tokens_of_its_source(
    installed: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its fillers of a padded vocabulary look like added tokens."""
    source = build_checkpoint("qwen2", tmp_path / "source", sizes={"vocab_size": 400})
    path = source / "config.json"
    config = json.loads(path.read_text())  # as transformers 4 wrote it
    path.write_text(json.dumps({**config, "rope_theta": config["rope_parameters"]["rope_theta"]}))
    (source / "Modelfile").write_text("FROM .\n")
    with PrivateDaemon(tmp_path / "daemon", binary=installed("0.24.0")) as daemon:
        subprocess.run(
            [str(daemon.binary), "create", "converted"],
            cwd=source,
            env={"OLLAMA_HOST": daemon.host, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
        )
        with daemon.client() as client:
            imported = resolve_model(
                "ollama:converted", cache_dir=tmp_path / "cache", client=client
            )
    assert metadata_of(imported.path / "model.gguf")["tokenizer.ggml.tokens"][-1] == "[PAD15]"
    tokens = load_tokenizer(imported.path).get_vocab()
    assert tokens == load_tokenizer(source).get_vocab()


def assert_same(source: Path, type_: str, llama_cpp: LlamaCpp, folder: Path) -> dict[str, Any]:
    """Both convert a checkpoint: tensors equal, keys but for those listed; what theirs has."""
    checkpoint = resolve_model(str(source), cache_dir=folder / "cache")
    ours = GGUFReader(convert(checkpoint, type=type_, out_dir=folder / "ours").gguf_path)
    arguments = [source, "--outtype", type_, "--outfile", folder / "theirs.gguf"]
    llama_cpp.run("convert_hf_to_gguf.py", *arguments)
    theirs = GGUFReader(folder / "theirs.gguf")

    wanted = {tensor.name: tensor for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(wanted)
    for tensor in ours.tensors:
        other = wanted[tensor.name]
        assert tensor.tensor_type == other.tensor_type, tensor.name
        assert bytes(tensor.data) == bytes(other.data), tensor.name

    new, old = metadata_of(ours), metadata_of(theirs)
    allowed = {*DIFFERENCES, *(f"{old['general.architecture']}.{key}" for key in EXPLICIT)}
    for name in {*new, *old}:
        if name.startswith("ollama_bridge.") or name in allowed:
            continue
        assert name in new, f"{name} is missing"
        assert name in old, f"{name} is ours alone"
        assert new[name] == old[name], name
    assert_same_vocabulary(new, old)
    return old


def assert_same_vocabulary(new: dict[str, Any], old: dict[str, Any]) -> None:
    """Lists that may differ do so only as it is said of them."""
    names = ("pre", "tokens", "token_type", "scores")
    pre, tokens, types, scores = (new.get(f"tokenizer.ggml.{name}") for name in names)
    old_pre, old_tokens, old_types, old_scores = (
        old.get(f"tokenizer.ggml.{name}") for name in names
    )
    assert by_name(pre) == by_name(old_pre)
    assert (scores is None) == (old_scores is None) == (new["tokenizer.ggml.model"] == "gpt2")
    for id_, (token, old_token) in enumerate(zip(tokens, old_tokens, strict=True)):
        if scores is not None and RUN in token:
            assert old_token in (token, token.replace(SPACE, " "))
            assert (types[id_], old_types[id_]) in ((1, 4), (1, 1))
        else:
            assert token == old_token
            assert types[id_] == old_types[id_] or token == "<unk>"
    if scores is not None:
        assert types.count(2) == 1
        merged = [
            id_ for id_, score in enumerate(scores) if score > -1e9 and RUN not in tokens[id_]
        ]
        assert merged
        for better, worse in pairwise(sorted(merged, key=scores.__getitem__, reverse=True)):
            assert old_scores[better] > old_scores[worse]


def assert_comes_back(theirs: Path, type_: str, folder: Path) -> None:
    """llama.cpp's file -> checkpoint -> file: every tensor, and every key that it had."""
    checkpoint = resolve_model(str(theirs), cache_dir=folder / "cache")
    again = convert(checkpoint, type=type_, out_dir=folder / "again", chat_template=True)
    before, after = decoded(theirs), decoded(again.gguf_path)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
    old, new = metadata_of(theirs), metadata_of(again.gguf_path)
    new["tokenizer.chat_template"] = without_comment(new["tokenizer.chat_template"])
    for key, value in old.items():
        assert new.get(key) == value, key
    allowed = {*DIFFERENCES, *(f"{old['general.architecture']}.{key}" for key in EXPLICIT)}
    own = {key for key in new.keys() - old.keys() if not key.startswith("ollama_bridge.")}
    assert own <= allowed
