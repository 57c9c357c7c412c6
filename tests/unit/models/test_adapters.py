"""Merging LoRA adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from ollama_bridge.conversion import merge_lora
from ollama_bridge.errors import ModelError, UnsafeCheckpointError
from ollama_bridge.models.load import load_model
from ollama_bridge.models.resolve import resolve_model

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A PEFT adapter with random factors, saved."""
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 16, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **settings}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(load_model(base), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start: an adapter that does nothing
                parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def change(folder: Path, **changes: object) -> None:
    """Rewrite keys of adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
        {"target_modules": ["q_proj", "v_proj"], "r": 8},
    ],
    ids=["plain", "rsLoRA", "patterns", "two modules"],
)
def test_merged_equals_adapter(
    tiny_checkpoint: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The merged model's logits are the adapted model's, within 1e-5 of their size."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter", **settings)
    merged = load_model(merge_lora(tiny_checkpoint, adapter, tmp_path / "merged"))
    peft = PeftModel.from_pretrained(load_model(tiny_checkpoint), adapter)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected, got = peft(tokens).logits, merged(tokens).logits
        plain = load_model(tiny_checkpoint)(tokens).logits
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (plain - expected).abs().max() > 0.1


def test_merged_equals_pefts_own_merge(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Every weight is what peft's merge_and_unload computes."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    ours = load_model(merge_lora(tiny_checkpoint, adapter, tmp_path / "merged")).state_dict()
    peft = PeftModel.from_pretrained(load_model(tiny_checkpoint), adapter).merge_and_unload()
    for name, tensor in peft.state_dict().items():
        assert torch.allclose(ours[name], tensor, atol=1e-6), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    tiny_checkpoint: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """Settings that mean another formula are an error, never left out."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change(adapter, **changes)
    with pytest.raises(ModelError, match=message):
        merge_lora(tiny_checkpoint, adapter, tmp_path / "merged")


def test_an_adapter_of_another_model_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Factors that do not fit the base's matrices are an error."""
    from fakes.models import build_tiny_checkpoint

    other = build_tiny_checkpoint(tmp_path / "other", hidden=32)
    adapter = build_adapter(other, tmp_path / "adapter")
    with pytest.raises(ModelError, match="do not fit"):
        merge_lora(tiny_checkpoint, adapter, tmp_path / "merged")


def test_a_deeper_adapter_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """An adapter on layers that the base has not is an error."""
    from fakes.models import build_tiny_checkpoint

    other = build_tiny_checkpoint(tmp_path / "other", layers=3)
    adapter = build_adapter(other, tmp_path / "adapter")
    with pytest.raises(ModelError, match="has not"):
        merge_lora(tiny_checkpoint, adapter, tmp_path / "merged")


def test_a_pickled_adapter_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """adapter_model.bin is refused like any pickle."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(UnsafeCheckpointError):
        merge_lora(tiny_checkpoint, adapter, tmp_path / "merged")


def test_an_adapter_folder_is_a_model_reference(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A reference to an adapter gives the merged checkpoint, made once."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change(adapter, base_model_name_or_path=str(tiny_checkpoint))
    first = resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    again = resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    assert first.digest == again.digest
    assert first.facts["merged_matrices"] == 14
    load_model(first.path)


def test_an_adapter_without_its_base_says_what_to_do(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A base that is no folder is not fetched behind the user's back."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    change(adapter, base_model_name_or_path="org/base")
    with pytest.raises(ModelError, match="org/base") as caught:
        resolve_model(str(adapter), cache_dir=tmp_path / "cache")
    assert "base_model_name_or_path" in str(caught.value.hint)


def test_factors_without_a_partner_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Tensors that are no pair of LoRA factors are an error."""
    from safetensors.torch import load_file, save_file

    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, path)
    with pytest.raises(ModelError, match="has no"):
        merge_lora(tiny_checkpoint, adapter, tmp_path / "merged")
    shutil.rmtree(tmp_path / "merged", ignore_errors=True)
