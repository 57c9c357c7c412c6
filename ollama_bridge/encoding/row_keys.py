"""What of a chat template and a tokenizer belongs into the key of work on encoded rows."""

from __future__ import annotations

from typing import Any

from ollama_bridge.encoding.end_keys import key_of_ends, key_of_matched_ends
from ollama_bridge.encoding.row_dates import key_of_dates
from ollama_bridge.storage.artifacts import Corpus


def key_of_rows(tokenizer: Any, corpus: Corpus) -> dict[str, str]:
    """How turns end in the rows of a corpus, and what date stands in them."""
    return {**key_of_ends(tokenizer, corpus), **key_of_dates(tokenizer)}


def key_of_teachers_rows(tokenizer: Any, corpus: Corpus) -> dict[str, str]:
    """The same of the rows that a teacher reads in tokens of its own."""
    read = key_of_matched_ends(tokenizer, corpus) | key_of_dates(tokenizer)
    return {f"teacher's {name}": value for name, value in read.items()}
