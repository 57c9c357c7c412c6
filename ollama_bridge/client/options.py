"""The options of a question, checked before they leave.

The daemon ignores names that it does not know, with a line in its own log only, and answers a
value of the wrong kind with an error only once the model is loaded.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from typing import Any

from ollama_bridge.errors import ConfigError
from ollama_bridge.option_kinds import OPTION_KINDS, OptionKind

# A model whose stop is wrong generates until the context is full, unless it is told a limit.
DEFAULT_NUM_PREDICT = 1024

Options = Mapping[str, Any]
_NO_LONGER = {"typical_p": "leave it out: Ollama refuses it since 0.34"}


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
        if name in _NO_LONGER:
            raise ConfigError(f"Ollama no longer has the option {name!r}", hint=_NO_LONGER[name])
        if name not in OPTION_KINDS:
            raise ConfigError(
                f"unknown option {name!r}: Ollama would ignore it",
                hint=nearest(str(name), OPTION_KINDS),
            )
        kind = OPTION_KINDS[name]
        if not _is_of(kind, value):
            noun = "a list of texts" if kind == "texts" else kind
            raise ConfigError(
                f"option {name!r} is {value!r}, not {noun}", hint=f"write {name} as {noun}"
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
            hint="correct it, or pass a dict",
        ) from exc


def nearest(name: str, known: Mapping[str, object] | frozenset[str]) -> str:
    """What to write instead of an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(names)


def _is_of(kind: OptionKind, value: object) -> bool:
    match kind:
        case "true or false":
            return isinstance(value, bool)
        case "texts":
            return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        case "a whole number":
            return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # NaN is not, nor is a whole number beyond all floats
