"""How far a daemon's log-probabilities may lie from the checkpoint's, by GGUF type.

A fixed bound per type, widened for a checkpoint that its type's rounding alone moves further (the
reference values carry that estimate), up to a limit where a proof would mean nothing any more. What
is answered to the prompts of the estimate is held to the estimate itself.

Measured on Ollama 0.34.4: largest difference, mean KL (estimate of the mean KL, over the whole
vocabulary) in nats.

| checkpoint | F16 | BF16 | Q8_0 |
|---|---|---|---|
| SmolLM2-135M-Instruct | 0.022, 5e-6 | 0.17, 2e-4 | 0.94, 0.0041 |
| the same, tuned | 0.020, 2e-6 (3e-6) | 0.05, 1e-5 (1e-4) | 0.37, 0.0023 (0.0029) |
| the same, tuned on other texts | 0.030, 1e-5 | | 1.77, 0.031 (0.0083) |
| 12 of its layers | 0.051, 5e-5 (3e-5) | 0.39, 0.0027 (0.0017) | 2.2, 0.048 (0.039) |
| 6 two-layer Llamas | 0.030, 6e-6 | 0.17, 2e-4 | 0.48, 0.0020 |
| q, k not permuted | 9.7, 0.90 | | |
| another machine (AMX, AVX512-FP16): SmolLM2-135M-Instruct | 0.051, below 5e-5 | | |
| there: a narrow student with few tokens | 0.058, 1e-4 | | |
| there: a small Qwen 3 | 0.064, below 5e-5 | | |

| SmolLM2-135M-Instruct | Q6_K | Q5_K_M | Q4_K_M | Q4_0 |
|---|---|---|---|---|
| as it is | 1.2, 0.011 (0.017) | 4.1, 0.081 (0.11) | 2.5, 0.042 (0.081) | 4.9, 0.24 (0.46) |
| q, k not permuted | | | 8.1, 0.69 | 7.5, 0.81 |

BF16 keeps 8 bits of a weight: one difference says little there, the mean does, as for Q8_0.

As a daemon shows it, which is how it is recorded, the estimate is smaller. Mean KL of answers as
multiples of it (norms of a deep layer that are lost are found by ``verify --against``):

| small Llama (3), Q8_0 | all answers | without the worst tenth |
|---|---|---|
| sound | 1.0 | 0.8 to 0.9 |
| a norm of the first layer lost | 9 to 65 | 8 to 55 |
| of a later layer | 1.9 to 5.1 | 1.4 to 4.1 |
| the output norm lost | 3.5 to 4.9 | 3.0 to 3.9 |

SmolLM2-135M tuned on other texts: 4.9 and 0.01; with attn_norm of layer 14 lost 260 and 220.
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

# In answers, where the noise was simulated, daemons were seen at 0.8 to 1.1 times the estimate. The
# rest is room for other kernels (a GPU rounds no activations, other CPUs add in another order, and
# what is rounded falls to the other side from there on) and for encoders that search better scales.
# A small Llama that lost its first norm lies at 7 to 8 times.
_ANSWERS_FACTOR = 3.0
_ANSWERS_MEAN_KL = 0.001  # what F16 may have: its noise is that of the order of sums
# Of all positions: other prompts were not simulated, and one undecided answer can outweigh all the
# others: a tuned SmolLM2 that agrees in F16 to 1e-5 nats was seen at 5.1 times, of which one prompt
# is nearly all. Lost norms and unpermuted weights of it lie at 190 times.
_MEAN_KL_FACTOR = 10.0
# The estimated largest difference is over the whole vocabulary, where a daemon shows twenty tokens.
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
        answers_kl_nats: Mean over the positions of answers but the worst tenth, where one undecided
            answer may outweigh all others; None: not held against it.
        same_text: Whether certain greedy text has to be the same.
        capped: Rounding alone moves the checkpoint further than the bounds may be wide.
        explained_kl_nats: What rounding alone may do to the answers; more is something else.
    """

    max_difference: float | None
    mean_kl_nats: float
    answers_kl_nats: float | None = None
    same_text: bool = False
    capped: bool = False
    explained_kl_nats: float = math.inf

    def hold(self, difference: float, mean_kl_nats: float, answers_kl_nats: float) -> bool:
        """Whether measured numbers are within."""
        within = mean_kl_nats <= self.mean_kl_nats
        if self.answers_kl_nats is not None:
            within = within and answers_kl_nats <= self.answers_kl_nats
        if self.max_difference is not None:
            within = within and difference <= self.max_difference
        return within

    def __str__(self) -> str:
        """In words."""
        words = [f"mean KL {self.mean_kl_nats:.4g}"]
        if self.answers_kl_nats is not None:
            words.append(f"in answers {self.answers_kl_nats:.4g}")
        if self.max_difference is not None:
            words.insert(0, f"difference {self.max_difference:.3g}")
        return ", ".join(words)


