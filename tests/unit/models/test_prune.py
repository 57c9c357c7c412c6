"""Cutting layers out of a teacher."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fakes.models import build_tiny_model, build_tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import ConfigError
from ollama_bridge.models.load import load_model, save_checkpoint
from ollama_bridge.models.prune import even_layers, keep_layers


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
