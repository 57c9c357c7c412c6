"""What is kept of a chat: a file to go on from, a model that has what was said, a page to read.

Nothing is replaced but what a chat saved before.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from ollama_bridge.assets import home_dir
from ollama_bridge.cli.output import say
from ollama_bridge.client import Client, Conversation, ModelSummary
from ollama_bridge.client.model_names import find_model, name_key
from ollama_bridge.errors import ArtifactError, ConfigError, DaemonError
from ollama_bridge.models.paths import is_file
from ollama_bridge.storage.atomic_files import write_text_atomic

_SAVED_TAGS = "chat-saved"  # in our home: what each was called, and the digest of what it was


def save_file(said: Conversation, path: Path) -> None:
    """Write everything, in place of what was saved there before.

    Raises:
        ConfigError: there is another file.
        ArtifactError: it cannot be written.
    """
    if is_file(path):
        try:
            Conversation.load(path)
        except ArtifactError as exc:
            raise _is_there(path, f"{exc.message}; it was not overwritten") from exc
    said.save(path)
    say(f"(saved: {path})")


def save_model(client: Client, said: Conversation, tag: str) -> None:
    """Make a model with the settings and the turns, in place of one that was saved so before.

    Raises:
        ConfigError: there is another model of that name.
        DaemonError: it cannot be made.
    """
    there = find_model(client.list(), tag)
    turns = [message for turn in said.turns for message in turn.messages]
    is_asked = name_key(tag) == name_key(said.model)
    if there is not None and _line(there) not in _saved_tags():
        # Without the tag that answers, the turns that it has in it would be gone.
        takes_along = f"/save under another name: the new tag includes the turns of {tag}"
        raise ConfigError(
            f"{tag} was not saved by a chat of yours; it was not replaced",
            hint=takes_along
            if is_asked
            else f"/save under another name, or first: ollama-bridge rm {tag}",
        )
    if is_asked and any("images" in message for message in turns):
        # What goes into the tag that answers leaves the chat: the images would be nowhere.
        raise ConfigError(
            f"{tag} cannot keep the images of this chat; it was not replaced",
            hint="/save FILE.json, or /save under another name",
        )
    own = client.show(said.model).messages
    request: dict[str, object] = {
        "model": tag,
        "from": said.model,
        "messages": [*own, *({name: one[name] for name in ("role", "content")} for one in turns)],
    }
    if said.system is not None:
        request["system"] = said.system
    if said.options:
        request["parameters"] = dict(said.options)
    client.create(request)
    if (made := find_model(client.list(), tag)) is not None:
        _remember(made)
    lost = {
        "left out turns": said.dropped,
        "images": any("images" in message for message in turns),
        "think": said.think is not None,
        "format": said.format is not None,
        "keep_alive": said.keep_alive is not None,
    }
    without = ", ".join(name for name, is_lost in lost.items() if is_lost)
    say(f"(saved: {tag})" if not without else f"(saved: {tag}; only a file keeps {without})")


def _saved_tags() -> list[str]:
    try:
        return (home_dir() / _SAVED_TAGS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as exc:
        say(f"({home_dir() / _SAVED_TAGS} cannot be read: {exc})")
        return []


def _remember(made: ModelSummary) -> None:
    """That it has turns in it does not tell: a person may have written them into a Modelfile."""
    path = home_dir() / _SAVED_TAGS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{_line(made)}\n")
    except OSError as exc:
        say(f"({path} cannot be written, so /save cannot replace {made.name}: {exc.strerror})")


def _line(model: ModelSummary) -> str:
    return f"{name_key(model.name)} {model.digest}"


def export(client: Client, said: Conversation, path: Path) -> None:
    """Write what was said as Markdown, and before it the turns that the tag has in it.

    Raises:
        ConfigError: there is such a file, or it cannot be written.
    """
    if is_file(path):
        raise _is_there(path, f"{path} exists; it was not overwritten")
    parts = [f"# {said.model}\n"]
    if said.system is not None:
        parts.append(f"> {said.system}\n")
    marks = {"user": "**You:** ", "system": "> "}
    try:
        own = client.show(said.model).messages
    except DaemonError as exc:  # what was said is here, whoever is away
        own = []
        say(f"(the turns inside {said.model} could not be read and are left out: {exc.message})")
    for message in own:
        parts.append(f"{marks.get(message['role'], '')}{message['content']}\n")
    for turn in [*said.dropped, *said.turns]:
        parts += [f"**You:** {turn.question['content']}\n", f"{turn.answer}\n"]
    try:
        write_text_atomic(path, "\n".join(parts))
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    say(f"(written: {path})")


def _is_there(path: Path, message: str) -> ConfigError:
    return ConfigError(
        message, hint=f"write it under another name, or first: rm {quote(str(path))}"
    )
