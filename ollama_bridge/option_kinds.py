"""The options of a question and parameters of a tag: one table of what Ollama knows.

Source: Options and Runner in ollama's api/types.go, 0.24.0 and 0.34.4. ``typical_p`` is not in it:
0.34 refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

OptionKind = Literal["a whole number", "a number", "true or false", "texts"]

OPTION_KINDS: Mapping[str, OptionKind] = {
    "draft_num_predict": "a whole number",
    "frequency_penalty": "a number",
    "main_gpu": "a whole number",
    "min_p": "a number",
    "num_batch": "a whole number",
    "num_ctx": "a whole number",
    "num_gpu": "a whole number",
    "num_keep": "a whole number",
    "num_predict": "a whole number",
    "num_thread": "a whole number",
    "presence_penalty": "a number",
    "repeat_last_n": "a whole number",
    "repeat_penalty": "a number",
    "seed": "a whole number",
    "stop": "texts",
    "temperature": "a number",
    "top_k": "a whole number",
    "top_p": "a number",
    "use_mmap": "true or false",
}
