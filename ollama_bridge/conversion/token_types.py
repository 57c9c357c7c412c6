"""The types of added tokens in a GGUF, by which a daemon finds them in texts and prints them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gguf.constants import TokenType

from ollama_bridge.conversion.space_prefix import SPACE


def added_type(added: Mapping[str, Any], *, sentencepiece: bool) -> TokenType:
    """The type of an added token."""
    if added.get("special"):
        return TokenType.CONTROL
    # llama.cpp prints what is USER_DEFINED to the letter: a Gemma would indent code by U+2581. Nor
    # would it find such a token in a text, which has spaces; merges make it, as in the tokenizer.
    shows_spaces = sentencepiece and SPACE in added["content"]
    return TokenType.NORMAL if shows_spaces else TokenType.USER_DEFINED


def with_printed(
    types: Sequence[int], tokens: Iterable[int], *, ends: Collection[int]
) -> list[int]:
    """Types under which a daemon prints some tokens that may be special ones.

    Ollama prints nothing of a CONTROL token. USER_DEFINED ones are found in texts just like them.

    Those that end an answer stay as they are.
    """
    control, printed = int(TokenType.CONTROL), int(TokenType.USER_DEFINED)
    chosen = {id_ for id_ in tokens if types[id_] == control and id_ not in ends}
    return [printed if id_ in chosen else type_ for id_, type_ in enumerate(types)]
