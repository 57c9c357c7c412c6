"""Proves a model that was pulled, under a name that it has until it is proven."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from ollama_bridge.client import Client
from ollama_bridge.client.model_names import find_model
from ollama_bridge.errors import ArtifactError, ModelfileError, OllamaBridgeError, ParityError
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.verification import verify_tag

UNPROVEN = "not verified"


@dataclass(frozen=True)
class PullProof:
    """Proves a model by the values that it carries, before it has its tag.

    Attributes:
        client: Of the daemon.
        tag: What it is going to be called.
        stage: Of the pull.
        reporter: Hears of a model that carries none.
    """

    client: Client
    tag: str
    stage: str
    reporter: Reporter

    def of(self, name: str) -> str:
        """The verdict on what the daemon has under a name, which stays where it fails.

        Raises:
            ParityError: it does not serve its checkpoint here.
            OllamaBridgeError: the daemon could not answer, or the values cannot be read.
        """
        try:
            found = verify_tag(name, client=self.client, reporter=self.reporter)
            found = found.model_copy(update={"tag": self.tag})
            found.raise_if_failed()
        except (ParityError, ArtifactError, ModelfileError) as error:
            message = error.message.replace(name, self.tag)
            layer = error.layer if isinstance(error, ParityError) else None
            if layer == "reference":
                self.reporter.emit(Note(self.stage, "warning", message))
                return UNPROVEN
            with contextlib.suppress(OllamaBridgeError):
                self.client.unload(name)
            if find_model(self.client.list(), self.tag) is not None:
                message += "; the previous model keeps the tag"
            hint = (
                "to use it anyway, without fetching it again: --no-verify; to remove it: "
                f"ollama-bridge rm {name}"
            )
            if layer is None:  # values of another version of ours, or none that ever were sound
                raise ArtifactError(message, hint=hint) from error
            raise ParityError(message, layer=layer, hint=hint) from error
        return found.verdict
