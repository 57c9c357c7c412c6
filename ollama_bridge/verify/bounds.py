"""How far a daemon's log-probabilities may lie from the checkpoint's, by GGUF type.

A fixed bound per type, widened for a checkpoint that its type's rounding alone moves further (the
reference values carry that estimate), up to a limit where a proof would mean nothing any more.

Measured on Ollama 0.34.4: largest difference, mean KL (estimate of the mean KL) in nats.

| checkpoint | F16 | BF16 | Q8_0 |
|---|---|---|---|
| SmolLM2-135M-Instruct | 0.022, 5e-6 | 0.17, 2e-4 | 0.94, 0.0041 |
| the same, tuned | 0.020, 2e-6 (3e-6) | 0.05, 1e-5 (1e-4) | 0.37, 0.0023 (0.0029) |
| the same, tuned on other texts | 0.030, 1e-5 | | 1.77, 0.031 (0.0083) |
| 12 of its layers | 0.051, 5e-5 (3e-5) | 0.39, 0.0027 (0.0017) | 2.2, 0.048 (0.039) |
| 6 two-layer Llamas | 0.030, 6e-6 | 0.17, 2e-4 | 0.48, 0.0020 |
| q, k not permuted | 9.7, 0.90 | | |

| SmolLM2-135M-Instruct | Q6_K | Q5_K_M | Q4_K_M | Q4_0 |
|---|---|---|---|---|
| as it is | 1.2, 0.011 (0.017) | 4.1, 0.081 (0.11) | 2.5, 0.042 (0.081) | 4.9, 0.24 (0.46) |
| q, k not permuted | | | 8.1, 0.69 | 7.5, 0.81 |

BF16 keeps 8 bits of a weight: one difference says little there, the mean does, as for Q8_0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ollama_bridge.reference import (
    NOISE_DIFFERENCE_KEY,
    NOISE_MEAN_KL_KEY,
    NOISE_OF,
    Noise,
    ReferenceValues,
)

# The estimate leaves out the order of sums and the F16 cache of keys and values: daemons were seen
# at up to 1.6 times the estimated mean. Its largest difference is over the whole vocabulary, where
# a daemon shows twenty tokens, so less is added to that.
_MEAN_KL_FACTOR = 2.0
# The daemon rounds activations to eight bits too. Beside coarser weights that is little; beside
# Q8_0's it is as much again, and where one answer of many is undecided it was seen at 3.8 times the
# estimate (a tuned SmolLM2 that agrees in F16 to 1e-5 nats). Unpermuted weights lie at 100 times.
_MEAN_KL_FACTOR_Q8_0 = 5.0
_DIFFERENCE_FACTOR = 1.5
_DIFFERENCE_LIMIT = 1.0
_MEAN_KL_LIMIT = 0.2
_COARSE_MEAN_KL_LIMIT = 0.5
_MIXED_MEAN_KL = 0.01  # as for Q8_0: activations are rounded to eight bits in any case


@dataclass(frozen=True)
class Bounds:
    """What the numbers of a tag are held against.

    Attributes:
        max_difference: Of any log-probability compared, in nats; None: not held against it.
        mean_kl_nats: Mean over all positions.
        same_text: Whether certain greedy text has to be the same.
    """

    max_difference: float | None
    mean_kl_nats: float
    same_text: bool

    def __str__(self) -> str:
        """In words."""
        words = [f"mean KL {self.mean_kl_nats:.4g}"]
        if self.max_difference is not None:
            words.insert(0, f"difference {self.max_difference:.3g}")
        return ", ".join(words)


def _mean_kl(nats: float) -> Bounds:
    return Bounds(max_difference=None, mean_kl_nats=nats, same_text=False)


_FIXED = {
    "f32": Bounds(max_difference=0.05, mean_kl_nats=0.001, same_text=True),
    "f16": Bounds(max_difference=0.05, mean_kl_nats=0.001, same_text=True),
    "bf16": _mean_kl(0.002),
    "q8_0": _mean_kl(0.01),
    "q6_k": _mean_kl(0.02),
    **dict.fromkeys(("q5_k_m", "q5_k_s", "q5_1", "q5_0"), _mean_kl(0.05)),
    **dict.fromkeys(("q4_k_m", "q4_k_s", "q4_1", "q4_0"), _mean_kl(0.15)),
    **dict.fromkeys(("q3_k_l", "q3_k_m", "q3_k_s", "q2_k"), _mean_kl(_COARSE_MEAN_KL_LIMIT)),
}
GGUF_TYPES = tuple(_FIXED)


def recorded_noise(metadata: Mapping[str, object]) -> Noise | None:
    """What a GGUF says that its own mix of types does; None: it is one of the presets.

    Args:
        metadata: Of the GGUF, as the file or a daemon has it.
    """
    difference, mean_kl = (metadata.get(key) for key in (NOISE_DIFFERENCE_KEY, NOISE_MEAN_KL_KEY))
    if not isinstance(difference, (int, float)) or not isinstance(mean_kl, (int, float)):
        return None
    if not (0 <= difference < math.inf and 0 <= mean_kl < math.inf):
        return None
    return Noise(max_difference=difference, mean_kl_nats=mean_kl)


def bounds_of(
    gguf_type: str, reference: ReferenceValues, *, recorded: Noise | None = None
) -> Bounds:
    """The bounds of one type for one checkpoint.

    Args:
        gguf_type: One of :data:`GGUF_TYPES`.
        reference: Knows what rounding alone does to the checkpoint.
        recorded: What rounding does to this very file, whose types no preset names.
    """
    if recorded is not None:
        mean_kl = max(_MIXED_MEAN_KL, _MEAN_KL_FACTOR * recorded.mean_kl_nats)
        return _mean_kl(min(mean_kl, _COARSE_MEAN_KL_LIMIT))
    fixed = _FIXED[gguf_type]
    none = Noise(max_difference=0.0, mean_kl_nats=0.0)
    noise = reference.noise.get(NOISE_OF.get(gguf_type, ""), none)
    # Of four bits and fewer, a small model is moved further than a proof of more bits may allow.
    coarse = fixed.mean_kl_nats > 0.1
    limit = _COARSE_MEAN_KL_LIMIT if coarse else _MEAN_KL_LIMIT
    factor = _MEAN_KL_FACTOR_Q8_0 if gguf_type == "q8_0" else _MEAN_KL_FACTOR
    mean_kl = max(fixed.mean_kl_nats, factor * noise.mean_kl_nats)
    difference = fixed.max_difference
    steady = True
    if difference is not None:
        steady = noise.max_difference <= difference
        difference = max(difference, _DIFFERENCE_FACTOR * noise.max_difference)
        difference = min(difference, _DIFFERENCE_LIMIT)
    return Bounds(difference, min(mean_kl, limit), fixed.same_text and steady)
