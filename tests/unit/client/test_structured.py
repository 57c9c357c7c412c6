"""Answers as values: what is sent, what is checked, how often it is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ollama_bridge.client.structured import grammar_schema, shape_of
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    OutputInvalidError,
    RefusedAnswer,
    StreamBrokenError,
)

TOO_LONG = "the input exceeds the available context size"


class Verdict(BaseModel):
    """A feeling and how sure of it one is."""

    label: Literal["positive", "negative"]
    share: float = Field(ge=0, le=1)


@dataclass
class Point:
    x: int
    y: int


def saying(*answers: str) -> Callable[[Asked], Turn]:
    """Answer after answer."""
    left = list(answers)
    return lambda asked: Turn(pieces=[left.pop(0)])


def test_an_answer_becomes_a_model(fake_daemon: FakeDaemon, ask: Any) -> None:
    """The grammar is the model's schema."""
    fake_daemon.script = saying('{"label": "negative", "share": 0.9}')
    parsed = ask(fake_daemon.host, "parse", "m", "It broke.", Verdict, system="Judge.")
    assert parsed.value == Verdict(label="negative", share=0.9)
    assert (parsed.refused, parsed.prompt_tokens, parsed.generated_tokens) == ((), 7, 3)
    body = fake_daemon.questions[0]
    assert body["format"] == Verdict.model_json_schema()
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["truncate"] is False


@pytest.mark.parametrize(
    ("into", "answer", "value"),
    [
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (list[int], "[1, 2]", [1, 2]),
        ({"type": "array", "items": {"type": "string"}}, '["a"]', ["a"]),
    ],
)
def test_any_type_or_schema_will_do(
    fake_daemon: FakeDaemon, ask: Any, into: Any, answer: str, value: object
) -> None:
    """Dataclasses, plain types, JSON schemas."""
    fake_daemon.script = saying(answer)
    assert ask(fake_daemon.host, "parse", "m", "hi", into).value == value


