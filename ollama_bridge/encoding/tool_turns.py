"""What a chat template has to write where tools are offered, called, and have given results.

Templates that know nothing of tools do not say so: they leave them out, and a call is an empty
answer. A model would learn to say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Example, Message

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
        TrainingError: the chat template leaves them out.
    """
    said = through.removeprefix(before)
    for call in answer.calls:
        if call.name not in said:
            raise TrainingError(
                f"the checkpoint's chat template does not write the call of {call.name} in example "
                f"{example.id}: it has no calls of tools",
                hint=HINT,
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
        return (
            "where the template takes one call a turn (Llama 3's): leave out the lines with more "
            "(jq -c 'select(all(.messages[]; (.tool_calls // [] | length) < 2))'), or use a "
            "checkpoint whose chat template takes several"
        )
    if any(message.calls or message.role == "tool" for message in messages):
        return HINT
    return None
