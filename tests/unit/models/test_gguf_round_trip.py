"""GGUF -> checkpoint -> GGUF: the same numbers and the same metadata, whatever the types."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.architectures import CASES, SAMPLING, WIDE, build_checkpoint
from fakes.ggufs import BLOCK_TYPES, decoded, metadata_of, rewrite
from fakes.sentencepiece import SIZE, build_sentencepiece

from ollama_bridge.conversion import convert
from ollama_bridge.models.load import load_model, load_tokenizer, save_checkpoint
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.settings.generation_defaults import defaults_of
from ollama_bridge.models.settings.gguf_tokenizer import TOOL_TEMPLATE_KEY
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reference import ReferenceValues

# Keys that come back otherwise, and why.
CHANGED = {
    "general.file_type": "of the type that was asked for",
    "tokenizer.ggml.eos_token_ids": "written always: several end tokens, for Ollama",
}
# Keys of a file that somebody else made, none of which is the default.
FOREIGN: dict[str, Any] = {
    "general.name": "Some Model 2",
    "general.author": "Somebody",
    "general.organization": "Some Org",
    "general.version": "v2",
    "general.basename": "some-model",
    "general.size_label": "1.2M",
    "general.license": "apache-2.0",
    "general.license.link": "https://example.org/licence",
    "general.languages": ["en", "de"],
    "general.tags": ["chat", "text-generation"],
    "general.base_model.count": 1,
    "general.base_model.0.name": "Some Base",
    "general.base_model.0.repo_url": "https://example.org/some/base",
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 0,
    "tokenizer.ggml.eom_token_id": 1,
    "tokenizer.ggml.fim_pre_token_id": 5,
    "tokenizer.ggml.add_bos_token": True,
}


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama in F32 whose rows take any block type."""
    folder = tmp_path_factory.mktemp("wide")
    return export(build_checkpoint("llama", folder / "source", sizes=WIDE), folder)


def export(source: Path, folder: Path, type_: str = "f32") -> Path:
    """Whatever a reference names, as GGUF."""
    checkpoint = resolve_model(str(source), cache_dir=folder / "cache")
    gguf = convert(checkpoint, type=type_, out_dir=folder / type_, chat_template=True)
    return gguf.gguf_path


def assert_same(before: Path, after: Path) -> None:
    """Every value and every key, but for those that have a reason."""
    expected, found = decoded(before), decoded(after)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(values, found[name]), name
    old, new = metadata_of(before), metadata_of(after)
    for key in old.keys() | new.keys():
        if key not in CHANGED and not key.startswith("ollama_bridge."):
            assert old.get(key) == new.get(key), key


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_comes_back(case: str, tmp_path: Path) -> None:
    """Q4_K and Q6_K as in most files: decoded equal, metadata equal, mistral as the llama it is."""
    plain = export(build_checkpoint(case, tmp_path / "source", sizes=WIDE), tmp_path / "1")
    mixed = rewrite(
        plain,
        tmp_path / "mixed.gguf",
        types=lambda name: "Q6_K" if "ffn_down" in name else "Q4_K",
    )
    assert_same(mixed, export(mixed, tmp_path / "2"))


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_every_type_comes_back(type_name: str, wide_llama: Path, tmp_path: Path) -> None:
    """Random blocks of each type decode to what the gguf package says they are."""
    blocks = rewrite(wide_llama, tmp_path / "blocks.gguf", types=lambda name: type_name)
    assert_same(blocks, export(blocks, tmp_path / "out"))


@pytest.mark.parametrize("type_", ["f16", "bf16"])
def test_halves_come_back_as_halves(type_: str, tmp_path: Path) -> None:
    """An F16 or BF16 file is the same file again, byte for byte in every tensor."""
    first = export(build_checkpoint("qwen3", tmp_path / "source"), tmp_path / "1", type_)
    assert_same(first, export(first, tmp_path / "2", type_))


def test_what_the_file_says_of_the_model_comes_back(wide_llama: Path, tmp_path: Path) -> None:
    """Name, authors, licence, tags, base models, all end tokens and other roles."""
    theirs = rewrite(wide_llama, tmp_path / "x.gguf", metadata=lambda keys: keys.update(FOREIGN))
    assert_same(theirs, export(theirs, tmp_path / "out"))


