"""The loop in which a model uses tools until it answers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ollama_bridge.client import calls
from ollama_bridge.client.requests import Asking, MessageLike, message_list
from ollama_bridge.client.steps import Steps
from ollama_bridge.client.tools import Tool, as_text, problem_text, tools_of
from ollama_bridge.client.values import Reply, ToolCall
from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.errors import ConfigError, DaemonError, ToolLoopError

# Asked before a tool runs: True: it may; False, or a text for the model that says why: it may not.
Approval = Callable[[ToolCall], bool | str]
AsyncApproval = Callable[[ToolCall], bool | str | Awaitable[bool | str]]

_CANCEL_S = 1.0
_REFUSED = "the user does not allow this call"


@dataclass(frozen=True)
class Use:
    """A tool that the model asks for; what it gives comes back as text."""

    tool: Tool
    call: ToolCall


@dataclass(frozen=True)
class ToolUse:
    """A call of a tool that was made or refused; ``result`` is what the model read."""

    call: ToolCall
    result: str


@dataclass(frozen=True)
class ToolRun:
    """An answer for which tools were used.

    Attributes:
        reply: The answer; its counts are of the last turn alone.
        messages: The whole conversation: what was asked, every call with its result, the answer.
        uses: In order.
        turns: How often the model was asked.
        prompt_tokens: Of all turns together.
        generated_tokens: Of all turns together.
    """

    reply: Reply
    messages: tuple[dict[str, Any], ...]
    uses: tuple[ToolUse, ...]
    turns: int
    prompt_tokens: int
    generated_tokens: int


def steps(
    model: str,
    messages: str | Sequence[MessageLike],
    functions: Sequence[Callable[..., Any] | Tool],
    asking: Asking,
    *,
    system: str | None,
    turns: int,
) -> Steps[Call | Use, ToolRun]:
    """Ask, use the tools that are asked for, ask again with what they gave.

    Raises:
        ConfigError: no tools, or fewer than one turn.
        ToolLoopError: the model still calls tools in the last turn.
        DaemonError: with the conversation so far in ``messages``, from which it can go on.
    """
    if turns < 1:
        raise ConfigError(f"turns is {turns}", hint="allow at least one")
    tools = tools_of(functions)
    if not tools:
        raise ConfigError("no tools were given", hint="pass functions, or ask with chat")
    offered = [tool.to_dict() for tool in tools.values()]
    conversation = message_list(messages, system=system)
    uses: list[ToolUse] = []
    prompt_tokens = generated_tokens = 0
    for turn in range(1, turns + 1):
        question = calls.chat(model, conversation, asking, system=None, tools=offered)
        try:
            reply: Reply = yield question
        except DaemonError as failure:
            failure.messages = tuple(conversation)
            raise
        prompt_tokens += reply.prompt_tokens
        generated_tokens += reply.generated_tokens
        conversation.append(_turn_of(reply))
        if not reply.tool_calls:
            return ToolRun(
                reply, tuple(conversation), tuple(uses), turn, prompt_tokens, generated_tokens
            )
        for call in reply.tool_calls:
            tool = tools.get(call.name)
            if tool is None:
                result = problem_text(f"no tool {call.name!r}; there are: {', '.join(tools)}")
            else:
                result = yield Use(tool, call)
            uses.append(ToolUse(call, result))
            told = {"role": "tool", "tool_name": call.name, "content": result}
            conversation.append(told | ({"tool_call_id": call.id} if call.id else {}))
    error = ToolLoopError(
        f"{model} still calls tools after {turns} turns",
        hint="allow more turns, or tell the model when to stop",
        model=model,
        partial_text=reply.text,
    )
    error.messages = tuple(conversation)
    raise error


def use(wanted: Use, *, approve: Approval | None, timeout_s: float) -> str:
    """Run a tool for a blocking client.

    A tool that takes too long is left to itself in a thread that does not keep the program alive:
    Python cannot end it.

    Returns:
        What the model reads: the result, or what went wrong.
    """
    tool = wanted.tool
    try:
        arguments = tool.check(wanted.call.arguments)
    except ValueError as exc:
        return problem_text(str(exc))
    verdict = approve(wanted.call) if approve is not None else True
    if _waits(verdict):
        raise ConfigError("approve is a coroutine function", hint="use AsyncClient, or plain def")
    if verdict is not True:
        return problem_text(verdict or _REFUSED)
    outcome = _begun(tool, arguments)
    # A TimeoutError of the tool's own is told from the limit by asking whether it has ended.
    done, _ = concurrent.futures.wait([outcome], timeout_s)
    return outcome.result() if done else problem_text(_too_long(tool, timeout_s))


async def use_async(wanted: Use, *, approve: AsyncApproval | None, timeout_s: float) -> str:
    """:func:`use` for an asynchronous client; a coroutine that takes too long is cancelled."""
    tool = wanted.tool
    try:
        arguments = tool.check(wanted.call.arguments)
    except ValueError as exc:
        return problem_text(str(exc))
    verdict = approve(wanted.call) if approve is not None else True
    if inspect.isawaitable(verdict):
        verdict = await verdict
    if verdict is not True:
        return problem_text(verdict or _REFUSED)
    if not tool.is_async:
        # Not in the loop's own threads: the end of the loop would wait for them.
        outcome = asyncio.wrap_future(_begun(tool, arguments))
        try:
            done, _ = await asyncio.wait([outcome], timeout=timeout_s)
        finally:
            outcome.cancel()
        return outcome.result() if done else problem_text(_too_long(tool, timeout_s))
    work = asyncio.ensure_future(tool.function(**arguments))
    try:
        done, _ = await asyncio.wait([work], timeout=timeout_s)
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait([work], timeout=_CANCEL_S)  # it may not heed it
    if not done:
        return problem_text(_too_long(tool, timeout_s))
    try:
        return as_text(work.result())
    except (Exception, asyncio.CancelledError) as exc:  # a tool may raise anything
        return problem_text(f"{type(exc).__name__}: {exc}")


def _begun(tool: Tool, arguments: dict[str, Any]) -> concurrent.futures.Future[str]:
    """A tool at work in a thread of its own; what comes of it, as the model reads it."""
    outcome: concurrent.futures.Future[str] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()  # nobody can cancel it from now on

    def work() -> None:
        try:
            came = tool.function(**arguments)
            outcome.set_result(as_text(asyncio.run(_awaited(came)) if _waits(came) else came))
        except (Exception, asyncio.CancelledError) as exc:
            outcome.set_result(problem_text(f"{type(exc).__name__}: {exc}"))
        except BaseException as exc:  # whatever it is, who waits has to hear of it
            outcome.set_exception(exc)

    threading.Thread(target=work, name=f"tool {tool.name}", daemon=True).start()
    return outcome


def _waits(value: object) -> bool:
    return inspect.isawaitable(value)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def check_limit(timeout_s: float) -> None:
    """Refuse a limit that is none.

    Raises:
        ConfigError: not finite, or not positive.
    """
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ConfigError(f"timeout_s is {timeout_s}", hint="a finite, positive number of seconds")


def _too_long(tool: Tool, timeout_s: float) -> str:
    return f"{tool.name} did not end within {timeout_s:g} s"


def _turn_of(reply: Reply) -> dict[str, Any]:
    """An answer as a turn of the conversation that goes on from it."""
    turn: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.thinking:
        turn["thinking"] = reply.thinking
    if reply.tool_calls:
        turn["tool_calls"] = [
            {"function": {"name": call.name, "arguments": dict(call.arguments)}}
            | ({"id": call.id} if call.id else {})
            for call in reply.tool_calls
        ]
    return turn
