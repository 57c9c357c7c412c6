"""A Modelfile as a value: its text for ``ollama create -f``, its request for ``/api/create``.

Ollama's grammar has no escapes and silently drops what it does not print, so the text cannot
carry every value that the request can. :meth:`Modelfile.to_text` therefore refuses what would not
be read back equal. Does not know GGUF files, daemons or Jinja.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ollama_bridge.errors import ModelfileError
from ollama_bridge.modelfile.grammar import (
    Command,
    bare_or_quoted,
    quoted,
    read_commands,
    value_problems,
)
from ollama_bridge.modelfile.parameters import (
    ParameterValue,
    check_parameters,
    parse_parameter,
)

_CARRIED = ("from", "license", "template", "system", "parameter", "renderer", "parser")
_GLOB = frozenset("*?[\\")
_BUILT_IN = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Modelfile:
    """What a tag is made of. Empty texts count as absent, as Ollama takes them.

    Attributes:
        from_: FROM: a GGUF file, or another tag.
        template: TEMPLATE: Go template of the prompt.
        system: SYSTEM: prompt that the daemon puts before conversations without one.
        parameters: PARAMETER lines, by Ollama's names and types.
        license: LICENSE.
        renderer: RENDERER: code of Ollama's own that renders prompts, instead of a TEMPLATE.
        parser: PARSER: code of Ollama's own that finds thinking and tool calls in answers.
    """

    from_: str
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    license: str | None = None
    renderer: str | None = None
    parser: str | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ModelfileError: an unknown parameter, a value of the wrong type, or no text at all.
        """
        parameters = MappingProxyType(check_parameters(self.parameters))
        object.__setattr__(self, "parameters", parameters)
        if not self.from_.strip():
            raise ModelfileError("FROM is empty: name a GGUF file or a tag")
        for name in ("from_", "template", "system", "license"):
            text = getattr(self, name)
            if text is not None and not text:
                object.__setattr__(self, name, None)
            elif text is not None and not _is_unicode(text):
                raise ModelfileError(
                    f"{_label(name)} has half of a surrogate pair, which is not valid text"
                )
        for name in ("renderer", "parser"):
            text = getattr(self, name)
            if text is not None and not _BUILT_IN.fullmatch(text):
                raise ModelfileError(
                    f"{_label(name)} {text!r} is not a name that Ollama's built-in code can have"
                )
        for stop in _stops(self.parameters):
            if not _is_unicode(stop):
                raise ModelfileError(
                    "PARAMETER stop has half of a surrogate pair, which is not valid text"
                )

    def replace_from(self, from_: str) -> Modelfile:
        """The same with another FROM."""
        return dataclasses.replace(self, from_=from_)

    def text_differences(self) -> tuple[str, ...]:
        """What the text form could not carry, in words; empty if it is exact."""
        problems = [
            f"{place}: {problem}"
            for place, value in self._texts()
            for problem in value_problems(value)
        ]
        if _GLOB & set(self.from_):
            problems.append("FROM: Ollama takes * ? [ and \\ in it as a file pattern")
        if self.from_.startswith("~"):
            problems.append("FROM: Ollama takes ~ at its start as a home folder")
        return tuple(problems)

    def to_text(self) -> str:
        """The text for ``ollama create -f``: Ollama reads exactly this value from it.

        Raises:
            ModelfileError: naming what the grammar cannot carry; :meth:`to_request` can.
        """
        problems = self.text_differences()
        if problems:
            raise ModelfileError(
                "Ollama's Modelfile grammar cannot carry this:\n"
                + "\n".join(f"  - {problem}" for problem in problems),
                hint="register it through the API (ollama-bridge register), which is exact",
            )
        lines = [f"FROM {bare_or_quoted(self.from_)}"]
        for name in ("renderer", "parser"):
            if getattr(self, name) is not None:
                lines.append(f"{_label(name)} {getattr(self, name)}")
        if self.template is not None:
            lines.append(f"TEMPLATE {quoted(self.template)}")
        if self.system is not None:
            lines.append(f"SYSTEM {quoted(self.system)}")
        for name, value in sorted(self.parameters.items()):
            for item in value if isinstance(value, tuple) else (value,):
                lines.append(f"PARAMETER {name} {_parameter_text(item)}")
        if self.license is not None:
            lines.append(f"LICENSE {quoted(self.license)}")
        return "\n".join(lines) + "\n"

    def to_request(self, tag: str, *, blob_digest: str) -> dict[str, Any]:
        """The body for ``POST /api/create``; always exact.

        Args:
            tag: The tag to create.
            blob_digest: ``sha256:<hex>`` of the GGUF, which the daemon already has.
        """
        request: dict[str, Any] = {"model": tag, "files": {"model.gguf": blob_digest}}
        for name in ("template", "system", "license", "renderer", "parser"):
            value = getattr(self, name)
            if value is not None:
                request[name] = value
        if self.parameters:
            request["parameters"] = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in sorted(self.parameters.items())
            }
        return request

    @classmethod
    def parse(cls, text: str) -> Modelfile:
        """Read a text as Ollama does; see :func:`parse_modelfile`."""
        return parse_modelfile(text)

    def _texts(self) -> list[tuple[str, str]]:
        texts = [("FROM", self.from_)]
        for name in ("template", "system", "license"):
            value = getattr(self, name)
            if value is not None:
                texts.append((_label(name), value))
        stops = _stops(self.parameters)
        texts += [(f"PARAMETER stop {stop!r}", stop) for stop in stops]
        return texts


def parse_modelfile(text: str) -> Modelfile:
    """Read a Modelfile exactly as Ollama does: characters that it drops are dropped here too.

    Raises:
        ModelfileError: what Ollama would refuse, and instructions that this package does not
            carry (ADAPTER, MESSAGE, REQUIRES, DRAFT).
    """
    return modelfile_of(read_commands(text))


def modelfile_of(commands: Iterable[Command]) -> Modelfile:
    """What instructions say; see :func:`parse_modelfile`."""
    values: dict[str, str] = {}
    parameters: dict[str, ParameterValue] = {}
    licenses: list[str] = []
    for found in commands:
        command, argument, value = found.name, found.argument, found.value
        if command == "parameter":
            parsed = parse_parameter(argument, value, where=f"line {found.line}")
            known = parameters.get(argument)
            if isinstance(parsed, tuple) and isinstance(known, tuple):
                parsed = known + parsed
            parameters[argument] = parsed
        elif command == "license":
            licenses.append(value)
        elif command not in _CARRIED:
            raise ModelfileError(
                f"line {found.line}: {command.upper()} is not supported by ollama-bridge",
                hint="supported: FROM, TEMPLATE, SYSTEM, PARAMETER, LICENSE, RENDERER, PARSER",
            )
        elif command == "from" and "from" in values:
            raise ModelfileError(f"line {found.line}: a second FROM")
        else:
            values[command] = value
    if "from" not in values:
        raise ModelfileError("no FROM line")
    if len(licenses) > 1:
        raise ModelfileError("more than one LICENSE: put them into one")
    return Modelfile(
        from_=values["from"],
        template=values.get("template"),
        system=values.get("system"),
        parameters=parameters,
        license=licenses[0] if licenses else None,
        renderer=values.get("renderer"),
        parser=values.get("parser"),
    )


def _label(name: str) -> str:
    return name.rstrip("_").upper()


def _stops(parameters: Mapping[str, ParameterValue]) -> tuple[str, ...]:
    value = parameters.get("stop", ())
    return value if isinstance(value, tuple) else ()


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parameter_text(value: object) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
