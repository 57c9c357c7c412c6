"""Renders the Modelfile of a GGUF from a Jinja template of ``modelfiles/``.

What a template places with ``[[ from ]]``, ``[[ template ]]``, ``[[ system ]]``, ``[[ license ]]``
and ``[[ stop ]]`` is put in after the text was read, so it arrives exactly, whatever it holds: it
cannot break the grammar, and nothing of it is dropped. Does not talk to a daemon; ``verify`` proves
the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ollama_bridge.artifacts import GGUFFile
from ollama_bridge.assets import find_asset
from ollama_bridge.client.options import DEFAULT_NUM_PREDICT
from ollama_bridge.config import ModelfileSection
from ollama_bridge.errors import ConfigError, ModelfileError
from ollama_bridge.modelfile import (
    Modelfile,
    ParameterValue,
    check_parameters,
    dropped_characters,
)
from ollama_bridge.reference import SERVED_CONTEXT, ReferenceValues

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
        unsaid: As in :func:`choose_parameters`.

    Raises:
        ModelfileError: the template is wrong (with its line), a parameter is unknown, or the
            reference values do not say how the checkpoint's chat format is rendered.
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
    if name != "auto" or served is None or served.renderer is None:
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
    """The shipped Modelfile template for a checkpoint, by who renders its prompts.

    Raises:
        ModelfileError: the reference values do not say.
    """
    if not reference.has_chat_template:
        return "completion"
    if reference.template is None:
        raise ModelfileError(
            "the reference values do not say how the checkpoint's chat format is rendered: they "
            "were made by an older ollama-bridge",
            hint="remove the artefacts and build them again, or name a format: "
            "ollama-bridge modelfiles ls",
        )
    return "synthesised" if reference.template.authority == "template" else "jinja"


def choose_parameters(
    reference: ReferenceValues,
    asked: Mapping[str, object],
    unsaid: Mapping[str, ParameterValue | None] = MappingProxyType({}),
) -> dict[str, ParameterValue]:
    """PARAMETER values: what was asked for, over the checkpoint's own sampling, over ours.

    But by ``unsaid``, nothing that changes an answer is left to the daemon: its defaults differ
    from version to version (``repeat_penalty`` is 1.1 before 0.30, also at temperature 0), and from
    transformers'.

    Args:
        reference: Of the checkpoint.
        asked: PARAMETERs that were asked for.
        unsaid: What is taken in place of the checkpoint's sampling and ours, if anything; None: the
            daemon's own, whatever that is.

    Raises:
        ModelfileError: unknown name or wrong type.
    """
    own, wanted = {} if unsaid else reference.generation, check_parameters(asked)
    ends = (token.text for token in reference.end_tokens)
    num_ctx = wanted.get("num_ctx")
    if not isinstance(num_ctx, int):
        unstretched = reference.unstretched_context or SERVED_CONTEXT
        num_ctx = min(reference.context_length, unstretched, SERVED_CONTEXT)
    chosen: dict[str, object] = {
        "num_predict": _default_limit(num_ctx, thinks=reference.thinks),
        "num_ctx": num_ctx,
        "repeat_penalty": 1.0,
        "temperature": 0.0,  # Hugging Face decodes greedily unless the checkpoint says otherwise
        **unsaid,
    }
    if "max_new_tokens" in own:
        chosen["num_predict"] = _own_limit(int(own["max_new_tokens"]), num_ctx)
    if own.get("repetition_penalty", 1.0) != 1:
        chosen["repeat_penalty"] = own["repetition_penalty"]
        if "repeat_penalty" not in wanted:
            chosen["repeat_last_n"] = num_ctx  # transformers looks at the whole text, Ollama at 64
    if own.get("do_sample"):
        chosen["temperature"] = own.get("temperature", 1.0)
        chosen["top_k"] = own.get("top_k", 50)
        chosen["top_p"] = own.get("top_p", 1.0)
        if "min_p" in own:
            chosen["min_p"] = own["min_p"]
    # Ends are the checkpoint's, whatever else an answer is to stop at.
    stops = wanted.get("stop", ())
    if isinstance(stops, tuple):
        wanted["stop"] = tuple(dict.fromkeys((*ends, *stops)))
    merged = {**chosen, **wanted}
    return check_parameters({name: one for name, one in merged.items() if one is not None})


def name_unsaid(
    made: Mapping[str, ParameterValue], reference: ReferenceValues, asked: Mapping[str, object]
) -> dict[str, ParameterValue]:
    """The part of a tag's PARAMETERs that neither was asked for nor is the checkpoint's own.

    Args:
        made: Of the tag.
        reference: Of the checkpoint.
        asked: PARAMETERs that were asked for.
    """
    said = reference.generation
    own = {
        "num_predict": "max_new_tokens" in said,
        "repeat_penalty": said.get("repetition_penalty") == made.get("repeat_penalty"),
        "temperature": bool(said.get("do_sample"))
        and said.get("temperature", 1.0) == made.get("temperature"),
    }
    names = ("num_ctx", *own)
    return {
        name: made[name]
        for name in names
        if name in made and name not in asked and not own.get(name)
    }


def limits_of(
    settings: ModelfileSection, *, max_new_tokens: int | None = None, thinks: bool = False
) -> dict[str, float]:
    """``num_predict`` and ``num_ctx`` of a tag, as far as its context has room; below 0: infinite.

    Args:
        settings: Of the recipe.
        max_new_tokens: Of the checkpoint's generation config; None: it does not say.
        thinks: Whether its thinking is told from its answers.

    Raises:
        ModelfileError: a parameter is unknown, or of another type.
    """
    asked = {
        name: value
        for name, value in check_parameters(settings.parameters).items()
        if isinstance(value, int)
    }
    num_ctx = asked.get("num_ctx", SERVED_CONTEXT)
    own = _default_limit(num_ctx, thinks=thinks)
    if max_new_tokens is not None:
        own = _own_limit(max_new_tokens, num_ctx)
    limits = {"num_predict": asked.get("num_predict", own), "num_ctx": num_ctx}
    return {name: math.inf if limit < 0 else limit for name, limit in limits.items()}


def _default_limit(num_ctx: int, *, thinks: bool) -> int:
    """Where nobody says one: all of the context for thoughts and answer, which are cut as one."""
    return max(DEFAULT_NUM_PREDICT, num_ctx) if thinks else DEFAULT_NUM_PREDICT


def _own_limit(max_new_tokens: int, num_ctx: int) -> int:
    """A limit of the checkpoint's below ours would cut; one above the context lose the prompt."""
    return max(DEFAULT_NUM_PREDICT, min(max_new_tokens, num_ctx))


def check_labels_fit(
    settings: ModelfileSection, labels: Sequence[str], count_tokens: Callable[[str], int]
) -> None:
    """Make sure that ``num_predict`` lets a classifier say each of its labels, and end.

    Args:
        settings: Of the recipe.
        labels: The answers; none: nothing is checked.
        count_tokens: How many the student writes to say a label: with its end, and an empty
            thought where it has to write one.

    Raises:
        ConfigError: the tag would cut its longest label.
        ModelfileError: a parameter is unknown, or of another type.
    """
    limit = limits_of(settings)["num_predict"]
    if not labels:
        return
    needed, longest = max((count_tokens(label), label) for label in labels)
    if limit < needed:
        raise ConfigError(
            f"modelfile.parameters.num_predict is {limit}, but the label {longest!r} and its end "
            f"are {needed} tokens as the student writes them: the tag would cut its answer",
            hint=f"add --set modelfile.parameters.num_predict={needed}",
        )


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
        source = file.read_text(encoding="utf-8")
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
