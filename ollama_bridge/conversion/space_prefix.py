"""Whether llama.cpp has to put a space before texts to split as a Metaspace tokenizer does.

Its SentencePiece tokenizer puts one before every text and behind every special token, or nowhere. A
Metaspace tokenizer puts none before what already begins with a space, and with ``first``, which
transformers 5 saves for ``legacy=False``, none behind a special token. So neither is always right:
what prompts look like decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

SPACE = "\u2581"  # SentencePiece's visible space
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def find_space_prefix(document: Mapping[str, Any], prompts: Sequence[str]) -> bool | None:
    """The ``add_space_prefix`` with which llama.cpp splits prompts as it should; None: neither.

    Prompts are texts as a daemon gets them, special tokens among them.
    """
    wanted = _split(document, prompts)
    for prefix in (True, False):
        steps = [_PREPEND, _REPLACE] if prefix else [_REPLACE]
        normalizer = {"type": "Sequence", "normalizers": steps}
        as_served = {**document, "normalizer": normalizer, "pre_tokenizer": None}
        if _split(as_served, prompts) == wanted:
            return prefix
    return None


def _split(document: Mapping[str, Any], texts: Sequence[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.no_padding()  # what a training left switched on
    tokenizer.no_truncation()
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
