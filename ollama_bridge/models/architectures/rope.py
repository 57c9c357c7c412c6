"""Rotary position scaling, between a Hugging Face config and the keys of a GGUF.

``linear`` and ``yarn`` are keys of the GGUF; Llama 3's scaling is a tensor of divisors, one a
frequency, which is made from the config's numbers here and recognised again at import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ollama_bridge.errors import ConversionError, GGUFError
from ollama_bridge.models.architectures.config import mapping
from ollama_bridge.models.architectures.config import real as positive
from ollama_bridge.models.architectures.entries import Entry, number, real, shortest, text
from ollama_bridge.models.architectures.keys import Keys

FACTORS_NAME = "rope_freqs.weight"

_DEFAULT_THETA = 10000.0
_KEYS = ("rope_parameters", "rope_scaling")  # of transformers 5, and of older versions
# Llama 3.1 and 3.2, the only ones published; the GGUF keeps the divisors, not these numbers.
_LLAMA3_FACTORS = (8.0, 32.0, 16.0, 4.0)
_LLAMA3_CONTEXT = 8192
# Keys below rope.scaling that are read here or decide nothing; and those that llama.cpp or Ollama
# compute with, at the values under which they compute what transformers does.
_SCALING_KEYS = ("type", "factor", "original_context_length", "finetuned", "yarn_attn_factor")
_NEUTRAL = {
    "attn_factor": 1.0,
    "extrapolation_factor": 1.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "yarn_ext_factor": 1.0,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_log_multiplier": 0.0,
}
# Settings of YaRN that a GGUF need not say: what llama.cpp computes with by itself.
_YARN = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
# In the config of DeepSeek-R1-0528-Qwen3-8B. transformers reads ``attention_factor`` alone.
# llama.cpp's converter writes it down as yarn_attn_factor, with which neither llama.cpp nor Ollama
# computes any of our architectures.
_UNREAD = "attn_factor"


def parameters_of(config: Mapping[str, Any], theta: float = _DEFAULT_THETA) -> dict[str, Any]:
    """The RoPE parameters of a config, in today's form, from today's or the older keys.

    Args:
        theta: The base of the angles where the config is silent.

    Returns:
        ``rope_type``, ``rope_theta`` and what the type needs.

    Raises:
        ConversionError: both are there, and say different things; or one is no object, or has no
            base of the angles.
    """
    config = {"rope_theta": theta, **config}
    readings = [_in_todays_form(config, mapping(config, key)) for key in _KEYS if config.get(key)]
    if len(readings) > 1 and readings[0] != readings[1]:
        raise contradiction()
    return readings[0] if readings else _in_todays_form(config, {})


def contradiction() -> ConversionError:
    """Of a config with both keys, of which every version of transformers reads another."""
    return ConversionError(
        "config.json: rope_scaling says other positions than rope_parameters",
        hint="move what rope_scaling has into rope_parameters, which keeps its rope_theta, and "
        "take rope_scaling out",
    )


def _in_todays_form(config: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    parameters = dict(said)
    kind = parameters.pop("type", None)
    parameters.setdefault("rope_type", kind or "default")
    parameters.setdefault("rope_theta", config["rope_theta"])
    parameters["rope_theta"] = positive(parameters, "rope_theta")
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

    Raises:
        ConversionError: one of them is missing, or no number.

    Source: ``_compute_llama3_parameters`` of transformers. Step by step in float32 as llama.cpp's
    converter has it, whose tensor has the same bytes.
    """
    factor, theta = positive(parameters, "factor"), positive(parameters, "rope_theta")
    low, high = positive(parameters, "low_freq_factor"), positive(parameters, "high_freq_factor")
    context = positive(parameters, "original_max_position_embeddings")
    single = np.float32
    with np.errstate(all="ignore"):  # of those that are not taken below
        exponents = np.arange(0, head_dim, 2, dtype=single) / single(head_dim)
        powers = (theta ** exponents.astype(np.float64)).astype(single)
        wavelengths = 1 / (1 / powers) * single(2 * math.pi)
        smooth = (1 / wavelengths * single(context) - single(low)) / single(high - low)
        between = 1 / ((1 - smooth) / single(factor) + smooth)
        long = np.where(wavelengths > context / low, single(factor), between)
        return np.where(wavelengths < context / high, single(1), long)


def entries(parameters: Mapping[str, Any], prefix: str) -> list[Entry]:
    """The metadata keys of RoPE parameters.

    Args:
        parameters: From :func:`parameters_of`.
        prefix: ``general.architecture``.

    Raises:
        ConversionError: a kind, or a setting of it, that a GGUF cannot carry.
    """
    kind = parameters["rope_type"]
    found = [real(f"{prefix}.rope.freq_base", positive(parameters, "rope_theta"))]
    if kind in ("default", "llama3"):  # llama3: the tensor rope_freqs.weight
        return found
    scaling = [
        text(f"{prefix}.rope.scaling.type", kind),
        real(f"{prefix}.rope.scaling.factor", positive(parameters, "factor")),
    ]
    if kind == "linear":
        return found + scaling
    needed = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
    said = {
        key
        for key, value in parameters.items()
        if value is not None and key != _UNREAD and _YARN.get(key) != value
    }
    if kind == "yarn" and said == needed:
        context = int(positive(parameters, "original_max_position_embeddings"))
        key = f"{prefix}.rope.scaling.original_context_length"
        return [*found, *scaling, number(key, context)]
    raise ConversionError(
        f"config.json: RoPE parameters {dict(parameters)} cannot be written",
        hint="default, linear, yarn (factor and original length alone) and llama3 can",
    )


