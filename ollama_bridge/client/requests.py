"""What the client sends: request bodies, checked before they leave."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.errors import ConfigError
from ollama_bridge.examples import Message

# A model whose stop is wrong generates until the context is full, unless it is told a limit.
DEFAULT_NUM_PREDICT = 1024

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

# The daemon ignores names that it does not know, with a line in its own log only.
KNOWN_OPTIONS = frozenset(
    {
        "draft_num_predict",
        "frequency_penalty",
        "main_gpu",
        "min_p",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_predict",
        "num_thread",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "use_mmap",
    }
)

_A_MESSAGE = 'write {"role": "user", "content": "..."}'

MessageLike = Message | Mapping[str, Any]
Options = Mapping[str, Any]
KeepAlive = str | float | None
Think = bool | str | None
Format = str | Mapping[str, Any] | None
Images = Sequence[bytes | Path | str] | None


@dataclass(frozen=True)
class Asking:
    """The fields that ``generate`` and ``chat`` have in common."""

    options: Options | None = None
    think: Think = None
    format: Format = None
    keep_alive: KeepAlive = None
    logprobs: bool = False
    top_logprobs: int | None = None


def generate_body(
    model: str,
    prompt: str,
    asking: Asking,
    *,
    system: str | None = None,
    suffix: str | None = None,
    template: str | None = None,
    raw: bool = False,
    images: Images = None,
) -> dict[str, Any]:
    """Body of ``/api/generate``."""
    body = {"model": _checked_model(model), "prompt": prompt, **_common(asking)}
    extra = {"system": system, "suffix": suffix, "template": template}
    body |= {name: value for name, value in extra.items() if value is not None}
    if raw:
        body["raw"] = True
    if images:
        body["images"] = [_image(image) for image in images]
    return body


def chat_body(
    model: str,
    messages: str | Sequence[MessageLike],
    asking: Asking,
    *,
    system: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Body of ``/api/chat``."""
    body = {
        "model": _checked_model(model),
        "messages": message_list(messages, system=system),
        **_common(asking),
    }
    if tools:
        body["tools"] = [dict(tool) for tool in tools]
    return body


def message_list(
    messages: str | Sequence[MessageLike], *, system: str | None = None
) -> list[dict[str, Any]]:
    """Messages as the API wants them; a text is one user turn.

    Raises:
        ConfigError: a message without a role.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    found: list[dict[str, Any]] = []
    if system is not None:
        found.append({"role": "system", "content": system})
    for number, message in enumerate(messages):
        if not isinstance(message, Message | Mapping):
            raise ConfigError(f"message {number} is a {type(message).__name__}", hint=_A_MESSAGE)
        item: dict[str, Any] = (
            {**message.to_dict()} if isinstance(message, Message) else {**message}
        )
        if not isinstance(item.get("role"), str):
            raise ConfigError(f"message {number} has no role", hint=_A_MESSAGE)
        if item.get("images"):
            item["images"] = [_image(image) for image in item["images"]]
        found.append(item)
    return found


def check_options(options: Options) -> dict[str, Any]:
    """Refuse option names that the daemon would ignore; None means not set.

    Raises:
        ConfigError: with the nearest right name.
    """
    found = {name: value for name, value in options.items() if value is not None}
    for name in found:
        if name not in KNOWN_OPTIONS:
            near = difflib.get_close_matches(name, sorted(KNOWN_OPTIONS), n=1, cutoff=0.5)
            hint = (
                f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(KNOWN_OPTIONS))
            )
            raise ConfigError(f"unknown option {name!r}: Ollama would ignore it", hint=hint)
    limit = found.get("num_predict")
    if isinstance(limit, int) and limit < 1:
        raise ConfigError(
            f"num_predict is {limit}: an answer needs a finite limit",
            hint=f"set num_predict to at least 1; without one it is {DEFAULT_NUM_PREDICT}",
        )
    return found


def _common(asking: Asking) -> dict[str, Any]:
    options = check_options(asking.options or {})
    options.setdefault("num_predict", DEFAULT_NUM_PREDICT)
    # Without these two the daemon answers 200 with half of a long prompt gone.
    body: dict[str, Any] = {
        "stream": True,
        "options": options,
        "truncate": False,
        "shift": False,
    }
    extra = {"think": asking.think, "format": asking.format, "keep_alive": asking.keep_alive}
    body |= {name: value for name, value in extra.items() if value is not None}
    if asking.logprobs or asking.top_logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = asking.top_logprobs or 0
    return body


def encode_body(body: Mapping[str, Any]) -> bytes:
    """A request's body as JSON.

    Raises:
        ConfigError: it holds what JSON cannot carry, such as NaN or half a surrogate pair.
    """
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except UnicodeEncodeError as exc:  # its own message would quote the prompt
        raise ConfigError("the request holds a character that is no Unicode text") from exc
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigError(f"the request cannot be written as JSON: {exc}") from exc


def check_digest(digest: str) -> str:
    """Let nothing but a digest into a path.

    Raises:
        ConfigError: it is not ``sha256:`` and 64 hexadecimal digits.
    """
    if not _DIGEST.fullmatch(digest):
        raise ConfigError(
            f"{digest!r} is no digest", hint="write sha256: and 64 hexadecimal digits"
        )
    return digest


def _checked_model(model: str) -> str:
    if not model.strip():
        raise ConfigError("no model was named", hint="ollama-bridge ls")
    return model


def _image(image: bytes | Path | str) -> str:
    if isinstance(image, bytes):
        return base64.b64encode(image).decode()
    path = Path(image)
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as exc:
        raise ConfigError(f"image {path}: {exc.strerror}", hint="check the path") from exc
