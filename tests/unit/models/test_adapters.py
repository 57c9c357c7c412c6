"""Merging LoRA adapters."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.adapters import build_adapter, change_settings, with_adapter, with_new_adapter
from fakes.architectures import build_checkpoint
from fakes.json_files import change_json
from fakes.models import build_tiny_checkpoint
from peft import AutoPeftModelForCausalLM, LoraConfig
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from ollama_bridge.conversion import convert
from ollama_bridge.errors import ModelError, ModelReferenceError, UnsafeCheckpointError
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.safety import check_folder
from ollama_bridge.models.sources.hub import JUDGED
from ollama_bridge.models.sources.merge import base_with_values
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.models.weights.lora import Adapter
from ollama_bridge.reporting import JSONLReporter
from ollama_bridge.storage.artifacts import Checkpoint

# Every feature of PEFT that is merged: settings of the adapter, and whether the base is tied.
FEATURES: dict[str, tuple[dict[str, Any], bool]] = {
    "plain": ({}, True),
    "rsLoRA": ({"use_rslora": True}, True),
    "patterns": (
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
        True,
    ),
    "two modules": ({"target_modules": ["q_proj", "v_proj"], "r": 8}, True),
    "DoRA": ({"use_dora": True}, True),
    "DoRA and rsLoRA": ({"use_dora": True, "use_rslora": True}, True),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, True),
    "saved modules": ({"modules_to_save": ["lm_head", "embed_tokens"]}, False),
    "saved output of a tied base": ({"modules_to_save": ["lm_head"]}, True),
    "saved norms": ({"modules_to_save": ["input_layernorm"]}, True),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, False),
    "embedding of a tied base": ({"target_modules": ["q_proj", "embed_tokens"]}, True),
    "output": ({"target_modules": ["q_proj", "lm_head"]}, False),
    "output of a tied base": ({"target_modules": ["q_proj", "lm_head"]}, True),
    "rows": ({"trainable_token_indices": {"embed_tokens": [7, 300]}}, False),
    "rows of a tied base": ({"trainable_token_indices": {"embed_tokens": [7, 300]}}, True),
}

_FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def merged_folder(base: Path, adapter: Path, cache: Path) -> Path:
    """The checkpoint that a user's adapter becomes on this base."""
    return resolve_model(str(adapter), base=str(base), cache_dir=cache).path


@pytest.mark.parametrize("feature", FEATURES)
def test_merged_equals_adapter(tmp_path: Path, feature: str) -> None:
    """The merged model's logits are the adapted model's, within 1e-5 of their size."""
    settings, tied = FEATURES[feature]
    base = build_tiny_checkpoint(tmp_path / "base", tied=tied)
    adapter = build_adapter(base, tmp_path / "adapter", **settings)
    merged = load_model(merged_folder(base, adapter, tmp_path / "cache"))
    tokens = torch.tensor([[7, 300, *range(3, 40)]])
    with torch.no_grad():
        expected, got = (
            with_adapter(base, adapter)(tokens).logits,
            merged(tokens).logits,
        )
        plain = load_model(base)(tokens).logits
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (plain - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    ("case", "feature"),
    [
        ("gemma3", "saved output of a tied base"),
        ("smollm3", "output of a tied base"),
        ("smollm3", "embedding of a tied base"),
    ],
)
def test_a_base_whose_config_leaves_its_tie_out(tmp_path: Path, case: str, feature: str) -> None:
    """transformers 4 wrote no key where an architecture ties by itself: neither end is lost."""
    base = build_checkpoint(case, tmp_path / "base", sizes={"tie_word_embeddings": True})
    config = json.loads((base / "config.json").read_text())
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config))
    adapter = build_adapter(base, tmp_path / "adapter", **FEATURES[feature][0])
    merged = merged_folder(base, adapter, tmp_path / "cache")
    check_folder(merged)
    tokens = torch.tensor([[7, 300, *range(3, 40)]])
    with torch.no_grad():
        expected = with_adapter(base, adapter)(tokens).logits
        got = load_model(merged)(tokens).logits
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("feature", [name for name in FEATURES if "tied base" not in name])
def test_merged_equals_pefts_own_merge(tmp_path: Path, feature: str) -> None:
    """Every weight is what peft's merge_and_unload computes.

    On a tied base peft's merge changes both sides of the tie, which is not what it trained.
    """
    settings, tied = FEATURES[feature]
    base = build_tiny_checkpoint(tmp_path / "base", tied=tied)
    adapter = build_adapter(base, tmp_path / "adapter", **settings)
    ours = load_model(merged_folder(base, adapter, tmp_path / "cache")).state_dict()
    for name, tensor in with_adapter(base, adapter).merge_and_unload().state_dict().items():
        assert torch.allclose(ours[name], tensor, atol=1e-6), name


