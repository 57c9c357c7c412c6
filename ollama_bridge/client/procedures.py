"""What a client does in several questions: values of a type, tools, batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ollama_bridge.client import structured, tool_loop
from ollama_bridge.client.options import Options
from ollama_bridge.client.requests import Asking, KeepAlive, MessageLike, Think
from ollama_bridge.client.steps import drive, drive_async
from ollama_bridge.client.tools import Tool
from ollama_bridge.client.values import Reply
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.closing import AsyncClosing, Closing

if TYPE_CHECKING:
    from ollama_bridge.client.jobs.batch import Concurrency
    from ollama_bridge.client.jobs.jobs import Answered, GivenUp
    from ollama_bridge.client.questions import Question

T = TypeVar("T")


class BlockingProcedures(Closing):
    """Procedures of the blocking client."""

    _timeouts: Timeouts
    _api_key: str | None

    @property
    @abstractmethod
    def host(self) -> str:
        """The daemon's base URL."""

    @abstractmethod
    def ask(self, call: Call) -> Reply:
        """The whole answer to one question."""

    def parse(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        into: type[T] | Mapping[str, Any],
        *,
        system: str | None = None,
        options: Options | None = None,
        think: Think = None,
        keep_alive: KeepAlive = None,
        attempts: int = 3,
    ) -> structured.Parsed[T]:
        """An answer as a value: written under a grammar, then validated; a wrong one is sent back.

        A model that thinks does so freely first; the grammar holds for the answer.

        Args:
            into: A pydantic model, any type that pydantic validates, or a JSON schema.
            attempts: At most so many questions; the tokens of all are counted.

        Raises:
            ConfigError: ``into`` cannot be asked for.
            OutputInvalidError: no answer fitted.
            DaemonError: as for ``chat``.
        """
        steps = structured.steps(
            model,
            messages,
            structured.shape_of(into),
            Asking(options, think, None, keep_alive),
            system=system,
            attempts=attempts,
        )
        return drive(steps, self.ask)

    def run_tools(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        tools: Sequence[Callable[..., Any] | Tool],
        *,
        system: str | None = None,
        options: Options | None = None,
        think: Think = None,
        keep_alive: KeepAlive = None,
        turns: int = 8,
        timeout_s: float = 60.0,
        approve: tool_loop.Approval | None = None,
    ) -> tool_loop.ToolRun:
        """Ask, run the tools that the model calls, and ask on until it answers.

        A tool's error, a wrong argument, an unknown name and a refusal go back to the model.

        Args:
            model: The tag; it has to know tools (``show`` lists it under capabilities).
            tools: Functions with annotations and a docstring.
            timeout_s: Of each call of a tool.
            approve: Asked before each; anything but True refuses it.

        Raises:
            ConfigError: a function that a model could not call.
            ToolLoopError: tools are still called in the last turn.
            DaemonError: as for ``chat``; with the conversation so far, from which it can go on, in
                ``messages``.
        """
        tool_loop.check_limit(timeout_s)
        steps = tool_loop.steps(
            model,
            messages,
            tools,
            Asking(options, think, None, keep_alive),
            system=system,
            turns=turns,
        )

        def do(todo: Call | tool_loop.Use) -> object:
            if isinstance(todo, Call):
                return self.ask(todo)
            return tool_loop.use(todo, approve=approve, timeout_s=timeout_s)

        return drive(steps, do)

    def batch(
        self,
        requests: Sequence[Question],
        log_path: str | Path,
        *,
        hosts: Sequence[str] = (),
        concurrency: Concurrency = "auto",
        attempts: int = 3,
        retry_failed: bool = False,
    ) -> Iterator[Answered | GivenUp]:
        """Answer many requests, each exactly once; see :func:`batch.ask_all`.

        Args:
            requests: All are checked before any is asked.
            log_path: Of what was settled: the same call goes on from it.
            hosts: More daemons with the same models, which share the work with this client's.
            concurrency: Requests at a time, a daemon; ``auto``: found by trying.
            retry_failed: Ask again what earlier calls set aside.

        Raises:
            OllamaBridgeError: as for :func:`batch.ask_all`.
        """
        from ollama_bridge.client.jobs.batch import ask_all  # it asks by clients of its own

        return ask_all(
            requests,
            log_path,
            hosts=(self.host, *hosts),
            concurrency=concurrency,
            attempts=attempts,
            retry_failed=retry_failed,
            timeouts=self._timeouts,
            api_key=self._api_key,
        )


class AsyncProcedures(AsyncClosing):
    """Procedures of the asynchronous client."""

    _timeouts: Timeouts
    _api_key: str | None

    @property
    @abstractmethod
    def host(self) -> str:
        """The daemon's base URL."""

    @abstractmethod
    async def ask(self, call: Call) -> Reply:
        """The whole answer to one question."""

    async def parse(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        into: type[T] | Mapping[str, Any],
        *,
        system: str | None = None,
        options: Options | None = None,
        think: Think = None,
        keep_alive: KeepAlive = None,
        attempts: int = 3,
    ) -> structured.Parsed[T]:
        """As :meth:`BlockingProcedures.parse`."""
        steps = structured.steps(
            model,
            messages,
            structured.shape_of(into),
            Asking(options, think, None, keep_alive),
            system=system,
            attempts=attempts,
        )
        return await drive_async(steps, self.ask)

    async def run_tools(
        self,
        model: str,
        messages: str | Sequence[MessageLike],
        tools: Sequence[Callable[..., Any] | Tool],
        *,
        system: str | None = None,
        options: Options | None = None,
        think: Think = None,
        keep_alive: KeepAlive = None,
        turns: int = 8,
        timeout_s: float = 60.0,
        approve: tool_loop.AsyncApproval | None = None,
    ) -> tool_loop.ToolRun:
        """As :meth:`BlockingProcedures.run_tools`; tools and approval may be coroutines."""
        tool_loop.check_limit(timeout_s)
        steps = tool_loop.steps(
            model,
            messages,
            tools,
            Asking(options, think, None, keep_alive),
            system=system,
            turns=turns,
        )

        async def do(todo: Call | tool_loop.Use) -> object:
            if isinstance(todo, Call):
                return await self.ask(todo)
            return await tool_loop.use_async(todo, approve=approve, timeout_s=timeout_s)

        return await drive_async(steps, do)

    def batch(
        self,
        requests: Sequence[Question],
        log_path: str | Path,
        *,
        hosts: Sequence[str] = (),
        concurrency: Concurrency = "auto",
        attempts: int = 3,
        retry_failed: bool = False,
    ) -> AsyncIterator[Answered | GivenUp]:
        """As :meth:`BlockingProcedures.batch`."""
        from ollama_bridge.client.jobs.batch import ask_all_async

        return ask_all_async(
            requests,
            log_path,
            hosts=(self.host, *hosts),
            concurrency=concurrency,
            attempts=attempts,
            retry_failed=retry_failed,
            timeouts=self._timeouts,
            api_key=self._api_key,
        )
