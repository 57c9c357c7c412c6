"""The texts of a conversation: whole, and before and through each answer.

The checkpoint's own chat template renders; what the model has to say (every assistant turn and
the token that ends it) is found by rendering prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2

from ollama_bridge.answer_text import THOUGHT_END
from ollama_bridge.encoding.row_dates import render
from ollama_bridge.encoding.tool_turns import check_written, hint_of_calls
from ollama_bridge.errors import DataError, TrainingError
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.settings.end_tokens import end_of_turns

_OPENED_THOUGHT = re.compile(r"<think>\s*\Z")


def rendered_texts(example: Example, tokenizer: Any) -> list[str]:
    """Every text of a conversation that is ever tokenized.

    Whole, up to and through answers, and an only answer by itself.

    Raises:
        DataError: it has no answer.
        TrainingError: the chat template fails or cannot be used for training.
    """
    text, turns = turn_texts(example, tokenizer, Ends(tokenizer))
    alone = [text[len(turns[0][0]) :]] if len(turns) == 1 else []
    return [text, *(part for turn in turns for part in turn), *alone]


def render_turns(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """What the checkpoint's own chat template makes of some turns.

    A date that it writes is the conversation's own (``row_dates``).

    Raises:
        TrainingError: the chat template fails.
    """
    try:
        return render(messages, tokenizer, generation_prompt=generation_prompt, tools=tools)
    except (jinja2.TemplateError, ValueError, IndexError, TypeError) as exc:
        raise TrainingError(
            f"the checkpoint's chat template cannot render a conversation of {_turns(messages)}: "
            f"{exc}",
            hint=hint_of_calls(messages)
            or "use an instruct checkpoint, and conversations whose roles its template knows",
        ) from exc


def _turns(messages: Sequence[Message]) -> str:
    counts = ((one.role, len(one.calls)) for one in messages)
    named = (f"{role} with {count} call(s)" if count else role for role, count in counts)
    return f"({', '.join(named)})"


class Ends:
    """What ends an answer; found out where it is asked for, as it takes longer than rendering."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def ids(self) -> frozenset[int]:
        """The tokens: eos, and what the chat template writes behind an answer."""
        ids = (self._tokenizer.eos_token_id, end_of_turns(self._tokenizer))
        return frozenset(id_ for id_ in ids if id_ is not None)

    def are_in(self, text: str) -> bool:
        """Whether it has one of them."""
        return any(end in text for end in self._tokenizer.convert_ids_to_tokens([*self.ids]))


def turn_texts(example: Example, tokenizer: Any, ends: Ends) -> tuple[str, list[tuple[str, str]]]:
    """The whole conversation, and for every answer the text before it and through its end."""
    messages = example.messages
    if not example.is_answered:
        raise DataError(
            f"example {example.id} has no assistant turn: there is nothing to learn from it",
            hint="add the answer, or let the teacher write it (teacher.answers: daemon)",
        )
    if messages[0].role == "assistant":
        raise DataError(
            f"example {example.id} begins with the assistant: there is nothing that it answers",
            hint="remove that turn, or put the user's turn before it",
        )
    tools = example.tools
    text = render_turns(messages, tokenizer, generation_prompt=False, tools=tools)
    turns = []
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before, through = (
            render_turns(messages[:stop], tokenizer, generation_prompt=asks, tools=tools)
            for stop, asks in ((number, True), (number + 1, False))
        )
        check_written(example, message, before=before, through=through)
        if not text.startswith(through) and tokenizer.eos_token is not None:
            # Of a whole conversation (Phi-3). Where nothing else ends its last answer, the others
            # have no end that could be learnt.
            own = through.removesuffix(tokenizer.eos_token)
            through = own if ends.are_in(own[len(before) :]) else through
        forgotten = THOUGHT_END in message.content and THOUGHT_END not in through[len(before) :]
        if forgotten or not (through.startswith(before) and text.startswith(through)):
            last = _last_turn(example, tokenizer)
            if last is None:
                raise TrainingError(
                    f"the chat template does not render turn {number} of example {example.id} as "
                    "its generation prompt and the answer, or renders it differently when more "
                    "turns follow: the answer cannot be marked for training",
                    hint="give the checkpoint a chat template that only appends, or train on "
                    "single-turn examples",
                )
            check_written(example, messages[-1], before=last[0], through=last[1])
            return last[1], [last]
        turns.append((before, through))
    return text, turns


def _last_turn(example: Example, tokenizer: Any) -> tuple[str, str] | None:
    """The text before the last answer and through its end, as a model that thinks writes it.

    A chat template of such a model may open a thought in the generation prompt, and drops thoughts
    of turns that are over. What the model has to write is then not what the template renders: the
    thought, which may be empty, its end, and the answer. Only the last answer can be learnt so,
    for the others are followed by turns that are rendered without their thoughts.

    Returns:
        None where the template does something else.
    """
    *earlier, answer = example.messages
    if answer.role != "assistant":
        return None
    before, whole = (
        render_turns(turns, tokenizer, generation_prompt=asks, tools=example.tools)
        for turns, asks in ((earlier, True), (example.messages, False))
    )
    opened = _OPENED_THOUGHT.search(before)
    start = before if opened is None else before[: opened.start()]
    if not whole.startswith(start):
        return None
    rest = whole[len(start) :]
    thought, end, _ = answer.content.rpartition(THOUGHT_END)
    if THOUGHT_END in rest:  # the template writes the thought itself
        return (before, whole) if whole.startswith(before) else None
    if opened is not None or end:
        opening = "<think>\n" if opened is None else ""
        inner = thought.strip().removeprefix("<think>").strip()
        rest = f"{opening}{inner}\n{THOUGHT_END}\n\n{rest.lstrip()}"
    return before, before + rest
