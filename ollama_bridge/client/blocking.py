"""The blocking client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from ollama_bridge.client import calls
from ollama_bridge.client.address import read_address
from ollama_bridge.client.assembly import LineSplitter, parse_line
from ollama_bridge.client.exchange import Call, Timeouts, check_status
from ollama_bridge.client.requests import (
    Asking,
    Format,
    Images,
    KeepAlive,
    MessageLike,
    Options,
    Think,
)
from ollama_bridge.client.statuses import StatusReader
from ollama_bridge.client.transport import Transport
from ollama_bridge.client.uploads import ProgressCallback, read_pieces, size_of
from ollama_bridge.client.values import (
    Done,
    ModelDetails,
    ModelSummary,
    NextToken,
    Reply,
    RunningModel,
    StreamEvent,
    read_details,
    read_models,
    read_rendered,
    read_running,
    read_version,
)
from ollama_bridge.closing import Closing
from ollama_bridge.errors import DaemonError, ReplyInvalidError


class Client(Closing):
    """Asks a daemon, truthfully: no call waits for ever, and none returns half an answer as whole.

    Every request says ``truncate: false`` and ``shift: false``, so a prompt that does not fit is an
    error, and a finite ``num_predict``, so an answer that does not end is cut and says so in
    ``done_reason``.

    Example::

        with Client() as client:
            print(client.generate("review-sentiment", "Works like a charm.").text)

    Args:
        host: As ``OLLAMA_HOST``; None: that variable, else this machine's default port.
        timeouts: One limit a phase.
        api_key: Shown as a bearer token; None: ``OLLAMA_API_KEY``. Never sent unencrypted to
            another machine.
        transport: Where requests go instead of the network; for tests.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        address = read_address(host, api_key=api_key)
        self._transport = Transport(address, timeouts or Timeouts(), transport)

    @property
    def host(self) -> str:
        """The daemon's base URL."""
        return self._transport.address.url

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def generate(
        self,
        model: str,
        prompt: str,
        *,
        system: str | None = None,
        suffix: str | None = None,
        template: str | None = None,
        raw: bool = False,
        images: Images = None,
        options: Options | None = None,
        think: Think = None,
        format: Format = None,  # noqa: A002  the API's own name
        keep_alive: KeepAlive = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
    ) -> Reply:
        """One answer to one prompt.

        Raises:
            ConfigError: an option that Ollama does not know.
            DaemonError: everything that the daemon can do wrong; what came of the answer is in
                ``partial_text``.
        """
        asking = Asking(options, think, format, keep_alive, logprobs, top_logprobs)
        call = calls.generate(
            model,
            prompt,
            asking,
            system=system,
            suffix=suffix,
            template=template,
            raw=raw,
            images=images,
        )
        return self.ask(call)

    def chat(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Options | None = None,
        think: Think = None,
        format: Format = None,  # noqa: A002
        keep_alive: KeepAlive = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
    ) -> Reply:
        """The next turn of a conversation; a text is one user turn.

        Raises:
            ConfigError: an option that Ollama does not know.
            DaemonError: as for :meth:`generate`.
        """
        asking = Asking(options, think, format, keep_alive, logprobs, top_logprobs)
        return self.ask(calls.chat(model, messages, asking, system=system, tools=tools))

    def stream(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Options | None = None,
        think: Think = None,
        format: Format = None,  # noqa: A002
        keep_alive: KeepAlive = None,
    ) -> Iterator[StreamEvent]:
        """Like :meth:`chat`, piece by piece; the last event is always :class:`Done`.

        Raises:
            ConfigError: an option that Ollama does not know, before anything is sent.
            DaemonError: also in mid-stream; an end without the terminal event is one.
        """
        asking = Asking(options, think, format, keep_alive)
        return self._events(calls.chat(model, messages, asking, system=system, tools=tools))

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

    def delete(self, model: str) -> None:
        """Remove a name, and what no other name needs."""
        self._done(calls.delete(model))

    def unload(self, model: str) -> None:
        """Take a model out of memory."""
        self._done(calls.unload(model))

    def render(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        *,
        think: Think = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt that the daemon makes of a conversation, without answering it."""
        call = calls.render(model, messages, think=think, tools=tools)
        return read_rendered(self._transport.json(call))

    def next_token(
        self,
        model: str,
        raw_prompt: str,
        *,
        top: int = 20,
        options: Options | None = None,
    ) -> NextToken:
        """The likeliest next tokens behind a text that is sent as it is.

        Log-probabilities are the raw log-softmax, whatever the temperature.

        Args:
            model: Its tag.
            raw_prompt: No template is applied.
            top: How many, 1 to 20.
            options: Beside ``num_predict`` and ``stop``, which are ours.

        Raises:
            ReplyInvalidError: the daemon reports no log-probabilities.
        """
        # The daemon reports nothing where it draws the end token or half a character; forced to
        # draw something else, it reports the same distribution.
        for forced in (False, True):
            call = calls.next_token(model, raw_prompt, top=top, options=options, forced=forced)
            found = calls.read_next_token(self.ask(call), forced=forced)
            if found is not None:
                return found
        raise ReplyInvalidError(
            f"the daemon reports no log-probabilities for {model!r}",
            hint="use Ollama 0.12.11 or newer",
            model=model,
        )

    def has_blob(self, digest: str) -> bool:
        """Whether the daemon holds a file (``sha256:<hex>``)."""
        call = calls.has_blob(digest)
        return calls.blob_present(self._transport.request(call), call)

    def upload_blob(
        self, path: Path, digest: str, *, on_progress: ProgressCallback | None = None
    ) -> None:
        """Send a file; the daemon checks the digest.

        Args:
            path: The file.
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

    def pull(
        self, model: str, *, insecure: bool = False, on_progress: ProgressCallback | None = None
    ) -> None:
        """Let the daemon download a model.

        Args:
            model: The tag, with the registry in front of it where it is not Ollama's own.
            insecure: Allow plain http.
            on_progress: Called with bytes done and bytes in all, of one file after the other.

        Raises:
            DaemonError: it could not.
        """
        self._follow(calls.pull(model, insecure=insecure), None, on_progress)

    def push(
        self, model: str, *, insecure: bool = False, on_progress: ProgressCallback | None = None
    ) -> None:
        """Let the daemon upload a model to the registry that its tag names.

        Args:
            model: The tag, such as ``registry.example.com/team/name:tag``.
            insecure: Speak plain http.
            on_progress: Called with bytes done and bytes in all, of one file after the other.

        Raises:
            DaemonError: it could not.
        """
        self._follow(calls.push(model, insecure=insecure), None, on_progress)

    def ask(self, call: Call) -> Reply:
        """The whole answer to a question that was made before, by ``client.calls``.

        Raises:
            DaemonError: as for :meth:`generate`.
        """
        reply: Reply | None = None
        for event in self._events(call):
            if isinstance(event, Done):
                reply = event.reply
        if reply is None:
            raise AssertionError("unreachable: a stream ends with Done or an error")
        return reply

    def _events(self, call: Call) -> Iterator[StreamEvent]:
        assembler = calls.assembler(call)
        lines = LineSplitter()
        try:
            with self._transport.stream(call) as pieces:
                for piece in pieces:
                    for line in lines.feed(piece):
                        yield from () if assembler.done else assembler.feed(line)
                for line in lines.finish():
                    yield from () if assembler.done else assembler.feed(line)
        except DaemonError as error:
            if assembler.done:  # the answer is whole, whatever became of the connection
                return
            error.partial_text = error.partial_text or assembler.partial_text
            raise
        if not assembler.done:
            raise assembler.broken()

    def _follow(
        self,
        call: Call,
        on_status: Callable[[str], None] | None,
        on_progress: ProgressCallback | None,
    ) -> None:
        reader = StatusReader(str(call.model), call.path, on_status, on_progress)
        lines = LineSplitter()
        with self._transport.stream(call) as pieces:
            for piece in pieces:
                for line in lines.feed(piece):
                    reader.take(parse_line(line, model=call.model))
            for line in lines.finish():
                reader.take(parse_line(line, model=call.model))
        reader.finish()

    def _done(self, call: Call) -> None:
        check_status(self._transport.request(call), call)
