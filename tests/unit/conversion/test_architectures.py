"""Every architecture: to GGUF and back, and what cannot be said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from fakes.architectures import CASES, build_checkpoint
from gguf import GGUFReader
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ollama_bridge.conversion import convert
from ollama_bridge.errors import ConversionError, UnsupportedArchitectureError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.rope import llama3_divisors
from ollama_bridge.models.load import load_model
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model

YARN = CASES["qwen2-yarn"][1]["rope_parameters"]
LONGROPE = CASES["phi3-long"][1]["rope_parameters"]
LLAMA3 = CASES["llama-3.1"][1]["rope_parameters"]
TEXT = torch.arange(3, 123).unsqueeze(0)  # longer than the windows of the tiny Gemmas


def logits(folder: Path) -> torch.Tensor:
    """(1, T, V) in float32."""
    with torch.inference_mode():
        return load_model(folder)(input_ids=TEXT).logits


def exported(folder: Path, out: Path, type_: str = "f32") -> Path:
    """A checkpoint as a GGUF file."""
    checkpoint = resolve_model(str(folder), cache_dir=out / "cache")
    return convert(checkpoint, type=type_, out_dir=out / type_).gguf_path


def own_keys(path: Path, architecture: str) -> dict[str, Any]:
    """What a GGUF says of how its architecture computes."""
    return {
        name: field.contents()
        for name, field in GGUFReader(path).fields.items()
        if name.startswith(f"{architecture}.")
    }


def test_every_architecture_has_a_case() -> None:
    """An architecture in the registry that nothing tries would be a claim."""
    tried = {
        config.__name__.removesuffix("Config").removesuffix("Text") for config, _ in CASES.values()
    }
    assert {f"{name}ForCausalLM" for name in tried} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, tmp_path: Path) -> None:
    """Through an F32 GGUF and back: the same logits, bit for bit, and the same GGUF again."""
    source = build_checkpoint(case, tmp_path / "source")
    path = exported(source, tmp_path / "a")
    import_gguf(path, tmp_path / "back")
    if case in ("gemma2", "gemma3"):  # (w + 1) - 1 is w up to the last bit
        torch.testing.assert_close(logits(tmp_path / "back"), logits(source), rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(logits(tmp_path / "back"), logits(source))
    again = exported(tmp_path / "back", tmp_path / "b")
    first, second = GGUFReader(path), GGUFReader(again)
    assert [tensor.name for tensor in first.tensors] == [tensor.name for tensor in second.tensors]
    for left, right in zip(first.tensors, second.tensors, strict=True):
        assert bytes(left.data) == bytes(right.data), left.name
    architecture = first.fields["general.architecture"].contents()
    assert own_keys(path, architecture) == own_keys(again, architecture)


@pytest.mark.parametrize(
    ("head_dim", "factor", "between"),
    [
        (64, 32.0, [1.6513293, 3.2922628, 9.666731]),
        (128, 8.0, [1.2074839, 1.5534146, 2.026313, 2.69453, 3.6842532, 5.257327]),
    ],
)
def test_llama_3_scales_to_the_last_bit_as_llama_cpp_converts(
    head_dim: int, factor: float, between: list[float]
) -> None:
    """The divisors that it writes for the heads of Llama 3.2 1B, and of 3.1 8B."""
    divisors = llama3_divisors({**LLAMA3, "rope_theta": 5e5, "factor": factor}, head_dim)
    kept, scaled = np.count_nonzero(divisors == 1), np.count_nonzero(divisors == factor)
    expected = [*[1.0] * kept, *between, *[factor] * scaled]
    assert divisors.tobytes() == np.array(expected, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}),
        ("qwen2", {"use_sliding_window": True, "layer_types": None, "max_window_layers": 2}),
        ("qwen2-yarn", {"rope_parameters": {**YARN, "beta_fast": 32, "attention_factor": None}}),
        ("qwen2-yarn", {"rope_scaling": YARN}),
    ],
)
def test_settings_that_say_what_is_so_anyway(
    case: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Windows that no layer has, and YaRN's own numbers: no key is another for them."""
    source = build_checkpoint(case, tmp_path / "source")
    before = own_keys(exported(source, tmp_path / "a"), "qwen2")
    change(source, changes)
    assert own_keys(exported(source, tmp_path / "b"), "qwen2") == before


