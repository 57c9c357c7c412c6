"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import httpx

from ollama_bridge.client import calls
from ollama_bridge.client.answers.answering import Answering
from ollama_bridge.client.asides import look_at_context, look_at_level
from ollama_bridge.client.blocking_models import ModelStore
from ollama_bridge.client.embedding import embedded, joined, pieces
from ollama_bridge.client.measuring import measure
from ollama_bridge.client.options import Options
from ollama_bridge.client.procedures import BlockingProcedures
from ollama_bridge.client.questions import Question, to_call
from ollama_bridge.client.readers import read_rendered
from ollama_bridge.client.requests import (
    Asking,
    Format,
    Images,
    KeepAlive,
    MessageLike,
    Think,
    ToolLike,
)
from ollama_bridge.client.steps import drive, fetch
from ollama_bridge.client.values import Done, Embeddings, NextToken, Reply, StreamEvent
from ollama_bridge.client.wire.address import read_address
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.given import retries_given, timeouts_given
from ollama_bridge.client.wire.retries import Retries
from ollama_bridge.client.wire.transport import Transport
from ollama_bridge.errors import DaemonError


class Client(ModelStore, BlockingProcedures):
    """Asks a daemon, truthfully: no call waits for ever, and none returns half an answer as whole.

    Every request says ``truncate: false`` and ``shift: false`` unless told otherwise, so a prompt
    that does not fit is an error, and a finite ``num_predict``, so an answer that does not end is
    cut and says so in ``done_reason``. A context that is shorter than the ``num_ctx`` that was
    asked for is an error too.

    Example::

        with Client() as client:
            print(client.generate("review-sentiment", "Works like a charm.").text)

    Args:
        host: As ``OLLAMA_HOST``; None: that variable, else this machine's default port.
        timeouts: One limit a phase.
        retries: How often a question is asked that failed in passing, and whether an answer that
            broke off is continued.
        api_key: Shown as a bearer token; None: ``OLLAMA_API_KEY``. Never sent unencrypted to
            another machine.
        transport: Where requests go instead of the network; for tests.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        address = read_address(host, api_key=api_key)
        self._timeouts = timeouts_given(timeouts)
        self._api_key = address.api_key
        self._retries = retries_given(retries)
        self._thinking_opened: dict[tuple[str | None, str], bool] = {}
        super().__init__(Transport(address, self._timeouts, transport))

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
        truncate: bool = False,
        shift: bool = False,
    ) -> Reply:
        """One answer to one prompt.

        Raises:
            ConfigError: an option that Ollama does not know.
            DaemonError: everything that the daemon can do wrong; what came of the answer is in
                ``partial_text``.
        """
        asking = Asking(options, think, format, keep_alive, logprobs, top_logprobs, truncate, shift)
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
        tools: Sequence[ToolLike] | None = None,
        options: Options | None = None,
        think: Think = None,
        format: Format = None,  # noqa: A002
        keep_alive: KeepAlive = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
        truncate: bool = False,
        shift: bool = False,
    ) -> Reply:
        """The next turn of a conversation; a text is one user turn.

        Raises:
            ConfigError: an option that Ollama does not know.
            DaemonError: as for :meth:`generate`.
        """
        asking = Asking(options, think, format, keep_alive, logprobs, top_logprobs, truncate, shift)
        return self.ask(calls.chat(model, messages, asking, system=system, tools=tools))

    def stream(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        *,
        system: str | None = None,
        tools: Sequence[ToolLike] | None = None,
        options: Options | None = None,
        think: Think = None,
        format: Format = None,  # noqa: A002
        keep_alive: KeepAlive = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
        truncate: bool = False,
        shift: bool = False,
    ) -> Generator[StreamEvent, None, None]:
        """Like :meth:`chat`, piece by piece; the last event is always :class:`Done`.

        Whoever stops before it closes the generator, which hangs up.

        Raises:
            ConfigError: an option that Ollama does not know, before anything is sent.
            DaemonError: also in mid-stream; an end without the terminal event is one.
        """
        asking = Asking(options, think, format, keep_alive, logprobs, top_logprobs, truncate, shift)
        return self.events(calls.chat(model, messages, asking, system=system, tools=tools))

    def ask(self, question: Question) -> Reply:
        """The whole answer to a question that was made before.

        Args:
            question: A ``GenerateRequest`` or ``ChatRequest``, the same as an object as Ollama's
                API wants it, or what ``client.calls`` makes.

        Raises:
            ConfigError: a field or an option that Ollama does not know.
            DaemonError: as for :meth:`generate`.
        """
        reply: Reply | None = None
        for event in self._events(to_call(question), gives_out=False):
            if isinstance(event, Done):
                reply = event.reply
        if reply is None:
            raise AssertionError("unreachable: a stream ends with Done or an error")
        return reply

    def events(self, question: Question) -> Generator[StreamEvent, None, None]:
        """The same, piece by piece, as :meth:`stream` gives it.

        Raises:
            ConfigError: a field or an option that Ollama does not know, before anything is sent.
            DaemonError: also in mid-stream.
        """
        return self._events(to_call(question), gives_out=True)

    def embed(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
        options: Options | None = None,
        keep_alive: KeepAlive = None,
    ) -> Embeddings:
        """One vector a text.

        Args:
            texts: None of them empty.
            truncate: Let the daemon cut a text that is too long; the reply says which.
            dimensions: Keep so many numbers of each vector only.

        Raises:
            ConfigError: an option that Ollama does not know, or an empty text.
            ContextOverflowError: a text is too long.
            UnsupportedFeatureError: the vectors are not so long.
            DaemonError: everything else that the daemon can do wrong.
        """
        parts = self.embed_parts(
            model,
            texts,
            truncate=truncate,
            dimensions=dimensions,
            options=options,
            keep_alive=keep_alive,
        )
        return joined(list(parts))

    def embed_parts(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
        options: Options | None = None,
        keep_alive: KeepAlive = None,
    ) -> Generator[Embeddings, None, None]:
        """The same for many texts, as it comes: some of them at a time, in their order.

        Raises:
            ConfigError: an option that Ollama does not know, or an empty text, before anything is
                sent.
            DaemonError: as :meth:`embed`; what came before stands.
        """
        question = calls.embed(
            model,
            texts,
            truncate=truncate,
            dimensions=dimensions,
            options=options,
            keep_alive=keep_alive,
        )
        return (self._embedded(piece) for piece in pieces(question))

    def render(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        *,
        think: Think = None,
        tools: Sequence[ToolLike] | None = None,
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
            raw_prompt: No template is applied.
            top: How many, 1 to 20.
            options: Beside ``num_predict`` and ``stop``, which are ours.

        Raises:
            ReplyInvalidError: the daemon reports no log-probabilities.
        """
        steps = calls.find_next_token(model, raw_prompt, top=top, options=options)
        return drive(steps, self.ask)

    def _embedded(self, question: Call) -> Embeddings:
        steps = embedded(question, self._timeouts, self._retries)
        return fetch(self._transport, steps)

    def _events(self, call: Call, *, gives_out: bool) -> Generator[StreamEvent, None, None]:
        way = (call.model, str((call.json or {}).get("think")))
        answering = Answering(
            call,
            self._timeouts,
            self._retries,
            gives_out=gives_out,
            thinking_opened=self._thinking_opened.get(way, False),
        )
        fetch(self._transport, look_at_level(call, self._known, answering.ends_s))
        while not answering.is_over:
            try:
                if answering.unrendered is not None:
                    shown = self._transport.json(answering.unrendered, answering.ends_s)
                    answering.take_prompt(read_rendered(shown))
                    continue
                with self._transport.lines(answering.call, answering.ends_s) as lines:
                    for line in lines:
                        events = answering.feed(line)
                        if answering.unchecked_context is not None:
                            fetch(self._transport, look_at_context(answering, self._known))
                        yield from events
                answering.finish()
            except DaemonError as error:
                fetch(self._transport, measure(error, call, answering.ends_s))
                time.sleep(answering.recover(error))
        self._thinking_opened[way] = answering.opens_thinking
        yield from answering.held
