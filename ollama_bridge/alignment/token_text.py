"""How tokenizers write the bytes of a token, and what they begin texts with.

Byte-level vocabularies, and SentencePiece's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ollama_bridge.encoding.encode import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def decoder_kinds(tokenizer: Tokenizer) -> frozenset[str]:
    """The steps in which a tokenizer makes text of its tokens, by the names of their types."""
    decoder: Any = json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder") or {}
    steps = [decoder, *decoder.get("decoders", [])]
    return frozenset(step["type"] for step in steps if "type" in step)


def writes_bytes(tokenizer: Tokenizer) -> bool:
    """Whether its tokens are written in the byte-level alphabet."""
    return "ByteLevel" in decoder_kinds(tokenizer)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, the others for what follows U+00FF."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_ALPHABET = _byte_alphabet()


def read_byte_level(text: str) -> bytes:
    """Bytes of a byte-level token; one from before the byte level is written as it is."""
    if all(character in _ALPHABET for character in text):
        return bytes(_ALPHABET[character] for character in text)
    return text.encode()


def is_byte_fallback(text: str) -> bool:
    """Whether a SentencePiece token is a byte, for what no other token says."""
    return _BYTE.fullmatch(text) is not None


def read_sentencepiece(text: str) -> bytes:
    """Bytes of a SentencePiece token."""
    byte = _BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()


def read_added(content: str, *, is_byte_level: bool) -> bytes:
    """Bytes of an added token that is not special: Gemma's runs of blanks have visible ones."""
    return content.encode() if is_byte_level else read_sentencepiece(content)


def split_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text alone."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def first_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], *, falls_back: bool
) -> list[int | None]:
    """What each text begins with; None: nothing.

    Args:
        falls_back: To bytes, as SentencePiece does, which may put a blank in front of all that it
            is given. Then it is asked behind a line's end, where none is put.
    """
    alone = [ids[0] if ids else None for ids in split_texts(tokenizer, texts)]
    if not falls_back:
        return alone
    (end,) = split_texts(tokenizer, ["\n"])
    behind = split_texts(tokenizer, [f"\n{text}" for text in texts])
    return [
        ids[len(end)] if ids[: len(end)] == end and len(ids) > len(end) else first
        for ids, first in zip(behind, alone, strict=True)
    ]