def test_a_setting_that_transformers_does_not_read_is_left_out(tmp_path: Path) -> None:
    """DeepSeek-R1-0528-Qwen3-8B has one: what transformers computes is served, and that is said."""
    source = build_checkpoint("qwen2-yarn", tmp_path / "source")
    before, expected = own_keys(exported(source, tmp_path / "a"), "qwen2"), logits(source)
    change(source, {"rope_parameters": {**YARN, "attn_factor": 0.8782488562869419}})
    path = exported(source, tmp_path / "b")
    assert own_keys(path, "qwen2") == before
    assert torch.equal(logits(source), expected)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert any("attn_factor (0.878" in note for note in manifest["facts"]["notes"])


def change(folder: Path, changes: dict[str, Any]) -> None:
    """Change keys of a config; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": None, "max_window_layers": 1},
            "use_sliding_window is True",
        ),
        ("qwen2-yarn", {"rope_parameters": {**YARN, "beta_fast": 16}}, "RoPE parameters"),
        ("qwen2", {"rope_scaling": YARN}, "rope_scaling says other positions"),
        (
            "gemma3",
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling says other positions",
        ),
        ("qwen2", {"head_dim": 32}, "4 heads of 32 do not add up to 64"),
        ("qwen3", {"is_causal": False}, "is_causal is False"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("gemma2", {"query_pre_attn_scalar": 144}, "query_pre_attn_scalar is 144"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types must name 2"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("qwen2", {"rope_parameters": LLAMA3}, "rope_type is 'llama3'"),
        (
            "gemma3",
            {"rope_parameters": {"full_attention": LLAMA3, "sliding_attention": None}},
            "rope_type is 'llama3'",
        ),
        ("smollm3", {"attention_bias": True}, "attention_bias is True"),
        ("smollm3", {"mlp_bias": True}, "mlp_bias is True"),
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1]}, "no_rope_layers leaves positions"),
        ("olmo2", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ("granite", {"logits_scaling": 0}, "logits_scaling is 0"),
    ],
)
def test_what_a_gguf_cannot_say_is_refused(
    case: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """One error that names the key of the config; nothing is written."""
    sizes = {
        key: changes[key] for key in ("head_dim", "tie_word_embeddings") if key in changes
    }  # of the weights too
    source = build_checkpoint(case, tmp_path / "source", sizes=sizes)
    change(source, changes)
    with pytest.raises(ConversionError, match=rf"^{source}/config\.json: .*{message}"):
        exported(source, tmp_path / "a")
    assert not (tmp_path / "a" / "f32").exists()


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ("llama", {"rope_parameters": "linear"}, "rope_parameters is 'linear'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor is None"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": "4"}}, "factor is '4'"),
        ("llama", {"rope_parameters": {"rope_theta": "1e6"}}, "rope_theta is '1e6'"),
        ("qwen2-yarn", {"rope_parameters": {**YARN, "factor": "x"}}, "factor is 'x'"),
        ("qwen2", {"use_sliding_window": True, "layer_types": 5}, "layer_types is 5"),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": None, "max_window_layers": "x"},
            "use_sliding_window is True",
        ),
        ("gemma3", {"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
        (
            "gemma3",
            {"rope_parameters": {"full_attention": "linear"}},
            "rope_parameters is 'linear'",
        ),
        ("gemma3", {"layer_types": [["full_attention"]]}, r"layer_types is \[\['full"),
        ("smollm3", {"no_rope_layers": 3}, "no_rope_layers is 3"),
        ("llama", {"max_position_embeddings": 1 << 40}, "max_position_embeddings is 1099511627776"),
        (
            "phi3",
            {"rope_parameters": {"partial_rotary_factor": "x"}},
            "partial_rotary_factor is 'x'",
        ),
        (
            "phi3-long",
            {"rope_parameters": {**LONGROPE, "long_factor": ["a"] * 8}},
            r"long_factor is \['a'",
        ),
    ],
)
def test_a_value_of_another_kind_is_named(
    case: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Configs are written by hand, too: each key is read, and none ends in a traceback."""
    source = build_checkpoint(case, tmp_path / "source")
    change(source, changes)
    with pytest.raises(ConversionError, match=rf"^{source}/config\.json: .*{message}"):
        exported(source, tmp_path / "a")


