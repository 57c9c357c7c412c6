"""Renders the Modelfile of a GGUF from a Jinja template of ``modelfiles/``.

What a template places with ``[[ from ]]``, ``[[ template ]]``, ``[[ system ]]``, ``[[ license ]]``
and ``[[ stop ]]`` is put in after the text was read, so it arrives exactly, whatever it holds: it
cannot break the grammar, and nothing of it is dropped. Does not talk to a daemon; ``verify`` proves
the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ollama_bridge.assets import find_asset
from ollama_bridge.errors import ModelfileError
from ollama_bridge.modelfile import (
    Modelfile,
    ParameterValue,
    check_parameters,
    dropped_characters,
)
from ollama_bridge.recipe.config import ModelfileSection
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.storage.artifacts import GGUFFile
from ollama_bridge.tag_parameters import choose_parameters

_OPEN, _CLOSE = "⟦", "⟧"


def render(
    gguf: GGUFFile,
    *,
    settings: ModelfileSection,
    system: str | None,
    unsaid: Mapping[str, ParameterValue | None] = MappingProxyType({}),
) -> Modelfile:
    """The Modelfile of a GGUF.

    Args:
        gguf: The converted model and its reference values.
        settings: Template and parameters of the recipe.
        system: SYSTEM; None: the default of the checkpoint's chat template, if it has one.
        unsaid: As in :func:`~ollama_bridge.tag_parameters.choose_parameters`.

    Raises:
        ModelfileError: the template is wrong (with its line), or a parameter is unknown.
        ConfigError: no such template.
    """
    reference = ReferenceValues.read(gguf.reference_path)
    name = settings.template
    file = find_asset("modelfiles", choose_file(reference) if name == "auto" else name)
    modelfile = render_file(
        file,
        from_=str(gguf.gguf_path),
        system=system if system is not None else reference.system,
        parameters=choose_parameters(reference, settings.parameters, unsaid),
        license_=settings.license,
        turn_end=reference.turn_end,
        template=reference.template.go if reference.template is not None else None,
    )
    served = reference.template
    if name != "auto" or served is None:
        return modelfile
    return replace(modelfile, renderer=served.renderer, parser=served.parser)


def check_settings(settings: ModelfileSection) -> None:
    """Tell what would stop :func:`render`, before the work that comes before it is done.

    Raises:
        ModelfileError: a parameter is unknown or of another type, or a template cannot be read.
        ConfigError: no such template.
    """
    check_parameters(settings.parameters)
    if settings.template != "auto":
        _read_template(find_asset("modelfiles", settings.template))


def completion_template() -> str | None:
    """TEMPLATE of a tag that continues texts."""
    file = find_asset("modelfiles", "completion")
    return render_file(
        file, from_="m.gguf", system=None, parameters={}, license_=None, turn_end=None
    ).template


def choose_file(reference: ReferenceValues) -> str:
    """The shipped Modelfile template for a checkpoint, by who renders its prompts."""
    if not reference.has_chat_template:
        return "completion"
    rendered = reference.template
    return "synthesised" if rendered and rendered.authority == "template" else "jinja"


def render_file(
    file: Path,
    *,
    from_: str,
    system: str | None,
    parameters: Mapping[str, ParameterValue],
    license_: str | None,
    turn_end: str | None,
    template: str | None = None,
) -> Modelfile:
    """Render one template and read the result as Ollama would.

    Raises:
        ModelfileError: Jinja's errors with file and line, an instruction that Ollama does not
            know, or a character that Ollama would drop.
    """
    values = _Placeholders()
    stop = parameters.get("stop", ())
    text = _render_jinja(
        file,
        _read_template(file),
        {
            "from": values.add(from_),
            "system": values.add(system) if system else None,
            "stop": [values.add(text) for text in stop] if isinstance(stop, tuple) else [],
            "parameters": {
                name: str(value).lower() if isinstance(value, bool) else value
                for name, value in sorted(parameters.items())
                if name != "stop"
            },
            "license": values.add(license_) if license_ else None,
            "turn_end": values.add(turn_end) if turn_end else None,
            "template": values.add(template) if template else None,
        },
    )
    try:
        parsed = Modelfile.parse(text)
    except ModelfileError as exc:
        raise ModelfileError(
            f"{file} does not render to a Modelfile: {exc}", hint=exc.hint
        ) from exc
    return values.fill_all(parsed, file)


def _read_template(file: Path) -> str:
    try:
        source = file.read_text(encoding="utf-8-sig")  # an editor's mark, which Ollama reads over
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelfileError(f"{file} cannot be read: {exc}") from exc
    for line, character in dropped_characters(source):
        raise ModelfileError(
            f"{file}, line {line}: Ollama would silently drop the character U+{ord(character):04X}",
            hint="write it as a Go string inside the TEMPLATE",
        )
    return source


class _Placeholders:
    """Stands in for texts while the grammar, which cannot carry every text, is read."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def add(self, text: str) -> str:
        mark = f"{_OPEN}ollama-bridge-{len(self._texts)}{_CLOSE}"
        self._texts[mark] = text
        return mark

    def fill_all(self, parsed: Modelfile, file: Path) -> Modelfile:
        """Put the texts in wherever a Modelfile may have them."""
        return replace(
            parsed,
            from_=self._fill(parsed.from_, file),
            template=self._fill_optional(parsed.template, file),
            system=self._fill_optional(parsed.system, file),
            license=self._fill_optional(parsed.license, file),
            parameters={
                name: tuple(self._fill(item, file) for item in value)
                if isinstance(value, tuple)
                else value
                for name, value in parsed.parameters.items()
            },
        )

    def _fill(self, text: str, file: Path) -> str:
        # One pass over the marks: what is put in is never searched for marks again.
        parts: list[str] = []
        while text:
            found = [(text.find(mark), mark) for mark in self._texts if mark in text]
            if not found:
                break
            start, mark = min(found)
            parts += [text[:start], self._texts[mark]]
            text = text[start + len(mark) :]
        if _OPEN + "OLLAMA-BRIDGE" in text.upper():
            raise ModelfileError(
                f"{file}: system, license, stop, template and from cannot be changed by a filter",
                hint="use them unchanged: [[ system ]]",
            )
        return "".join([*parts, text])

    def _fill_optional(self, text: str | None, file: Path) -> str | None:
        return None if text is None else self._fill(text, file)


def _render_jinja(file: Path, source: str, variables: Mapping[str, object]) -> str:
    # A recipe may be a stranger's, and has no code.
    environment = ImmutableSandboxedEnvironment(
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",  # {{ }} is Go's
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        return environment.from_string(source).render(variables)
    except jinja2.TemplateSyntaxError as exc:
        raise ModelfileError(f"{file}, line {exc.lineno}: {exc.message}") from exc
    except jinja2.UndefinedError as exc:
        raise ModelfileError(
            f"{file}, line {_line_of(exc)}: {exc.message}",
            hint=f"variables: {', '.join(sorted(variables))}",
        ) from exc
    except (SyntaxError, RecursionError, MemoryError) as exc:  # of Python's own compiler
        raise ModelfileError(f"{file} cannot be compiled: {exc}") from exc
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as exc:
        raise ModelfileError(f"{file}, line {_line_of(exc)}: {exc}") from exc


def _line_of(exc: BaseException) -> int:
    """The template's line, out of the traceback that Jinja rewrites to point at it."""
    line, traceback = 0, exc.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
