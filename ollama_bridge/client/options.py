"""The options of a question, checked before they leave.

The daemon ignores names that it does not know, with a line in its own log only, and answers a
value of the wrong kind with an error only once the model is loaded.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from typing import Any, Literal

from ollama_bridge.errors import ConfigError

# A model whose stop is wrong generates until the context is full, unless it is told a limit.
DEFAULT_NUM_PREDICT = 1024

Options = Mapping[str, Any]
_Kind = Literal["a whole number", "a number", "true or false", "a list of texts"]

# Source: Options and Runner in ollama's api/types.go, 0.24.0 and 0.34.4.
KNOWN_OPTIONS: Mapping[str, _Kind] = {
    "draft_num_predict": "a whole number",
    "frequency_penalty": "a number",
    "main_gpu": "a whole number",
    "min_p": "a number",
    "num_batch": "a whole number",
    "num_ctx": "a whole number",
    "num_gpu": "a whole number",
    "num_keep": "a whole number",
    "num_predict": "a whole number",
    "num_thread": "a whole number",
    "presence_penalty": "a number",
    "repeat_last_n": "a whole number",
    "repeat_penalty": "a number",
    "seed": "a whole number",
    "stop": "a list of texts",
    "temperature": "a number",
    "top_k": "a whole number",
    "top_p": "a number",
    "typical_p": "a number",
    "use_mmap": "true or false",
}


def check_options(options: Options) -> dict[str, Any]:
    """Refuse what the daemon would ignore or stumble over; None means not set.

    Raises:
        ConfigError: an unknown name (with the nearest right one), a value of the wrong kind, or
            no options at all.
    """
    options = plain(options)
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"options are of type {type(options).__name__}", hint='write {"temperature": 0.5, ...}'
        )
    found = {name: value for name, value in options.items() if value is not None}
    for name, value in found.items():
        if name not in KNOWN_OPTIONS:
            raise ConfigError(
                f"unknown option {name!r}: Ollama would ignore it",
                hint=nearest(str(name), KNOWN_OPTIONS),
            )
        if not _is_of(KNOWN_OPTIONS[name], value):
            raise ConfigError(
                f"option {name!r} is {value!r}, not {KNOWN_OPTIONS[name]}",
                hint=f"write {name} as {KNOWN_OPTIONS[name]}",
            )
    limit = found.get("num_predict")
    if limit is not None and limit < 1:
        raise ConfigError(
            f"num_predict is {limit}: an answer needs a finite limit",
            hint=f"set num_predict to at least 1; without one it is {DEFAULT_NUM_PREDICT}",
        )
    return found


def plain(value: Any) -> Any:
    """What an object of pydantic's is in JSON, such as those of ollama-python; others as they are.

    Raises:
        ConfigError: it cannot be written.
    """
    if isinstance(value, type) or not callable(dump := getattr(value, "model_dump", None)):
        return value
    try:
        return dump(exclude_none=True)
    except ValueError as exc:
        raise ConfigError(
            f"{type(value).__name__} cannot be written as JSON: {exc}",
            hint="mend it, or write it as a dict",
        ) from exc


def nearest(name: str, known: Mapping[str, object] | frozenset[str]) -> str:
    """What to write instead of an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(names)


def _is_of(kind: _Kind, value: object) -> bool:
    match kind:
        case "true or false":
            return isinstance(value, bool)
        case "a list of texts":
            return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        case "a whole number":
            return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # NaN is not, nor is a whole number beyond all floats
