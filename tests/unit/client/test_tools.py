"""Tools: their schema, the loop, and everything that goes wrong in it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
from fakes.daemon import Asked, FakeDaemon, Turn

from ollama_bridge.client import AsyncClient, ToolCall, tool_of
from ollama_bridge.client.tools import RESULT_LIMIT_CHARS
from ollama_bridge.errors import ConfigError, DaemonError, ToolLoopError


def weather(city: str, unit: Literal["C", "F"] = "C") -> dict[str, object]:
    """Look up the weather.

    Args:
        city: Where, in
            English.
        unit: Scale of the temperature.
    """
    return {"city": city, "degrees": 7, "unit": unit}


def fails(text: str) -> str:
    """Never works."""
    raise ZeroDivisionError(f"no {text}")


def calling(*turns: list[tuple[str, Mapping[str, Any]]]) -> Callable[[Asked], Turn]:
    """Calls of tools turn after turn, then an answer."""
    left = list(turns)
    return lambda asked: Turn(pieces=[], tool_calls=left.pop(0)) if left else Turn(pieces=["ok"])


def results(fake_daemon: FakeDaemon) -> list[str]:
    """What the model was told in the last question."""
    messages = fake_daemon.questions[-1]["messages"]
    return [message["content"] for message in messages if message["role"] == "tool"]


def test_each_result_says_of_which_call_it_is(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Two calls of one tool in one turn have the daemon's ids, back in both messages."""
    fake_daemon.script = calling([("weather", {"city": "Rome"}), ("weather", {"city": "Bern"})])
    run = ask(fake_daemon.host, "run_tools", "m", "hi", [weather])
    assert [use.call.id for use in run.uses] == ["call_0", "call_1"]
    asked, *told = fake_daemon.questions[-1]["messages"][1:]
    assert [call["id"] for call in asked["tool_calls"]] == ["call_0", "call_1"]
    assert [one["tool_call_id"] for one in told] == ["call_0", "call_1"]


def test_a_function_describes_itself() -> None:
    """Types by the signature, words by the docstring."""
    assert tool_of(weather).to_dict() == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Look up the weather.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "city": {"type": "string", "description": "Where, in English."},
                    "unit": {
                        "type": "string",
                        "enum": ["C", "F"],
                        "description": "Scale of the temperature.",
                    },
                },
                "required": ["city"],
            },
        },
    }


def untyped(city) -> str:  # type: ignore[no-untyped-def]
    return str(city)


def starred(*cities: str) -> str:
    return str(cities)


def strange(lock: threading.Lock) -> str:
    return str(lock)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (untyped, "has no type for its parameter city"),
        (starred, "a model can only pass arguments by name"),
        (strange, "the tool strange"),
        (lambda city: city, "has no name"),
    ],
)
def test_what_a_model_could_not_call_is_told_before(function: Any, words: str) -> None:
    """With the place."""
    with pytest.raises(ConfigError, match=words):
        tool_of(function)


def test_the_model_is_asked_on_with_what_the_tools_gave(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Several calls in a turn, several turns; everything is in the messages."""
    fake_daemon.script = calling(
        [("weather", {"city": "Rome"}), ("weather", {"city": "Oslo", "unit": "F"})],
        [("weather", {"city": "Bern"})],
    )
    run = ask(fake_daemon.host, "run_tools", "m", "How warm is it?", [weather], system="Be brief.")
    assert (run.reply.text, run.turns) == ("ok", 3)
    assert (run.prompt_tokens, run.generated_tokens) == (21, 9)
    assert [use.call.arguments["city"] for use in run.uses] == ["Rome", "Oslo", "Bern"]
    assert json.loads(run.uses[1].result) == {"city": "Oslo", "degrees": 7, "unit": "F"}
    roles = [message["role"] for message in run.messages]
    assert roles == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    assert list(run.messages[:-1]) == fake_daemon.questions[-1]["messages"]
    assert run.messages[2]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
    assert fake_daemon.questions[0]["tools"] == [tool_of(weather).to_dict()]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("weather", {"city": ["a"]}), "city: Input should be a valid string"),
        (("weather", {}), "city: Field required"),
        (("weather", {"city": "a", "planet": "b"}), "planet: Extra inputs are not permitted"),
        (("wether", {"city": "a"}), "no tool 'wether'; there are: weather, fails"),
        (("fails", {"text": "way"}), "ZeroDivisionError: no way"),
    ],
)
def test_the_model_is_told_what_went_wrong(
    fake_daemon: FakeDaemon, ask: Any, call: Any, told: str
) -> None:
    """And goes on."""
    fake_daemon.script = calling([call])
    run = ask(fake_daemon.host, "run_tools", "m", "hi", [weather, fails])
    assert run.reply.text == "ok"
    assert json.loads(results(fake_daemon)[0]) == {"error": told}


def test_nothing_runs_without_approval(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A text says why; False says no."""
    fake_daemon.script = calling([("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"})])
    seen: list[ToolCall] = []

    def approve(call: ToolCall) -> bool | str:
        seen.append(call)
        return "not Rome" if call.arguments["city"] == "Rome" else False

    run = ask(fake_daemon.host, "run_tools", "m", "hi", [weather], approve=approve)
    assert [json.loads(use.result)["error"] for use in run.uses] == [
        "not Rome",
        "the user does not allow this call",
    ]
    assert len(seen) == 2


