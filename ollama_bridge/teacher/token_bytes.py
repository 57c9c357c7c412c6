"""The bytes that each token of a tokenizer stands for, and the token that bytes begin with.

A daemon names tokens by text only, so text is where two vocabularies meet.
"""

from __future__ import annotations

from ollama_bridge.alignment.token_text import (
    first_tokens,
    is_byte_fallback,
    read_added,
    read_byte_level,
    read_sentencepiece,
    writes_bytes,
)
from ollama_bridge.encoding.encode import Tokenizer


class TokenBytes:
    """Tokens as bytes. Special tokens have none.

    Reads byte-level vocabularies (GPT-2's alphabet) and SentencePiece's (``▁``, ``<0x0A>``).

    Attributes:
        falls_back: Whether some tokens are bytes, for what no other token says.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        added = tokenizer.added_tokens_decoder
        is_byte_level = writes_bytes(tokenizer)
        read = read_byte_level if is_byte_level else read_sentencepiece
        self._bytes: dict[int, bytes] = {}
        fallbacks: set[int] = set()
        for text, token in vocabulary.items():
            if token not in added:
                self._bytes[token] = read(text)
                if not is_byte_level and is_byte_fallback(text):
                    fallbacks.add(token)
            elif not added[token].special:
                self._bytes[token] = read_added(text, is_byte_level=is_byte_level)
        self._ids: dict[bytes, int] = {}
        # Of equal ones the lowest id counts, but none to fall back to.
        for token in sorted(self._bytes, key=lambda id_: (id_ in fallbacks, id_), reverse=True):
            self._ids[self._bytes[token]] = token
        self.falls_back = bool(fallbacks)
        self._first: dict[bytes, int | None] = {}
        self._cut = frozenset(filter(None, map(_readable, self._bytes.values())))
        self._special = frozenset(token.content for token in added.values() if token.special)

    def of(self, token: int) -> bytes | None:
        """A token's bytes; None for special tokens and ids without a token."""
        return self._bytes.get(token)

    def may_be_cut(self, content: bytes) -> bool:
        """Whether a daemon may print these bytes for a token that goes on with half a character."""
        return content in self._cut

    def is_special(self, text: str) -> bool:
        """Whether a text is how a special token is written."""
        return text in self._special

    def first(self, content: bytes) -> int | None:
        """The first token of these bytes: the one that is all of them, if there is one."""
        if content not in self._first:
            self._first[content] = self._find_first(content)
        return self._first[content]

    def _find_first(self, content: bytes) -> int | None:
        exact = self._ids.get(content)
        if exact is not None or not content:
            return exact
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return None
        (begun,) = first_tokens(self._tokenizer, [text], falls_back=self.falls_back)
        first = None if begun is None else self._bytes.get(begun)
        return begun if first and content.startswith(first) else None


def _readable(content: bytes) -> bytes | None:
    """What can be read of a token that ends in half a character; None of other tokens."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return content[: error.start]
    return None