def test_biases_are_merged(tmp_path: Path) -> None:
    """Trained biases of the base, and biases of B, where the base has biases to take them."""
    base = build_checkpoint("llama-biases", tmp_path / "base")
    tokens = torch.arange(3, 40)[None]
    for settings in ({"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}):
        folder = tmp_path / "-".join(settings)
        adapter = build_adapter(base, folder / "adapter", **settings)
        merged = load_model(merged_folder(base, adapter, folder / "cache"))
        with torch.no_grad():
            expected, got = (
                with_adapter(base, adapter)(tokens).logits,
                merged(tokens).logits,
            )
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max(), settings


GROWN: dict[str, tuple[dict[str, Any], bool]] = {
    "rows as they were made": ({}, False),
    "rows as they were made, of a tied base": ({}, True),
    "saved modules": ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "saved modules of a tied base": ({"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "saved and tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "trained rows": ({"trainable_token_indices": {"embed_tokens": [385, 391]}}, False),
    "trained rows of a tied base": ({"trainable_token_indices": {"embed_tokens": [385]}}, True),
}


@pytest.mark.parametrize("case", GROWN)
def test_a_grown_vocabulary_is_merged(tmp_path: Path, case: str) -> None:
    """Tokens that were added for the training are in the merged model, with their rows."""
    settings, tied = GROWN[case]
    base = build_tiny_checkpoint(tmp_path / "base", tied=tied)
    model = load_model(base)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ties, and that embeddings are saved
        model.resize_token_embeddings(392, mean_resizing=False)
        config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
        tuned = with_new_adapter(model, config)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
        tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    merged = load_model(merged_folder(base, tmp_path / "adapter", tmp_path / "cache"))
    assert merged.config.vocab_size == 392
    saved = settings.get("modules_to_save", [])
    assert merged.config.tie_word_embeddings == (tied and "lm_head" not in saved)
    tokens = torch.tensor([[1, 385, 391, 5]])
    with torch.no_grad():
        assert torch.allclose(merged(tokens).logits, tuned.eval()(tokens).logits, atol=1e-4)


def test_a_reference_to_an_adapter_stores_no_merged_weights(
    tmp_path: Path, hashed: list[str]
) -> None:
    """The checkpoint links base and adapter; they are merged when it is read."""
    base = build_tiny_checkpoint(tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    change_settings(adapter, base_model_name_or_path=str(base))
    os.utime(base / "model.safetensors", (1, 1))
    checkpoint = resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    assert (checkpoint.path / "model.safetensors").samefile(base / "model.safetensors")
    assert "model.safetensors" not in hashed  # but where the base was read
    Checkpoint.open(checkpoint.path, verify_digests=True)
    stored = sum(path.stat().st_size for path in checkpoint.path.rglob("*.safetensors"))
    given = sum(path.stat().st_size for path in (*base.iterdir(), *adapter.iterdir())
                if path.suffix == ".safetensors")  # fmt: skip
    assert stored == given


def test_an_adapters_template_is_not_lost_to_a_file_of_its_base(tmp_path: Path) -> None:
    """Older transformers saves it among the tokenizer's settings, which a .jinja overrides."""
    base = build_tiny_checkpoint(tmp_path / "base")
    assert (base / "chat_template.jinja").is_file()
    adapter = build_adapter(base, tmp_path / "adapter")
    change_settings(adapter, base_model_name_or_path=str(base))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    trained = "{{ messages[0]['content'] }}<|im_end|>"
    (adapter / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": trained})
    )
    adapted = resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    plain = resolve_model(str(base), cache_dir=tmp_path / "cache")
    below = base_with_values(plain, adapted, out_dir=tmp_path / "below")
    for folder in (adapted.path, below.path):
        assert PreTrainedTokenizerFast.from_pretrained(folder).chat_template == trained


def test_an_adapters_ends_are_not_lost_to_the_map_of_its_base(tmp_path: Path) -> None:
    """Transformers 4 wrote special_tokens_map.json, which overrules what transformers 5 writes."""
    base = build_tiny_checkpoint(tmp_path / "base")
    older = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (base / "special_tokens_map.json").write_text(json.dumps(older))
    adapter = build_adapter(base, tmp_path / "adapter")
    change_settings(adapter, base_model_name_or_path=str(base))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    assert tokenizer.eos_token == "<|endoftext|>"
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(adapter)
    adapted = resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    plain = resolve_model(str(base), cache_dir=tmp_path / "cache")
    below = base_with_values(plain, adapted, out_dir=tmp_path / "below")
    for folder in (adapted.path, below.path):
        assert PreTrainedTokenizerFast.from_pretrained(folder).eos_token == "<|im_end|>"


@pytest.mark.parametrize("has_own", [False, True])
def test_a_template_for_tools_comes_with_the_default_one(tmp_path: Path, *, has_own: bool) -> None:
    """The base's, of which it is said that it is not served; but not beside the adapter's own."""
    base = build_tiny_checkpoint(tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    if has_own:
        (adapter / "chat_template.jinja").write_text("{{ messages[0]['content'] }}<|im_end|>")
    merged = merged_folder(base, adapter, tmp_path / "cache")
    template = PreTrainedTokenizerFast.from_pretrained(merged).chat_template
    assert (isinstance(template, dict) and template["tool_use"] == "{{ tools }}") is not has_own


def test_an_adapter_of_an_adapted_model_is_merged_twice(tmp_path: Path) -> None:
    """A base that is itself a base and an adapter takes another adapter."""
    base = build_tiny_checkpoint(tmp_path / "base")
    first = build_adapter(base, tmp_path / "first", target_modules=["q_proj", "embed_tokens"])
    change_settings(first, base_model_name_or_path=str(base))
    middle = resolve_model(str(first), cache_dir=tmp_path / "cache")
    second = build_adapter(middle.path, tmp_path / "second", use_dora=True)
    change_settings(second, base_model_name_or_path=str(middle.path))
    both = resolve_model(str(second), cache_dir=tmp_path / "cache")
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = with_adapter(middle.path, second)(tokens).logits
        got = load_model(both.path)(tokens).logits
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "use_dora"),  # and no magnitudes
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save lm_head"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"target_parameters": ["mlp.weight"]}, "target_parameters"),
        ({"use_qalora": True}, "use_qalora"),
        ({"modules_to_save": 7}, "modules_to_save 7"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
        ({"invented_after_this_was_written": 1}, "invented_after_this_was_written"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    tiny_checkpoint: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """Settings that mean another formula are an error, never left out."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change_settings(adapter, **changes)
    with pytest.raises(ModelError, match=message):
        merged_folder(tiny_checkpoint, adapter, tmp_path / "cache")


def test_what_peft_is_to_merge_is_a_checkpoint_then(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The calls of the hint, as they stand there."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter", init_lora_weights="pissa")
    change_settings(adapter, base_model_name_or_path=str(tiny_checkpoint))
    with pytest.raises(ModelError, match="pissa") as caught:
        resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    hint, folder = str(caught.value.hint), tmp_path / "merged"
    assert "AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload().save_pretr" in hint
    AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload().save_pretrained(folder)
    assert "tokenizer.save_pretrained(folder)" in hint
    load_tokenizer(tiny_checkpoint).save_pretrained(folder)
    resolve_model(str(folder), cache_dir=tmp_path / "cache")


def test_an_adapter_that_changes_no_weights_is_refused_as_what_it_is(tmp_path: Path) -> None:
    """There is nothing to merge, so that is not the advice."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    with pytest.raises(ModelError, match="changes no weights") as caught:
        Adapter(tmp_path)
    assert "merge" not in str(caught.value.hint)


def test_an_adapter_of_a_classifier_is_refused_as_what_it_is(tmp_path: Path) -> None:
    """Its head is not missing: the model that it belongs to answers no texts."""
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}'
    )
    with pytest.raises(ModelError, match=r"is a classifier \(SEQ_CLS\)") as caught:
        Adapter(tmp_path)
    assert "ollama-bridge build sentiment --data" in str(caught.value.hint)


def test_an_adapter_of_mlx_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With the command of MLX that merges it."""
    (tmp_path / "adapter_config.json").write_text('{"fine_tune_type": "lora", "model": "org/base"}')
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="MLX") as caught:
        merged_folder(tiny_checkpoint, tmp_path, tmp_path / "cache")
    assert "mlx_lm.fuse" in str(caught.value.hint)


def test_an_adapter_of_another_model_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Factors that do not fit the base's matrices are an error."""
    other = build_tiny_checkpoint(tmp_path / "other", hidden=32)
    adapter = build_adapter(other, tmp_path / "adapter")
    with pytest.raises(ModelError, match="do not fit"):
        merged_folder(tiny_checkpoint, adapter, tmp_path / "cache")


def test_a_deeper_adapter_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """An adapter on layers that the base has not is an error."""
    other = build_tiny_checkpoint(tmp_path / "other", layers=3)
    adapter = build_adapter(other, tmp_path / "adapter")
    with pytest.raises(ModelError, match="does not have"):
        merged_folder(tiny_checkpoint, adapter, tmp_path / "cache")


def test_a_pickled_adapter_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """adapter_model.bin is refused like any pickle."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(UnsafeCheckpointError):
        merged_folder(tiny_checkpoint, adapter, tmp_path / "cache")


def test_an_adapter_folder_is_a_model_reference(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A reference to an adapter gives the merged checkpoint, made once, and it is said."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change_settings(adapter, base_model_name_or_path=str(tiny_checkpoint))
    with JSONLReporter(tmp_path / "events.jsonl") as reporter:
        first = resolve_model(str(adapter), cache_dir=tmp_path / "cache", reporter=reporter)
    assert "merged into its base" in (tmp_path / "events.jsonl").read_text()
    again = resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    assert first.digest == again.digest
    assert first.facts["merged_matrices"] == 14
    load_model(first.path)


def test_an_adapter_without_its_base_says_what_to_do(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A base that is no folder is not fetched behind the user's back."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    for named in ("org/base", "org/base-bnb-4bit", "org/base-unsloth-bnb-4bit"):
        change_settings(adapter, base_model_name_or_path=named)
        with pytest.raises(ModelError, match=named) as caught:
            resolve_model(str(adapter), cache_dir=tmp_path / "cache")
        assert "base_model_name_or_path" in str(caught.value.hint)
        assert "--base hf:org/base (" in str(caught.value.hint)


@pytest.mark.parametrize("through", ["itself", "another"])
def test_an_adapter_that_is_its_own_base_says_what_to_do(
    tiny_checkpoint: Path, tmp_path: Path, through: str
) -> None:
    """Trained on from what AutoModelForCausalLM had loaded of it, and saved to the same folder."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change_settings(adapter, base_model_name_or_path=str(adapter))
    if through == "another":
        other = build_adapter(tiny_checkpoint, tmp_path / "other")
        change_settings(other, base_model_name_or_path=str(adapter))
        change_settings(adapter, base_model_name_or_path=str(other))
    with pytest.raises(ModelError, match="names itself as its base") as caught:
        resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    assert "--base" in str(caught.value.hint)
    assert resolve_model(str(adapter), base=str(tiny_checkpoint), cache_dir=tmp_path / "cache")


def test_a_base_of_four_bits_is_not_fetched(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its config is enough to refuse it, and Unsloth's names say what it was made of."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    named = "unsloth/Llama-3.1-8B-Instruct-unsloth-bnb-4bit"
    change_settings(adapter, base_model_name_or_path=named)
    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append((name, allow_patterns))
        if name == "me/adapter":
            return str(adapter)
        (tmp_path / "base").mkdir()
        shutil.copy(tiny_checkpoint / "config.json", tmp_path / "base")
        change_json(tmp_path / "base" / "config.json", quantization_config=_FOUR_BITS)
        return str(tmp_path / "base")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(ModelError, match=r"quantized \(bitsandbytes\)") as caught:
        resolve_model("hf:me/adapter", cache_dir=tmp_path / "cache")
    assert "--base hf:unsloth/Llama-3.1-8B-Instruct (" in str(caught.value.hint)
    assert [patterns for name, patterns in asked if name == named] == [JUDGED]


def test_a_base_whose_config_only_says_four_bits_is_taken(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged after such a training: whether its weights are whole is seen when they are there."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change_settings(adapter, base_model_name_or_path="me/merged-16bit")
    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    change_json(base / "config.json", quantization_config=_FOUR_BITS)
    folders = {"me/adapter": adapter, "me/merged-16bit": base}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(folders[name]))
    load_model(resolve_model("hf:me/adapter", cache_dir=tmp_path / "cache").path)


@pytest.mark.parametrize(("gguf_type", "is_refused"), [("q8_0", True), ("f16", False)])
def test_a_gguf_of_few_bits_is_no_base(
    tiny_checkpoint: Path, tmp_path: Path, gguf_type: str, *, is_refused: bool
) -> None:
    """Nobody trained on what it decodes to, unlike on its 16 bits."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    cache = tmp_path / "cache"
    checkpoint = resolve_model(str(tiny_checkpoint), cache_dir=cache)
    base = str(convert(checkpoint, type=gguf_type, out_dir=tmp_path / "gguf").gguf_path)
    if not is_refused:
        load_model(resolve_model(str(adapter), base=base, cache_dir=cache).path)
        return
    with pytest.raises(ModelError, match=r"is rounded to Q8_0") as caught:
        resolve_model(str(adapter), base=base, cache_dir=cache)
    assert "-fp16" in str(caught.value.hint)


def test_the_base_of_an_adapter_can_be_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The unquantized model instead of the 4-bit one that was loaded for the training."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change_settings(adapter, base_model_name_or_path=str(tiny_checkpoint))
    cache = tmp_path / "cache"
    expected = resolve_model(str(adapter), cache_dir=cache)
    quantized = Path(shutil.copytree(tiny_checkpoint, tmp_path / "nf4"))
    change_json(quantized / "config.json", quantization_config=_FOUR_BITS)
    packed = {"model.embed_tokens.weight": torch.zeros(8, 1, dtype=torch.uint8)}
    save_file(packed, quantized / "model.safetensors", metadata={"format": "pt"})
    change_settings(adapter, base_model_name_or_path=str(quantized))
    with pytest.raises(ModelError, match="quantized \\(bitsandbytes\\)") as caught:
        resolve_model(str(adapter), cache_dir=cache)
    assert "--base" in str(caught.value.hint)
    with pytest.raises(ModelError, match="was made from") as caught:
        resolve_model(str(adapter), base=str(quantized), cache_dir=cache)
    assert "name the model that it was trained on" in str(caught.value.hint)
    named = resolve_model(str(adapter), base=str(tiny_checkpoint), cache_dir=cache)
    weights = load_model(named.path).state_dict()
    for name, tensor in load_model(expected.path).state_dict().items():
        assert torch.equal(weights[name], tensor)
    with pytest.raises(ModelReferenceError, match="not a PEFT adapter"):
        resolve_model(str(tiny_checkpoint), base=str(tiny_checkpoint), cache_dir=cache)


def test_factors_without_a_partner_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Tensors that are no pair of LoRA factors are an error."""
    from safetensors.torch import load_file, save_file

    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, path)
    with pytest.raises(ModelError, match="has no"):
        merged_folder(tiny_checkpoint, adapter, tmp_path / "cache")
