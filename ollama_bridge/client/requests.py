"""The parts of what the client sends, checked before they leave; ``calls`` puts them together."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ollama_bridge.client.options import DEFAULT_NUM_PREDICT, Options, check_options, nearest, plain
from ollama_bridge.client.tools import Tool, tool_of
from ollama_bridge.errors import ConfigError
from ollama_bridge.examples import Message

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_A_MESSAGE = 'write {"role": "user", "content": "..."}'
# Source: Message in ollama's api/types.go.
_MESSAGE_FIELDS = frozenset(
    ("role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id")
)
_INSTEAD_OF_CONTENT = ("thinking", "images", "tool_calls")

_SMALLEST_IMAGE_BYTES = 32
_NO_LEVELS = ("", "true", "false", "on", "off", "yes", "no")

# What a field may be; None is not set.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "prompt": (str,),
    "system": (str,),
    "suffix": (str,),
    "template": (str,),
    "raw": (bool,),
    "images": (Sequence,),
    "tools": (Sequence,),
    "think": (bool, str),
    "format": (str, Mapping),
    "keep_alive": (str, int, float),
    "logprobs": (bool,),
    "top_logprobs": (int,),
    "truncate": (bool,),
    "shift": (bool,),
    "dimensions": (int,),
}
_KIND_NAMES: Mapping[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Sequence: "a list",
    Mapping: "an object",
}


class Dumps(Protocol):
    """An object of pydantic's, such as ollama-python's ``Message`` and ``Tool``."""

    def model_dump(self, *, exclude_none: bool) -> dict[str, Any]:
        """As it is in JSON."""


MessageLike = Message | Mapping[str, Any] | Dumps
ToolLike = Mapping[str, Any] | Callable[..., Any] | Tool | Dumps
KeepAlive = str | float | None
Think = bool | str | None
Format = str | Mapping[str, Any] | None
Images = Sequence[bytes | Path | str] | None


@dataclass(frozen=True)
class Asking:
    """The fields that ``generate`` and ``chat`` have in common; None: the daemon's own default.

    Attributes:
        options: By Ollama's names; ``num_predict`` is finite in any case.
        think: Whether to think, or how much: ``low``, ``medium``, ``high``, ``max``, or another
            level that the model has.
        format: ``json``, or a JSON schema.
        keep_alive: How long the model stays loaded afterwards: seconds, or a text as ``10m``.
        logprobs: Log-probabilities of the answer's tokens.
        top_logprobs: That, and of how many rivals of each (0 to 20).
        truncate: Let the daemon cut a prompt that is too long; the reply says by how much. For a
            text (not for a conversation) Ollama 0.34 loads the model anew.
        shift: Let the daemon forget the beginning when the answer fills the context.
    """

    options: Options | None = None
    think: Think = None
    format: Format = None
    keep_alive: KeepAlive = None
    logprobs: bool = False
    top_logprobs: int | None = None
    truncate: bool = False
    shift: bool = False


def tool_list(tools: Sequence[ToolLike]) -> list[dict[str, Any]]:
    """Tools as the API wants them; a function is described by its signature and docstring.

    Raises:
        ConfigError: one is no tool, or a function that a model could not call.
    """
    found: list[dict[str, Any]] = []
    for tool in map(plain, tools):
        if isinstance(tool, Mapping):
            found.append(dict(tool))
        elif isinstance(tool, Tool) or callable(tool):
            found.append(tool_of(tool).to_dict())
        else:
            raise ConfigError(
                "a tool is neither a function nor an object", hint='write {"type": "function", ...}'
            )
    return found


def message_list(
    messages: str | Sequence[MessageLike], *, system: str | None = None
) -> list[dict[str, Any]]:
    """Messages as the API wants them; a text is one user turn.

    Raises:
        ConfigError: a message without a role or a text, or with a field that is unknown.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or isinstance(messages, bytes | bytearray):
        raise ConfigError(
            f"messages must be a text or a list, not {type(messages).__name__}",
            hint='write [{"role": "user", "content": "..."}]',
        )
    found: list[dict[str, Any]] = []
    if system is not None:
        found.append({"role": "system", "content": system})
    for number, message in enumerate(messages):
        said = message.to_dict() if isinstance(message, Message) else plain(message)
        if not isinstance(said, Mapping):
            raise ConfigError(
                f"message {number} must be an object, not {type(message).__name__}",
                hint=_A_MESSAGE,
            )
        item = {name: value for name, value in said.items() if value is not None}
        for name in item:
            if name not in _MESSAGE_FIELDS:
                raise ConfigError(
                    f"message {number} has an unknown field {name!r}: Ollama would ignore it",
                    hint=nearest(str(name), _MESSAGE_FIELDS),
                )
        if not isinstance(item.get("role"), str):
            raise ConfigError(f"message {number} has no role", hint=_A_MESSAGE)
        speaks = "content" in item or not any(item.get(name) for name in _INSTEAD_OF_CONTENT)
        if speaks and not isinstance(item.get("content"), str):
            raise ConfigError(f"message {number} has no text as its content", hint=_A_MESSAGE)
        check_kinds({"images": item.get("images")})
        if item.get("images"):
            item["images"] = [encoded_image(image) for image in item["images"]]
        found.append(item)
    return found


