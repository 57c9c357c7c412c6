"""Whether a daemon can print the tags by which it is to tell thoughts from an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_bridge.daemon.era import PRINTS_NO_MARKS, has_limit
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verify.certificate import THINKING_TAGS, Check
from ollama_bridge.verify.vocabulary import CONTROL, UNKNOWN


def check_thinking_tags(
    version: str, reference: ReferenceValues, modelfile: Modelfile, metadata: Mapping[str, Any]
) -> Check:
    """No token of the tags is special in the GGUF, where the daemon prints no special tokens.

    It would see no end of the thoughts, and give an empty answer. Its own parsers, and its runner
    with a Jinja of the GGUF, have their tags printed.

    Args:
        version: Of the daemon.
        reference: The checkpoint's values.
        modelfile: What the tag was made of.
        metadata: The GGUF's metadata.
    """
    by_template = modelfile.parser is None and not metadata.get("tokenizer.chat_template")
    is_held = by_template and has_limit(version, PRINTS_NO_MARKS)
    tags = reference.thinking_tags if is_held else ()
    ends = {token.id for token in reference.end_tokens}
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    types = metadata.get("tokenizer.ggml.token_type", [])
    unprinted = [
        token
        for id_, (token, type_) in enumerate(zip(tokens, types, strict=False))
        if type_ in (UNKNOWN, CONTROL) and id_ not in ends
        if token and any(token in tag for tag in tags)
    ]
    return Check.of(
        THINKING_TAGS,
        "tokenizer",
        "Ollama cannot tell thoughts from an answer: it prints no special tokens, and "
        f"the GGUF has {' and '.join(map(repr, unprinted))} as special"
        if unprinted
        else None,
        {"tags": len(tags)},
    )
