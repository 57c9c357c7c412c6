"""What is wrong with a recipe, said by the keys that its author wrote."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ollama_bridge.recipe.sections import Section

_shown = reprlib.Repr()  # aliases of aliases make a huge value of a few lines
_shown.maxlevel = 3
_shown.maxstring = _shown.maxother = _shown.maxlong = 200
_MERGE = "tag:yaml.org,2002:merge"
_BLOCK = re.compile(r"[|>][-+\d]*[ \t]*\n")
_ADVICE_ON_QUOTES = (
    "; put a text in quotes, and a backslash before those in it: --set 'KEY=\"TEXT\"'"
)


class _Loader(yaml.SafeLoader):
    """Plain values alone; a key that is in a mapping twice is an error, not the last one's."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, and not where values are made: there a merge (<<) has put other mappings' keys in.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        found: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in found:
                first = found[key.tag, key.value]
                where = f"in lines {first} and {line}" if first < line else f"in line {line}"
                raise ValueError(f"{key.value} is there twice, {where}: make one of them")
            found[key.tag, key.value] = line
        return node


def read_yaml(text: str) -> object:
    """Read YAML without code.

    Raises:
        ValueError: it is not YAML, or has a key twice in one mapping.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as exc:
        raise ValueError("brackets are nested too deeply") from exc
    except Exception as exc:  # of a date or a tagged value that is none, PyYAML lets through any
        raise ValueError(str(exc)) from exc


def apply_overrides(
    data: dict[str, Any], overrides: Sequence[str], section: type[BaseModel]
) -> list[str]:
    """Set ``key.path=value`` texts in plain data; returns problems.

    Args:
        data: Is changed.
        overrides: Of a key whose value is a text it is taken as it is, of others read as YAML;
            what is quoted is a text.
    """
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"--set {override!r}: write it as key.path=value")
            continue
        *parents, last = key.split(".")
        try:
            value = _value(text, _annotation_of([*parents, last], section))
        except ValueError as exc:
            problems.append(f"--set {key}: {exc}")
            continue
        inner = data
        for parent in parents:
            found = inner.get(parent)
            if not isinstance(found, dict):
                found = {}
                inner[parent] = found
            inner = found
        inner[last] = value
    return problems


def _value(text: str, annotation: object) -> object:
    """What is given for a key.

    Raises:
        ValueError: it cannot be read, or not without loss.
    """
    if not _is_marked(text) and _takes_as_it_is(text.strip(), annotation):
        return text.strip()
    try:
        value = read_yaml(text)
    except ValueError as exc:
        raise ValueError(f"{text!r} is not a value{_ADVICE_ON_QUOTES}") from exc
    if _is_comment(text, value) or (isinstance(value, dict) and _wants_text(annotation)):
        raise ValueError(f"{text!r} is read as {_show(value)}{_ADVICE_ON_QUOTES}")
    if not isinstance(value, str) or _is_marked(text):
        return value
    if value != text.strip():
        raise ValueError(f"{text!r} is read as {value!r}{_ADVICE_ON_QUOTES}")
    return float(value) if _is_number(value) else value  # YAML 1.1 reads 1e-4 as a text


def _takes_as_it_is(text: str, annotation: object) -> bool:
    """Whether YAML has no say: its blank and ``#``, and its colon, belong to a prompt."""
    kinds = _kinds_of(annotation)
    if not kinds & {str, Path} or kinds & {bool, int, float}:
        return False
    if not text:
        return type(None) not in kinds
    return text not in ("null", "~") and not (tuple in kinds and text.startswith("["))


def _is_comment(text: str, value: object) -> bool:
    """Whether nothing was read, though something is there that does not say so."""
    return value is None and text.strip().lower() not in ("", "~", "null")


def _wants_text(annotation: object) -> bool:
    """Whether a value may be a text, and cannot be a mapping."""
    return str in _kinds_of(annotation) and not (
        Mapping in _kinds_of(annotation) or _section_type(annotation)
    )


