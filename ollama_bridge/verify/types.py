"""Holds the types of a file's tensors against the type that the file says it is of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from ollama_bridge.verify.certificate import TENSOR_TYPES, Check

# Bits of a number, its share of the block's scales with it.
_BITS = {
    "F32": 32.0,
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.5625,
    "Q5_K": 5.5,
    "Q4_K": 4.5,
    "Q3_K": 3.4375,
    "Q2_K": 2.625,
    "Q5_1": 6.0,
    "Q5_0": 5.5,
    "Q4_1": 5.0,
    "Q4_0": 4.5,
    "MXFP4": 4.25,
    "NVFP4": 4.5,
    "IQ4_NL": 4.5,
    "IQ4_XS": 4.25,
    "IQ3_S": 3.4375,
    "IQ3_XXS": 3.0625,
    "IQ2_S": 2.5625,
    "IQ2_XS": 2.3125,
    "IQ2_XXS": 2.0625,
    "IQ1_M": 1.75,
    "IQ1_S": 1.5625,
    "TQ2_0": 2.0625,
    "TQ1_0": 1.6875,
}
_SIZE_OF_MIX = re.compile("_[SML]$")


def check_types(file_type: str, shown: Mapping[str, Any]) -> Check | None:
    """Most numbers are of the type that the bounds are for, or of a finer one.

    A daemon goes by the types of the tensors alone: a Q4_0 called Q8_0 is served as the Q4_0 that
    it is, and held to the bounds of the other. A mix may have some coarser ones.

    Args:
        file_type: What ``general.file_type`` says.
        shown: The daemon's reply to ``show``.

    Returns:
        None: the daemon does not name the tensors.
    """
    counts: Counter[str] = Counter()
    for tensor in shown.get("tensors") or ():
        name, shape = tensor.get("type"), tensor.get("shape") or ()
        if len(shape) > 1 and name in _BITS:
            counts[name] += prod(shape)
    if not counts:
        return None
    total = sum(counts.values())
    said = _BITS[_SIZE_OF_MIX.sub("", file_type.upper())]
    coarser = {type_: count for type_, count in counts.items() if _BITS[type_] < said}
    difference = None
    if 2 * sum(coarser.values()) > total:
        most = max(coarser, key=lambda type_: coarser[type_])
        difference = (
            f"the file says that it is {file_type.upper()}, but "
            f"{100 * coarser[most] / total:.0f} % of its matrices' numbers are {most}"
        )
    mean = sum(_BITS[type_] * count for type_, count in counts.items()) / total
    return Check.of(
        TENSOR_TYPES, "tensor", difference, {"type": file_type, "bits_per_weight": round(mean, 2)}
    )
