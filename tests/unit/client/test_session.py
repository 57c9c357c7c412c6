"""Sessions: what is remembered, dropped, taken back, saved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.client import (
    AsyncClient,
    AsyncSession,
    Client,
    Conversation,
    Done,
    Dropped,
    Session,
    Text,
    Thinking,
)
from ollama_bridge.client import conversation as conversations
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    ContextOverflowError,
    RunnerCrashedError,
)

TOO_LONG = "the input exceeds the available context size"


class Driver:
    """A session of either kind, asked the same way."""

    def __init__(self, host: str, conversation: Conversation, kind: str) -> None:
        self.host, self.conversation, self.kind = host, conversation, kind

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.kind == "blocking":
            with Client(self.host) as client:
                found = getattr(Session(client, self.conversation), method)(*args, **kwargs)
                return list(found) if isinstance(found, Iterator) else found
        return asyncio.run(self._asyncio(method, *args, **kwargs))

    def stop(self, at: type, method: str, *args: Any) -> None:
        """Ask, and stop to listen at the first event of a kind."""

        async def stop_asyncio() -> None:
            async with AsyncClient(self.host) as client:
                events = getattr(AsyncSession(client, self.conversation), method)(*args)
                async for event in events:
                    if isinstance(event, at):
                        break
                await events.aclose()

        if self.kind == "asyncio":
            asyncio.run(stop_asyncio())
            return
        with Client(self.host) as client:
            events = getattr(Session(client, self.conversation), method)(*args)
            next(event for event in events if isinstance(event, at))
            events.close()

    async def _asyncio(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async with AsyncClient(self.host) as client:
            found = getattr(AsyncSession(client, self.conversation), method)(*args, **kwargs)
            return [one async for one in found] if hasattr(found, "__aiter__") else await found


@pytest.fixture(params=["blocking", "asyncio"])
def start(fake_daemon: FakeDaemon, request: pytest.FixtureRequest) -> Callable[..., Driver]:
    """Begins a conversation."""

    def begin(**settings: Any) -> Driver:
        return Driver(fake_daemon.host, Conversation("m", **settings), request.param)

    return begin


def sent(fake_daemon: FakeDaemon) -> list[tuple[str, str]]:
    """What the last question carried."""
    return [(one["role"], one["content"]) for one in fake_daemon.questions[-1]["messages"]]


def test_every_question_carries_what_was_said(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """The instruction first, thinking never; options go along."""
    fake_daemon.thinking = ["Hm."]
    session = start(system="Be brief.", options={"seed": 1}, think=True)
    assert session("ask", "one").text == "Hello!"
    assert [type(event).__name__ for event in session("stream", "two")] == [
        "Thinking",
        *["Text"] * 3,
        "Done",
    ]
    assert sent(fake_daemon) == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "Hello!"),
        ("user", "two"),
    ]
    assert fake_daemon.questions[-1]["options"]["seed"] == 1
    assert fake_daemon.questions[-1]["think"] is True
    assert session.conversation.turns[0].thinking == "Hm."


def test_what_does_not_fit_is_dropped_and_told(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """The oldest turns go until the daemon takes the question."""

    def script(asked: Asked) -> Turn:
        long = len(asked.json["messages"]) > 3
        return Turn(refusal=(400, TOO_LONG)) if long else Turn()

    session = start()
    session("ask", "one")
    session("ask", "two")
    fake_daemon.script = script
    session.conversation.turns.append(conversations.Turn(session.conversation.question("x"), "y"))
    events = session("stream", "three")
    told = [event for event in events if isinstance(event, Dropped)]
    assert [turn.question["content"] for one in told for turn in one.turns] == ["one", "two"]
    assert sent(fake_daemon) == [("user", "x"), ("assistant", "y"), ("user", "three")]
    assert [turn.question["content"] for turn in session.conversation.dropped] == ["one", "two"]


def test_times_count_from_the_question_although_it_was_refused_first(
    fake_daemon: FakeDaemon, start: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked has waited for the refusal, too."""
    said = Conversation("m")
    said.turns = [conversations.Turn(said.question("a"), "b") for _ in range(2)]
    fake_daemon.script = lambda asked: (
        Turn(refusal=(400, TOO_LONG)) if len(asked.json["messages"]) > 3 else Turn()
    )
    clock = SimpleNamespace(monotonic=iter([100.0, 700.0]).__next__)
    monkeypatch.setattr("ollama_bridge.client.session.time", clock)
    reply = start(turns=said.turns)("ask", "two")
    assert reply.pace is not None
    assert reply.pace.first_text_s > 600
    assert reply.pace.whole_s > 600


