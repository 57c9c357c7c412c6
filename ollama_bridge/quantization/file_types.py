"""The types that a whole GGUF can be written in, as llama.cpp names them. Imports nothing heavy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Literal, get_args

from ollama_bridge.errors import ConfigError

FileTypeName = Literal[
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q5_k_s",
    "q5_1",
    "q5_0",
    "q4_k_m",
    "q4_k_s",
    "q4_1",
    "q4_0",
    "q3_k_l",
    "q3_k_m",
    "q3_k_s",
    "q2_k",
]
FILE_TYPES: tuple[str, ...] = get_args(FileTypeName)
ALL_NAMES = f"{', '.join(FILE_TYPES[:-1])} or {FILE_TYPES[-1]}"

# ``general.file_type``: the numbers of llama.cpp's ``llama_ftype``.
NUMBERS: Mapping[str, int] = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
    "bf16": 32,
}
# Of files that others made: they are not written here, but a tag of them can be proven.
_PROVEN_ALONE: Mapping[str, int] = {"iq4_nl": 25, "iq4_xs": 30}
PROVEN_NAMES = ", ".join((*FILE_TYPES, *_PROVEN_ALONE))


def name_of(number: object) -> str | None:
    """The type that a GGUF's ``general.file_type`` means; None if it is none that is proven."""
    for name, known in {**NUMBERS, **_PROVEN_ALONE}.items():
        if known == number and type(number) is int:
            return name
    return None


def parse(name: str) -> str:
    """The type of that name, in lower case.

    Raises:
        ConfigError: there is none.
    """
    if name.lower() in FILE_TYPES:
        return name.lower()
    bare = re.sub(r"[^a-z0-9]", "", name.lower())  # Q4-K-M, q4km, or q4_k of several
    near = [one for one in FILE_TYPES if one.replace("_", "").startswith(bare)]
    near = near or difflib.get_close_matches(name.lower(), FILE_TYPES, n=1, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near and bare else f"use one of {ALL_NAMES}"
    raise ConfigError(f"type {name!r} cannot be written", hint=hint)
