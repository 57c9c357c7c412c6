"""GGUFs whose numbers are under other keys than ours: read as a daemon reads them, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.architectures import build_checkpoint
from fakes.ggufs import metadata_of, rewrite
from fakes.listening import Listener
from fakes.sentencepiece import SIZE, build_sentencepiece

from ollama_bridge.alignment import Rung, Side, align, read_vocabulary
from ollama_bridge.conversion import convert
from ollama_bridge.errors import GGUFError
from ollama_bridge.models.architectures import GGUF_ARCHITECTURES
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.models.weights.text_part import TEXT_ALONE
from ollama_bridge.verify.tensor_check import TensorReport, compare_tensors


def imported(case: str, changes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The config of an architecture's GGUF with other metadata; None drops a key."""
    source = build_checkpoint(case, folder / "source")
    checkpoint = resolve_model(str(source), cache_dir=folder / "cache")
    gguf = convert(checkpoint, type="f32", out_dir=folder / "gguf").gguf_path
    path = rewrite(gguf, folder / "changed.gguf", metadata=lambda keys: keys.update(changes))
    contents = read_gguf(path)
    name = contents.metadata["general.architecture"]
    return GGUF_ARCHITECTURES[name].config(Keys(contents, name))


def test_a_gemma3_of_ollama_that_also_sees(tmp_path: Path) -> None:
    """One file for both, and a token that stands for images; its texts are the language model's."""
    source = build_checkpoint("gemma3", tmp_path / "source")
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    alone = convert(checkpoint, type="f32", out_dir=tmp_path / "gguf").gguf_path

    def with_eyes(keys: dict[str, Any]) -> None:
        keys["gemma3.mm.tokens_per_image"] = 256
        keys["tokenizer.ggml.tokens"].append("<image_soft_token>")
        keys["tokenizer.ggml.token_type"].append(3)

    eyes = dict.fromkeys(
        ("v.blk.0.attn_k.weight", "mm.mm_input_projection.weight"), np.ones((2, 2), np.float32)
    )
    path = rewrite(alone, tmp_path / "whole.gguf", metadata=with_eyes, extra=eyes)
    listener = Listener()
    found = resolve_model(str(path), cache_dir=tmp_path / "cache", reporter=listener)
    assert listener.notes[0] == TEXT_ALONE
    assert "no row for '<image_soft_token>'" in listener.notes[1]
    expected = resolve_model(str(alone), cache_dir=tmp_path / "cache")
    for name in ("config.json", "tokenizer.json"):
        assert (found.path / name).read_text() == (expected.path / name).read_text()
    theirs, ours = load_model(found.path).state_dict(), load_model(expected.path).state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert compare_tensors(path, source) == TensorReport((), (TEXT_ALONE,))


UNSCALED = {"gemma3.rope.scaling.type": None, "gemma3.rope.scaling.factor": None}
NAMELESS = {**UNSCALED, "gemma3.rope.freq_base": None, "gemma3.rope.freq_base_swa": None}
LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("changes", "whole", "local"),
    [
        (NAMELESS, {"rope_theta": 1e6}, 1e4),
        (
            {
                **NAMELESS,
                "gemma3.rope.global.freq_base": 500000.0,
                "gemma3.rope.local.freq_base": 20000.0,
            },
            {"rope_theta": 500000.0},
            2e4,
        ),
        (
            {**NAMELESS, "gemma3.rope.local.freq_base": 1e4, "gemma3.context_length": 131072},
            {"rope_theta": 1e6, **LINEAR},
            1e4,
        ),
        ({**UNSCALED, "gemma3.context_length": 131072}, {"rope_theta": 1e6}, 1e4),
    ],
    ids=["no names", "Ollama's names", "Ollama's, stretched", "llama.cpp's, not stretched"],
)
def test_the_bases_of_a_gemma3_by_their_older_names(
    changes: Mapping[str, Any], whole: Mapping[str, Any], local: float, tmp_path: Path
) -> None:
    """Ollama's own converters named and left out what its runners now fill in."""
    config = imported("gemma3", changes, tmp_path)
    assert config["rope_parameters"] == {
        "full_attention": {"rope_type": "default", **whole},
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }


def test_the_epsilon_that_a_gemma3_of_ollama_leaves_out(tmp_path: Path) -> None:
    """It is the published one; of another architecture it must be there."""
    key = "gemma3.attention.layer_norm_rms_epsilon"
    assert imported("gemma3", {key: None}, tmp_path)["rms_norm_eps"] == 1e-6


