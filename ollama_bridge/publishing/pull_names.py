"""Names that models have while a tag is pulled, and what a killed pull left under them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ollama_bridge.client import Client
from ollama_bridge.client.model_names import find_model
from ollama_bridge.client.values import ModelSummary
from ollama_bridge.daemon.tags import remove_tag, replace_tag
from ollama_bridge.errors import DaemonError
from ollama_bridge.reporting import Note, Reporter

# What the daemon pulls from us, before it gets its name. Of no use to anybody if it is left behind.
HANDED = "ollama-bridge/pulling"

_STAGE = "pull"


def pull_aside(client: Client, pulled: str, fetch: Callable[[], None], old: str, new: str) -> None:
    """Have the daemon pull a tag, and give the tag back at once to what had it.

    What came is ``new``: however its proof ends, or this process, the tag is what it was.

    Raises:
        DaemonError: the daemon did not pull it, or could not give the tag back.
    """
    had = find_model(client.list(), pulled) is not None
    if had:
        client.copy(pulled, old)
    try:
        fetch()
        replace_tag(client, pulled, new, aside=f"{new}er")
    except BaseException:
        if had:
            _give_back(client, pulled, old)
        raise
    if had:
        _give_back(client, pulled, old)
    else:
        remove_tag(client, pulled)


def restore(client: Client, tag: str, key: str, reporter: Reporter) -> None:
    """Give a tag back to what had it, where a pull through the daemon was killed before it did.

    What the tag was made since is not replaced: the other has a name until the pull succeeds.
    """
    old, new = (f"{HANDED}:{key}-{part}" for part in ("old", "new"))
    models = client.list()
    had, came, now = (find_model(models, name) for name in (old, new, tag))
    if had is None:
        return
    if now is not None and now.digest == had.digest:
        client.delete(old)
    elif now is None or (came is not None and now.digest == came.digest):
        _give_back(client, tag, old)
    else:
        kept = _free_name(models, kept_names(key), had.digest)
        client.copy(old, kept)
        client.delete(old)
        said = (
            f"{tag} was replaced by a pull that was killed, or since, and stays; what it was "
            f"before is there as {kept} until it is pulled: ollama-bridge cp {kept} NAME keeps it"
        )
        reporter.emit(Note(_STAGE, "warning", said))


def kept_names(key: str) -> str:
    """What the names begin with of models that could not have their tag back."""
    return f"{HANDED}:{key}-kept"


def _free_name(models: Sequence[ModelSummary], start: str, digest: str) -> str:
    """One that no other model has: two killed pulls leave two that the tag was before."""
    names = itertools.chain([start], (f"{start}-{number}" for number in itertools.count(2)))
    found = ((name, find_model(models, name)) for name in names)
    return next(name for name, model in found if model is None or model.digest == digest)


def _give_back(client: Client, pulled: str, old: str) -> None:
    """Let a tag be what it was before the daemon pulled it.

    ``old`` may be the only name of that model: it goes when the tag is back, and not before.
    """
    try:
        client.copy(old, pulled)
    except DaemonError as error:
        raise DaemonError(
            f"{error.message}; what {pulled} was is there as {old}",
            hint=f"run the same command again, or: ollama-bridge cp {old} {pulled}",
            model=pulled,
        ) from error
    client.delete(old)


def remove_leftovers(client: Client, key: str, *, but: tuple[str, ...] = ()) -> None:
    """What a pull of this tag has as a name in the meantime, and what a killed one left.

    Args:
        client: Of the daemon.
        key: Of the tag.
        but: What names begin with that stay.
    """
    for model in client.list():
        if f"/{HANDED}:{key}" in f"/{model.name}" and not model.name.startswith(but):
            remove_tag(client, model.name)
