"""Checks Ollama's PARAMETER names and types.

The daemon accepts ``{"temperature": "hot"}`` when a tag is created and fails when it is run, so
names and types are checked here. Does not know which values are wise.
"""

from __future__ import annotations

import difflib
import math
import re
import struct
from collections.abc import Mapping

from ollama_bridge.errors import ModelfileError
from ollama_bridge.option_kinds import OPTION_KINDS, OptionKind

ParameterValue = bool | int | float | tuple[str, ...]
# Python reads more: digits of other scripts, "1_0", and spaces around.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUE, _FALSE = (
    frozenset({"1", "t", "T", "TRUE", "true", "True"}),
    frozenset({"0", "f", "F", "FALSE", "false", "False"}),
)


def check_parameters(parameters: Mapping[str, object]) -> dict[str, ParameterValue]:
    """Check names and types, and give every value the one form that Ollama keeps.

    Numbers of float parameters become the shortest decimal of their 32-bit value (that is how
    Ollama stores them), stops become a tuple, and an empty tuple is dropped.

    Raises:
        ModelfileError: naming the parameter, with the nearest known name.
    """
    checked: dict[str, ParameterValue] = {}
    for name, value in parameters.items():
        kind = _kind(name, where="PARAMETER")
        if kind == "texts":
            texts = (value,) if isinstance(value, str) else value
            if not isinstance(texts, list | tuple) or not all(
                isinstance(item, str) and item for item in texts
            ):
                raise _type_error(name, kind, value)
            if texts:
                checked[name] = tuple(str(item) for item in texts)
        elif kind == "true or false":
            if not isinstance(value, bool):
                raise _type_error(name, kind, value)
            checked[name] = value
        elif kind == "a whole number":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            if isinstance(value, bool) or not whole:
                raise _type_error(name, kind, value)
            number = int(value)  # type: ignore[call-overload]  # narrowed by `whole`
            if not -(2**63) <= number < 2**63:
                raise _type_error(name, kind, value)
            checked[name] = number
        else:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _type_error(name, kind, value)
            checked[name] = _as_float32(name, value)
    return checked


def parse_parameter(name: str, text: str, *, where: str) -> ParameterValue:
    """Read the text of one PARAMETER line as Ollama does.

    Raises:
        ModelfileError: unknown name, or a text of another type.
    """
    kind = _kind(name, where=where)
    if kind == "texts":
        return (text,)
    if kind == "true or false" and text in _TRUE | _FALSE:
        return text in _TRUE
    if kind == "a whole number" and re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII):
        return int(text)
    if kind == "a number" and _NUMBER.fullmatch(text):
        return float(text)
    raise ModelfileError(f"{where}: PARAMETER {name} must be {kind}, not {text!r}")


def _kind(name: str, *, where: str) -> OptionKind:
    if name in OPTION_KINDS:
        return OPTION_KINDS[name]
    near = difflib.get_close_matches(name, list(OPTION_KINDS), n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(OPTION_KINDS)}"
    raise ModelfileError(f"{where}: Ollama has no parameter {name!r}; {advice}")


def _type_error(name: str, kind: str, value: object) -> ModelfileError:
    return ModelfileError(f"PARAMETER {name} must be {kind}, not {value!r}")


def _as_float32(name: str, value: float) -> float:
    try:
        packed = struct.pack("<f", value)
    except (OverflowError, struct.error):
        packed = struct.pack("<f", math.inf)
    number = struct.unpack("<f", packed)[0]
    if not math.isfinite(number):
        raise _type_error(name, "a number", value)
    for digits in range(1, 10):
        shortest = float(f"{number:.{digits}g}")
        if struct.pack("<f", shortest) == packed:
            return shortest
    return float(number)
