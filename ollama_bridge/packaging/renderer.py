"""What renders a tag's prompts in place of a Go template that loses tools or thinking."""

from __future__ import annotations

from collections.abc import Callable

from ollama_bridge.client import Client, ModelDetails
from ollama_bridge.errors import ArtifactError
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.template.authority import NativeJinja, Renderer, lost_by


def find_renderer(
    checkpoint: Checkpoint,
    client: Client,
    *,
    ensure_daemon: Callable[[], None],
    reporter: Reporter,
) -> Renderer | NativeJinja | None:
    """Code of Ollama's own that renders what a Go template cannot, or else its Jinja.

    Args:
        checkpoint: With the values of the tag that Go would render.
        client: Speaks to the daemon.
        ensure_daemon: Starts it, where something is to be tried.
        reporter: Hears what was found.

    Returns:
        None: Go loses nothing, or nothing was seen to render it.

    Raises:
        DaemonError: the daemon could not answer.
    """
    from ollama_bridge.models.load import load_tokenizer
    from ollama_bridge.models.settings.chat_template import chat_template_of
    from ollama_bridge.verify.native_jinja import find_native_jinja
    from ollama_bridge.verify.renderers import find_renderer as find_built_in

    served = ReferenceValues.read(checkpoint.reference_path).template
    template = chat_template_of(load_tokenizer(checkpoint.path)) if served is not None else None
    if template is None or served is None:
        return None
    lost = lost_by(template, served.capabilities)
    if served.go is not None and not lost:
        return None
    ensure_daemon()
    found: Renderer | NativeJinja | None = find_built_in(client, template)
    if found is None and served.go is not None:
        kept = served.capabilities
        found = find_native_jinja(client, template, lost=lost, kept=kept)
    said = "neither its own Jinja nor a RENDERER of Ollama"
    if isinstance(found, Renderer):
        said = f"RENDERER {found.name}"
    elif found is not None:
        said = "the daemon's own Jinja"
    elif served.go is None:
        said = "none of Ollama's own renderers"
    what = "prompts" if served.go is None else " and ".join(lost)
    message = f"Go cannot express the {what} of the chat template; {said} does"
    reporter.emit(Note("package", "info", message))
    return found


def renderer_of(details: ModelDetails) -> Renderer | NativeJinja | None:
    """What :func:`find_renderer` found when a tag was made, by the values that it carries.

    A tag may say what it likes: its prompts are held against the chat template all the same.

    Returns:
        None: it carries no values that can be read, or Go renders, or nothing else could.
    """
    text = details.model_info.get(REFERENCE_KEY)
    try:
        served = ReferenceValues.parse(text, where=REFERENCE_KEY).template if text else None
    except ArtifactError:
        return None
    if served is None or not served.conversations:
        return None
    if served.renderer is not None:
        return Renderer(served.renderer, served.parser or "", served.conversations)
    return NativeJinja(served.conversations) if served.authority == "jinja" else None