def _kinds_of(annotation: object) -> set[object]:
    """The types that a value may have: of each member of a union the type, or what it is of."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if is_union else (annotation,)
    return {typing.get_origin(member) or member for member in members}


def _annotation_of(parts: Sequence[str], section: type[BaseModel]) -> object:
    """Of what type the value of a key is; None: there is no such key."""
    annotation: object = section
    for part in parts:
        inner = _section_type(annotation)
        if inner is not None:
            field = inner.model_fields.get(part)
            annotation = None if field is None else field.annotation
        elif typing.get_origin(annotation) is Mapping:
            annotation = typing.get_args(annotation)[1]
        else:
            return None
    return annotation


def problems_by_key(
    data: Mapping[str, Any], section: type[BaseModel], prefix: str = ""
) -> list[str]:
    """Name the keys that a section does not have, with the nearest that it has.

    And truths that are given for numbers, for which pydantic takes them.

    Args:
        data: What the recipe says in this section.
        prefix: Path of the section, with a dot behind it.
    """
    problems = []
    for key, value in data.items():
        field = section.model_fields.get(key)
        if field is None:
            problems.append(f"{prefix}{key}: unknown key; {_advice(key, section, prefix)}")
            continue
        kinds = _kinds_of(field.annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            problems.append(f"{prefix}{key}: Input should be a number (given: {value})")
        inner = _section_type(field.annotation)
        if inner is not None and isinstance(value, Mapping):
            problems += problems_by_key(value, inner, f"{prefix}{key}.")
        items = _item_kinds(field.annotation)
        if items is not None and isinstance(value, Sequence) and not isinstance(value, str):
            for number, item in enumerate(value):
                if isinstance(item, Mapping):
                    problems += _problems_of_item(item, *items, f"{prefix}{key}.{number}.")
    return problems


def describe_error(error: Any) -> str:  # pydantic's ErrorDetails
    """A value that is not valid, as ``key: what is wrong``."""
    where = list(error["loc"])
    # Behind the number of an item pydantic names the item's kind, and behind the key of a value
    # that may be of several types the one that it tried: these are no keys.
    key = ".".join(
        str(part)
        for place, part in enumerate(where)
        if not (place and isinstance(where[place - 1], int) and place + 1 < len(where))
        and not (place > 1 and where[place - 1] != "label_map" and _is_type(part))
    )
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    if error["type"] == "string_type" and (advice := _advice_on_text(given)):
        if where[-1] == "[key]":
            key, message = key.removesuffix(".[key]"), "The name itself should be a valid string"
        return f"{key}: {message}, not {_show(given)}: {advice}"
    if error["type"] == "missing":
        return f"{key}: is required"
    if error["type"] == "string_pattern_mismatch":  # of a recipe's name, which a folder has, too
        advice = "write it in small letters from a to z, digits and hyphens, such as my-task"
        return f"{key}: {advice} (given: {_show(given)})"
    if error["type"] == "tuple_type":
        return f"{key}: has to be a list, such as [{_show(given)}] (given: {_show(given)})"
    if error["type"] == "model_type":
        return f"{key}: has keys of its own, which are set one by one (given: {_show(given)})"
    if error["type"] == "value_error":
        return f"{key}.{message}" if key else message
    return f"{key}: {message} (given: {_show(given)})"


def _advice_on_text(given: object) -> str:
    """How to write a text that YAML reads as something else; empty: it is rather no text."""
    if isinstance(given, bool):
        said = "yes, on" if given else "no, off"
        return f"put it in quotes, YAML reads {said} and {str(given).lower()} so without them"
    if isinstance(given, int | float):
        return f'put it in quotes: "{_show(given)}"'
    return 'an empty one is ""' if given is None else ""


def _show(value: object) -> str:
    try:
        return _shown.repr(value)
    except ValueError:  # Python writes no decimals of so many
        return "a number of thousands of digits"


def _problems_of_item(
    item: Mapping[str, Any], tag: str, kinds: Mapping[str, type[BaseModel]], prefix: str
) -> list[str]:
    if tag not in item:
        return [f"{prefix}{tag}: is required; one of {', '.join(sorted(kinds))}"]
    name = item[tag]
    if name not in kinds:
        near = difflib.get_close_matches(str(name), list(kinds), n=1, cutoff=0.5)
        advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(kinds))}"
        return [f"{prefix}{tag}: no {tag} is called {name!r}; {advice}"]
    return problems_by_key(item, kinds[name], prefix)


def _advice(key: str, section: type[BaseModel], prefix: str) -> str:
    near = difflib.get_close_matches(str(key), list(section.model_fields), n=1, cutoff=0.5)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    return f"known keys: {', '.join(sorted(section.model_fields))}"


def _is_type(part: object) -> bool:
    return part in ("str", "int", "float") or str(part).startswith("tuple[")


def _is_marked(text: str) -> bool:
    """Whether YAML's marks of a text are around it, or those of a block in front of its lines."""
    text = text.strip()
    return _BLOCK.match(text) is not None or (
        len(text) > 1 and text[0] == text[-1] and text[0] in ("'", '"')
    )


def _is_number(text: str) -> bool:
    """Whether a text is a finite number; ``nan`` is rather the name of a column."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _section_type(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            section = _section_type(member)
            if section is not None:
                return section
    return None


def _item_kinds(annotation: object) -> tuple[str, dict[str, type[BaseModel]]] | None:
    """Of a list of sections of several kinds: the key that tells the kind, and the kinds."""
    if typing.get_origin(annotation) is not tuple:
        return None
    item = typing.get_args(annotation)[0]
    if typing.get_origin(item) is not typing.Annotated:
        return None
    members, *notes = typing.get_args(item)
    tags = [note.discriminator for note in notes if isinstance(note, FieldInfo)]
    if not tags or not isinstance(tags[0], str):
        return None
    kinds = {
        name: member
        for member in typing.get_args(members)
        for name in typing.get_args(member.model_fields[tags[0]].annotation)
    }
    return tags[0], kinds
