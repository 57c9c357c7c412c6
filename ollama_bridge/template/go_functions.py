"""What the functions of Go templates return, as far as ours use them, and how values print."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ollama_bridge.errors import TemplateError

_SHORT_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


class Struct(dict[str, Any]):
    """A Go struct that ``json`` writes with its own names, in their order."""

    def __init__(self, fields: Mapping[str, Any], written: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.written = dict(written)


def _slice(value: Any, *bounds: int) -> Any:
    if isinstance(value, str) and not value.isascii():
        data: Any = value.encode(errors="surrogateescape")
    else:
        data = value
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(data)
    if not 0 <= low <= high <= len(data):
        raise TemplateError(f"the Go template slices [{low}:{high}] of {len(data)}")
    part = data[low:high]
    return part.decode(errors="surrogateescape") if isinstance(part, bytes) else part


def _length(value: Any) -> int:
    if isinstance(value, str) and not value.isascii():
        return len(value.encode(errors="surrogateescape"))
    return len(value)


def _format(form: str, *values: Any) -> str:
    if len(values) == 1:
        if form == "%x":
            return str(values[0]).encode().hex()
        if form == "%T":
            return _type_name(values[0])
        if form == "%q":
            return go_quote(str(values[0]))
        if form == '"%s"':
            return f'"{values[0]}"'
        if match := re.fullmatch(r"%\.(\d+)s", form):
            return str(values[0])[: int(match[1])]
    raise TemplateError(f"the Go template uses printf {form!r}, which is not supported")


def _type_name(value: Any) -> str:
    kinds = {
        str: "string",
        bool: "bool",
        int: "float64",
        float: "float64",
        dict: "map[string]interface {}",
        list: "[]interface {}",
        type(None): "<nil>",
    }
    return kinds.get(type(value), "other")


def go_quote(text: str) -> str:
    """``strconv.Quote``."""
    parts = []
    for character in text:
        code = ord(character)
        if character in _SHORT_ESCAPES:
            parts.append(_SHORT_ESCAPES[character])
        elif character.isprintable():
            parts.append(character)
        elif code < 0x80:
            parts.append(f"\\x{code:02x}")
        else:
            parts.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(parts) + '"'


def go_json(value: Any) -> str:
    """``json.Marshal``: compact, maps sorted, ``<``, ``>`` and ``&`` as escapes."""
    text = _json(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _json(value: Any) -> str:
    if isinstance(value, Struct):
        value = value.written
        return "{" + ",".join(f"{_json(k)}:{_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_json(k)}:{_json(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_json(item) for item in value) + "]"
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return _number(float(value))
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if 1e-6 <= abs(value) < 1e21:
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    mantissa, _, exponent = repr(value).partition("e")
    sign = exponent[0] if exponent[0] in "+-" else "+"
    return f"{mantissa.removesuffix('.0')}e{sign}{exponent.lstrip('+-0')}"


def printed(value: Any) -> str:
    """What an action writes of a value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping | list):  # the types of Ollama that print as JSON
        return go_json(value)
    raise TemplateError(f"the Go template prints a {type(value).__name__}")


FUNCTIONS: Mapping[str, Any] = {
    "not": lambda value: not value,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "len": _length,
    "index": lambda value, place: value[place],
    "slice": _slice,
    "printf": _format,
    "json": go_json,
}
