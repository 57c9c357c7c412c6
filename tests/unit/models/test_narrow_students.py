"""Narrower students: fewer heads, channels and directions, chosen by activation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.architectures import CASES, build_checkpoint
from fakes.models import build_tiny_model

from ollama_bridge.conversion import convert
from ollama_bridge.encoding.encode import EncodedExample
from ollama_bridge.errors import ConfigError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.layout import Dimensions
from ollama_bridge.models.load import load_model
from ollama_bridge.models.pruning.importance import (
    Activity,
    activity,
    block_influence,
    calibration_texts,
    loss_increase,
)
from ollama_bridge.models.pruning.layers import best_layers
from ollama_bridge.models.pruning.widths import Kept, most_active, narrow
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model

# These fill their width with heads, so both are cut together.
FILLED = ("qwen2", "phi3", "granite", "olmo2")
TOKENS = torch.arange(3, 83).unsqueeze(0)


def some_of(model: Any, case: str) -> Kept:
    """One of two key-value heads, 40 of 96 channels, some directions; other ones in each layer."""
    layers = model.config.num_hidden_layers
    filled = case.startswith(FILLED) or case == "phi4-mini"
    return Kept(
        groups=tuple((layer % 2,) for layer in range(layers)),
        channels=tuple(tuple(range(layer, layer + 80, 2)) for layer in range(layers)),
        hidden=tuple(range(1, 64, 2)) if filled else tuple(range(62)),
    )


def mask(model: Any, kept: Kept) -> Any:
    """The teacher with everything that is not kept set to zero, in place."""
    heads = model.config.num_attention_heads // model.config.num_key_value_heads
    hidden = torch.zeros(model.config.hidden_size)
    hidden[list(kept.hidden)] = 1
    with torch.no_grad():
        model.model.embed_tokens.weight *= hidden
        for place, layer in enumerate(model.model.layers):
            width = layer.self_attn.o_proj.in_features // model.config.num_key_value_heads
            groups = torch.zeros(model.config.num_key_value_heads)
            groups[list(kept.groups[place])] = 1
            queries, keys = (
                groups.repeat_interleave(width),
                groups.repeat_interleave(width // heads),
            )
            channels = torch.zeros(layer.mlp.down_proj.in_features)
            channels[list(kept.channels[place])] = 1
            layer.self_attn.o_proj.weight *= queries * hidden[:, None]
            layer.mlp.down_proj.weight *= channels * hidden[:, None]
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                if linear.bias is not None:
                    linear.bias *= hidden
            if "Olmo2" in type(model).__name__:  # its norms look at all heads together
                layer.self_attn.q_proj.weight *= queries[:, None]
                layer.self_attn.k_proj.weight *= keys[:, None]
    return model


@pytest.mark.parametrize("case", CASES)
def test_a_narrow_student_is_its_masked_teacher(case: str, tmp_path: Path) -> None:
    """It computes what the teacher computes with the rest zeroed; saved, loaded and exported."""
    source = build_checkpoint(case, tmp_path / "source")
    teacher = load_model(source)
    kept = some_of(teacher, case)
    student = narrow(teacher, kept)
    dims = ARCHITECTURES[type(student).__name__].dimensions(student.config.to_dict())
    assert (dims.heads, dims.kv_heads, dims.inner) == (2, 1, 40)
    assert dims.hidden == len(kept.hidden)
    with torch.inference_mode():
        found = student(TOKENS).logits
        expected = mask(teacher, kept)(TOKENS).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    spread = float((expected - load_model(source)(TOKENS).logits.detach()).abs().mean())
    assert spread > 100 * float((found - expected).abs().mean())

    student.save_pretrained(tmp_path / "student")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, tmp_path / "student" / name)
    checkpoint = resolve_model(str(tmp_path / "student"), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="f32", out_dir=tmp_path / "gguf")
    import_gguf(gguf.gguf_path, tmp_path / "back")
    with torch.inference_mode():
        back = load_model(tmp_path / "back")(TOKENS).logits
    torch.testing.assert_close(back, found, rtol=1e-4, atol=1e-4)


def test_a_narrow_student_generates_with_its_cache() -> None:
    """Cached generation equals uncached generation, with the width of a head kept."""
    teacher = build_tiny_model(layers=2)
    student = narrow(teacher, some_of(teacher, "llama"))
    assert student.config.head_dim == 16
    tokens = torch.arange(3, 12)[None]
    cached = student.generate(tokens, max_new_tokens=8, do_sample=False, use_cache=True)
    plain = student.generate(tokens, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)


def test_heads_alone_are_refused_where_they_must_fill_the_width(tmp_path: Path) -> None:
    """llama.cpp's qwen2 has as many rows of queries as the model is wide."""
    teacher = load_model(build_checkpoint("qwen2", tmp_path / "source"))
    whole = tuple(range(64))
    kept = Kept(((0,), (1,)), (tuple(range(96)),) * 2, whole)
    with pytest.raises(ConfigError, match="2 heads of 16 do not add up to 64"):
        narrow(teacher, kept)


def test_heads_that_transformers_cannot_load_are_refused() -> None:
    """A Llama's width is a multiple of its heads, also where the config says how wide they are."""
    teacher = build_tiny_model(layers=1, heads=8, kv_heads=4, head_dim=16)
    kept = Kept(((0, 1, 3),), (tuple(range(128)),), tuple(range(64)))
    with pytest.raises(ConfigError, match="multiple of the number of attention heads"):
        narrow(teacher, kept)