def test_a_long_conversation_is_shortened_by_the_daemon_s_numbers(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """Not one turn a request: a loaded conversation may be ten times too long."""

    def script(asked: Asked) -> Turn:
        needed = sum(len(one["content"]) for one in asked.json["messages"])
        numbers = {"message": "exceeds the context", "n_prompt_tokens": needed, "n_ctx": 1000}
        refusal = json.dumps({"error": numbers}, separators=(",", ":"))
        return Turn(refusal=(400, refusal)) if needed > 1000 else Turn()

    fake_daemon.script = script
    session = start(reserve_tokens=100)
    said = session.conversation
    said.turns = [conversations.Turn(said.question("a" * 50), "b" * 50) for _ in range(100)]
    told = [event for event in session("stream", "three") if isinstance(event, Dropped)]
    assert len(fake_daemon.questions) == 2
    assert len(told) == 1
    assert len(told[0].turns) == 92  # 8 turns and the question leave room for an answer
    assert len(said.turns) == 9


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_nothing_is_told_as_left_out_of_a_question_that_fails(
    fake_daemon: FakeDaemon, kind: str
) -> None:
    """Alone it is too long, so what was put aside for it is put back, here and in what is told."""
    fake_daemon.script = lambda asked: Turn(refusal=(400, TOO_LONG))
    said = Conversation("m")
    said.turns = [conversations.Turn(said.question("a" * 50), "b" * 50) for _ in range(3)]
    said._used_tokens = fake_daemon.context_length  # so room is made before it is asked, too
    told: list[object] = []

    async def read_asyncio() -> None:
        async with AsyncClient(fake_daemon.host) as client:
            async for event in AsyncSession(client, said).stream("two"):
                told.append(event)

    def read() -> None:
        with Client(fake_daemon.host) as client:
            told.extend(Session(client, said).stream("two"))

    with pytest.raises(ContextOverflowError):
        read() if kind == "blocking" else asyncio.run(read_asyncio())
    assert told == []
    assert (len(said.turns), said.dropped) == (3, [])


def test_who_stops_before_an_answer_begins_loses_no_turn(fake_daemon: FakeDaemon) -> None:
    """Nobody would have told that it was left out."""

    async def stop() -> None:
        async with AsyncClient(fake_daemon.host) as client:
            asking = asyncio.create_task(AsyncSession(client, said).ask("two"))
            await asyncio.to_thread(asked.wait, 10)
            asking.cancel()
            await asyncio.wait([asking])

    def script(_: Asked) -> Turn:
        asked.set()
        return Turn(fault=Fault.SILENT)

    fake_daemon.script, asked = script, threading.Event()
    said = Conversation("m")
    said.turns = [conversations.Turn(said.question("a" * 50), "b" * 50) for _ in range(3)]
    said._used_tokens = fake_daemon.context_length
    asyncio.run(stop())
    assert (len(said.turns), said.dropped) == (3, [])


@pytest.mark.parametrize("settings", [{"trim": "never"}, {}])
def test_a_question_that_cannot_fit_is_an_error(
    fake_daemon: FakeDaemon, start: Callable[..., Driver], settings: dict[str, Any]
) -> None:
    """Where nothing may be dropped, or nothing is left to drop."""
    session = start(**settings)
    session("ask", "one")
    fake_daemon.script = lambda asked: Turn(refusal=(400, TOO_LONG))
    with pytest.raises(ContextOverflowError):
        session("ask", "two")
    assert [turn.question["content"] for turn in session.conversation.turns] == ["one"]
    assert session.conversation.dropped == []


def test_room_for_an_answer_is_made_before_it_is_needed() -> None:
    """By what the last reply took."""
    said = Conversation("m", reserve_tokens=10)
    for name in "abcd":
        said.turns.append(conversations.Turn(said.question(name * 10), "x" * 10))
    said._used_tokens = 80
    assert said.make_room(said.question("e" * 10), None) == []
    dropped = said.make_room(said.question("e" * 10), 75)  # expected: 80 + 10 + 10 for the answer
    assert [turn.question["content"][0] for turn in dropped] == ["a", "b"]
    assert said.make_room(said.question("e" * 10), 75) == []  # not known until the next reply


def test_a_budget_bounds_what_is_sent_whatever_the_context_holds(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """By what the last reply took; the context is not asked for, so nothing is loaded anew."""
    fake_daemon.script = lambda asked: Turn(
        prompt_tokens=sum(len(one["content"]) for one in asked.json["messages"])
    )
    session = start(budget_tokens=70)
    told = [session("stream", name * 20) for name in "abcdef"]
    left_out = [
        len(event.turns) for events in told for event in events if isinstance(event, Dropped)
    ]
    assert left_out
    for asked in fake_daemon.questions:
        assert sum(len(one["content"]) for one in asked["messages"]) <= 70 + 20
        assert "num_ctx" not in asked["options"]
    assert len(session.conversation.turns) + sum(left_out) == 6


def test_a_budget_holds_where_no_reply_has_told_yet() -> None:
    """After a question that failed, `/undo`, or in a saved chat: by the length of the texts."""
    said = Conversation("m", system="s" * 30, budget_tokens=40)
    said.turns = [conversations.Turn({"role": "user", "content": c * 30}, c * 30) for c in "abcd"]
    before = said.state()
    assert len(said.make_room(said.question("e" * 30), None)) == 3  # of 270 + 30 characters 120
    said.go_back(before)
    assert len(said.make_room(said.question("e" * 30), 8192)) == 3
    said.budget_tokens = None
    said.go_back(before)
    assert said.make_room(said.question("e" * 30), 8) == []  # the daemon refuses, with numbers


@pytest.mark.parametrize("text", ["电池两天后就没电了", "電池は二日で切れた", "แบตเตอรี่หมด"])
def test_a_budget_holds_in_any_script(text: str) -> None:
    """Of Chinese, Japanese and Thai a character is about a token."""
    turn = conversations.Turn({"role": "user", "content": text * 10}, text * 10)
    said = Conversation("m", budget_tokens=50 * len(text), turns=[turn] * 10)
    dropped = said.make_room(said.question(text), None)
    kept = len("".join(one.text for one in said.turns))
    assert 0 < kept <= 50 * len(text)
    assert len(dropped) == 8


def test_the_smaller_of_budget_and_context_counts() -> None:
    """A budget leaves room for no answer of its own; a context does."""
    said = Conversation("m", reserve_tokens=10, budget_tokens=65)
    said.turns = [conversations.Turn({"role": "user", "content": c * 10}, c * 10) for c in "abcd"]
    said._used_tokens = 80
    assert len(said.make_room(said.question("e" * 10), None)) == 2  # expected: 90, 70, 50
    said._used_tokens = 40
    assert len(said.make_room(said.question("e" * 10), 45)) == 1  # expected: 50, 30; there are 35


def test_a_small_context_is_not_all_room_for_answers() -> None:
    """At most half of it is; so a short conversation stays whole."""
    said = Conversation("m")
    said.turns = [conversations.Turn({"role": "user", "content": "a" * 100}, "b" * 100)]
    said._used_tokens = 50
    assert said.make_room(said.question("c" * 40), 512) == []
    assert len(said.make_room(said.question("c" * 400), 256)) == 1


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """The conversation can go on from it."""
    session = start()
    session.stop(Text, "stream", "one")
    (turn,) = session.conversation.turns
    assert (turn.answer, turn.is_whole) == ("Hel", False)
    assert session("ask", "two").text == "Hello!"
    assert sent(fake_daemon)[1] == ("assistant", "Hel")


def test_a_thought_that_is_stopped_is_kept(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """So a retry asks its question, not the one before; and the next question has it in front."""
    session = start()
    session("ask", "one")
    fake_daemon.thinking = ["Hm."]
    session.stop(Thinking, "stream", "two")
    turn = session.conversation.turns[-1]
    assert (turn.answer, turn.thinking, turn.is_whole) == ("", "Hm.", False)
    session("retry")
    assert sent(fake_daemon) == [("user", "one"), ("assistant", "Hello!"), ("user", "two")]
    assert [turn.answer for turn in session.conversation.turns] == ["Hello!", "Hello!"]
    session.stop(Thinking, "stream", "three")
    session("ask", "four")
    assert sent(fake_daemon)[-2:] == [("user", "three"), ("user", "four")]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_retry_asks_a_question_that_failed(fake_daemon: FakeDaemon, kind: str) -> None:
    """And leaves the answer before it alone; taken back, it is not asked any more."""
    said = Conversation("m")

    async def talk_asyncio() -> None:
        async with AsyncClient(fake_daemon.host) as client:
            session = AsyncSession(client, said)
            await session.ask("one")
            fake_daemon.fault = Fault.ERROR_LINE
            with pytest.raises(RunnerCrashedError):
                await session.ask("two")
            with pytest.raises(RunnerCrashedError):
                [event async for event in session.retry()]
            fake_daemon.fault = None
            assert [event async for event in session.retry()]

    def talk() -> None:
        with Client(fake_daemon.host) as client:
            session = Session(client, said)
            session.ask("one")
            fake_daemon.fault = Fault.ERROR_LINE
            with pytest.raises(RunnerCrashedError):
                session.ask("two")
            with pytest.raises(RunnerCrashedError):
                list(session.retry())
            fake_daemon.fault = None
            assert list(session.retry())
            session.undo()
            assert list(session.retry())

    if kind == "asyncio":
        asyncio.run(talk_asyncio())
        assert [turn.question["content"] for turn in said.turns] == ["one", "two"]
    else:
        talk()
        assert [turn.question["content"] for turn in said.turns] == ["one"]


def test_a_question_that_failed_is_what_is_taken_back(fake_daemon: FakeDaemon) -> None:
    """The answered turn before it went, and nothing of the failed one was there to go."""
    with Client(fake_daemon.host) as client:
        session = Session(client, Conversation("m"))
        session.ask("one")
        fake_daemon.fault = Fault.ERROR_LINE
        with pytest.raises(RunnerCrashedError):
            session.ask("two")
        undone = session.undo()
        assert undone is not None
        assert (undone.question["content"], undone.answer, undone.is_whole) == ("two", "", False)
        assert (session.unanswered, len(session.conversation.turns)) == (None, 1)
        undone = session.undo()
        assert undone is not None
        assert (undone.question["content"], session.conversation.turns) == ("one", [])


def test_an_option_that_is_none_is_not_set(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """The length of the context too."""
    assert start(options={"num_ctx": None})("ask", "one").text == "Hello!"
    assert "num_ctx" not in fake_daemon.questions[0]["options"]


def test_an_error_leaves_the_conversation_as_it_was(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """The question may be asked again."""
    session = start()
    session("ask", "one")
    fake_daemon.fault = Fault.ERROR_LINE
    for method, args in (("ask", ("two",)), ("retry", ())):
        with pytest.raises(RunnerCrashedError):
            session(method, *args)
        assert [turn.answer for turn in session.conversation.turns] == ["Hello!"]


def test_undo_retry_clear(fake_daemon: FakeDaemon, start: Callable[..., Driver]) -> None:
    """A retry replaces the answer."""
    session = start(system="Be brief.")
    session("ask", "one")
    fake_daemon.pieces = ["Other"]
    assert isinstance(session("retry")[-1], Done)
    assert [turn.answer for turn in session.conversation.turns] == ["Other"]
    assert sent(fake_daemon) == [("system", "Be brief."), ("user", "one")]
    undone = session.conversation.undo()
    assert undone is not None
    assert undone.question["content"] == "one"
    assert session.conversation.undo() is None
    with pytest.raises(ConfigError, match="nothing was asked yet"):
        session("retry")
    session("ask", "two")
    session.conversation.clear()
    assert session.conversation.messages == [{"role": "system", "content": "Be brief."}]


def test_a_saved_conversation_goes_on(
    fake_daemon: FakeDaemon, start: Callable[..., Driver], tmp_path: Path
) -> None:
    """Settings, turns, images and what was dropped."""
    image = tmp_path / "image.png"
    image.write_bytes(b"\x89PNG")
    session = start(system="Be brief.", options={"seed": 1}, trim="never", reserve_tokens=9)
    session("ask", "one", images=[image])
    session.conversation.dropped.append(session.conversation.turns[0])
    session.conversation.save(tmp_path / "letters.json")
    again = Conversation.load(tmp_path / "letters.json")
    again._used_tokens = session.conversation._used_tokens
    assert again == session.conversation
    bounded = Conversation("m", budget_tokens=9)
    bounded.save(tmp_path / "letters.json")
    assert Conversation.load(tmp_path / "letters.json") == bounded
    session.conversation.save(tmp_path / "letters.json")
    assert {path.name for path in tmp_path.iterdir()} == {"image.png", "letters.json"}
    assert (tmp_path / "letters.json").stat().st_mode & 0o077 == 0
    Driver(session.host, again, session.kind)("ask", "two")
    assert fake_daemon.questions[-1]["messages"][1]["images"] == ["iVBORw=="]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"schema": 2}', '{"schema": 1, "turns": 3, "dropped": []}', "\xff"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    """With its name."""
    path = tmp_path / "other.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"other\.json"):
        Conversation.load(path)


def test_a_session_that_cannot_be_saved_says_so(tmp_path: Path) -> None:
    """The folder is missing."""
    with pytest.raises(ArtifactError, match="cannot be written"):
        Conversation("m").save(tmp_path / "none" / "letters.json")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"options": {"num_ctxx": 1}}, "unknown option"),
        ({"trim": "newest"}, "trim is 'newest'"),
        ({"reserve_tokens": -1}, "reserve_tokens"),
        ({"budget_tokens": 0}, "budget_tokens is 0"),
        ({"budget_tokens": 9, "trim": "never"}, "trim is never"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_asked(
    settings: dict[str, Any], words: str
) -> None:
    """When the conversation is made."""
    with pytest.raises(ConfigError, match=words):
        Conversation("m", **settings)


@given(st.lists(st.tuples(st.text(), st.text(), st.booleans()), max_size=5))
def test_any_texts_survive_saving(turns: list[tuple[str, str, bool]]) -> None:
    """Control characters and emoji; half a surrogate pair is no text."""
    import tempfile

    said = Conversation("m")
    for question, answer, whole in turns:
        with contextlib.suppress(UnicodeEncodeError):
            (question + answer).encode()
            said.turns.append(conversations.Turn(said.question(question), answer, is_whole=whole))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        said.save(path)
        assert Conversation.load(path) == said


def test_a_retry_that_is_stopped_leaves_the_answer(
    fake_daemon: FakeDaemon, start: Callable[..., Driver]
) -> None:
    """Once, and whole."""
    session = start()
    session("ask", "one")
    session.stop(Text, "retry")
    assert [(turn.answer, turn.is_whole) for turn in session.conversation.turns] == [
        ("Hello!", True)
    ]
