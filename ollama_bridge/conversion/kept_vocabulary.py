"""What the GGUF of an import says of its vocabulary, for a file that is made of the import.

Scores, some types and the name of a splitting that has several are not in ``tokenizer.json``. What
is made of that is read the same, but would not be what came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType, TokenType

from ollama_bridge.models.architectures.entries import Entry, array, text
from ollama_bridge.models.gguf import pretokenizers
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.models.weights.stored import gguf_of

_MODEL, _PRE, _TOKENS, _TYPES, _SCORES = (
    f"tokenizer.ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "scores")
)
# Type in a file -> types that it has after an import and an export. All others come back.
_LOST: Mapping[int, tuple[int, ...]] = {
    TokenType.UNKNOWN: (TokenType.CONTROL,),
    TokenType.CONTROL: (TokenType.UNKNOWN,),
    TokenType.UNUSED: (TokenType.NORMAL,),
    TokenType.BYTE: (TokenType.NORMAL,),
}


def as_it_came(
    entries: Sequence[Entry], folder: Path, merges: Sequence[tuple[str, str]]
) -> list[Entry]:
    """A tokenizer's part of a file, as the GGUF of its checkpoint has it, if that is an import."""
    said, own = _said(folder), {entry.key: entry for entry in entries}
    tokens, came = own[_TOKENS].value, said.get(_TOKENS)
    if said.get(_MODEL) != own[_MODEL].value or not isinstance(came, list):
        return list(entries)
    same = [before == now for before, now in zip(came, tokens, strict=False)]
    if len(same) < len(tokens):  # it has grown since
        return list(entries)
    if _is_alike(said, own[_PRE].value):
        own[_PRE] = text(_PRE, said[_PRE])
    types = _list(said, _TYPES, len(tokens))
    if types:
        kept = _types(own[_TYPES].value, types, same)
        own[_TYPES] = array(_TYPES, kept, GGUFValueType.INT32)
    scores = _list(said, _SCORES, len(tokens))
    if scores:  # Ollama wrote some for every kind of vocabulary
        if _SCORES in own:
            made = own[_SCORES].value
            scores = [a if is_same else b for a, b, is_same in zip(scores, made, same, strict=True)]
        if _SCORES not in own or _merge_alike(tokens, scores, merges):
            own[_SCORES] = array(_SCORES, scores, GGUFValueType.FLOAT32)
    return list(own.values())


def _said(folder: Path) -> Mapping[str, Any]:
    path = gguf_of(folder)
    return {} if path is None else read_gguf(path).metadata


def _list(said: Mapping[str, Any], key: str, size: int) -> list[Any]:
    """One value a token; a file that also sees may have some of tokens without a row."""
    values = said.get(key)
    return values[:size] if isinstance(values, list) and len(values) >= size else []


def _is_alike(said: Mapping[str, Any], pre: str) -> bool:
    """Whether the file's name of a splitting means ours; with SentencePiece it means nothing."""
    came = said.get(_PRE)
    if not isinstance(came, str):
        return False
    return said[_MODEL] == "llama" or pretokenizers.by_name(came) == pretokenizers.by_name(pre)


def _types(ours: Sequence[int], came: Sequence[int], same: Sequence[bool]) -> list[int]:
    return [
        before if is_same and own in _LOST.get(before, ()) else own
        for own, before, is_same in zip(ours, came, same, strict=False)
    ]


def _merge_alike(
    tokens: Sequence[str], scores: Sequence[float], merges: Sequence[tuple[str, str]]
) -> bool:
    """Whether pieces of these scores are put together in the order of the merges."""
    of = dict(zip(tokens, scores, strict=True))
    made = [of.get(left + right, 0.0) for left, right in merges]
    return all(better >= worse for better, worse in pairwise(made))
