"""Python functions as tools of a model: their schema, and how their arguments are checked.

A model's arguments are somebody else's input: they are validated by the function's annotations
before it runs, and whatever it raises goes back to the model as text (``tool_loop``).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, get_type_hints

from typing_extensions import TypedDict

from ollama_bridge.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# What a tool gives is read by the model: more of it would push the conversation out.
RESULT_LIMIT_CHARS = 20_000


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        name: As the model calls it.
        description: What it is for; the model chooses by it.
        parameters: JSON schema of its arguments.
        check: A model's arguments to the function's; raises ``ValueError`` with what is wrong.
        function: Takes the arguments by name; may be a coroutine function.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    check: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    function: Callable[..., Any] = field(repr=False)

    @property
    def is_async(self) -> bool:
        """Whether it has to be awaited."""
        return inspect.iscoroutinefunction(self.function)

    def to_dict(self) -> dict[str, Any]:
        """As the API wants it."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.parameters),
            },
        }


def tool_of(function: Callable[..., Any] | Tool) -> Tool:
    """A function as a tool, by its signature and its docstring (Google, NumPy or reST style).

    Args:
        function: Every parameter annotated, none positional-only, no ``*args``.

    Raises:
        ConfigError: a model could not know how to call it.
    """
    if isinstance(function, Tool):
        return function
    import docstring_parser
    from pydantic.errors import PydanticUserError

    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise ConfigError(
            f"{function!r} has no name to call it by", hint="write it as a function with def"
        )
    try:
        parameters = inspect.signature(function).parameters
    except ValueError as exc:
        raise ConfigError(f"the tool {name}: {exc}", hint="wrap it in a function") from exc
    for parameter in parameters.values():
        _check_parameter(name, parameter)
    try:
        adapter = _adapter_of(name, function)
        schema = adapter.json_schema()
    except (PydanticUserError, NameError) as exc:
        raise ConfigError(f"the tool {name}: {exc}", hint="use types that JSON has") from exc
    schema.pop("title", None)
    parsed = docstring_parser.parse(inspect.getdoc(function) or "")
    described = {one.arg_name: one.description for one in parsed.params if one.description}
    for argument, properties in schema.get("properties", {}).items():
        properties.pop("title", None)
        if argument in described:
            properties.setdefault("description", " ".join(described[argument].split()))
    description = (parsed.description or "").strip()
    return Tool(name, description, schema, _checker(adapter), function)


def _check_parameter(tool: str, parameter: inspect.Parameter) -> None:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if parameter.kind not in by_name:
        raise ConfigError(
            f"the tool {tool} takes {parameter}: a model can only pass arguments by name",
            hint="name every parameter",
        )
    if parameter.annotation is inspect.Parameter.empty:
        raise ConfigError(
            f"the tool {tool} has no type for its parameter {parameter.name}",
            hint=f"write {parameter.name}: str, or whatever it is",
        )


def _adapter_of(name: str, function: Callable[..., Any]) -> TypeAdapter[dict[str, Any]]:
    """Validates arguments as a dictionary; one with a default may be left out."""
    from pydantic import ConfigDict, TypeAdapter, with_config

    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        has_default = parameter.default is not inspect.Parameter.empty
        hint = hints[parameter.name]
        fields[parameter.name] = NotRequired[hint] if has_default else hint
    make: Any = TypedDict
    arguments = make(name, fields)
    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(arguments))


def _checker(
    adapter: TypeAdapter[dict[str, Any]],
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    from pydantic import ValidationError

    def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return adapter.validate_python(dict(arguments))
        except ValidationError as exc:
            problems = [f"{error['loc'][0]}: {error['msg']}" for error in exc.errors()]
            raise ValueError("; ".join(problems)) from exc

    return check


def tools_of(functions: Sequence[Callable[..., Any] | Tool]) -> dict[str, Tool]:
    """Tools by name.

    Raises:
        ConfigError: two of one name.
    """
    found: dict[str, Tool] = {}
    for function in functions:
        one = tool_of(function)
        if one.name in found:
            raise ConfigError(f"two tools are called {one.name}", hint="rename one")
        found[one.name] = one
    return found


def as_text(result: object) -> str:
    """What a tool gave, as the model reads it: a text as it is, anything else as JSON."""
    if isinstance(result, str):
        text = result.encode(errors="replace").decode()  # half a surrogate pair is no text
    else:
        from pydantic_core import to_json

        text = to_json(result, fallback=str).decode()
    if len(text) > RESULT_LIMIT_CHARS:
        text = f"{text[:RESULT_LIMIT_CHARS]} [cut: {len(text)} characters in all]"
    return text


def problem_text(problem: str) -> str:
    """What went wrong with a tool, as the model reads it."""
    return json.dumps({"error": problem[:RESULT_LIMIT_CHARS]})