@pytest.mark.parametrize(
    ("case", "changes", "said"),
    [
        ("mistral", {"rope_parameters": {**YARN, "attn_factor": 0.5}}, ["attn_factor", "beyond"]),
        ("phi3", {}, ["beyond"]),
    ],
)
def test_a_window_that_ollama_leaves_out_is_said(
    case: str, changes: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    """Mistral 7B's first version, and Phi-3: exported, with a note beside those of all."""
    source = build_checkpoint(case, tmp_path / "source")
    change(source, {"sliding_window": 128, **changes})
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    notes = convert(checkpoint, type="f32", out_dir=tmp_path / "out").facts["notes"]
    for word, note in zip(said, notes, strict=True):
        assert word in note


def test_another_pattern_of_windows_is_written(tmp_path: Path) -> None:
    """A student of chosen Gemma layers: it is no longer the published one, which is said."""
    source = build_checkpoint("gemma2", tmp_path / "source")
    change(source, {"layer_types": ["full_attention", "sliding_attention"]})
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="f32", out_dir=tmp_path / "out")
    key = "gemma2.attention.sliding_window_pattern"
    assert GGUFReader(gguf.gguf_path).fields[key].contents() == [False, True]
    assert any("from 0.34.4 on" in note for note in gguf.facts["notes"])
    import_gguf(gguf.gguf_path, tmp_path / "back")
    torch.testing.assert_close(logits(tmp_path / "back"), logits(source), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("case", "window"), [("gemma2", 512), ("gemma3", 0)])
def test_a_gemma_without_windows(case: str, window: int, tmp_path: Path) -> None:
    """A pattern that lists none stops llama.cpp, so that the window itself says it."""
    source = build_checkpoint(case, tmp_path / "source")
    layers = len(json.loads((source / "config.json").read_text())["layer_types"])
    change(source, {"layer_types": ["full_attention"] * layers})
    path = exported(source, tmp_path / "a")
    fields = GGUFReader(path).fields
    assert fields[f"{case}.attention.sliding_window"].contents() == window
    assert f"{case}.attention.sliding_window_pattern" not in fields
    import_gguf(path, tmp_path / "back")
    torch.testing.assert_close(logits(tmp_path / "back"), logits(source), rtol=1e-4, atol=1e-4)


def test_old_keys_of_a_config_mean_the_same(tmp_path: Path) -> None:
    """Checkpoints of older transformers: rope_theta, rope_scaling, rope_local_base_freq."""
    source = build_checkpoint("gemma3", tmp_path / "source")
    new = GGUFReader(exported(source, tmp_path / "new"))
    change(
        source,
        {
            "rope_parameters": None,
            "layer_types": None,
            "rope_theta": 1e6,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 6,
        },
    )
    old = GGUFReader(exported(source, tmp_path / "old"))
    for name, field in new.fields.items():
        if name.startswith("gemma3."):
            assert old.fields[name].contents() == field.contents()
    for left, right in zip(new.tensors, old.tensors, strict=True):
        assert bytes(left.data) == bytes(right.data), left.name


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_what_a_config_leaves_out_is_what_transformers_takes_for_it(name: str) -> None:
    """A config that somebody trimmed is no other model in a GGUF than in torch."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 16384,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "vocab_size": 384,
    }
    ours = ARCHITECTURES[name]
    whole = getattr(transformers, name).config_class(**sizes).to_dict()
    assert ours.entries(sizes) == ours.entries(whole)
    assert ours.notes(sizes) == ours.notes(whole)


def test_longrope_that_says_its_factor(tmp_path: Path) -> None:
    """Transformers takes the factor of attention from it, not from the two contexts."""
    source = build_checkpoint("phi3-long", tmp_path / "source")
    change(source, {"rope_parameters": {**LONGROPE, "factor": 4.0}})
    config = AutoConfig.from_pretrained(source)
    _, expected = ROPE_INIT_FUNCTIONS["longrope"](config)
    keys = own_keys(exported(source, tmp_path / "a"), "phi3")
    assert keys["phi3.rope.scaling.attn_factor"] == pytest.approx(expected)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    """A GGUF of another architecture: the error lists what can be read."""
    path = exported(build_checkpoint("llama", tmp_path / "source"), tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"llama", b"rwkv7"))
    with pytest.raises(
        UnsupportedArchitectureError, match=r"rwkv7.*supported: gemma2, gemma3, granite"
    ):
        import_gguf(path, tmp_path / "back")
