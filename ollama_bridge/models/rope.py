"""Rotary position scaling, between a Hugging Face config and the keys of a GGUF.

``linear`` and ``yarn`` are keys of the GGUF; Llama 3's scaling is a tensor of divisors, one a
frequency, which is made from the config's numbers here and recognised again at import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ollama_bridge.errors import GGUFError

_DEFAULT_THETA = 10000.0
# Llama 3.1 and 3.2, the only ones published; the GGUF keeps the divisors, not these numbers.
_LLAMA3_FACTORS = (8.0, 32.0, 16.0, 4.0)
_LLAMA3_CONTEXT = 8192


def parameters_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE parameters of a config, in today's form, from today's or the older keys.

    Returns:
        ``rope_type``, ``rope_theta`` and what the type needs.
    """
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = parameters.pop("type", None)
    parameters.setdefault("rope_type", kind or "default")
    parameters.setdefault("rope_theta", config.get("rope_theta", _DEFAULT_THETA))
    return parameters


def llama3_divisors(
    parameters: Mapping[str, Any], head_dim: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What Llama 3's scaling divides each frequency by.

    Args:
        parameters: factor, low_freq_factor, high_freq_factor and
            original_max_position_embeddings.
        head_dim: Width of a head.

    Returns:
        (head_dim / 2,) float32.

    Source: ``_compute_llama3_parameters`` of transformers; llama.cpp's converter has the same.
    """
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    context = float(parameters["original_max_position_embeddings"])
    theta = float(parameters["rope_theta"])
    divisors = []
    for index in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (index / head_dim)
        if wavelength < context / high:
            divisors.append(1.0)
        elif wavelength > context / low:
            divisors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def from_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    divisors: np.ndarray[Any, np.dtype[np.float32]] | None,
    *,
    head_dim: int,
) -> dict[str, Any]:
    """The RoPE parameters that a llama GGUF stands for.

    Args:
        path: The file, for messages.
        metadata: Its metadata.
        divisors: Its tensor ``rope_freqs.weight``, if any.
        head_dim: Width of a head.

    Raises:
        GGUFError: scaling that a Llama of transformers cannot express.
    """

    def number(key: str, default: float | None = None) -> float:
        value = metadata.get(f"llama.rope.{key}", default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise GGUFError(f"{path}: llama.rope.{key} is {value!r}, expected a positive number")
        return shortest(float(value))

    theta = number("freq_base", _DEFAULT_THETA)
    kind = metadata.get("llama.rope.scaling.type", "none")
    if divisors is not None:
        if kind != "none":
            raise GGUFError(f"{path}: rope_freqs.weight and llama.rope.scaling.type {kind!r}")
        return _recognise_llama3(path, divisors, theta=theta, head_dim=head_dim)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": number("scaling.factor")}
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": number("scaling.factor"),
            "original_max_position_embeddings": int(number("scaling.original_context_length")),
        }
    raise GGUFError(f"{path}: llama.rope.scaling.type is {kind!r}; none, linear, yarn are read")


def shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _recognise_llama3(
    path: Path,
    divisors: np.ndarray[Any, np.dtype[np.float32]],
    *,
    theta: float,
    head_dim: int,
) -> dict[str, Any]:
    for factor in dict.fromkeys((shortest(float(divisors.max())), *_LLAMA3_FACTORS)):
        parameters = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": _LLAMA3_CONTEXT,
        }
        expected = llama3_divisors(parameters, head_dim)
        if expected.shape == divisors.shape and np.allclose(expected, divisors, rtol=1e-4):
            return parameters
    raise GGUFError(f"{path}: rope_freqs.weight is not the scaling of Llama 3.1 or 3.2")
