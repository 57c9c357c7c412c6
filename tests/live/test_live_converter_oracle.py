"""Our export beside llama.cpp's own converter: equal but for named differences of metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes.architectures import CASES, SAMPLING, build_checkpoint
from fakes.ggufs import decoded, metadata_of
from gguf import GGUFReader
from llama_converters import LlamaCpp

from ollama_bridge.conversion import convert
from ollama_bridge.models.resolve import resolve_model
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
}
# What llama.cpp computes from other keys where it is missing; ours says it.
EXPLICIT = (
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
)
# Computed in float64 here, in float32 there.
LAST_BIT = {"rope_freqs.weight"}


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
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    ours = GGUFReader(convert(checkpoint, type=type_, out_dir=tmp_path / "ours").gguf_path)
    arguments = [source, "--outtype", type_, "--outfile", tmp_path / "theirs.gguf"]
    llama_cpp.run("convert_hf_to_gguf.py", *arguments)
    theirs = GGUFReader(tmp_path / "theirs.gguf")

    wanted = {tensor.name: tensor for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(wanted)
    for tensor in ours.tensors:
        other = wanted[tensor.name]
        assert tensor.tensor_type == other.tensor_type, tensor.name
        if tensor.name in LAST_BIT:
            np.testing.assert_allclose(tensor.data, other.data, rtol=2e-7)
        else:
            assert bytes(tensor.data) == bytes(other.data), tensor.name

    architecture = ours.fields["general.architecture"].contents()
    allowed = {*DIFFERENCES, *(f"{architecture}.{key}" for key in EXPLICIT)}
    for name in {*ours.fields, *theirs.fields}:
        if name.startswith(("GGUF.", "ollama_bridge.")) or name in allowed:
            continue
        assert name in ours.fields, f"{name} is missing"
        assert name in theirs.fields, f"{name} is ours alone"
        assert ours.fields[name].contents() == theirs.fields[name].contents(), name
    sampling = {name for name in ours.fields if name.startswith("general.sampling.")}
    assert len(sampling) == (5 if case == "qwen2" else 0)
    assert_comes_back(tmp_path / "theirs.gguf", type_, tmp_path)


def assert_comes_back(theirs: Path, type_: str, folder: Path) -> None:
    """llama.cpp's file -> checkpoint -> file: every tensor, and every key that it had."""
    checkpoint = resolve_model(str(theirs), cache_dir=folder / "cache")
    again = convert(checkpoint, type=type_, out_dir=folder / "again", chat_template=True)
    before, after = decoded(theirs), decoded(again.gguf_path)
    assert before.keys() == after.keys()
    for name, values in before.items():
        tolerance = 2e-7 if name in LAST_BIT else 0
        np.testing.assert_allclose(after[name], values, rtol=tolerance, atol=0, err_msg=name)
    old, new = metadata_of(theirs), metadata_of(again.gguf_path)
    new["tokenizer.chat_template"] = without_comment(new["tokenizer.chat_template"])
    for key, value in old.items():
        assert new.get(key) == value, key
    allowed = {*DIFFERENCES, *(f"{old['general.architecture']}.{key}" for key in EXPLICIT)}
    own = {key for key in new.keys() - old.keys() if not key.startswith("ollama_bridge.")}
    assert own <= allowed
