"""A model under the name that it has until it is proven, and what killed proofs left behind."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ollama_bridge.client import Client
from ollama_bridge.client.model_names import find_model
from ollama_bridge.daemon.tags import CANDIDATES, TRIALS, remove_tag, replace_tag
from ollama_bridge.digests import digest_text
from ollama_bridge.errors import DaemonError, ModelNotFoundError, OllamaBridgeError

_BLOB = re.compile(r"sha256-[0-9a-f]{64}")  # as a daemon's Modelfile names a file of its store
# One of another tag that is older than this was left behind, not being checked.
_LEFTOVER_AGE_S = 3600.0


@dataclass(frozen=True)
class Candidate:
    """What is checked before it gets a tag.

    Attributes:
        client: Of the daemon.
        tag: The tag that it is to get.
    """

    client: Client
    tag: str

    @property
    def name(self) -> str:
        """One name for one tag, so that the next attempt replaces what this one leaves."""
        return f"{CANDIDATES}{digest_text(self.tag.casefold())[:16]}"

    @property
    def aside(self) -> str:
        """What the tag was before, while it is replaced."""
        return f"{self.name}-old"

    @property
    def digest(self) -> str | None:
        """Of its manifest; None: it is not there."""
        return digest_of(self.client, self.name)

    @contextlib.contextmanager
    def removed(self) -> Iterator[None]:
        """Take it away at the end of the block, however that ends."""
        try:
            yield
        except BaseException:
            # The first error is the one to show; what stays is removed at the next start.
            with contextlib.suppress(OllamaBridgeError):
                remove_tag(self.client, self.name)
            raise
        remove_tag(self.client, self.name)

    def unload_sharers(self) -> None:
        """Unload what runs on the candidate's own file.

        The runner is chosen by the GGUF's path: one that was loaded for another tag of this file
        would answer for the candidate, with that tag's way of rendering. Which file that is the
        daemon says: it may be one that it wrote of ours.
        """
        own = set(_BLOB.findall(self.client.show(self.name).modelfile))
        for model in self.client.ps():
            with contextlib.suppress(ModelNotFoundError):
                if own & set(_BLOB.findall(self.client.show(model.name).modelfile)):
                    self.client.unload(model.name)

    def publish(self, tag: str, checked: str | None) -> str:
        """Give the checked model its tag; returns the digest of the tag's manifest.

        Args:
            tag: The tag.
            checked: The digest of the candidate's manifest, from before it was checked.

        Raises:
            DaemonError: it, or the tag, was replaced meanwhile.
        """
        if self.digest != checked:
            raise DaemonError(
                f"the model was replaced while it was checked: {self.tag} is registered twice",
                model=tag,
                hint="wait until the other one is done, then run the same command again",
            )
        replace_tag(self.client, self.name, tag, aside=self.aside)
        digest = digest_of(self.client, tag)
        if digest is None or digest != checked:
            raise DaemonError(
                f"after copying, {tag} is not what was checked ({checked}) but {digest}",
                model=tag,
                hint="run the same command again",
            )
        return digest

    def remove_leftovers(self) -> None:
        """Take away what a kill left of this tag, and of others an hour ago or more."""
        oldest = datetime.fromtimestamp(time.time() - _LEFTOVER_AGE_S, UTC)
        for model in self.client.list():
            if not model.name.startswith((CANDIDATES, TRIALS)):
                continue
            if model.name in (self.name, self.aside) or _is_older(model.modified_at, oldest):
                remove_tag(self.client, model.name)


def digest_of(client: Client, tag: str) -> str | None:
    """The digest of a tag's manifest; None: the daemon has no such tag."""
    found = find_model(client.list(), tag)
    return None if found is None else found.digest


def _is_older(modified_at: str, moment: datetime) -> bool:
    try:
        modified = datetime.fromisoformat(modified_at)
    except ValueError:
        return False
    return modified.replace(tzinfo=modified.tzinfo or UTC) < moment
