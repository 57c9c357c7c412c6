"""Spaces next to special tokens, which some tokenizers strip and no GGUF can say.

llama.cpp strips none, but for a model whose name (``general.name``) is Phi-3's: there those behind
every special token, three aside.

Source: llama-vocab.cpp ("set attributes by model/tokenizer/architecture name") of Ollama 0.24.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from ollama_bridge.models.settings.json_files import added_tokens

_NAMES = re.compile(r"phi-?3", re.IGNORECASE)
_LEFT_ALONE = frozenset({"<unk>", "<s>", "<|endoftext|>"})
_LOOKED_UP = _LEFT_ALONE | {"</s>"}  # a file with the name and without one of them is not loaded
_FLAGS = ("lstrip", "rstrip", "single_word")

Added = Mapping[str, Any]  # one of ``added_tokens`` in tokenizer.json


def has_rule(name: object) -> bool:
    """Whether llama.cpp strips spaces in a model of this name."""
    return isinstance(name, str) and _NAMES.search(name) is not None


def stripped_by_rule(token: str) -> bool:
    """Whether the spaces behind a special token are, where the rule is in force."""
    return token not in _LEFT_ALONE


def stripping(added: Sequence[Added]) -> list[str]:
    """The tokens next to which a tokenizer treats spaces as no GGUF can say."""
    return [str(token["content"]) for token in added if any(token.get(flag) for flag in _FLAGS)]


def follows_rule(added: Sequence[Added], vocabulary: Iterable[str]) -> bool:
    """Whether a tokenizer strips just what llama.cpp strips in a Phi-3."""
    return (
        bool(stripping(added))
        and all(
            bool(token.get("rstrip")) == stripped_by_rule(token["content"])
            and not token.get("lstrip")
            and not token.get("single_word")
            for token in added
        )
        and _LOOKED_UP.issubset(vocabulary)
    )


def name_for_rule(name: str, *, follows: bool) -> str:
    """A model's name, spelled so that llama.cpp does what its tokenizer does."""
    if not follows:
        return _NAMES.sub("Phi 3", name)
    return name if has_rule(name) else f"{name} (Phi-3)"


def without_stripping(document: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json`` as llama.cpp has it."""
    added = [{**token, **dict.fromkeys(_FLAGS, False)} for token in added_tokens(document)]
    return Tokenizer.from_str(
        json.dumps({**document, "added_tokens": added, "truncation": None, "padding": None})
    )
