"""What a chat template has to write where tools are offered, called, and have given results.

Templates that know nothing of tools do not say so: they leave them out, and a call is an empty
answer. A model would learn to say nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Call, Example, Message

_ID_LENGTH = 9  # letters and digits that Mistral's templates take, and no other number of them

HINT = (
    "use a checkpoint whose chat template writes tools and calls (Qwen 2.5 and 3, Llama 3.1 and "
    "later, Mistral, ...), or put such a one into its folder as chat_template.jinja: what is "
    "trained then learns that format"
)


def check_written(example: Example, answer: Message, *, before: str, through: str) -> None:
    """Make sure that a rendered answer has its calls, and the prompt in front the tools.

    Args:
        example: The conversation, with its tools.
        answer: One of its assistant turns.
        before: The rendered conversation in front of it.
        through: The same through its end.

    Raises:
        TrainingError: the chat template leaves them out, or some of several calls.
    """
    said = through.removeprefix(before)
    for name, count in Counter(call.name for call in answer.calls).items():
        written = said.count(name)
        if not written:
            raise TrainingError(
                f"the checkpoint's chat template does not write the call of {name} in example "
                f"{example.id}: it has no calls of tools",
                hint=HINT,
            )
        if written < count:
            raise TrainingError(
                f"the checkpoint's chat template writes {written} of {count} calls of {name} in "
                f"example {example.id}",
                hint=_hint_of_several(),
            )
    for tool in example.tools:
        if tool["function"]["name"] not in before:
            raise TrainingError(
                f"the checkpoint's chat template does not write the tool "
                f"{tool['function']['name']} of example {example.id}: it has no tools",
                hint=HINT,
            )


def hint_of_calls(messages: Sequence[Message]) -> str | None:
    """What helps where a template refuses a conversation with calls; None: it has none."""
    if any(len(message.calls) > 1 for message in messages):
        return _hint_of_several()
    if any(message.calls or message.role == "tool" for message in messages):
        return HINT
    return None


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Turns whose calls have ids of nine letters and digits, and whose results name these.

    Mistral's templates refuse any other id, and none. What stands for a call's id depends on what
    is in front of it alone, so that the beginning of a conversation has the same.
    """
    found = []
    waiting: list[tuple[Call, str]] = []
    for place, message in enumerate(messages):
        if message.role == "tool" and waiting:
            one = _call_of(message, [call for call, _ in waiting])
            found.append(replace(message, call_id=waiting.pop(one)[1]))
            continue
        waiting = [
            (call, digest_text(canonical_json([place, number, call.to_dict()]))[:_ID_LENGTH])
            for number, call in enumerate(message.calls)
        ]
        calls = tuple(replace(call, id=id_) for call, id_ in waiting)
        found.append(replace(message, calls=calls) if calls else message)
    return found


def _call_of(result: Message, calls: Sequence[Call]) -> int:
    """Which call a result is of: by its id, else by its name, else the first."""
    names = (("id", result.call_id), ("name", result.name))
    places = (
        place
        for key, value in names
        if value
        for place, call in enumerate(calls)
        if getattr(call, key) == value
    )
    return next(places, 0)


def _hint_of_several() -> str:
    return (
        "where the template takes one call a turn (Llama 3's): leave out the lines with more "
        "(jq -c 'select(all(.messages[]; (.tool_calls // [] | length) < 2))'), or use a "
        "checkpoint whose chat template takes several"
    )
