"""Options of the commands that ask a model, and what they mean."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ollama_bridge.errors import ConfigError

if TYPE_CHECKING:
    from ollama_bridge.client import ModelDetails

SystemOption = Annotated[
    str | None, typer.Option("--system", help="System prompt to use instead of the model's own.")
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter", "-p", help="Set a parameter: name=value, such as temperature=0. Repeatable."
    ),
]
ThinkOption = Annotated[
    str | None,
    typer.Option(
        "--think",
        help="Think before answering: true (the same as --think alone), false, low, medium, high "
        "or max. For another level of the model: --think=LEVEL.",
    ),
]
HideThinkingOption = Annotated[
    bool, typer.Option("--hide-thinking", "--hidethinking", help="Do not show thinking.")
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="Form of the answer: json, or a file with a JSON schema."),
]
KeepAliveOption = Annotated[
    str | None,
    typer.Option(
        "--keepalive",
        help="Keep the model loaded this long: 5m, 0 (unload at once) or -1 (for ever).",
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Print times and rates on stderr.")]
_DURATION = re.compile(r"-?(\d+(\.\d*)?(ns|us|ms|s|m|h))+")  # as Go writes one
LEVELS = ("low", "medium", "high", "max")  # of models that do not tell their own
THINK = {"true": True, "false": False} | {name: name for name in LEVELS}


def read_options(pairs: list[str] | None) -> dict[str, Any]:
    """``name=value`` pairs as options of a question.

    Raises:
        ConfigError: no pair, no such option, or no such value.
    """
    from ollama_bridge.modelfile.parameters import parse_parameter

    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--parameter {pair!r}: write it as name=value")
        value = parse_parameter(name, text, where="--parameter")
        found[name] = [*found.get(name, []), *value] if isinstance(value, tuple) else value
    return found


def read_think(text: str | None) -> bool | str | None:
    """What ``--think`` means; empty: it stands alone.

    Which levels there are the model tells, and the client or the daemon compares.
    """
    if text is None:
        return None
    return THINK.get(text.lower(), text) if text else True


def check_is_prompt(word: str, think: str | None, details: ModelDetails) -> None:
    """Of ``--think LEVEL "..."`` only a level that every model may have is none of the prompt.

    Raises:
        ConfigError: it is a level of the model's own, behind ``--think`` alone.
    """
    if think == "" and word in details.think_levels:
        raise ConfigError(
            f"--think {word} is ambiguous: a level of thinking, or the prompt's first word?",
            hint=f"write --think={word}, or --think=true",
        )


def read_format(text: str | None) -> str | dict[str, Any] | None:
    """What ``--format`` means: ``json`` or the schema in a file.

    Raises:
        ConfigError: no such file, or no JSON object in it.
    """
    if text is None or text == "json":
        return text
    try:
        schema = json.loads(Path(text).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as exc:
        reason = "it is nested too deep" if isinstance(exc, RecursionError) else "it is not JSON"
        if isinstance(exc, OSError):
            reason = str(exc.strerror)
        raise ConfigError(
            f"--format {text}: {reason}", hint="write json, or name a file with a JSON schema"
        ) from exc
    if not isinstance(schema, dict):
        raise ConfigError(f"--format {text}: a JSON schema must be an object")
    return schema


def read_keep_alive(text: str | None) -> str | float | None:
    """``--keepalive`` as the API wants it: a bare number is seconds.

    Raises:
        ConfigError: no time.
    """
    if text is None:
        return None
    if _DURATION.fullmatch(text):
        return text
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(text)):
            return seconds
    raise ConfigError(
        f"--keepalive {text!r} is not a duration",
        hint="write 5m, 1h30m, 0 (at once) or -1 (for ever)",
    )
