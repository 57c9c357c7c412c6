"""What is asked of a package, checked before the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ollama_bridge.client.values import name_key
from ollama_bridge.errors import ConfigError

if TYPE_CHECKING:
    from ollama_bridge.config import ModelfileSection

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
    from ollama_bridge.config import ModelfileSection
    from ollama_bridge.rendering import check_settings

    settings = ModelfileSection.model_validate(said)
    check_settings(settings)
    return settings.model_copy(update={"license": license_text}) if license_text else settings


def check_replaces_no_source(tag: str, sources: Iterable[str | None], gguf_type: str) -> None:
    """Keep the user's model: what the new tag has not of it would be gone.

    Args:
        tag: That is made.
        sources: References of what it is made of.
        gguf_type: Of its file, for the hint.

    Raises:
        ConfigError: the tag is one of them, under any of its names.
    """
    for source in sources:
        if source is None or not source.startswith(IN_OLLAMA):
            continue
        if name_key(source.removeprefix(IN_OLLAMA)) == name_key(tag):
            has_variant = ":" in tag.rpartition("/")[2]
            other = f"{tag}-{gguf_type}" if has_variant else f"{tag}:{gguf_type}"
            raise ConfigError(
                f"{tag} is what it is to be made of, {source}: it would be replaced",
                hint=f"name another: {other}",
            )
