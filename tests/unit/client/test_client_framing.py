"""However an answer is cut on its way, the same reply comes out."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import httpx
import pytest
from fakes.daemon import FakeDaemon
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ollama_bridge.client import Client, Done, Reply, Text, Thinking
from ollama_bridge.client.answers.thinking import ThinkingSplitter
from ollama_bridge.client.wire.lines import Body, LineSplitter
from ollama_bridge.errors import ReplyInvalidError, StreamBrokenError

TAGGED = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "thi", "nk>", "</", " ", "\n", "a", "é", "🙂"])
).map("".join)
CUTS = st.lists(st.integers(0, 400))


def cut(whole: str, places: Sequence[int]) -> list[str]:
    edges = [0, *sorted({place % (len(whole) + 1) for place in places}), len(whole)]
    return [whole[start:end] for start, end in pairwise(edges)]


def split_off(pieces: Sequence[str]) -> tuple[str, str]:
    splitter = ThinkingSplitter()
    found = [splitter.feed(piece) for piece in pieces] + [splitter.finish()]
    return "".join(one for one, _ in found), "".join(two for _, two in found)


@given(text=TAGGED, places=CUTS)
def test_thinking_is_split_alike_wherever_the_text_was_cut(text: str, places: list[int]) -> None:
    """Any pieces of a text give what the whole gives."""
    assert split_off(cut(text, places)) == split_off([text])
    assert split_off(list(text)) == split_off([text])


@given(text=TAGGED)
def test_text_is_neither_lost_nor_invented(text: str) -> None:
    """Without a leading tag the text is untouched; with one, only tags and blanks go."""
    thinking, answer = split_off([text])
    if not text.lstrip().startswith("<think>"):
        assert (thinking, answer) == ("", text)
    else:
        inner = text.lstrip().removeprefix("<think>")
        thought, _, rest = inner.partition("</think>")
        assert (thinking, answer) == (thought, rest.lstrip())


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>a</think>b", "a", "b"),
        ("\n<think>\na\n</think>\n\nb", "\na\n", "b"),
        ("<think>never closed", "never closed", ""),
        ("<think></think>", "", ""),
        ("a <think>b</think>", "", "a <think>b</think>"),
        ("<thin", "", "<thin"),
        ("<think>a<think>b</think>c</think>", "a<think>b", "c</think>"),
    ],
)
def test_thinking_by_example(text: str, thinking: str, answer: str) -> None:
    """Only a block at the very beginning is thinking."""
    assert split_off([text]) == (thinking, answer)


@given(lines=st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b""))), places=CUTS)
def test_lines_are_cut_alike_wherever_the_bytes_were_cut(
    lines: list[bytes], places: list[int]
) -> None:
    """Any pieces of a stream give its lines; empty ones do not count."""
    whole = b"\n".join(lines).decode("latin-1")
    splitter = LineSplitter()
    found = [
        line for piece in cut(whole, places) for line in splitter.feed(piece.encode("latin-1"))
    ]
    found += splitter.finish()
    assert found == [line for line in lines if line.strip()]


def test_a_line_without_end_is_refused() -> None:
    """A page that is no stream of lines does not fill the memory; nor does a body without end."""
    tracemalloc.start()
    splitter, body = LineSplitter(), Body(most_bytes=1 << 22)
    with pytest.raises(ReplyInvalidError, match="a line of over"):
        while True:
            splitter.feed(bytes(1 << 20))
    with pytest.raises(ReplyInvalidError, match="a reply of over"):
        while True:
            body.add(bytes(1 << 20))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 24 * (1 << 20)


@pytest.mark.parametrize("end", [b'{"response": "a', '{"response": "é'.encode()[:-1], b"{"])
def test_half_a_line_is_a_broken_stream(ask: Any, end: bytes) -> None:
    """Proxies end what broke as if it were whole; a whole line without its end counts."""
    whole = b'{"response": "Yes", "done": false}\n'
    with pytest.raises(StreamBrokenError, match="in the middle of a line") as caught:
        ask("127.0.0.1:9", "generate", "m", "hi", handler=answering(whole + end))
    assert caught.value.partial_text == "Yes"
    done = b'{"response": "", "done": true}'
    assert ask("127.0.0.1:9", "generate", "m", "hi", handler=answering(whole + done)).text == "Yes"


def answering(body: bytes) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(200, content=body)


class Pieces(httpx.SyncByteStream):
    """A body in the pieces that a network made of it."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces


