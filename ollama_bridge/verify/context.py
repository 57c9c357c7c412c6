"""Whether a tag has room for the texts that its checkpoint was made for, its probes among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_bridge.errors import ParityError
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verify.certificate import CONTEXT_LENGTH, Check


def longest_probe(reference: ReferenceValues) -> int:
    """Tokens of the longest text behind which a daemon is asked for the next one."""
    prompts = [len(conversation.token_ids) for conversation in reference.conversations]
    answers = [
        position.prompt_tokens for answer in reference.answers for position in answer.positions
    ]
    return max(*prompts, *answers)


def check_context(tag: str, reference: ReferenceValues, metadata: Mapping[str, Any]) -> Check:
    """Hold the GGUF's context length against the checkpoint's: Ollama cuts num_ctx to it.

    Args:
        tag: For the error.
        reference: The checkpoint's values.
        metadata: The GGUF's metadata.

    Raises:
        ParityError: not even the probes fit.
    """
    key = f"{metadata.get('general.architecture')}.context_length"
    found, wanted = metadata.get(key), reference.context_length
    difference = None
    if isinstance(found, int) and found < wanted:
        difference = f"{key} is {found} in the GGUF, the checkpoint was made for {wanted} tokens"
        if found <= longest_probe(reference):
            raise ParityError(
                f"{tag} does not serve its checkpoint: {difference}, so that its probes do not fit",
                layer="tensor",
                hint="convert the checkpoint again: ollama-bridge package CHECKPOINT TAG",
            )
    return Check.of(CONTEXT_LENGTH, "tensor", difference, {"tokens_of_context": wanted})