def common_fields(asking: Asking) -> dict[str, Any]:
    """What a question's body says of it.

    Raises:
        ConfigError: a field that the daemon would not take.
    """
    check_kinds({name: value for name, value in vars(asking).items() if name in _KINDS})
    options = check_options(asking.options or {})
    options.setdefault("num_predict", DEFAULT_NUM_PREDICT)
    # Without these two the daemon answers 200 with half of a long prompt gone.
    body: dict[str, Any] = {
        "stream": True,
        "options": options,
        "truncate": asking.truncate,
        "shift": asking.shift,
    }
    extra = {
        "think": _checked_think(asking.think),
        "format": _checked_format(asking.format),
        "keep_alive": asking.keep_alive,
    }
    body |= {name: value for name, value in extra.items() if value is not None}
    if asking.logprobs or asking.top_logprobs is not None:
        top = asking.top_logprobs or 0
        if not 0 <= top <= 20:
            raise ConfigError(
                f"top_logprobs is {top}; Ollama reports 0 to 20", hint="ask for 20 at most"
            )
        body |= {"logprobs": True, "top_logprobs": top}
    return body


def check_kinds(fields: Mapping[str, object]) -> None:
    """Refuse a field that is of another kind than Ollama's.

    Raises:
        ConfigError: one is.
    """
    for name, value in fields.items():
        kinds = _KINDS[name]
        # True is a number and a text a sequence where nobody means it.
        is_other = isinstance(value, bool) and bool not in kinds
        is_other |= isinstance(value, str | bytes) and str not in kinds
        if value is not None and (is_other or not isinstance(value, kinds)):
            hint = f"write {name} as {' or '.join(_KIND_NAMES[kind] for kind in kinds)}"
            if name == "format" and isinstance(value, type):
                wanted = value.__name__
                hint = f"format={wanted}.model_json_schema(), or client.parse(..., {wanted})"
            raise ConfigError(f"{name} is of type {type(value).__name__}", hint=hint)


def _checked_think(think: Think) -> Think:
    # Levels are the model's own since 0.34; which there are is looked up before it is asked.
    if isinstance(think, str) and think.strip().lower() in _NO_LEVELS:
        raise ConfigError(
            f"think is {think!r}",
            hint="write True, False, or a level of the model: low, medium, high, max, ...",
        )
    return think


def _checked_format(format: Format) -> Format:  # noqa: A002  the API's own name
    if isinstance(format, str) and format not in ("", "json"):
        raise ConfigError(f"format is {format!r}", hint="write json, or give a JSON schema")
    return None if format == "" else format


def encode_body(body: Mapping[str, Any]) -> bytes:
    """A request's body as JSON.

    Raises:
        ConfigError: it holds what JSON cannot carry, such as NaN or half a surrogate pair.
    """
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except UnicodeEncodeError as exc:  # its own message would quote the prompt
        raise ConfigError(
            "the request has half of a surrogate pair, which is not valid text",
            hint="write it in UTF-8; in Python text.encode(errors='replace').decode() has a ? in "
            "its place",
        ) from exc
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigError(f"the request cannot be written as JSON: {exc}") from exc


def check_digest(digest: str) -> str:
    """Let nothing but a digest into a path.

    Raises:
        ConfigError: it is not ``sha256:`` and 64 hexadecimal digits.
    """
    if not _DIGEST.fullmatch(digest):
        raise ConfigError(
            f"{digest!r} is not a digest", hint="write sha256: and 64 hexadecimal digits"
        )
    return digest


def checked_model(model: str) -> str:
    """Let a name pass if it is one.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(model, str) or not model.strip():
        raise ConfigError("no model was named", hint="ollama-bridge ls")
    return model


def encoded_image(image: bytes | Path | str) -> str:
    """An image in base64; :func:`read_image` says what it may be."""
    return base64.b64encode(read_image(plain(image))).decode()


def read_image(image: bytes | Path | str) -> bytes:
    """An image: its bytes, a path, or base64 as Ollama's API has it.

    Raises:
        ConfigError: there is no such file, or it is none of these.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, Path | str):
        raise ConfigError(
            f"an image is of type {type(image).__name__}", hint="give bytes or a path"
        )
    path = Path(image)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as exc:
        found = _from_base64(image) if isinstance(image, str) else None
        if found is not None:
            return found
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"image {str(path)[:80]!r}: {why}", hint="check the path") from exc


def _from_base64(text: str) -> bytes | None:
    """An image as Ollama's API wants it; no file name is as long as an image."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) >= _SMALLEST_IMAGE_BYTES else None