@pytest.mark.parametrize("name", ["refact", "deepseek-r1-qwen", "dbrx", "smollm"])
def test_the_name_of_a_splitting_comes_back(name: str, wide_llama: Path, tmp_path: Path) -> None:
    """Several names mean one splitting; and some types of tokens mean the same to Hugging Face."""

    def theirs(keys: dict[str, Any]) -> None:
        keys["tokenizer.ggml.pre"] = name
        keys["tokenizer.ggml.token_type"][10:13] = [2, 5, 6]

    source = rewrite(wide_llama, tmp_path / "x.gguf", metadata=theirs)
    assert_same(source, export(source, tmp_path / "out"))


def test_a_filler_within_a_vocabulary_comes_back(wide_llama: Path, tmp_path: Path) -> None:
    """At the end they are none of the tokenizer's; within, a token that nobody uses."""

    def with_a_hole(keys: dict[str, Any]) -> None:
        keys["tokenizer.ggml.tokens"][20] = "[PAD20]"
        keys["tokenizer.ggml.token_type"][20] = 5

    source = rewrite(wide_llama, tmp_path / "x.gguf", metadata=with_a_hole)
    imported = resolve_model(str(source), cache_dir=tmp_path / "cache")
    made = convert(imported, type="f32", out_dir=tmp_path / "made", chat_template=True)
    assert_same(source, made.gguf_path)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with a vocabulary of SentencePiece, as llama.cpp's converter writes one."""
    folder = tmp_path_factory.mktemp("pieces")
    source = build_checkpoint("llama", folder / "source", sizes={"vocab_size": SIZE + 2})
    build_sentencepiece(source)

    def as_written(keys: dict[str, Any]) -> None:
        size, bytes_end = SIZE + 2, 3 + 256
        learnt = [-float(index) for index in range(size - bytes_end)]
        keys["tokenizer.ggml.scores"] = [-1000.0] * 3 + [0.0] * 256 + learnt[:-2] + [-10000.0] * 2
        keys["tokenizer.ggml.token_type"][0] = 3

    return rewrite(export(source, folder), folder / "pieces.gguf", metadata=as_written)


def test_scores_of_pieces_come_back(pieces: Path, tmp_path: Path) -> None:
    """Not ranks of merges, which give the same ids; and <unk> as the control token it was."""
    imported = resolve_model(str(pieces), cache_dir=tmp_path / "cache")
    made = convert(imported, type="f32", out_dir=tmp_path / "made", chat_template=True)
    assert_same(pieces, made.gguf_path)


def test_scores_that_merge_otherwise_are_not_kept(pieces: Path, tmp_path: Path) -> None:
    """An import whose tokenizer was changed: what it does is in the file, not what it did."""
    imported = resolve_model(str(pieces), cache_dir=tmp_path / "cache").path
    changed = tmp_path / "changed"
    shutil.copytree(imported, changed)
    (changed / "manifest.json").unlink()
    document = json.loads((changed / "tokenizer.json").read_text())
    document["model"]["merges"].reverse()
    (changed / "tokenizer.json").write_text(json.dumps(document))
    again = metadata_of(export(changed, tmp_path / "out"))
    worst, best = (
        document["model"]["vocab"]["".join(document["model"]["merges"][i])] for i in (-1, 0)
    )
    assert again["tokenizer.ggml.scores"][best] > again["tokenizer.ggml.scores"][worst]
    assert again["tokenizer.ggml.scores"][-1] == -1e9


def test_who_quantized_a_file_did_not_quantize_ours(wide_llama: Path, tmp_path: Path) -> None:
    """Unsloth and bartowski sign their files."""
    signed = {"general.quantized_by": "Unsloth", "general.author": "Somebody"}
    theirs = rewrite(wide_llama, tmp_path / "x.gguf", metadata=lambda keys: keys.update(signed))
    imported = resolve_model(str(theirs), cache_dir=tmp_path / "cache")
    made = convert(imported, type="f32", out_dir=tmp_path / "made")
    again = metadata_of(made.gguf_path)
    assert "general.quantized_by" not in again
    assert again["general.author"] == "Somebody"


def test_a_template_for_tools_in_a_file_is_a_stated_limit(wide_llama: Path, tmp_path: Path) -> None:
    """As in a folder: a tag has one template, and it is said that this one is not served."""
    source = tmp_path / "x.gguf"
    template = "{{ tools }}"
    rewrite(wide_llama, source, metadata=lambda keys: keys.update({TOOL_TEMPLATE_KEY: template}))
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    assert load_tokenizer(checkpoint.path).chat_template["tool_use"] == template
    made = with_reference_values(checkpoint, system=None, noise_types=(), out_dir=tmp_path / "made")
    limits = ReferenceValues.read(made.reference_path).limits
    assert any("tool_use" in limit and "not served" in limit for limit in limits)


