"""An answer that broke off goes on from the text that had come: nothing is lost, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.client import Retries, Text, Thinking
from ollama_bridge.client.answers.assembly import ReplyAssembler
from ollama_bridge.errors import StreamBrokenError

RESUME = Retries(attempts=4, pause_s=0.01, resume=True)
ANSWER = ["Once", " upon", " a", " time", " there", " was", "."]


def continuing(
    *cuts: int, thinking: tuple[str, ...] = (), fault: Fault = Fault.NO_DONE
) -> Callable[[Asked], Turn]:
    """A daemon that breaks off after so many pieces, and goes on behind any text of its own."""
    left = list(cuts)
    whole = "".join(ANSWER)
    thought = f"<think>\n{''.join(thinking)}\n</think>\n\n"

    def script(asked: Asked) -> Turn:
        cut = left.pop(0) if left else None
        ending = None if cut is None else fault
        if not asked.json.get("raw"):
            shown = [*thinking, *ANSWER][:cut]
            return Turn(shown[len(thinking) :], thinking=shown[: len(thinking)], fault=ending)
        said = asked.json["prompt"].removeprefix("[user]hi")
        if thinking:
            assert thought.startswith(said) or said.startswith(thought)
        full = thought + whole if thinking else whole
        assert full.startswith(said)
        rest = full.removeprefix(said)
        return Turn([*rest][:cut], thinking=(), fault=ending)

    return script


@pytest.mark.parametrize(
    "fault", [Fault.NO_DONE, Fault.RESET, Fault.ERROR_LINE, Fault.BAD_CHUNK], ids=lambda f: f.name
)
@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_a_broken_answer_goes_on(
    fake_daemon: FakeDaemon, ask: Any, method: str, fault: Fault
) -> None:
    """The daemon shows the prompt, and is sent it raw with what had come."""
    fake_daemon.script = continuing(3, 2, fault=fault)
    found = ask(fake_daemon.host, method, "m", "hi", retries=RESUME, options={"num_predict": 50})
    reply = found[-1].reply if method == "stream" else found
    assert (reply.text, reply.resumed, reply.done_reason) == ("".join(ANSWER), 2, "stop")
    if method == "stream":
        assert "".join(event.text for event in found[:-1]) == "".join(ANSWER)
    first, second, third = fake_daemon.questions
    assert "raw" not in first
    assert second["prompt"] == "[user]hiOnce upon a"
    assert second["options"]["num_predict"] == 47
    assert third["prompt"] == "[user]hiOnce upon a t"
    assert third["options"]["num_predict"] == 45
    assert reply.generated_tokens == 5 + 3  # before the last break, and as the daemon counts


@pytest.mark.parametrize("cut", range(1, 9))
def test_thinking_goes_on_too(fake_daemon: FakeDaemon, ask: Any, cut: int) -> None:
    """Broken in the thought or behind it: the same thought and the same answer."""
    thinking = ("Let", " me", " see")
    fake_daemon.script = continuing(cut, 1, thinking=thinking)
    *events, done = ask(fake_daemon.host, "stream", "m", "hi", retries=RESUME)
    assert (done.reply.thinking, done.reply.text) == ("Let me see", "".join(ANSWER))
    said = "".join(event.text for event in events if isinstance(event, Text))
    thought = "".join(event.text for event in events if isinstance(event, Thinking))
    assert (said, thought.strip()) == ("".join(ANSWER), "Let me see")


def test_a_raw_prompt_is_continued_as_it_is(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Nothing has to be shown first."""
    fake_daemon.script = continuing(2)
    reply = ask(fake_daemon.host, "generate", "m", "[user]hi", raw=True, retries=RESUME)
    assert reply.text == "".join(ANSWER)
    assert len(fake_daemon.asked) == 2


@pytest.mark.parametrize(
    "extra",
    [{"format": "json"}, {"tools": [{"type": "function"}]}, {"options": {"num_predict": 3}}],
    ids=str,
)
def test_what_cannot_be_continued_is_an_error(
    fake_daemon: FakeDaemon, ask: Any, extra: dict[str, Any]
) -> None:
    """A grammar in mid-word, a tool's call, and an answer that has used up its tokens."""
    fake_daemon.script = continuing(3, 3, 3, 3)
    with pytest.raises(StreamBrokenError) as caught:
        ask(fake_daemon.host, "stream", "m", "hi", retries=RESUME, **extra)
    assert caught.value.partial_text == "Once upon a"
    assert len(fake_daemon.questions) == 1


@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_what_is_said_of_an_image_is_not_continued_without_it(
    fake_daemon: FakeDaemon, ask: Any, method: str
) -> None:
    """A raw text has ``[img-0]`` in its place, and the model would go on blind; in any turn."""
    fake_daemon.script = continuing(3, 3, 3, 3)
    hi = {"role": "user", "content": "hi"}
    said: Any = [{"role": "user", "content": "What is it?", "images": [b"2"]}, hi]
    extra: dict[str, Any] = {}
    if method == "generate":
        said, extra = "hi", {"images": [b"2"]}
    with pytest.raises(StreamBrokenError):
        ask(fake_daemon.host, method, "m", said, retries=RESUME, **extra)
    # A whole answer may be begun anew; of a stream a part is out already.
    assert len(fake_daemon.questions) == (1 if method == "stream" else 4)
    assert not any("raw" in asked for asked in fake_daemon.questions)


def test_a_daemon_that_hides_its_prompt(fake_daemon: FakeDaemon, ask: Any) -> None:
    """The break is what is told."""
    fake_daemon.renders = False
    fake_daemon.script = lambda asked: (
        Turn() if asked.json.get("_debug_render_only") else Turn(fault=Fault.NO_DONE)
    )
    with pytest.raises(StreamBrokenError) as caught:
        ask(fake_daemon.host, "stream", "m", "hi", retries=RESUME)
    assert (caught.value.partial_text, caught.value.attempts) == ("Hello!", 2)


def test_continuations_are_bounded(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A daemon that breaks off again and again is given up, with all that came."""
    fake_daemon.script = continuing(*[1] * 9)
    with pytest.raises(StreamBrokenError) as caught:
        ask(fake_daemon.host, "chat", "m", "hi", retries=RESUME)
    assert caught.value.attempts == 4
    assert caught.value.partial_text == "Once up"


def test_off_unless_asked_for(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A continuation is the caller's choice: it need not be what the unbroken answer is."""
    fake_daemon.script = continuing(3)
    with pytest.raises(StreamBrokenError):
        ask(fake_daemon.host, "stream", "m", "hi", retries=Retries(pause_s=0.01))


@given(
    pieces=st.lists(st.sampled_from(["<think>", "</think>", "<", "nk>", "a", " ", "\n", "é"])),
)
def test_what_is_sent_raw_is_what_had_come(pieces: list[str]) -> None:
    """Where we split the thinking off ourselves, the continuation begins with every byte of it."""
    assembler = ReplyAssembler("m")
    for piece in pieces:
        assembler.feed(json.dumps({"response": piece}).encode())
    assert assembler.resume("PROMPT") == "PROMPT" + "".join(pieces)