FOUND = Activity(
    groups=torch.tensor([[1.0, 3.0, 2.0], [3.0, 1.0, 1.0]]),
    channels=torch.tensor([[0.0, 2.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]]),
    hidden=torch.tensor([1.0, 5.0, 0.0]),
)
DIMS = Dimensions(
    layers=2, hidden=3, inner=4, heads=6, kv_heads=3, head_dim=1, vocab=9, context=9, epsilon=1e-6
)


def test_the_most_active_stay_in_their_order() -> None:
    """Every layer chooses for itself; of equals, the first; numbers rise."""
    kept = most_active(FOUND, DIMS, heads=4, mlp_channels=2, hidden_size=2)
    assert kept.groups == ((1, 2), (0, 1))
    assert kept.channels == ((1, 2), (0, 1))
    assert kept.hidden == (0, 1)
    whole = most_active(FOUND, DIMS, heads=None, mlp_channels=None, hidden_size=None)
    assert whole.groups == ((0, 1, 2),) * 2
    assert whole.hidden == (0, 1, 2)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"heads": 3}, "2 query heads share"),
        ({"heads": 8}, "student.heads is 8, the model has 6"),
        ({"mlp_channels": 5}, "the model has 4"),
        ({"hidden_size": 0}, "the model has 3"),
    ],
)
def test_impossible_widths_are_refused(wanted: dict[str, int], message: str) -> None:
    """More than there is, nothing, or half a group."""
    sizes = {"heads": None, "mlp_channels": None, "hidden_size": None, **wanted}
    with pytest.raises(ConfigError, match=message):
        most_active(FOUND, DIMS, **sizes)


def text(*ids: int) -> EncodedExample:
    """A text whose last two tokens are its answer."""
    supervised = np.zeros(len(ids), dtype=np.bool_)
    supervised[-2:] = True
    return EncodedExample(0, np.array(ids, dtype=np.int32), supervised, 1, 1)


TEXTS = [text(*range(5, 15)), text(*range(30, 37)), text(*range(90, 120))]


def test_idle_parts_are_found() -> None:
    """Heads, channels, directions and layers that do nothing have the lowest scores."""
    model = build_tiny_model(layers=3)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[:16] = 0.0  # the first of two groups
        model.model.layers[0].mlp.up_proj.weight[7] = 0.0
        for layer in model.model.layers:
            layer.input_layernorm.weight[5] = layer.post_attention_layernorm.weight[5] = 0.0
        for linear in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
            linear.weight.zero_()
    found = activity(model, TEXTS)
    assert found.groups.shape == (3, 2)
    assert found.groups[1, 0] == 0.0
    assert (found.groups[0] > 0).all()
    assert found.channels.shape == (3, 128)
    assert int(found.channels[0].argmin()) == 7
    assert int(found.hidden.argmin()) == 5
    influence, increase = block_influence(model, TEXTS), loss_increase(model, TEXTS)
    assert influence[2] == pytest.approx(0.0, abs=1e-6)
    assert increase[2] == pytest.approx(0.0, abs=1e-6)
    assert best_layers(2, influence) == (0, 1)
    assert min(influence[:2]) > 1e-3
    assert all(abs(value) > 1e-3 for value in increase[:2])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_scores_are_means_over_tokens() -> None:
    """Influence and activity of two texts are those of each, weighted by their tokens."""
    model = build_tiny_model(layers=2)
    parts = [block_influence(model, [each]) for each in TEXTS]
    sizes = [len(each.input_ids) for each in TEXTS]
    for place, value in enumerate(block_influence(model, TEXTS)):
        mean = sum(size * part[place] for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        assert value == pytest.approx(mean, rel=1e-6)
    squares = sum(
        size * activity(model, [each]).channels ** 2
        for size, each in zip(sizes, TEXTS, strict=True)
    )
    torch.testing.assert_close(activity(model, TEXTS).channels ** 2, squares / sum(sizes))


def test_a_layer_without_which_the_answer_is_lost_counts() -> None:
    """The loss without a layer is that of the model cut by hand."""
    from ollama_bridge.models.pruning.layers import keep_layers

    whole = build_tiny_model(layers=3)

    def loss(model: Any) -> float:
        total = 0.0
        for each in TEXTS:
            ids = torch.from_numpy(each.input_ids).long()
            with torch.no_grad():
                logits = model(ids[None], use_cache=False).logits[0]
            answer = torch.from_numpy(each.targets)
            total += float(
                torch.nn.functional.cross_entropy(logits[answer - 1], ids[answer], reduction="sum")
            )
        return total / sum(len(each.targets) for each in TEXTS)

    for place, value in enumerate(loss_increase(whole, TEXTS)):
        rest = [layer for layer in range(3) if layer != place]
        cut = keep_layers(build_tiny_model(layers=3), rest)
        assert value == pytest.approx(loss(cut) - loss(whole), abs=1e-4)


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (10, 1), (11, 2), (10**6, 40)])
def test_calibration_takes_as_many_texts_as_hold_the_tokens(tokens: int, count: int) -> None:
    """Of a file that is sorted by label both labels, whatever the number."""
    labels = ["negative"] * 20 + ["positive"] * 20
    texts = [replace(text(*range(10)), row=row, label=label) for row, label in enumerate(labels)]
    chosen = calibration_texts(texts, tokens=tokens)
    assert len(chosen) == count
    assert {one.label for one in chosen} == set(labels) or count == 1
