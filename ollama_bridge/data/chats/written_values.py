"""Reads values out of texts of models and of their makers: JSON, or what Python writes of the same.

Many files of tools and calls were written by ``str()``: ``{'name': 'f', 'on': True}``.
"""

from __future__ import annotations

import ast
import io
import itertools
import json
import re
import tokenize
import warnings
from collections.abc import Iterator
from typing import Any

_BETWEEN = re.compile(r"[\s,]*")
# Where one text may follow another; to look closer takes ten times as long as to read it.
_MAY_JOIN = re.compile(r"""['"](?:\s+|[rRbBuU]{0,2})['"]""")
_NO_TOKENS = (tokenize.NL, tokenize.COMMENT)


def read_value(text: str) -> Any:
    """The one value of a text.

    Raises:
        ValueError: it is none of JSON, nor of Python's with a form in JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    except json.JSONDecodeError as exc:
        try:
            return _of_python(text)
        except ValueError as no_literal:
            place = f"{exc.msg} at character {exc.pos + 1}"
            raise ValueError(f"neither JSON ({place}) nor Python's ({no_literal})") from exc


def read_values(text: str) -> list[Any]:
    """The values of a text, one behind the other; a list stands for its items.

    Raises:
        ValueError: see :func:`read_value`.
    """
    try:
        found = list(_one_by_one(text))
    except (ValueError, RecursionError):
        try:
            found = [read_value(text)]
        except ValueError:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2:
                raise
            found = [read_value(line) for line in lines]
    return [one for value in found for one in (value if isinstance(value, list) else [value])]


def _one_by_one(text: str) -> Iterator[Any]:
    """Objects a line, or with commas in between."""
    decoder, place = json.JSONDecoder(), 0
    while (place := _end_of_gap(text, place)) < len(text):
        value, place = decoder.raw_decode(text, place)
        yield value


def _end_of_gap(text: str, place: int) -> int:
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def _of_python(text: str) -> Any:
    """What a literal of Python is in JSON."""
    text = text.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "\d", which str() does not write
            value = ast.literal_eval(text)
    except SyntaxError as exc:
        raise ValueError(exc.msg) from exc
    except (ValueError, TypeError, MemoryError, RecursionError) as exc:
        raise ValueError("no literal") from exc
    if not is_json(value):
        raise ValueError("what JSON does not have")
    if has_joined_texts(text):
        raise ValueError("a quote in a text")
    return value


def is_json(value: object) -> bool:
    """Whether JSON has a form of a value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_json, value.values()))
    if isinstance(value, list):
        return all(map(is_json, value))
    return value is None or isinstance(value, str | int | float)


def has_joined_texts(text: str) -> bool:
    """Whether one text follows another, of which Python makes one: of ``'it''s'`` an ``its``."""
    if not _MAY_JOIN.search(text):
        return False
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    kinds = [token.type for token in tokens if token.type not in _NO_TOKENS]
    return (tokenize.STRING, tokenize.STRING) in itertools.pairwise(kinds)
