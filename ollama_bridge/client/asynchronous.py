"""The client for asyncio: :class:`AsyncClient`, with the surface of the blocking one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import httpx

from ollama_bridge.client import calls
from ollama_bridge.client.answers.answering import Answering
from ollama_bridge.client.asides import look_at_context, look_at_level
from ollama_bridge.client.asynchronous_models import AsyncModelStore
from ollama_bridge.client.embedding import embedded, joined, pieces
from ollama_bridge.client.measuring import measure
from ollama_bridge.client.options import Options
from ollama_bridge.client.procedures import AsyncProcedures
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
from ollama_bridge.client.steps import drive_async, fetch_async
from ollama_bridge.client.values import Done, Embeddings, NextToken, Reply, StreamEvent
from ollama_bridge.client.wire.address import read_address
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.given import retries_given, timeouts_given
from ollama_bridge.client.wire.retries import Retries
from ollama_bridge.client.wire.transport import AsyncTransport
from ollama_bridge.errors import DaemonError


class AsyncClient(AsyncModelStore, AsyncProcedures):
    """:class:`Client` for asyncio: the same promises, methods and arguments.

    Example::

        async with AsyncClient() as client:
            print((await client.generate("review-sentiment", "Works like a charm.")).text)
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        address = read_address(host, api_key=api_key)
        self._timeouts = timeouts_given(timeouts)
        self._api_key = address.api_key
        self._retries = retries_given(retries)
        self._thinking_opened: dict[tuple[str | None, str], bool] = {}
        super().__init__(AsyncTransport(address, self._timeouts, transport))

    async def generate(
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
        """As :meth:`Client.generate`."""
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
        return await self.ask(call)

    async def chat(
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
        """As :meth:`Client.chat`."""
        asking = Asking(options, think, format, keep_alive, logprobs, top_logprobs, truncate, shift)
        return await self.ask(calls.chat(model, messages, asking, system=system, tools=tools))

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
    ) -> AsyncGenerator[StreamEvent, None]:
        """As :meth:`Client.stream`."""
        asking = Asking(options, think, format, keep_alive, logprobs, top_logprobs, truncate, shift)
        return self.events(calls.chat(model, messages, asking, system=system, tools=tools))

    async def ask(self, question: Question) -> Reply:
        """As :meth:`Client.ask`."""
        reply: Reply | None = None
        async for event in self._events(to_call(question), gives_out=False):
            if isinstance(event, Done):
                reply = event.reply
        if reply is None:
            raise AssertionError("unreachable: a stream ends with Done or an error")
        return reply

    def events(self, question: Question) -> AsyncGenerator[StreamEvent, None]:
        """As :meth:`Client.events`."""
        return self._events(to_call(question), gives_out=True)

    async def embed(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
        options: Options | None = None,
        keep_alive: KeepAlive = None,
    ) -> Embeddings:
        """As :meth:`Client.embed`."""
        parts = self.embed_parts(
            model,
            texts,
            truncate=truncate,
            dimensions=dimensions,
            options=options,
            keep_alive=keep_alive,
        )
        return joined([part async for part in parts])

    def embed_parts(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
        options: Options | None = None,
        keep_alive: KeepAlive = None,
    ) -> AsyncGenerator[Embeddings, None]:
        """As :meth:`Client.embed_parts`."""
        question = calls.embed(
            model,
            texts,
            truncate=truncate,
            dimensions=dimensions,
            options=options,
            keep_alive=keep_alive,
        )
        return self._embeddings(question)

    async def render(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        *,
        think: Think = None,
        tools: Sequence[ToolLike] | None = None,
    ) -> str:
        """The prompt that the daemon makes of a conversation, without answering it."""
        call = calls.render(model, messages, think=think, tools=tools)
        return read_rendered(await self._transport.json(call))

    async def next_token(
        self,
        model: str,
        raw_prompt: str,
        *,
        top: int = 20,
        options: Options | None = None,
    ) -> NextToken:
        """As :meth:`Client.next_token`."""
        steps = calls.find_next_token(model, raw_prompt, top=top, options=options)
        return await drive_async(steps, self.ask)

    async def _embeddings(self, question: Call) -> AsyncGenerator[Embeddings, None]:
        for piece in pieces(question):
            yield await self._embedded(piece)

    async def _embedded(self, question: Call) -> Embeddings:
        steps = embedded(question, self._timeouts, self._retries)
        return await fetch_async(self._transport, steps)

    async def _events(self, call: Call, *, gives_out: bool) -> AsyncGenerator[StreamEvent, None]:
        way = (call.model, str((call.json or {}).get("think")))
        answering = Answering(
            call,
            self._timeouts,
            self._retries,
            gives_out=gives_out,
            thinking_opened=self._thinking_opened.get(way, False),
        )
        await fetch_async(self._transport, look_at_level(call, self._known, answering.ends_s))
        while not answering.is_over:
            try:
                if answering.unrendered is not None:
                    shown = await self._transport.json(answering.unrendered, answering.ends_s)
                    answering.take_prompt(read_rendered(shown))
                    continue
                async with self._transport.lines(answering.call, answering.ends_s) as lines:
                    async for line in lines:
                        events = answering.feed(line)
                        if answering.unchecked_context is not None:
                            await fetch_async(
                                self._transport, look_at_context(answering, self._known)
                            )
                        for event in events:
                            yield event
                answering.finish()
            except DaemonError as error:
                await fetch_async(self._transport, measure(error, call, answering.ends_s))
                await asyncio.sleep(answering.recover(error))
        self._thinking_opened[way] = answering.opens_thinking
        for event in answering.held:
            yield event