def _mean_kl(nats: float) -> Bounds:
    return Bounds(max_difference=None, mean_kl_nats=nats)


_FIXED = {
    "f32": Bounds(max_difference=0.05, mean_kl_nats=0.001, same_text=True),
    # On some machines sound models differ by more than on others; why is not known.
    "f16": Bounds(max_difference=0.1, mean_kl_nats=0.001, same_text=True),
    "bf16": _mean_kl(0.002),
    "q8_0": _mean_kl(0.01),
    "q6_k": _mean_kl(0.02),
    **dict.fromkeys(("q5_k_m", "q5_k_s", "q5_1", "q5_0"), _mean_kl(0.05)),
    **dict.fromkeys(("q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs"), _mean_kl(0.15)),
    **dict.fromkeys(("q3_k_l", "q3_k_m", "q3_k_s", "q2_k"), _mean_kl(_COARSE_MEAN_KL_LIMIT)),
}


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
        gguf_type: One that ``quantization.file_types.name_of`` gives.
        reference: Knows what rounding alone does to the checkpoint.
        recorded: What rounding does to this very file, whose types no preset names.
    """
    if recorded is not None:
        wanted = max(_MIXED_MEAN_KL, _ANSWERS_FACTOR * recorded.mean_kl_nats)
        everywhere = max(_MIXED_MEAN_KL, _MEAN_KL_FACTOR * recorded.mean_kl_nats)
        limit = _COARSE_MEAN_KL_LIMIT
        return Bounds(
            max_difference=None,
            mean_kl_nats=min(everywhere, limit),
            answers_kl_nats=min(wanted, limit),
            capped=wanted > limit,
            explained_kl_nats=wanted,
        )
    fixed = _FIXED[gguf_type]
    noise = reference.noise.get(NOISE_OF.get(gguf_type, ""))
    if noise is None:
        return fixed
    # Of four bits and fewer, a small model is moved further than a proof of more bits may allow.
    coarse = fixed.mean_kl_nats > 0.1
    limit = _COARSE_MEAN_KL_LIMIT if coarse else _MEAN_KL_LIMIT
    answers = max(_ANSWERS_MEAN_KL, _ANSWERS_FACTOR * noise.mean_kl_nats)
    mean_kl = max(fixed.mean_kl_nats, _MEAN_KL_FACTOR * noise.mean_kl_nats)
    difference, capped = fixed.max_difference, answers > limit
    steady = True
    if difference is not None:
        steady = noise.max_difference <= difference
        difference = max(difference, _DIFFERENCE_FACTOR * noise.max_difference)
        capped = capped or difference > _DIFFERENCE_LIMIT
        difference = min(difference, _DIFFERENCE_LIMIT)
    return Bounds(
        max_difference=difference,
        mean_kl_nats=min(mean_kl, limit),
        answers_kl_nats=min(answers, limit),
        same_text=fixed.same_text and steady,
        capped=capped,
        explained_kl_nats=answers,
    )
