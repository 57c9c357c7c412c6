"""The language model of one that also sees, as transformers saves the two."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.adapters import with_new_adapter
from fakes.json_files import change_json
from fakes.models import build_tiny_tokenizer
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Mistral3Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from ollama_bridge.conversion import convert
from ollama_bridge.errors import ModelError
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.models.load import load_model
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reporting import JSONLReporter
from ollama_bridge.verify.tensor_check import compare_tensors

_TEXT: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_EYES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def gemma() -> PreTrainedConfig:
    text = {**_TEXT, "num_hidden_layers": 6, "query_pre_attn_scalar": 32, "sliding_window": 32}
    tokens = {"image_token_index": 383, "boi_token_index": 382, "eoi_token_index": 381}
    return Gemma3Config(text_config=text, vision_config=_EYES, mm_tokens_per_image=4, **tokens)


def mistral() -> PreTrainedConfig:
    return Mistral3Config(
        text_config={**_TEXT, "model_type": "mistral"},
        vision_config={**_EYES, "model_type": "pixtral", "head_dim": 8},
        image_token_index=383,
        tie_word_embeddings=False,
    )


def saved(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    """A random model of it, saved with the tiny tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return model.eval()


def name_of_module(name: str) -> str:
    """A saved tensor's name in the model."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return f"model.{name}".replace(".language_model.model.", ".language_model.")


@pytest.mark.parametrize("config", [gemma, mistral])
@pytest.mark.parametrize("names", ["as saved", "as the modules are called"])
def test_it_computes_what_the_whole_does(config: Any, names: str, tmp_path: Path) -> None:
    """For texts; its GGUF is that of a language model, and what sees is in neither."""
    folder = tmp_path / "whole"
    whole = saved(config(), folder)
    if names != "as saved":
        tensors = load_file(folder / "model.safetensors")
        assert any(name.startswith("language_model.model.") for name in tensors)
        save_file(
            {name_of_module(name): tensor for name, tensor in tensors.items()},
            folder / "model.safetensors",
        )
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    ids = torch.tensor([[1, 70, 80, 90, 100]])
    with torch.inference_mode():
        expected = whole(input_ids=ids).logits
        found = load_model(checkpoint.path)(input_ids=ids).logits
    assert expected.abs().max() > 0.1
    assert torch.allclose(found, expected, atol=1e-4)
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    assert gguf.facts["architecture"] in ("gemma3", "llama")


@pytest.mark.parametrize("spelling", ["model.language_model.", "language_model.model."])
def test_an_adapter_of_the_whole_is_merged_into_what_is_served(
    tmp_path: Path, spelling: str
) -> None:
    """As transformers names modules now, and before 4.52; what it has for the eyes is left out."""
    base = tmp_path / "base"
    whole = saved(gemma(), base)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "k_proj", "v_proj", "down_proj"],
        modules_to_save=["multi_modal_projector"],
        alpha_pattern={r"language_model\.layers\.1\..*": 3},
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = with_new_adapter(whole, config)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[1, 70, 80, 90, 100]])
    with torch.inference_mode():
        expected = tuned(input_ids=ids).logits
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    named = {
        name.replace("model.language_model.", spelling): tensor
        for name, tensor in load_file(path).items()
    }
    assert any(spelling in name for name in named)
    assert any(".vision_tower." in name for name in named)
    save_file(named, path, metadata={"format": "pt"})
    change_json(
        tmp_path / "adapter" / "adapter_config.json",
        base_model_name_or_path=str(base),
        alpha_pattern={rf"{re.escape(spelling)}layers\.1\..*": 3},
    )
    with JSONLReporter(tmp_path / "events.jsonl") as reporter:
        checkpoint = resolve_model(
            str(tmp_path / "adapter"), cache_dir=tmp_path / "cache", reporter=reporter
        )
    assert "also adapts the vision part" in (tmp_path / "events.jsonl").read_text()
    with torch.inference_mode():
        found = load_model(checkpoint.path)(input_ids=ids).logits
        plain = load_model(resolve_model(str(base), cache_dir=tmp_path / "cache").path)(
            input_ids=ids
        ).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_a_published_text_config_is_completed(tmp_path: Path) -> None:
    """Google's says only what differs from the class, under older names."""
    folder = tmp_path / "whole"
    saved(gemma(), folder)
    document = json.loads((folder / "config.json").read_text())
    text = document["text_config"]
    for name in ("rms_norm_eps", "hidden_activation", "layer_types", "rope_parameters"):
        del text[name]
    text["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}
    (folder / "config.json").write_text(json.dumps(document))
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    config = json.loads((checkpoint.path / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert config["rope_parameters"]["full_attention"]["factor"] == 8.0
    convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")


@pytest.mark.parametrize("case", ["the same", "another", "the same, and untied"])
def test_a_tied_matrix_that_is_saved_twice_is_one(case: str, tmp_path: Path) -> None:
    """As it is gathered from a training in pieces: its GGUF has no second one of 262,144 rows."""
    folder = tmp_path / "whole"
    whole = saved(gemma(), folder)
    tensors = load_file(folder / "model.safetensors")
    output = tensors["language_model.model.embed_tokens.weight"].clone()
    if case == "another":
        output[3] += 1
    save_file(
        {**tensors, "language_model.lm_head.weight": output},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    if "untied" in case:
        change_json(folder / "config.json", tie_word_embeddings=False)
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf").gguf_path
    is_one = case == "the same"
    assert ("output.weight" in read_gguf(gguf).tensors) is not is_one
    found = compare_tensors(gguf, checkpoint.path)
    assert (found.wrong, found.notes) == ((), ())
    if is_one:
        ids = torch.tensor([[1, 70, 80, 90, 100]])
        with torch.inference_mode():
            expected = whole(input_ids=ids).logits
            assert torch.allclose(load_model(checkpoint.path)(input_ids=ids).logits, expected)


def test_a_text_config_that_transformers_refuses_is_named(tmp_path: Path) -> None:
    """It is completed by the class before anything else looks at it."""
    saved(gemma(), tmp_path / "whole")
    path = tmp_path / "whole" / "config.json"
    document = json.loads(path.read_text())
    document["text_config"]["use_cache"] = "true"
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match=r"whole/config\.json cannot be read .*use_cache"):
        resolve_model(str(tmp_path / "whole"), cache_dir=tmp_path / "cache")