@pytest.mark.parametrize(("base", "cap"), [(1e4, None), (None, 30.0)], ids=["Ollama's", "others"])
def test_the_cap_that_the_first_gemma3_of_ollama_names(
    base: float | None, cap: float | None, tmp_path: Path
) -> None:
    """The 1B was trained without; a model of somebody else's may have one."""
    changes = {
        "gemma3.block_count": 26,
        "gemma3.final_logit_softcapping": 30.0,
        "gemma3.rope.local.freq_base": base,
    }
    assert imported("gemma3", changes, tmp_path)["final_logit_softcapping"] == cap


@pytest.mark.parametrize("key", ["scaling.factor", "scale_linear"])
def test_a_factor_without_a_type_is_linear(key: str, tmp_path: Path) -> None:
    """As llama.cpp takes it, under today's name and the older one."""
    config = imported("llama", {f"llama.rope.{key}": 4.0}, tmp_path)
    assert config["rope_parameters"] == {
        "rope_type": "linear",
        "rope_theta": 10000.0,
        "factor": 4.0,
    }


def test_a_gemma2_that_is_silent_has_a_window(tmp_path: Path) -> None:
    """llama.cpp and Ollama take that of the published ones."""
    config = imported("gemma2", {"gemma2.attention.sliding_window": None}, tmp_path)
    assert config["sliding_window"] == 4096
    assert config["layer_types"] == ["sliding_attention", "full_attention"]


def test_a_gemma2_that_is_silent_has_caps(tmp_path: Path) -> None:
    """Files of its first days name none, and llama.cpp caps all the same."""
    keys = ("attn_logit_softcapping", "final_logit_softcapping")
    config = imported("gemma2", {f"gemma2.{key}": None for key in keys}, tmp_path)
    assert [config[key] for key in keys] == [50.0, 30.0]


def test_a_phi3_that_is_silent_scales_no_attention(tmp_path: Path) -> None:
    """transformers would make a factor of the lengths, llama.cpp makes none."""
    config = imported("phi3-long", {"phi3.rope.scaling.attn_factor": None}, tmp_path)
    assert config["rope_parameters"]["attention_factor"] == 1.0


@pytest.mark.parametrize(
    ("case", "key", "value"),
    [
        ("qwen2-yarn", "qwen2.rope.scaling.attn_factor", 1.5),
        ("qwen2-yarn", "qwen2.rope.scaling.yarn_log_multiplier", 0.1),
        ("gemma3", "gemma3.rope.scaling.beta_fast", 64.0),
        ("llama", "llama.rope.scaling.alpha", 1000.0),
        ("olmo2", "olmo2.attention.sliding_window", 4096),
        ("granite", "granite.rope.scaling.finetuned", False),
    ],
)
def test_numbers_that_transformers_cannot_express_are_refused(
    case: str, key: str, value: object, tmp_path: Path
) -> None:
    """A daemon computes with them, so that an import without them would be another model."""
    with pytest.raises(GGUFError, match=f"{key} is {value}"):
        imported(case, {key: value}, tmp_path)


@pytest.mark.parametrize("case", ["qwen2", "qwen3", "phi3"])
def test_a_base_of_0_is_said_to_be_ollama_s(case: str, tmp_path: Path) -> None:
    """Its converter of 0.24 writes it for what transformers 5 saved; the folder has the number."""
    with pytest.raises(GGUFError, match=r"freq_base is 0, .* transformers 5") as caught:
        imported(case, {f"{case}.rope.freq_base": 0.0}, tmp_path)
    assert "ollama-bridge package FOLDER TAG" in (caught.value.hint or "")


def padded_by_ollama(path: Path, used: int, folder: Path, **changes: Any) -> Path:
    """A GGUF of ours with the fillers, types and scores that Ollama's converter writes."""

    def padded(keys: dict[str, Any]) -> None:
        tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
        count = len(tokens) - used
        tokens[used:] = [f"[PAD{number}]" for number in range(count)]
        types[used:] = [4] * count
        ids = [float(id_) for id_ in range(used)]
        keys["tokenizer.ggml.scores"] = (
            keys.get("tokenizer.ggml.scores", ids)[:used] + [-1.0] * count
        )
        keys.update(changes)

    return rewrite(path, folder / "ollama.gguf", metadata=padded)