@pytest.mark.parametrize(
    ("generation", "heeded"),
    [
        (SAMPLING, SAMPLING),
        ({**SAMPLING, "do_sample": False}, {"repetition_penalty": 1.05}),
        (
            {"do_sample": True, "top_k": 10**400, "temperature": 1e300, "min_p": True},
            {},
        ),
    ],
    ids=["sampled", "greedy", "out of range"],
)
def test_how_a_model_is_sampled_comes_back(
    generation: dict[str, Any], heeded: dict[str, Any], tmp_path: Path
) -> None:
    """As llama.cpp's converter writes it; nothing that transformers does not heed."""
    source = build_checkpoint("qwen2", tmp_path / "source")
    path = source / "generation_config.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, **generation}))
    first = export(source, tmp_path / "1")
    keys = {key for key in metadata_of(first) if key.startswith("general.sampling.")}
    assert len(keys) == len(heeded.keys() - {"do_sample"})
    imported = resolve_model(str(first), cache_dir=tmp_path / "cache").path
    again = json.loads((imported / path.name).read_text())
    assert {name: again[name] for name in again.keys() - plain.keys()} == heeded
    assert_same(first, export(first, tmp_path / "2"))


def test_a_temperature_of_zero_is_no_sampling() -> None:
    """transformers takes none of zero, and is greedy by itself."""
    keys = {"general.sampling.temp": 0.0, "general.sampling.top_k": 40}
    assert defaults_of(keys) == {}
    assert defaults_of({**keys, "general.sampling.temp": 0.5})["do_sample"] is True


def test_a_model_made_of_it_inherits_the_licence_and_names_its_base(
    wide_llama: Path, tmp_path: Path
) -> None:
    """A student of an import: its base by name, its licence and tags, nobody else's authorship."""
    theirs = rewrite(wide_llama, tmp_path / "x.gguf", metadata=lambda keys: keys.update(FOREIGN))
    imported = resolve_model(str(theirs), cache_dir=tmp_path / "cache")
    student = tmp_path / "student"
    save_checkpoint(load_model(imported.path), load_tokenizer(imported.path), student)
    keys = metadata_of(export(student, tmp_path / "out"))
    assert keys["general.base_model.0.name"] == "Some Model 2"
    assert keys["general.base_model.0.organization"] == "Some Org"
    assert keys["general.license"] == "apache-2.0"
    assert keys["general.tags"] == ["chat", "text-generation"]
    assert "general.author" not in keys
    assert keys["tokenizer.ggml.eot_token_id"] == 0


def test_rows_that_no_token_uses_stay_unused(tmp_path: Path) -> None:
    """Fillers at the end of a padded vocabulary are no tokens of the imported tokenizer."""
    source = build_checkpoint("qwen2", tmp_path / "source", sizes={"vocab_size": 400})
    first = export(source, tmp_path / "1")
    assert metadata_of(first)["tokenizer.ggml.tokens"][-1] == "[PAD399]"
    imported = resolve_model(str(first), cache_dir=tmp_path / "cache")
    assert len(load_tokenizer(imported.path)) == len(load_tokenizer(source))
    assert_same(first, export(first, tmp_path / "2"))


def test_requantizing_says_that_the_source_is_rounded(wide_llama: Path, tmp_path: Path) -> None:
    """Another type of a quantized file is made, with a note that it can be no better."""
    source = rewrite(wide_llama, tmp_path / "x.gguf", types=lambda name: "Q4_K")
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="q8_0", out_dir=tmp_path / "out")
    assert any("already rounded to Q4_K" in note for note in gguf.facts["notes"])
    plain = convert(
        resolve_model(str(wide_llama), cache_dir=tmp_path / "cache"),
        type="q8_0",
        out_dir=tmp_path / "plain",
    )
    assert plain.facts["notes"] == []


def test_an_import_stores_no_second_copy(wide_llama: Path, tmp_path: Path) -> None:
    """The checkpoint of a GGUF is the GGUF, with a config and a tokenizer."""
    checkpoint = resolve_model(str(wide_llama), cache_dir=tmp_path / "cache")
    assert (checkpoint.path / "model.gguf").samefile(wide_llama)
    assert not list(checkpoint.path.glob("*.safetensors"))
