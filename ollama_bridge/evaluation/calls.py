"""Scores of answers where tools are offered: what is called, with what, and where nothing is to be.

Every answer of such a conversation is asked for, not the last alone: most end on what is said of a
result. An answer is kept as the JSON of its text and its calls. Of a text that a model wrote in
torch the calls are read as Ollama reads them (``tools/tools.go``): behind what the chat template
writes in front of a call, the name of a tool that is offered and the JSON object beside it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ollama_bridge.answer_text import without_thought
from ollama_bridge.encoding.turn_texts import Ends, render_turns
from ollama_bridge.errors import TrainingError
from ollama_bridge.evaluation.given_answers import score_json
from ollama_bridge.evaluation.metrics import Interval, share_right
from ollama_bridge.examples import Call, Example, Message

# What belongs to the JSON of a call in front of its name: brackets, and the key.
_BEGUN = re.compile(r"""[\[{"\s]*(?:\w+"\s*:\s*"?)?\Z""")
_ASKED = Message("user", "Hi")


def each_answer(examples: Iterable[Example]) -> list[Example]:
    """What is asked: of conversations with tools every answer, of others the last."""
    found: list[Example] = []
    for example in examples:
        found += example.up_to_each_answer() if example.tools else [example]
    return found


def whole_conversations(asked: Sequence[Example]) -> list[Example]:
    """Those of :func:`each_answer` that are not the beginning of another."""
    return [example for example in asked if not example.is_part]


def as_said(text: str, calls: Iterable[Call]) -> str:
    """An answer where tools are offered, as one text."""
    made = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return json.dumps({"text": text, "calls": made}, ensure_ascii=False, sort_keys=True)


def given_answer(example: Example) -> str:
    """The answer that an example ends on, without its thought, as a model's is kept."""
    answer = example.messages[-1]
    text = without_thought(answer.content)
    return as_said(text, answer.calls) if example.tools else text


def text_of(example: Example, answer: str) -> str:
    """What an answer to an example says, its calls apart."""
    return str(json.loads(answer)["text"]) if example.tools else answer


class CallReader:
    """Reads the calls in what a model wrote.

    Args:
        tokenizer: The model's own, with its chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def read(self, written: str, example: Example) -> str:
        """An answer to an example as :func:`as_said` keeps it; without tools, what was written."""
        text = without_thought(written)
        if not example.tools:
            return written
        said, calls = self._calls_in(text, example)
        if not calls and example.messages[-1].calls and text == self._given(example):
            # In a notation that is no JSON.
            said, calls = without_thought(example.messages[-1].content), example.messages[-1].calls
        return as_said(said, calls)

    def _calls_in(self, text: str, example: Example) -> tuple[str, Sequence[Call]]:
        tag = self._tag
        start = text.find(tag) if tag else min(0, "[{".find(text[:1] or " "))
        if tag is None or start < 0:
            return text, ()
        names = [str(tool["function"]["name"]) for tool in example.tools]
        calls = tuple(_calls(text[start:], sorted(names, key=len, reverse=True)))
        return (text[:start].strip(), calls) if calls else (text, ())

    def _given(self, example: Example) -> str:
        """An example's last answer as the chat template writes it, without thought and end."""
        written = without_thought(self._answer(example.messages, example.tools))
        for end in self._tokenizer.convert_ids_to_tokens([*Ends(self._tokenizer).ids]):
            written = written.removesuffix(end).strip()
        return written

    @cached_property
    def _tag(self) -> str | None:
        """What stands in front of a call's JSON; None: the template writes no calls."""
        name = "Xname0Z"
        function = {"name": name, "description": "", "parameters": {"type": "object"}}
        probe = (_ASKED, Message("assistant", "", (Call(name, {}, "Id0000000"),)))
        try:
            answer = self._answer(probe, [{"type": "function", "function": function}])
        except TrainingError:
            return None
        before, found, _ = answer.partition(name)
        # As OpenAI writes a call, a kind and an id come first: only in front of these is a tag.
        return without_thought(_BEGUN.sub("", before.partition("{")[0])) if found else None

    def _answer(self, turns: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        before, whole = (
            render_turns(messages, self._tokenizer, generation_prompt=asks, tools=tools)
            for messages, asks in ((turns[:-1], True), (turns, False))
        )
        return whole.removeprefix(before)


def _calls(text: str, names: Sequence[str]) -> Iterator[Call]:
    """Every call in a text; of two names that begin at one place the longer one is called."""
    while True:
        places = {name: text.find(name) for name in names if name in text}
        name = min(places, key=places.__getitem__, default=None)
        start = text.find("{")
        if name is None or start < 0:
            return
        try:
            found, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            return
        arguments = _arguments(found, name)
        if arguments is None:
            return
        yield Call(name, arguments)
        text = text[max(end, places[name] + len(name)) :]


def _arguments(found: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Of a call's object, wherever in it the call stands, or of one that is the arguments."""
    said: Sequence[object] = next(_said(found, name), [found])
    return next((one for one in map(_object, said) if one is not None), None)


def _said(found: Mapping[str, Any], name: str) -> Iterator[Sequence[object]]:
    """What may be the arguments, of each object in an object that names what is called."""
    if "name" in found:
        yield [found.get("arguments"), found.get("parameters")]
    elif _object(found.get(name)) is not None:
        yield [found[name]]
    else:
        for value in found.values():
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, dict):
                    yield from _said(child, name)


def _object(given: object) -> Mapping[str, Any] | None:
    """An object, or what its text is the JSON of; None: it is neither."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return None
    return given if isinstance(given, dict) else None


@dataclass(frozen=True)
class CallScores:
    """What the calls in answers are worth.

    Attributes:
        same: Share of answers to be called in that call what is given, with arguments that are the
            same JSON values, in any order; None: no answer calls.
        names: Share that call the functions that are given.
        f1: Micro F1 of the arguments; those of a function that is not given are wrong.
        by_argument: F1 of each, by function and place.
        silent: Share of answers in text that call nothing; None: all call.
    """

    same: Interval | None
    names: Interval | None
    f1: Interval | None
    by_argument: Mapping[str, float]
    silent: Interval | None

    def to_dict(self) -> dict[str, object]:
        """For a report."""
        shares = {"calls_same": self.same, "calls_name": self.names, "calls_f1": self.f1}
        shares["no_call"] = self.silent
        found: dict[str, object] = {
            name: share.to_dict() for name, share in shares.items() if share is not None
        }
        if self.by_argument:
            found["calls_fields"] = {name: round(f1, 5) for name, f1 in self.by_argument.items()}
        return found


def score_calls(
    given: Sequence[str], answers: Sequence[str], *, bootstrap_samples: int
) -> CallScores:
    """Hold answers against given ones, all of :func:`as_said`; intervals are over the answers."""
    pairs = [
        (json.loads(right)["calls"], json.loads(said)["calls"])
        for right, said in zip(given, answers, strict=True)
    ]
    silent = [not said for right, said in pairs if not right]
    called = [pair for pair in pairs if pair[0]]
    no_call = share_right(silent, bootstrap_samples=bootstrap_samples) if silent else None
    if not called:
        return CallScores(None, None, None, {}, no_call)
    names = [_names(right) == _names(said) for right, said in called]
    scores = score_json(
        [_by_name(right) for right, _ in called],
        [_by_name(said) for _, said in called],
        bootstrap_samples=bootstrap_samples,
    )
    return CallScores(
        scores.same,
        share_right(names, bootstrap_samples=bootstrap_samples),
        scores.f1,
        scores.by_field,
        no_call,
    )


def _names(calls: Sequence[Mapping[str, Any]]) -> Counter[str]:
    return Counter(call["name"] for call in calls)


def _by_name(calls: Sequence[Mapping[str, Any]]) -> str:
    """The JSON of the arguments by function; of none, which is no JSON, nothing."""
    often: Counter[str] = Counter()
    found = {}
    for call in sorted(calls, key=lambda call: json.dumps(call, sort_keys=True)):
        often[call["name"]] += 1
        number = often[call["name"]]
        found[call["name"] if number == 1 else f"{call['name']}#{number}"] = call["arguments"]
    return json.dumps(found) if found else ""
