"""What a tokenizer puts around texts, and which of it a GGUF has to ask for.

Conversations are encoded as the chat template writes them, in training and by transformers: what
is in front and behind is its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer


@dataclass(frozen=True)
class Surrounding:
    """Ids in front of every text and behind; the notes tell what Ollama will not add."""

    first: list[int]
    last: list[int]
    notes: list[str]


def find_surrounding(tokenizer: Tokenizer, prompts: Sequence[str], bos: int | None) -> Surrounding:
    """What is to be added to texts, by trying the tokenizer.

    A training that gives a base model a chat format may name another BOS than the one that its
    tokenizer goes on adding to texts (TRL's ``setup_chat_format``), or have it add EOS.

    The tokenizer is without padding and truncation. The prompts are some that the chat template
    writes; none where there is none.
    """
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    first, last, notes = full[:start], full[start + len(bare) :], []
    if prompts:
        begins = tokenizer.encode(prompts[0], add_special_tokens=False).ids[:1]
        if first and not begins == first[:1] == [bos]:
            own = "one that is not bos_token" if begins == first[:1] else "none"
            notes.append(f"Ollama adds no BOS to raw texts: the chat template writes {own}")
            first = []
        if last:
            notes.append("the tokenizer adds EOS to texts and Ollama does not: they are continued")
            last = []
    return Surrounding(first, last, notes)
