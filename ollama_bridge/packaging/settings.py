"""What is asked of a package, checked before the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.client.model_names import name_key
from ollama_bridge.errors import ConfigError

if TYPE_CHECKING:
    from ollama_bridge.conversion import Target
    from ollama_bridge.modelfile import ParameterValue
    from ollama_bridge.recipe.config import ModelfileSection

IN_OLLAMA = "ollama:"  # of a model reference


def read_settings(said: Mapping[str, object], license_text: str) -> ModelfileSection:
    """What is asked of the Modelfile.

    Args:
        said: As in a recipe's ``modelfile`` section.
        license_text: LICENSE; empty: that of the section.

    Raises:
        ModelfileError: a parameter is unknown or of another type, or a template cannot be read.
        ConfigError: no such template.
    """
    from ollama_bridge.recipe.config import ModelfileSection
    from ollama_bridge.rendering import check_settings

    settings = ModelfileSection.model_validate(said)
    check_settings(settings)
    return settings.model_copy(update={"license": license_text}) if license_text else settings


def check_served_apart(*, target: Target | None, chat_template: Path | None) -> None:
    """What cannot be asked of an adapter that is served on top of its base.

    Raises:
        ConfigError: it is asked for.
    """
    if target is not None:
        raise ConfigError(
            "a budget is measured on the merged model, and --adapter serves another file",
            hint="leave out --adapter, or --budget and --max-size",
        )
    if chat_template is not None:
        raise ConfigError(
            "--adapter serves the base's file, whose chat template is the base's own",
            hint="leave out --adapter, or --chat-template",
        )


def check_replaces_no_source(
    tag: str, sources: Iterable[str | None], gguf_type: str, *, force: bool
) -> None:
    """Keep the user's model: what the new tag has not of it would be gone.

    Args:
        tag: That is made.
        sources: References of what it is made of.
        gguf_type: Of its file, for the hint.
        force: It gets another name where its proof fails.

    Raises:
        ConfigError: the tag is one of them, under any of its names.
    """
    from ollama_bridge.registration import UNVERIFIED

    made = {name_key(name): name for name in (tag, *([f"{tag}{UNVERIFIED}"] if force else []))}
    for source in sources:
        if source is None or not source.startswith(IN_OLLAMA):
            continue
        name = made.get(name_key(source.removeprefix(IN_OLLAMA)))
        if name is not None:
            has_variant = ":" in tag.rpartition("/")[2]
            other = f"{tag}-{gguf_type}" if has_variant else f"{tag}:{gguf_type}"
            raise ConfigError(
                f"the new tag {name} would replace its own source, {source}",
                hint=f"name another: {other}",
            )


def describe_unsaid(
    checkpoint: str, unsaid: Mapping[str, ParameterValue], made: Mapping[str, ParameterValue]
) -> list[str]:
    """What nobody asked for, and changes or ends answers.

    Args:
        checkpoint: Of what the tag is made.
        unsaid: PARAMETERs of the tag that nobody asked for.
        made: All of its PARAMETERs.
    """
    said = []
    if unsaid:
        written = ", ".join(f"{name} {value}" for name, value in unsaid.items())
        begin = f"{checkpoint} does not set these, so the tag sets its own"
        said.append(f"{begin}: PARAMETER {written} (else: -p NAME=VALUE)")
    if "num_ctx" not in made:
        begin = "the context is left to Ollama and the machine"
        said.append(f"{begin}, as in {checkpoint} (else: -p num_ctx=N)")
    return said
