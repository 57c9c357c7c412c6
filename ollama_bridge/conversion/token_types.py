"""The types of added tokens in a GGUF, by which a daemon finds them in texts and prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf.constants import TokenType

from ollama_bridge.conversion.space_prefix import SPACE


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