def test_fillers_of_ollama_are_no_tokens(tmp_path: Path) -> None:
    """Its converter (up to 0.33) counts them from 0, as if they had been added.

    A sibling of another width has the same tokens then, as those of Qwen have.
    """
    narrow = build_checkpoint("qwen2", tmp_path / "narrow")
    wide = build_checkpoint("qwen2", tmp_path / "wide", sizes={"vocab_size": 400})
    checkpoint = resolve_model(str(wide), cache_dir=tmp_path / "cache")
    ours = convert(checkpoint, type="f32", out_dir=tmp_path / "gguf").gguf_path
    theirs = padded_by_ollama(ours, 384, tmp_path)
    imported = resolve_model(str(theirs), cache_dir=tmp_path / "cache")
    tokenizer, other = load_tokenizer(imported.path), load_tokenizer(narrow)
    assert tokenizer.get_vocab() == other.get_vocab()
    sides = (
        Side(read_vocabulary(one, width=rows), one)
        for one, rows in ((tokenizer, 400), (other, 384))
    )
    assert align(*sides, ["The food was great."]).rung == Rung.PADDED
    keys = metadata_of(convert(imported, type="f32", out_dir=tmp_path / "again").gguf_path)
    assert keys["tokenizer.ggml.tokens"][-1] == "[PAD399]", "found in no text"
    assert keys["tokenizer.ggml.token_type"][-1] == 5


def test_pieces_are_not_merged_into_fillers_of_ollama(tmp_path: Path) -> None:
    """It gives them a better score than most pieces have."""
    source = build_checkpoint("llama", tmp_path / "source", sizes={"vocab_size": SIZE + 2})
    build_sentencepiece(source)
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    ours = convert(checkpoint, type="f32", out_dir=tmp_path / "gguf").gguf_path
    theirs = padded_by_ollama(ours, SIZE, tmp_path)
    tokens, types = (
        metadata_of(theirs)[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type")
    )
    tokens[-4:-2], types[-4:-2] = ["[PAD", "0]"], [1, 1]
    changes = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    theirs = rewrite(theirs, tmp_path / "x.gguf", metadata=lambda keys: keys.update(changes))
    imported = resolve_model(str(theirs), cache_dir=tmp_path / "cache")
    assert len(load_tokenizer(imported.path)) == SIZE


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.padding_token_id": 384},
        {"tokenizer.ggml.token_type": [1] * 384 + [4] * 15 + [1]},
    ],
    ids=["has a role", "of another type"],
)
def test_tokens_that_only_read_like_fillers_are_kept(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """Somebody added them."""
    source = build_checkpoint("qwen2", tmp_path / "source", sizes={"vocab_size": 400})
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    ours = convert(checkpoint, type="f32", out_dir=tmp_path / "gguf").gguf_path
    theirs = padded_by_ollama(ours, 384, tmp_path, **changes)
    imported = resolve_model(str(theirs), cache_dir=tmp_path / "cache")
    assert len(load_tokenizer(imported.path)) == 400


@pytest.mark.parametrize("case", ["llama", "gemma3", "smollm3"])
def test_layers_that_are_not_there_cost_nothing(case: str, tmp_path: Path) -> None:
    """A number of four bytes, of which lists were made until memory ended."""
    with pytest.raises(GGUFError, match=r"block_count is 2000000000, expected no more than its"):
        imported(case, {f"{case}.block_count": 2_000_000_000}, tmp_path)


def test_a_head_that_its_divisors_do_not_fit_costs_nothing(tmp_path: Path) -> None:
    """Llama 3's are computed for its width, to be recognised."""
    changes = {"llama.attention.key_length": 1 << 30, "llama.attention.value_length": 1 << 30}
    changes["llama.rope.dimension_count"] = 1 << 30
    with pytest.raises(GGUFError, match=r"rope_freqs\.weight has shape"):
        imported("llama-3.1", changes, tmp_path)


def test_numbers_that_change_nothing_are_read_over(tmp_path: Path) -> None:
    """Converters write some at the values that they have anyway."""
    changes = {
        "qwen2.rope.scaling.attn_factor": 1.0,
        "qwen2.rope.scaling.yarn_beta_fast": 32.0,
        "qwen2.rope.scaling.yarn_attn_factor": 0.878,  # read for other architectures alone
        "qwen2.rope.scaling.finetuned": True,
    }
    config = imported("qwen2-yarn", changes, tmp_path)
    assert config["rope_parameters"]["rope_type"] == "yarn"
