"""The types of added tokens in a GGUF, by which a daemon finds them in texts and prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf.constants import TokenType

from ollama_bridge.conversion.space_prefix import SPACE
from ollama_bridge.models.json_files import added_tokens


def added_type(added: Mapping[str, Any], *, sentencepiece: bool) -> TokenType:
    """The type of an added token.

    Args:
        added: One of ``added_tokens`` in tokenizer.json.
        sentencepiece: Whether the vocabulary shows spaces as U+2581.
    """
    if added.get("special"):
        return TokenType.CONTROL
    # llama.cpp prints what is USER_DEFINED to the letter: a Gemma would indent code by U+2581. Nor
    # would it find such a token in a text, which has spaces; merges make it, as in the tokenizer.
    shows_spaces = sentencepiece and SPACE in added["content"]
    return TokenType.NORMAL if shows_spaces else TokenType.USER_DEFINED


def holds_spaces(document: Mapping[str, Any]) -> bool:
    """Whether tokens with spaces were added to the vocabulary of a tokenizer.json."""
    model = document.get("model")
    return (
        isinstance(model, Mapping)
        and bool(model.get("byte_fallback"))
        and any(
            added_type(token, sentencepiece=True) == TokenType.NORMAL
            for token in added_tokens(document)
        )
    )
