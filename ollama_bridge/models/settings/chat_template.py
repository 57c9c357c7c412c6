"""What a tokenizer's chat template writes around texts: BOS before them, the turn's end behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.jinja import ChatTemplate, RefusedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def chat_template_of(tokenizer: PreTrainedTokenizerFast) -> ChatTemplate | None:
    """A tokenizer's chat template, with its special tokens; None: it has none.

    Raises:
        TemplateError: it is no Jinja.
    """
    if not tokenizer.chat_template:
        return None
    special = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    return ChatTemplate(
        tokenizer.get_chat_template(), special=special, adds_bos=adds_bos(tokenizer)
    )


def turn_end_of(template: ChatTemplate) -> str | None:
    """What a chat template writes after an answer, without white space around it."""
    messages = (Message("user", "Hi"), Message("assistant", "Answer."))
    try:
        rendered = template.render(Conversation(messages), prompt=False)
    except RefusedError:
        return None
    if "Answer." not in rendered:
        return None
    # The line end belongs to the template's layout, not to what ends the turn.
    return rendered.rpartition("Answer.")[2].strip() or None


def turn_end_between(template: ChatTemplate) -> str | None:
    """What a chat template writes between an answer and what is asked next; None: it refuses."""
    messages = (Message("user", "Hi"), Message("assistant", "Answer."), Message("user", "Next?"))
    try:
        rendered = template.render(Conversation(messages), prompt=False)
    except RefusedError:
        return None
    before, _, behind = rendered.partition("Answer.")
    return behind.partition("Next?")[0] if before and behind else None


def turn_end_token(tokenizer: PreTrainedTokenizerFast, turn_end: str) -> int | None:
    """The special token that a turn's end begins with; None: it is written in plain text."""
    first = tokenizer(turn_end, add_special_tokens=False).input_ids[:1]
    return next((int(token) for token in first if is_special(tokenizer, token)), None)


def is_special(tokenizer: PreTrainedTokenizerFast, token: int) -> bool:
    """Whether a token is one that stands for itself in no text, such as a mark of a chat format."""
    added = tokenizer.added_tokens_decoder.get(token)
    return added is not None and added.special


def adds_bos(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer puts BOS in front of every text."""
    empty = tokenizer("").input_ids
    return bool(empty) and bool(empty[0] == tokenizer.bos_token_id)


def leaves_bos_out(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer puts BOS in front of texts, but its chat template does not.

    Conversations are encoded as the template writes them, in training too: a daemon must add none.
    """
    template = chat_template_of(tokenizer)
    if template is None or not adds_bos(tokenizer):
        return False
    try:
        rendered = template.render(Conversation((Message("user", "Hi"),)), with_bos=True)
    except RefusedError:
        return False
    return not rendered.startswith(str(tokenizer.bos_token))