def test_a_wrong_answer_is_sent_back_with_what_is_wrong(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Tokens of all attempts are counted."""
    wrong = '{"label": "negative", "share": 3}'
    fake_daemon.script = saying(wrong, "nonsense", '{"label": "negative", "share": 0.3}')
    parsed = ask(fake_daemon.host, "parse", "m", "It broke.", Verdict)
    assert parsed.value.share == 0.3
    assert parsed.refused[0] == RefusedAnswer(
        wrong, "share: Input should be less than or equal to 1"
    )
    assert "Invalid JSON" in parsed.refused[1].problem
    assert (parsed.prompt_tokens, parsed.generated_tokens) == (21, 9)
    assert parsed.reply.prompt_tokens == 7
    again = fake_daemon.questions[1]["messages"]
    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    assert again[1]["content"] == wrong
    assert parsed.refused[0].problem in again[2]["content"]


def test_it_is_not_asked_for_ever(fake_daemon: FakeDaemon, ask: Any) -> None:
    """The error has every answer, and what they cost."""
    fake_daemon.script = saying(*["[]"] * 5)
    with pytest.raises(
        OutputInvalidError, match=r"the form that was asked for \(2 tried\)"
    ) as caught:
        ask(fake_daemon.host, "parse", "m", "hi", Verdict, attempts=2)
    assert len(fake_daemon.questions) == 2
    assert [answer.text for answer in caught.value.refused] == ["[]", "[]"]
    assert (caught.value.prompt_tokens, caught.value.generated_tokens) == (14, 6)
    assert caught.value.partial_text == "[]"


def test_where_it_cannot_be_asked_again_what_was_wrong_is_told(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """A question that holds the answer and the schema, too, may be longer than the context."""
    turns = iter([Turn(pieces=["[]"])])
    fake_daemon.script = lambda asked: next(turns, Turn(refusal=(400, TOO_LONG)))
    with pytest.raises(OutputInvalidError, match="no answer had the form") as caught:
        ask(fake_daemon.host, "parse", "m", "hi", Verdict)
    assert isinstance(caught.value.__cause__, ContextOverflowError)
    assert (caught.value.prompt_tokens, caught.value.generated_tokens) == (7, 3)
    with pytest.raises(ContextOverflowError):
        ask(fake_daemon.host, "parse", "m", "hi", Verdict)


def test_what_was_refused_before_a_failure_is_told(fake_daemon: FakeDaemon, ask: Any) -> None:
    """The answers that did not fit, and their tokens, whatever fails when it is asked again."""
    turns = iter([Turn(pieces=["[]"])])
    fake_daemon.script = lambda asked: next(turns, Turn(fault=Fault.NO_DONE))
    with pytest.raises(StreamBrokenError) as caught:
        ask(fake_daemon.host, "parse", "m", "hi", Verdict)
    assert [answer.text for answer in caught.value.refused] == ["[]"]
    assert (caught.value.prompt_tokens, caught.value.generated_tokens) == (7, 3)


@pytest.mark.parametrize(
    ("thinking", "pieces", "words"),
    [
        ((), ['{"label"'], "the answer was cut off after 3 tokens"),
        (("Let me see",), [], "the thinking was cut off after 3 tokens"),
    ],
)
def test_a_cut_answer_is_not_asked_for_again(
    fake_daemon: FakeDaemon, ask: Any, thinking: Any, pieces: Any, words: str
) -> None:
    """It would be cut again; the hint says what to allow."""
    fake_daemon.script = lambda asked: Turn(pieces=pieces, thinking=thinking, done_reason="length")
    with pytest.raises(OutputInvalidError, match=words) as caught:
        ask(fake_daemon.host, "parse", "m", "hi", Verdict)
    assert len(fake_daemon.questions) == 1
    assert "num_predict" in str(caught.value.hint)
    assert ("think=False" in str(caught.value.hint)) == bool(thinking)


@pytest.mark.parametrize(
    ("into", "attempts", "words"),
    [
        ({"type": "banana"}, 3, "the format is not a JSON schema"),
        (Callable[[int], int], 3, "no JSON schema can be made of"),
        (3, 3, r"no JSON schema can be made of 3: Unable to .* for 3\. .*$"),
        (Verdict, 0, "attempts is 0"),
    ],
)
def test_what_cannot_be_asked_for_is_told_before(
    fake_daemon: FakeDaemon, ask: Any, into: Any, attempts: int, words: str
) -> None:
    """Nothing is sent."""
    with pytest.raises(ConfigError, match=words) as caught:
        ask(fake_daemon.host, "parse", "m", "hi", into, attempts=attempts)
    assert "\n" not in str(caught.value)
    assert fake_daemon.questions == []


def test_what_a_grammar_leaves_out_is_checked_here(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A pattern that looks ahead is not sent: Ollama 0.24 dies of it."""
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^(?!A)B"}}}
    fake_daemon.script = saying('{"code": "AB"}', '{"code": "BA"}')
    parsed = ask(fake_daemon.host, "parse", "m", "hi", schema)
    assert parsed.value == {"code": "BA"}
    assert parsed.refused[0].problem == "code: 'AB' does not match '^(?!A)B'"
    assert fake_daemon.questions[0]["format"]["properties"]["code"] == {"type": "string"}


def test_a_property_may_be_called_pattern() -> None:
    """Only the keyword is left out."""
    schema = {"properties": {"pattern": {"type": "string", "pattern": "^a$"}}}
    assert grammar_schema(schema) == schema


@given(st.builds(Verdict, label=st.sampled_from(["positive", "negative"]), share=st.floats(0, 1)))
def test_what_a_model_writes_is_read_back(verdict: Verdict) -> None:
    """Reading is the inverse of writing."""
    shape = shape_of(Verdict)
    assert shape.read(verdict.model_dump_json()) == verdict
    assert shape.read(json.dumps(verdict.model_dump(), indent=2)) == verdict