def test_a_tool_that_hangs_does_not_hang_the_model(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Of either kind; a coroutine is cancelled."""
    ended = threading.Event()
    cancelled: list[bool] = []

    def slow() -> str:
        """Wait."""
        ended.wait(30)
        return "late"

    async def slow_coroutine() -> str:
        """Wait."""
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return "late"

    fake_daemon.script = calling([("slow", {})])
    run = ask(fake_daemon.host, "run_tools", "m", "hi", [slow], timeout_s=0.05)
    assert json.loads(run.uses[0].result) == {"error": "slow did not end within 0.05 s"}
    fake_daemon.script = calling([("slow_coroutine", {})])
    if "asyncio" in ask.__name__:
        run = ask(fake_daemon.host, "run_tools", "m", "hi", [slow_coroutine], timeout_s=0.05)
        assert json.loads(run.uses[0].result)["error"].startswith("slow_coroutine did not end")
        assert cancelled == [True]
    ended.set()


@pytest.mark.parametrize("how", ["cancelled", "too long"])
def test_a_loop_does_not_wait_for_a_tool_that_hangs(fake_daemon: FakeDaemon, how: str) -> None:
    """Whoever stops, or does not wait, gets away; the tool is left to itself."""
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> str:
        """Wait."""
        begun.set()
        release.wait(10)
        ended.set()
        return "late"

    async def stop() -> None:
        async with AsyncClient(fake_daemon.host) as client:
            limit_s = 60.0 if how == "cancelled" else 0.01
            run = asyncio.ensure_future(client.run_tools("m", "hi", [slow], timeout_s=limit_s))
            await asyncio.to_thread(begun.wait, 10)
            if how == "cancelled":
                run.cancel()
            await asyncio.wait([run])

    fake_daemon.script = calling([("slow", {})])
    asyncio.run(stop())
    assert not ended.is_set()
    release.set()
    assert ended.wait(10)


def test_coroutines_are_tools_and_may_approve(fake_daemon: FakeDaemon, ask: Any) -> None:
    """With both clients; an approval that has to be awaited only with the asynchronous one."""

    async def double(number: int) -> int:
        """Twice a number."""
        await asyncio.sleep(0)
        return 2 * number

    async def approve(call: ToolCall) -> bool:
        await asyncio.sleep(0)
        return call.arguments["number"] != 3

    fake_daemon.script = calling([("double", {"number": 2}), ("double", {"number": "3"})])
    extra = {"approve": approve} if "asyncio" in ask.__name__ else {}
    run = ask(fake_daemon.host, "run_tools", "m", "hi", [double], **extra)
    assert [use.result for use in run.uses] == ["4", "6"]


def test_a_long_result_is_cut_and_says_so(fake_daemon: FakeDaemon, ask: Any) -> None:
    """It would push the conversation out of the context."""

    def novel() -> str:
        """Write."""
        return "x" * (RESULT_LIMIT_CHARS + 5)

    fake_daemon.script = calling([("novel", {})])
    run = ask(fake_daemon.host, "run_tools", "m", "hi", [novel])
    assert run.uses[0].result.endswith(f"x [cut: {RESULT_LIMIT_CHARS + 5} characters in all]")


def test_a_model_that_never_answers_is_stopped(fake_daemon: FakeDaemon, ask: Any) -> None:
    """With everything that was said."""
    fake_daemon.script = calling(*[[("weather", {"city": "Rome"})]] * 9)
    with pytest.raises(ToolLoopError, match="still calls tools after 2 turns") as caught:
        ask(fake_daemon.host, "run_tools", "m", "hi", [weather], turns=2)
    assert len(fake_daemon.questions) == 2
    assert [one["role"] for one in caught.value.messages].count("tool") == 2


@pytest.mark.parametrize(
    ("functions", "turns", "words"),
    [([], 8, "no tools"), ([weather, weather], 8, "two tools"), ([weather], 0, "turns is 0")],
)
def test_a_loop_that_cannot_begin_is_told(
    fake_daemon: FakeDaemon, ask: Any, functions: Any, turns: int, words: str
) -> None:
    """Nothing is sent."""
    with pytest.raises(ConfigError, match=words):
        ask(fake_daemon.host, "run_tools", "m", "hi", functions, turns=turns)
    assert fake_daemon.questions == []


def test_an_error_of_the_daemon_ends_the_loop(fake_daemon: FakeDaemon, ask: Any) -> None:
    """As it ends any question."""
    fake_daemon.script = lambda asked: Turn(refusal=(500, "out of memory"))
    with pytest.raises(DaemonError, match="out of memory"):
        ask(fake_daemon.host, "run_tools", "m", "hi", [weather])


def test_after_an_error_in_the_middle_it_goes_on(fake_daemon: FakeDaemon, ask: Any) -> None:
    """With all that was said and done: no tool is used twice."""
    turns = iter([Turn(pieces=[], tool_calls=[("weather", {"city": "Rome"})])])
    fake_daemon.script = lambda asked: next(turns, Turn(refusal=(400, "no")))
    with pytest.raises(DaemonError) as caught:
        ask(fake_daemon.host, "run_tools", "m", "hi", [weather], system="Be brief.")
    assert [one["role"] for one in caught.value.messages] == ["system", "user", "assistant", "tool"]
    fake_daemon.script = None
    run = ask(fake_daemon.host, "run_tools", "m", caught.value.messages, [weather])
    assert run.uses == ()
    assert list(run.messages[:-1]) == list(caught.value.messages)
