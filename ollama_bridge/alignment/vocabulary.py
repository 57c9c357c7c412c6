"""A vocabulary by content: which bytes each token id stands for.

Two checkpoints with vocabularies of the same size can still mean different things by the same id,
and two of different width can agree on every token. Only the content tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ollama_bridge.alignment.token_text import (
    decoder_kinds,
    is_byte_fallback,
    read_added,
    read_byte_level,
    read_sentencepiece,
)
from ollama_bridge.encoding.encode import Tokenizer
from ollama_bridge.errors import ModelError
from ollama_bridge.models.settings.end_tokens import end_of_turns

_END = b"\xff\xff"  # bytes that UTF-8 never has


@dataclass(frozen=True)
class Vocabulary:
    """What the token ids of a model mean.

    Attributes:
        tokens: The bytes of each id; None where there is no token (padded rows) and for special
            tokens, which stand for no text.
        special: Names of special tokens by id.
        end: The id that ends a turn: what the chat template writes there, which need not be eos.
        width: Rows of the output matrix: at least as many as there are tokens.
        fallbacks: Ids of bytes that are written where no other token says them.
    """

    tokens: tuple[bytes | None, ...]
    special: Mapping[int, str]
    end: int | None
    width: int
    fallbacks: frozenset[int] = frozenset()

    @cached_property
    def ids(self) -> Mapping[bytes, int]:
        """The id of what is spelled so. Where two tokens are spelled the same, the lower.

        But none that is a byte to fall back to, where another says it (Llama 2's ``<0x2E>`` and
        full stop).
        """
        known = {*range(len(self.tokens))} | set(self.special)
        used = sorted(known, key=lambda id_: (id_ in self.fallbacks, id_), reverse=True)
        return {spelling: id_ for id_ in used if (spelling := self.spelled(id_))}

    @property
    def used(self) -> int:
        """Ids that mean anything."""
        return sum(token is not None for token in self.tokens) + len(self.special)

    def spelled(self, id_: int) -> bytes:
        """What a token says, in bytes; the end of a turn is the same in every vocabulary.

        Of a padded row nothing. Special tokens begin with a byte that is in no text.
        """
        if id_ == self.end:
            return _END
        if id_ in self.special:
            return b"\xff" + self.special[id_].encode()
        return (self.tokens[id_] or b"") if id_ < len(self.tokens) else b""


def read_vocabulary(tokenizer: Tokenizer, *, width: int) -> Vocabulary:
    """Read a tokenizer's vocabulary by content.

    Args:
        tokenizer: transformers' fast tokenizer, byte-level or SentencePiece with byte fallback.
        width: Rows of the model's output matrix.

    Raises:
        ModelError: the tokenizer writes text in neither way, or has more tokens than the model.
    """
    kinds = decoder_kinds(tokenizer)
    if "ByteLevel" in kinds:
        read = read_byte_level
    elif "ByteFallback" in kinds:
        read = read_sentencepiece
    else:
        raise ModelError(
            "the tokenizer's tokens cannot be read as bytes (its decoder is "
            f"{', '.join(sorted(kinds)) or 'missing'})",
            hint="use a checkpoint with a byte-level or a byte-fallback tokenizer",
        )
    names: Mapping[str, int] = tokenizer.get_vocab()
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    largest = max(names.values(), default=-1)
    if largest >= width:
        raise ModelError(
            f"the tokenizer has a token {largest}, the model has {width} rows",
            hint="resize the model: model.resize_token_embeddings(len(tokenizer))",
        )
    tokens: list[bytes | None] = [None] * (largest + 1)
    special: dict[int, str] = {}
    fallbacks: set[int] = set()
    for name, id_ in names.items():
        token = added.get(id_)
        if token is None:
            tokens[id_] = read(name)
            if read is read_sentencepiece and is_byte_fallback(name):
                fallbacks.add(id_)
        elif token.special:
            special[id_] = token.content
        else:
            tokens[id_] = read_added(token.content, is_byte_level=read is read_byte_level)
    end = end_of_turns(tokenizer)
    if end is None:
        end = tokenizer.eos_token_id
    return Vocabulary(tuple(tokens), special, end, width, frozenset(fallbacks))
