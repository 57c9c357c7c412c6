"""Which tokens end what a model writes."""

from __future__ import annotations

from typing import Any

from ollama_bridge.models.settings.chat_template import (
    chat_template_of,
    turn_end_of,
    turn_end_token,
)
from ollama_bridge.models.settings.named_ends import named_ends


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ends that the generation config names, the tokenizer's own, and the chat template's.

    The last is neither of the others where a base model, which ends whole texts, was taught a chat
    format with marks of its own.
    """
    return frozenset(
        named_ends(
            {"eos_token_id": model.generation_config.eos_token_id},
            {},  # a config as loaded has its class' default where its file says nothing
            eos=tokenizer.eos_token_id,
            is_special=lambda _: False,
            turn_end=end_of_turns(tokenizer),
        )
    )


def end_of_turns(tokenizer: Any) -> int | None:
    """The special token that the chat template writes behind an answer; None: it writes none."""
    template = chat_template_of(tokenizer)
    turn_end = turn_end_of(template) if template is not None else None
    return turn_end_token(tokenizer, turn_end) if turn_end is not None else None