def notes(parameters: Mapping[str, Any]) -> list[str]:
    """What a config says and transformers does not compute with.

    Args:
        parameters: From :func:`parameters_of`.
    """
    unread = parameters.get(_UNREAD)
    if parameters["rope_type"] != "yarn" or unread is None:
        return []
    return [
        f"config.json: {_UNREAD} ({unread}) is left out, for transformers does not read it (its "
        "name for it is attention_factor): the tag computes what transformers computes"
    ]


def refuse_dynamic(parameters: Mapping[str, Any], *, context: int) -> None:
    """Angles that change with the length of a text are in no GGUF.

    Args:
        parameters: From :func:`parameters_of`.
        context: Positions that the weights were made for.

    Raises:
        ConversionError: they are asked for.
    """
    if parameters["rope_type"] == "dynamic":
        raise ConversionError(
            "config.json: rope_type is 'dynamic', which Ollama does not compute",
            hint="take rope_scaling out of config.json (in rope_parameters: set rope_type to "
            f'"default"): up to {context} tokens it changes nothing',
        )


def tensors(
    parameters: Mapping[str, Any], head_dim: int
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The tensors of a GGUF that carry RoPE parameters: Llama 3's divisors, or none."""
    if parameters["rope_type"] != "llama3":
        return {}
    return {FACTORS_NAME: llama3_divisors(parameters, head_dim)}


def from_gguf(keys: Keys, *, head_dim: int) -> dict[str, Any]:
    """The RoPE parameters that a GGUF stands for.

    Args:
        head_dim: Width of a head.

    Raises:
        GGUFError: scaling that transformers cannot express.
    """
    _refuse_unread(keys)
    theta = keys.real("rope.freq_base", _DEFAULT_THETA)
    # As llama.cpp: an older name, 0 for none, and where the type is left out it is linear.
    key = "rope.scale_linear" if keys.get("rope.scaling.factor") is None else "rope.scaling.factor"
    factor = 1.0 if keys.get(key, 0) == 0 else keys.real(key)
    kind = keys.get("rope.scaling.type", "none" if factor == 1 else "linear")
    if FACTORS_NAME in keys.contents.tensors:
        if kind != "none":
            raise keys.error("rope.scaling.type", kind, f"none, as there is a {FACTORS_NAME}")
        return _recognise_llama3(keys, theta=theta, head_dim=head_dim)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": int(
                keys.real("rope.scaling.original_context_length")
            ),
        }
    raise keys.error("rope.scaling.type", kind, "none, linear or yarn")


def refuse_no_base(keys: Keys) -> None:
    """What the angles are powers of must be there.

    Ollama's converters for Qwen 2 and 3 and Phi-3 (``convert_qwen2.go`` and others, 0.24) look for
    ``rope_theta`` at the top of a config, where transformers 5 no longer writes it. Which number
    was meant the file does not say: families of one architecture have several. Ollama 0.24 stops
    at the first question to such a tag, 0.34 repeats one token.

    Raises:
        GGUFError: it is 0.
    """
    if keys.get("rope.freq_base") == 0:
        raise GGUFError(
            f"{keys.contents.path}: {keys.architecture}.rope.freq_base is 0, which no model "
            "computes with: Ollama's own converter writes that for a folder that transformers 5 "
            "has saved, and Ollama cannot answer with it either",
            hint="use the folder that it was made from: ollama-bridge package FOLDER TAG makes "
            "the tag again (a GGUF alone: ollama-bridge convert FOLDER)",
        )


def _refuse_unread(keys: Keys) -> None:
    for key, value in keys.contents.metadata.items():
        name = key.removeprefix(f"{keys.architecture}.rope.scaling.")
        if name != key and name not in _SCALING_KEYS and value != _NEUTRAL.get(name):
            raise GGUFError(
                f"{keys.contents.path}: {key} is {value!r}, which transformers cannot express"
            )


def _recognise_llama3(keys: Keys, *, theta: float, head_dim: int) -> dict[str, Any]:
    path, divisors = keys.contents.path, keys.contents.tensor(FACTORS_NAME)
    if divisors.shape != (head_dim // 2,):  # before so many are computed
        raise GGUFError(f"{path}: {FACTORS_NAME} has shape {divisors.shape}, heads {head_dim}")
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
        if np.allclose(expected, divisors, rtol=1e-4):
            return parameters
    raise GGUFError(f"{path}: {FACTORS_NAME} is not the scaling of Llama 3.1 or 3.2")
