"""Cutting layers out of a teacher."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fakes.architectures import CASES, build_checkpoint
from fakes.models import build_tiny_model, build_tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.conversion import convert
from ollama_bridge.errors import ConfigError
from ollama_bridge.models.load import load_model, save_checkpoint
from ollama_bridge.models.pruning.layers import even_layers, keep_layers
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model


@given(st.integers(1, 200).flatmap(lambda t: st.tuples(st.integers(1, t), st.just(t))))
@settings(deadline=None)
def test_even_layers_are_distinct_rising_and_span_the_model(sizes: tuple[int, int]) -> None:
    """Evenly chosen layers rise, are as many as asked for, and hold the first and the last."""
    keep, total = sizes
    layers = even_layers(keep, total)
    assert len(layers) == keep
    assert list(layers) == sorted(set(layers))
    assert layers[0] == 0
    assert keep == 1 or layers[-1] == total - 1
    gaps = [b - a for a, b in pairwise(layers)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("keep", "total"), [(0, 3), (4, 3), (-1, 3)])
def test_an_impossible_number_of_layers_is_refused(keep: int, total: int) -> None:
    """More layers than there are, or none, is an error."""
    with pytest.raises(ConfigError):
        even_layers(keep, total)


def test_a_pruned_model_computes_what_its_layers_compute() -> None:
    """The student's forward pass is the teacher's with the other layers skipped."""
    teacher = build_tiny_model(layers=4)
    student = keep_layers(build_tiny_model(layers=4), (0, 3))
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        teacher.model.layers = torch.nn.ModuleList(
            [teacher.model.layers[0], teacher.model.layers[3]]
        )
        teacher.config.num_hidden_layers = 2
        expected = teacher(tokens, use_cache=False).logits
        assert torch.equal(student(tokens, use_cache=False).logits, expected)


def test_a_pruned_model_generates_with_its_cache() -> None:
    """Layer numbers are renewed, so cached generation equals uncached generation."""
    student = keep_layers(build_tiny_model(layers=4), (1, 3))
    tokens = torch.arange(3, 12)[None]
    with torch.no_grad():
        cached = student.generate(tokens, max_new_tokens=8, do_sample=False, use_cache=True)
        plain = student.generate(tokens, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)


def test_a_pruned_model_survives_saving(tmp_path: Path) -> None:
    """A saved student loads with its own number of layers and the same weights."""
    student = keep_layers(build_tiny_model(layers=4), (0, 2, 3))
    save_checkpoint(student, build_tiny_tokenizer(), tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.num_hidden_layers == 3
    for name, tensor in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize("layers", [(), (0, 0), (0, 4), (-1,)])
def test_wrong_layer_numbers_are_refused(layers: tuple[int, ...]) -> None:
    """No layers, a number twice, or one out of range is an error."""
    with pytest.raises(ConfigError):
        keep_layers(build_tiny_model(layers=4), layers)


@pytest.mark.parametrize("case", [case for case in CASES if case != "smollm3"])
def test_every_architecture_can_be_pruned(case: str, tmp_path: Path) -> None:
    """Whatever kind of layers are kept, what is saved can be exported and computes the same."""
    model = load_model(build_checkpoint(case, tmp_path / "source"))
    kept = (1, 5) if case == "gemma3" else (1,)
    pruned = keep_layers(model, kept)
    pruned.save_pretrained(tmp_path / "pruned")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tmp_path / "source" / name, tmp_path / "pruned" / name)
    checkpoint = resolve_model(str(tmp_path / "pruned"), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="f32", out_dir=tmp_path / "gguf")
    import_gguf(gguf.gguf_path, tmp_path / "back")
    text = torch.arange(3, 83).unsqueeze(0)
    with torch.inference_mode():
        expected, found = pruned(text).logits, load_model(tmp_path / "back")(text).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_layers_that_no_gguf_can_say_are_refused_before_training(tmp_path: Path) -> None:
    """SmolLM3: every fourth layer has no positions, counted in the student."""
    source = build_checkpoint("smollm3", tmp_path / "source")
    assert len(keep_layers(load_model(source), (0, 1, 2, 3)).config.no_rope_layers) == 4
    with pytest.raises(ConfigError, match="every fourth"):
        keep_layers(load_model(source), (0, 3))
