"""Answers as values: a schema for the daemon's grammar, and what it gave checked against it.

The grammar alone does not promise a value. It leaves out what it cannot express (patterns that are
not anchored, ``if``, lengths of some kinds), an answer may be cut at ``num_predict``, and a model
that thinks may never come to answer. So every answer is validated here, and a wrong one is sent
back with what is wrong with it, a bounded number of times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from ollama_bridge.client import calls
from ollama_bridge.client.requests import Asking, MessageLike, message_list
from ollama_bridge.client.steps import Steps
from ollama_bridge.client.values import Reply
from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    DaemonError,
    OutputInvalidError,
    RefusedAnswer,
)

T = TypeVar("T")

_AGAIN = (
    "That is not what was asked for: {problem}\n"
    "Answer again with nothing but JSON of this schema:\n{schema}"
)


@dataclass(frozen=True)
class Parsed(Generic[T]):
    """An answer as a value.

    Attributes:
        value: An instance of what was asked for.
        reply: The answer that it was read from; its counts are of this attempt alone.
        refused: The answers before it that did not fit.
        prompt_tokens: Of all attempts together.
        generated_tokens: Of all attempts together, thinking included.
    """

    value: T
    reply: Reply
    refused: tuple[RefusedAnswer, ...]
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Shape(Generic[T]):
    """What an answer must be.

    Attributes:
        schema: As JSON schema.
        read: An answer to its value; raises ``ValueError`` with what is wrong with it.
    """

    schema: Mapping[str, Any]
    read: Callable[[str], T]


def shape_of(into: type[T] | Mapping[str, Any]) -> Shape[T]:
    """The shape that a pydantic model, any other type, or a JSON schema describes.

    Args:
        into: Whatever pydantic can validate (``list[str]`` and dataclasses too), or a schema; an
            answer of a schema is the plain value that JSON gives.

    Raises:
        ConfigError: pydantic cannot validate it, or it is no JSON schema.
    """
    if isinstance(into, Mapping):
        return cast("Shape[T]", _shape_of_schema(into))
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError
    from pydantic_core import SchemaError

    try:
        adapter: TypeAdapter[T] = TypeAdapter(into)
        schema = adapter.json_schema()
    except (PydanticUserError, SchemaError) as exc:
        raise ConfigError(
            f"no JSON schema can be made of {into!r}: {str(exc).partition(chr(10))[0]}",
            hint="use a pydantic model, a dataclass, a type such as list[str], or a JSON schema",
        ) from exc

    def read(text: str) -> T:
        try:
            return adapter.validate_json(text)
        except ValidationError as exc:
            problems = [f"{_place(error['loc'])}: {error['msg']}" for error in exc.errors()]
            raise ValueError("; ".join(problems)) from exc

    return Shape(schema, read)


def _shape_of_schema(schema: Mapping[str, Any]) -> Shape[Any]:
    import referencing
    from jsonschema import exceptions, validators

    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except exceptions.SchemaError as exc:
        place = _place(tuple(exc.absolute_path))
        raise ConfigError(f"the format is not a JSON schema: {place}: {exc.message}") from exc
    # With a registry of its own nothing is fetched for a reference.
    validator = kind(dict(schema), registry=referencing.Registry())

    def read(text: str) -> Any:
        try:
            value = json.loads(text)
            problems = [
                f"{_place(tuple(error.absolute_path))}: {error.message}"
                for error in validator.iter_errors(value)
            ]
        except RecursionError as exc:
            raise ValueError("it is nested too deep") from exc
        except (re.error, referencing.exceptions.Unresolvable) as exc:
            raise ConfigError(
                f"the format is not a JSON schema: {exc}", hint="correct its pattern or its $ref"
            ) from exc
        if problems:
            raise ValueError("; ".join(problems))
        return value

    return Shape(schema, read)


def steps(
    model: str,
    messages: str | Sequence[MessageLike],
    shape: Shape[T],
    asking: Asking,
    *,
    system: str | None,
    attempts: int,
) -> Steps[Call, Parsed[T]]:
    """Ask until an answer fits.

    Args:
        asking: Its ``format`` is ours.

    Raises:
        ConfigError: fewer than one attempt.
        OutputInvalidError: no answer fitted, or one was cut at its limit of tokens: asked again
            it would be cut again; or there is no room to ask again.
        DaemonError: with the answers before in ``refused``, and their tokens.
    """
    if attempts < 1:
        raise ConfigError(f"attempts is {attempts}", hint="allow at least one")
    conversation = message_list(messages, system=system)
    asking = replace(asking, format=grammar_schema(shape.schema))
    refused: list[RefusedAnswer] = []
    prompt_tokens = generated_tokens = 0
    while True:
        question = calls.chat(model, conversation, asking, system=None, tools=None)
        try:
            reply: Reply = yield question
        except DaemonError as error:
            if refused and isinstance(error, ContextOverflowError):
                raise _not_valid(reply, refused, prompt_tokens, generated_tokens) from error
            _tell(error, refused, prompt_tokens, generated_tokens)
            raise
        prompt_tokens += reply.prompt_tokens
        generated_tokens += reply.generated_tokens
        try:
            value = shape.read(reply.text)
            if reply.done_reason == "length" and not reply.text.rstrip().endswith(("}", "]", '"')):
                raise ValueError("it may be the beginning of a longer number or word")
        except ValueError as exc:
            refused.append(RefusedAnswer(reply.text, str(exc)))
        else:
            return Parsed(value, reply, tuple(refused), prompt_tokens, generated_tokens)
        if reply.done_reason == "length" or len(refused) == attempts:
            raise _not_valid(reply, refused, prompt_tokens, generated_tokens)
        conversation += [
            {"role": "assistant", "content": reply.text},
            {
                "role": "user",
                "content": _AGAIN.format(
                    problem=refused[-1].problem, schema=json.dumps(shape.schema)
                ),
            },
        ]


def grammar_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as the daemon gets it: without patterns that look around.

    Grammars cannot express them. Ollama 0.34 ignores them, and 0.24 dies of them, with every
    model that it serves; the answer is held against them here.
    """

    def without(value: object) -> object:
        if isinstance(value, Mapping):
            return {
                name: without(item)
                for name, item in value.items()
                if not (name == "pattern" and isinstance(item, str) and "(?" in item)
            }
        return [without(item) for item in value] if isinstance(value, list) else value

    return cast("dict[str, Any]", without(schema))


def _not_valid(
    reply: Reply, refused: list[RefusedAnswer], prompt_tokens: int, generated_tokens: int
) -> OutputInvalidError:
    if reply.done_reason == "length":
        what = "the thinking" if reply.thinking and not reply.text else "the answer"
        message = f"{what} was cut off after {reply.generated_tokens} tokens"
        hint = 'allow more tokens: options={"num_predict": ...}'
        if reply.thinking:
            hint += ", or ask without thinking: think=False"
    else:
        message = (
            f"no answer had the form that was asked for ({len(refused)} tried): "
            f"{refused[-1].problem}"
        )
        hint = "describe the fields in the prompt, or allow more attempts"
    error = OutputInvalidError(message, hint=hint, model=reply.model, partial_text=reply.text)
    _tell(error, refused, prompt_tokens, generated_tokens)
    return error


def _tell(
    error: DaemonError, refused: list[RefusedAnswer], prompt_tokens: int, generated_tokens: int
) -> None:
    """Put into an error what was asked and answered before it."""
    error.refused = tuple(refused)
    error.prompt_tokens, error.generated_tokens = prompt_tokens, generated_tokens


def _place(path: Sequence[object]) -> str:
    return ".".join(str(part) for part in path) or "the whole answer"