def replies(text: str, places: list[int], byte_places: list[int]) -> tuple[Reply, str, str]:
    events = [{"message": {"content": piece}, "done": False} for piece in cut(text, places)]
    lines = [*events, {"message": {"content": ""}, "done": True, "done_reason": "stop"}]
    body = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    pieces = [piece.encode("latin-1") for piece in cut(body.decode("latin-1"), byte_places)]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Pieces(pieces)))
    with Client("127.0.0.1:9", transport=transport) as client:
        found = list(client.stream("m", "hi"))
    assert isinstance(found[-1], Done)
    thinking = "".join(event.text for event in found if isinstance(event, Thinking))
    answer = "".join(event.text for event in found if isinstance(event, Text))
    return found[-1].reply, thinking, answer


@settings(deadline=None)
@example(text="<think>é</think>🙂", places=[1, 2, 3], byte_places=[5, 30, 33])
@given(text=TAGGED, places=CUTS, byte_places=CUTS)
def test_a_reply_does_not_depend_on_the_network(
    text: str, places: list[int], byte_places: list[int]
) -> None:
    """Pieces of text and pieces of bytes, even of a character, make no difference."""
    reply, thinking, answer = replies(text, places, byte_places)
    assert reply == replies(text, [], [])[0]
    assert reply.text == answer
    assert reply.thinking == thinking.strip()


def test_what_the_daemon_split_is_not_split_again() -> None:
    """Where thinking has a field of its own, a tag in the text is text."""
    lines = [
        {"message": {"thinking": "t"}},
        {"message": {"content": "<think>x</think>"}},
        {"done": True},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    with Client("127.0.0.1:9", transport=transport) as client:
        reply = client.chat("m", "hi")
    assert (reply.thinking, reply.text) == ("t", "<think>x</think>")


def test_a_raw_prompt_gets_raw_text() -> None:
    """Where no template is applied, nothing is taken off."""
    body = b'{"response": "<think>a</think>b", "done": true}'
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    with Client("127.0.0.1:9", transport=transport) as client:
        assert client.generate("m", "hi", raw=True).text == "<think>a</think>b"
        assert client.generate("m", "hi").text == "b"


OPENING = "hi\n<think>\n"  # as the fake daemon renders it, a prompt that opens a thought


def test_a_thought_that_the_prompt_opened_is_no_answer(fake_daemon: FakeDaemon) -> None:
    """A closing tag that nothing opened: the prompt is looked at, and from then on it is known."""
    fake_daemon.pieces = ["Let me", " see.\n</thi", "nk>\n\nYes", "."]
    with Client(fake_daemon.host) as client:
        reply = client.chat("m", OPENING, think=False)
        assert (reply.thinking, reply.text) == ("Let me see.", "Yes.")
        *events, done = client.stream("m", OPENING, think=False)
        assert [type(event) for event in events] == [Thinking, Thinking, Text, Text]
        assert isinstance(done, Done)
        assert (done.reply.thinking, done.reply.text) == ("Let me see.", "Yes.")
        rendered = [asked for asked in fake_daemon.asked if b"_debug_render_only" in asked.body]
        assert len(rendered) == 1


def test_an_answer_under_a_grammar_is_no_thought(fake_daemon: FakeDaemon) -> None:
    """Though the prompt is known to open one: the grammar holds from the first token on."""
    with Client(fake_daemon.host) as client:
        fake_daemon.pieces = ["Hm.</think>Yes."]
        assert client.chat("m", OPENING).thinking == "Hm."
        fake_daemon.pieces = ['{"a"', ": 1}"]
        assert client.parse("m", OPENING, dict[str, int]).value == {"a": 1}
        *events, _ = client.stream("m", OPENING, format="json")
        assert events == [Text('{"a"'), Text(": 1}")]
        fake_daemon.pieces = ["Hm.</think>Yes."]
        assert isinstance(next(client.stream("m", OPENING)), Thinking)


def test_a_closing_tag_in_an_answer_is_text(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Where the prompt opened nothing; and where the daemon does not tell."""
    fake_daemon.pieces = ["The ", "</think> tag."]
    for fake_daemon.renders in (True, False):
        events = ask(fake_daemon.host, "stream", "m", "hi")
        assert (events[-1].reply.thinking, events[-1].reply.text) == ("", "The </think> tag.")


def test_what_is_known_of_a_prompt_may_change(fake_daemon: FakeDaemon) -> None:
    """A model that no longer opens thoughts is found out by an answer that closes none."""
    with Client(fake_daemon.host) as client:
        fake_daemon.pieces = ["a</think>b"]
        assert client.chat("m", OPENING).thinking == "a"
        fake_daemon.pieces = ["Yes."]
        for _ in range(2):
            reply = client.chat("m", "hi")
            assert (reply.thinking, reply.text) == ("", "Yes.")
