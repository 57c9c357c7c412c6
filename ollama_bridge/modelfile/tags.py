"""The names of tags, by Ollama's grammar (``types/model/name.go``)."""

from __future__ import annotations

import re

from ollama_bridge.errors import ConfigError


def check_tag(tag: str) -> str:
    """Check the name of a tag by Ollama's grammar; returns it with its tag part.

    Raises:
        ConfigError: naming the part that is wrong.
    """
    rest, part = tag, "latest"
    if tag.rfind(":") > tag.rfind("/"):
        rest, _, part = tag.rpartition(":")
    names = rest.split("/")
    if len(names) > 3:
        raise _tag_error(tag, "it has more than host/namespace/model:tag")
    kinds = ("host", "namespace", "model")[-len(names) :]
    for kind, name in (*zip(kinds, names, strict=True), ("tag", part)):
        extra = {"host": ".:", "namespace": ""}.get(kind, ".")
        longest = 350 if kind == "host" else 80
        if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_\-{re.escape(extra)}]*", name):
            allowed = "letters, digits, _ -" + "".join(f" {character}" for character in extra)
            raise _tag_error(tag, f"its {kind} part {name!r} may only hold {allowed}")
        if len(name) > longest:
            raise _tag_error(tag, f"its {kind} part has {len(name)} characters, not 1-{longest}")
    return f"{rest}:{part}"


def _tag_error(tag: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{tag!r} is not a valid tag name: {reason}",
        hint="write it as name or name:tag, for instance review-sentiment:latest",
    )
