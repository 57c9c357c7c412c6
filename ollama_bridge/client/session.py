"""A conversation with a model: asks, remembers, and says what it had to forget."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollama_bridge.client.conversation import Conversation, State, Turn
from ollama_bridge.client.requests import Images
from ollama_bridge.client.values import (
    Done,
    Reply,
    StreamEvent,
    Text,
    Thinking,
    context_in_use,
)
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    DaemonError,
    OllamaBridgeError,
)

if TYPE_CHECKING:
    from ollama_bridge.client.asynchronous import AsyncClient
    from ollama_bridge.client.blocking import Client


@dataclass(frozen=True)
class Dropped:
    """The oldest turns were left out, so that the question fits. An event of a session.

    It comes when the answer begins: of a question that fails nothing was left out.
    """

    turns: tuple[Turn, ...]


SessionEvent = Dropped | StreamEvent


class _Base:
    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._unanswered: dict[str, Any] | None = None

    @property
    def unanswered(self) -> dict[str, Any] | None:
        """The last question, if nothing came of it: ``retry`` asks it."""
        return self._unanswered

    def go_back(self, state: State, *, unanswered: dict[str, Any] | None) -> None:
        """Be as before a question that is not to count, whatever came of it.

        Args:
            unanswered: What ``retry`` asks then; None: the last question that was answered.
        """
        self.conversation.go_back(state)
        self._unanswered = unanswered

    def undo(self) -> Turn | None:
        """Take the last question and its answer back; None if there is none.

        One that had no answer is taken back alone, as a turn that is not whole.
        """
        question, self._unanswered = self._unanswered, None
        if question is not None:
            return Turn(question, "", is_whole=False)
        return self.conversation.undo()

    def clear(self) -> None:
        """Forget what was said; the settings stay."""
        self._unanswered = None
        self.conversation.clear()

    def save(self, path: str | Path) -> None:
        """Write the conversation into a file, whole or not at all.

        Raises:
            ArtifactError: it cannot be written.
        """
        self.conversation.save(path)

    def _taken_back(self) -> Turn:
        turn = self.conversation.undo()
        if turn is None:
            raise ConfigError("nothing was asked yet", hint="ask something first")
        return turn

    def _put_back(self, turn: Turn) -> None:
        """An answer that was to be replaced stays where no other came whole."""
        self._unanswered = None
        turns = self.conversation.turns
        if turns and turns[-1].question is turn.question:
            if turns[-1].is_whole:
                return
            turns.pop()
        turns.append(turn)


class _Asked:
    """One question of a session, until its answer is whole or it has failed; asks nobody."""

    def __init__(self, session: _Base, question: dict[str, Any]) -> None:
        self._session, self._said = session, session.conversation
        self._question = question
        self._before = self._said.state()
        self._untold: list[Turn] = []
        self._asked_s, self._refused_s = time.monotonic(), 0.0
        self.is_over = False
        session._unanswered = question
        self._begin()

    def _begin(self) -> None:
        self._text = self._thinking = ""
        self._reply: Reply | None = None

    @property
    def _is_empty(self) -> bool:
        return not self._text and not self._thinking and self._reply is None

    def make_room(self, context_tokens: int | None) -> None:
        """Drop what would leave no room, as far as it is known before it is asked."""
        self._untold = self._said.make_room(self._question, context_tokens)

    def make_room_after(self, refusal: ContextOverflowError) -> None:
        """Drop what does not fit, and begin anew.

        Raises:
            ContextOverflowError: the same one, if nothing may be dropped.
        """
        dropped = self._said.make_room_after(self._question, refusal) if self._is_empty else []
        if not dropped:
            raise refusal
        self._untold += dropped
        self._refused_s = time.monotonic() - self._asked_s
        self._begin()

    def take(self, event: StreamEvent) -> Sequence[SessionEvent]:
        """Keep what came; gives what is to be handed on."""
        if isinstance(event, Text):
            self._text += event.text
        elif isinstance(event, Thinking):
            self._thinking += event.text
        elif isinstance(event, Done):
            if event.reply.pace is not None:
                pace = event.reply.pace.after(self._refused_s)
                event = Done(replace(event.reply, pace=pace))
            self._reply = event.reply
            self._said.add(self._question, event.reply)
        left_out, self._untold = tuple(self._untold), []
        return [Dropped(left_out), event] if left_out else [event]

    def end(self) -> None:
        """The answer is whole."""
        self._session._unanswered = None
        self.is_over = True

    def stop(self) -> None:
        """Whoever listens went away: what came is kept, as ``is_whole=False``."""
        if self._untold:
            self._said.go_back(self._before)
        if self._reply is None:
            self._said.add_stopped(self._question, self._text, self._thinking)
        self._session._unanswered = self._question if self._is_empty else None

    def fail(self) -> None:
        """It came to nothing."""
        self._said.go_back(self._before)


class Session(_Base):
    """A conversation through a blocking client.

    Example::

        with Client() as client:
            session = Session(client, Conversation("review-reply", system="Be brief."))
            print(session.ask("The battery died after two days.").text)
            print(session.ask("And the screen is scratched.").text)
            session.save("letters.json")

    Args:
        conversation: What was said before, and how to ask.
    """

    def __init__(self, client: Client, conversation: Conversation) -> None:
        super().__init__(conversation)
        self._client = client

    def ask(self, text: str, *, images: Images = None) -> Reply:
        """The answer to the next question.

        Raises:
            ContextOverflowError: the question alone does not fit, or nothing may be dropped.
            DaemonError: as for ``Client.chat``; the conversation is as it was before.
        """
        return _last(list(self.stream(text, images=images)))

    def stream(self, text: str, *, images: Images = None) -> Generator[SessionEvent, None, None]:
        """:meth:`ask`, piece by piece; whoever stops listening keeps what came so far."""
        return self._stream(self.conversation.question(text, images))

    def retry(self) -> Generator[SessionEvent, None, None]:
        """Ask the last question again; its answer before stays if no other comes.

        That is one of which nothing came, too: it failed, or was stopped before anything had come.
        """
        if self._unanswered is not None:
            yield from self._stream(self._unanswered)
            return
        before = self._taken_back()
        try:
            yield from self._stream(before.question)
        finally:
            self._put_back(before)

    def _stream(self, question: dict[str, Any]) -> Generator[SessionEvent, None, None]:
        asked = _Asked(self, question)
        try:
            asked.make_room(self._context_tokens())
            while not asked.is_over:
                try:
                    answer = self._client.events(self.conversation.request(question))
                    with contextlib.closing(answer) as events:
                        for event in events:
                            yield from asked.take(event)
                    asked.end()
                except ContextOverflowError as error:
                    asked.make_room_after(error)
                except (GeneratorExit, KeyboardInterrupt):
                    asked.stop()
                    raise
        except OllamaBridgeError:
            asked.fail()
            raise

    def _context_tokens(self) -> int | None:
        """Length of the context, as far as it is known: it only helps to drop turns in time."""
        if (asked := self.conversation.options.get("num_ctx")) is not None:
            return int(asked)
        try:
            return context_in_use(self._client.ps(), self.conversation.model) or None
        except DaemonError:
            return None


class AsyncSession(_Base):
    """:class:`Session` through an asynchronous client."""

    def __init__(self, client: AsyncClient, conversation: Conversation) -> None:
        super().__init__(conversation)
        self._client = client

    async def ask(self, text: str, *, images: Images = None) -> Reply:
        """As :meth:`Session.ask`."""
        return _last([event async for event in self.stream(text, images=images)])

    def stream(self, text: str, *, images: Images = None) -> AsyncGenerator[SessionEvent, None]:
        """As :meth:`Session.stream`."""
        return self._stream(self.conversation.question(text, images))

    async def retry(self) -> AsyncGenerator[SessionEvent, None]:
        """As :meth:`Session.retry`."""
        if self._unanswered is not None:
            async with contextlib.aclosing(self._stream(self._unanswered)) as events:
                async for event in events:
                    yield event
            return
        before = self._taken_back()
        try:
            # Closed here, so that what came of it is kept before the old answer is thought of.
            async with contextlib.aclosing(self._stream(before.question)) as events:
                async for event in events:
                    yield event
        finally:
            self._put_back(before)

    async def _stream(self, question: dict[str, Any]) -> AsyncGenerator[SessionEvent, None]:
        asked = _Asked(self, question)
        try:
            asked.make_room(await self._context_tokens())
            while not asked.is_over:
                try:
                    answer = self._client.events(self.conversation.request(question))
                    async with contextlib.aclosing(answer) as events:
                        async for event in events:
                            for told in asked.take(event):
                                yield told
                    asked.end()
                except ContextOverflowError as error:
                    asked.make_room_after(error)
                except (GeneratorExit, asyncio.CancelledError):
                    asked.stop()
                    raise
        except OllamaBridgeError:
            asked.fail()
            raise

    async def _context_tokens(self) -> int | None:
        """As :meth:`Session._context_tokens`."""
        if (asked := self.conversation.options.get("num_ctx")) is not None:
            return int(asked)
        try:
            return context_in_use(await self._client.ps(), self.conversation.model) or None
        except DaemonError:
            return None


def _last(events: Sequence[SessionEvent]) -> Reply:
    done = events[-1]
    if not isinstance(done, Done):
        raise AssertionError("unreachable: a stream ends with Done or an error")
    return done.reply
