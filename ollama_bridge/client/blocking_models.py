"""The blocking client's half that asks nothing: a daemon's models and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ollama_bridge.client import calls
from ollama_bridge.client.answers.demands import Known
from ollama_bridge.client.options import Options
from ollama_bridge.client.readers import read_details, read_models, read_running, read_version
from ollama_bridge.client.requests import KeepAlive
from ollama_bridge.client.values import ModelDetails, ModelSummary, RunningModel
from ollama_bridge.client.wire.exchange import Call, check_status
from ollama_bridge.client.wire.lines import parse_line
from ollama_bridge.client.wire.statuses import StatusReader
from ollama_bridge.client.wire.transport import Transport
from ollama_bridge.client.wire.uploads import ProgressCallback, read_pieces, size_of
from ollama_bridge.closing import Closing


class ModelStore(Closing):
    """The models that a daemon has, and what is done with them.

    Args:
        transport: Closed with it.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._known = Known()

    @property
    def host(self) -> str:
        """The daemon's base URL."""
        return self._transport.address.url

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def version(self) -> str:
        """The daemon's version."""
        return read_version(self._transport.json(calls.VERSION))

    def list(self) -> Sequence[ModelSummary]:
        """The models that the daemon has."""
        return read_models(self._transport.json(calls.LIST))

    def ps(self) -> Sequence[RunningModel]:
        """The models that are loaded."""
        return read_running(self._transport.json(calls.PS))

    def show(self, model: str, *, verbose: bool = False) -> ModelDetails:
        """What the daemon knows of a model; ``verbose``: long lists too, such as its tokens."""
        return read_details(self._transport.json(calls.show(model, verbose=verbose)))

    def copy(self, source: str, destination: str) -> None:
        """Give a model a second name; an old model of that name is replaced."""
        self._done(calls.copy(source, destination))
        self._known.clear()

    def delete(self, model: str) -> None:
        """Remove a name, and what no other name needs."""
        self._done(calls.delete(model))
        self._known.clear()

    def load(
        self, model: str, *, options: Options | None = None, keep_alive: KeepAlive = None
    ) -> None:
        """Bring a model into memory, so that the next question waits for its tokens only.

        Args:
            options: Those of the questions: another ``num_ctx`` would load it anew.
        """
        self._done(calls.load(model, options=options, keep_alive=keep_alive))

    def unload(self, model: str) -> None:
        """Take a model out of memory."""
        self._done(calls.unload(model))

    def has_blob(self, digest: str) -> bool:
        """Whether the daemon holds a file (``sha256:<hex>``)."""
        call = calls.has_blob(digest)
        return calls.blob_present(self._transport.request(call), call)

    def upload_blob(
        self, path: Path, digest: str, *, on_progress: ProgressCallback | None = None
    ) -> None:
        """Send a file; the daemon checks the digest.

        Args:
            digest: ``sha256:<hex>`` of it.
            on_progress: Called with bytes sent and bytes in all.

        Raises:
            ArtifactError: the file cannot be read, or changed meanwhile.
            RequestRejectedError: the digest is not the file's.
        """
        size_bytes = size_of(path)
        pieces = read_pieces(path, size_bytes, on_progress)
        self._done(calls.upload(digest, size_bytes, pieces))

    def create(
        self, request: Mapping[str, Any], *, on_status: Callable[[str], None] | None = None
    ) -> None:
        """Make a model of files that the daemon holds.

        Raises:
            RequestRejectedError: refused.
            StreamBrokenError: the daemon did not say that it succeeded.
        """
        self._follow(calls.create(request), on_status, None)
        self._known.clear()

    def pull(
        self,
        model: str,
        *,
        insecure: bool = False,
        on_status: Callable[[str], None] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Let the daemon download a model.

        Args:
            model: The tag, with the registry in front of it where it is not Ollama's own.
            on_status: Called with what the daemon is doing.
            on_progress: Called with bytes done and bytes in all, of one file after the other.

        Raises:
            DaemonError: it could not.
        """
        self._follow(calls.pull(model, insecure=insecure), on_status, on_progress)
        self._known.clear()

    def push(
        self,
        model: str,
        *,
        insecure: bool = False,
        on_status: Callable[[str], None] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Let the daemon upload a model to the registry that its tag names.

        Args:
            model: The tag, such as ``registry.example.com/team/name:tag``.
            on_status: Called with what the daemon is doing.
            on_progress: Called with bytes done and bytes in all, of one file after the other.

        Raises:
            DaemonError: it could not.
        """
        self._follow(calls.push(model, insecure=insecure), on_status, on_progress)

    def _follow(
        self,
        call: Call,
        on_status: Callable[[str], None] | None,
        on_progress: ProgressCallback | None,
    ) -> None:
        reader = StatusReader(str(call.model), call.path, on_status, on_progress)
        with self._transport.lines(call) as lines:
            for line in lines:
                reader.take(parse_line(line, model=call.model))
        reader.finish()

    def _done(self, call: Call) -> None:
        check_status(self._transport.request(call), call)
