"""Holds the vocabulary inside a GGUF against the reference's tokens: texts, ends, BOS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ollama_bridge.errors import ArtifactError
from ollama_bridge.models.gguf.pretokenizers import by_name
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues, Special
from ollama_bridge.verify.certificate import Check

TYPES = "tokenizer.ggml.token_type"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # of TYPES
SPACE = "\u2581"  # SentencePiece's visible space
_BYTE_TEXT = re.compile(r"<0x[0-9A-F]{2}>")
# Names of llama.cpp's for splittings that are none of those in the table.
_SPLIT_OTHERWISE = frozenset(
    (
        *("bailingmoe", "bloom", "chameleon", "deepseek-llm", "deepseek-v3", "falcon"),
        *("gpt3-finnish", "kimi-k2", "poro-chat", "seed-coder", "superbpe", "viking"),
    )
)
# Tokens that llama.cpp takes for ends by their texts alone, in every version since Ollama 0.24.
_ENDS_BY_TEXT = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>"),
        *("<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "<|end_of_text|>"),
    )
)


def runner_ends(reference: ReferenceValues, metadata: Mapping[str, Any]) -> frozenset[int]:
    """Ends of the checkpoint at which a runner stops without a PARAMETER stop.

    Args:
        reference: The checkpoint's values.
        metadata: The GGUF's metadata.
    """
    named = {metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")}
    return frozenset(
        token.id
        for token in reference.end_tokens
        if token.id in named or token.text in _ENDS_BY_TEXT
    )


def check_vocabulary(
    reference: ReferenceValues, metadata: Mapping[str, Any]
) -> tuple[Check, Check, Check]:
    """Texts of all tokens that the probes use, how texts are split, and the tokens at the ends.

    Args:
        reference: The checkpoint's values.
        metadata: The GGUF's metadata.
    """
    return (
        _check_texts(reference, metadata),
        _check_splitting(reference, metadata),
        _check_ends(reference, metadata),
    )


def _check_texts(reference: ReferenceValues, metadata: Mapping[str, Any]) -> Check:
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    wanted = {
        token: text
        for conversation in reference.conversations
        for token, text in zip(conversation.token_ids, conversation.token_texts, strict=True)
    }
    wanted |= {token.id: token.text for token in reference.end_tokens}
    difference = None
    if len(tokens) < reference.vocab_size:
        difference = f"the GGUF has {len(tokens)} tokens, the tokenizer {reference.vocab_size}"
    else:
        found = (_text_difference(token, text, metadata) for token, text in sorted(wanted.items()))
        difference = next(filter(None, found), None)
    return Check.of("vocabulary", "tokenizer", difference, {"token_texts": len(wanted)})


def _text_difference(token: int, text: str, metadata: Mapping[str, Any]) -> str | None:
    """How a token of the GGUF is another than the checkpoint's; None: it is not.

    With SentencePiece a space may be written as U+2581 or, in added tokens, as it is: a daemon
    prints the one where the token is normal, the other where it is user-defined.
    """
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    if token >= len(tokens):
        return f"token {token} is {text!r} in the checkpoint, missing in the GGUF"
    found, type_ = tokens[token], next(iter((metadata.get(TYPES) or [])[token : token + 1]), None)
    if type_ == UNUSED:
        return f"token {token}, {found!r}, is unused in the GGUF: Ollama prints nothing of it"
    if metadata.get("tokenizer.ggml.model") == "llama":
        if SPACE in found and type_ == USER_DEFINED:
            return f"token {token}, {found!r}, is user-defined in the GGUF: it is printed like that"
        if type_ != BYTE and _BYTE_TEXT.fullmatch(found):
            return f"token {token}, {found!r}, is no byte in the GGUF: it is printed like that"
        found, text = (one.replace(SPACE, " ") for one in (found, text))
    return (
        None
        if found == text
        else f"token {token} is {text!r} in the checkpoint, {found!r} in the GGUF"
    )


def _check_splitting(reference: ReferenceValues, metadata: Mapping[str, Any]) -> Check:
    """Texts that no probe has would be split wrongly too, so the name is held against the name."""
    name = metadata.get("tokenizer.ggml.pre")
    if name is None and metadata.get("tokenizer.ggml.model") == "gpt2":
        name = "default"  # what llama.cpp takes then
    found = by_name(name) if isinstance(name, str) else None
    wanted = reference.pre_tokenizer
    # A name that is not in the table may well mean the same: what it does to the probes decides.
    wrong = wanted is not None and (
        name in _SPLIT_OTHERWISE if found is None else found.name != wanted
    )
    return Check.of(
        "pre-tokenizer",
        "tokenizer",
        f"tokenizer.ggml.pre is {name!r} in the GGUF, the tokenizer splits as {wanted!r}"
        if wrong
        else None,
    )


def _unseen_ends(reference: ReferenceValues, metadata: Mapping[str, Any]) -> list[Special]:
    """Ends that are special tokens and no end for a runner, though the GGUF has room to name them.

    Of values that are computed anew, only what the file's own values have: it was made without the
    others.
    """
    known, types = runner_ends(reference, metadata), metadata.get(TYPES) or []
    roles = [metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
    if len(set(roles) & known) == len(roles):
        return []
    made_with = carried_ends(metadata)
    return [
        token
        for token in reference.end_tokens
        if token.id not in known and types[token.id : token.id + 1] in ([UNKNOWN], [CONTROL])
        if made_with is None or token.id in made_with
    ]


def carried_ends(metadata: Mapping[str, Any]) -> frozenset[int] | None:
    """Ends of the values that a file carries; None: it carries none, or none that can be read."""
    text = metadata.get(REFERENCE_KEY)
    if not isinstance(text, str):
        return None
    try:
        carried = ReferenceValues.parse(text, where=REFERENCE_KEY)
    except ArtifactError:  # of another version
        return None
    return frozenset(token.id for token in carried.end_tokens)


def _check_ends(reference: ReferenceValues, metadata: Mapping[str, Any]) -> Check:
    eos = metadata.get("tokenizer.ggml.eos_token_id")
    listed = metadata.get("tokenizer.ggml.eos_token_ids", [])
    named = {*listed, *runner_ends(reference, metadata)}
    ends = {token.id: token.text for token in reference.end_tokens}
    difference = None
    if ends and eos not in ends:
        difference = (
            f"the GGUF's eos_token_id is {eos}, but answers of the checkpoint end with "
            f"{', '.join(f'{token} ({text})' for token, text in ends.items())}"
        )
    elif ends and reference.end_tokens[0].id not in named:
        first = reference.end_tokens[0]
        difference = f"the GGUF does not name token {first.id} ({first.text}) as an end of text"
    types = metadata.get(TYPES, [])
    unseen = _unseen_ends(reference, metadata)
    if difference is None and unseen:
        difference = (
            f"the GGUF does not name token {unseen[0].id} ({unseen[0].text}) as an end of text: "
            "Ollama prints nothing of it, so that no PARAMETER stop sees it"
        )
    for role in ("eot", "eom"):
        id_ = metadata.get(f"tokenizer.ggml.{role}_token_id")
        is_word = isinstance(id_, int) and types[id_ : id_ + 1] == [NORMAL]
        if difference is None and ends and is_word and id_ not in ends:
            difference = (
                f"the GGUF's {role}_token_id is {id_}, an ordinary token, at which answers would "
                "end"
            )
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token")
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    first_token = reference.bos if reference.adds_bos else None
    if difference is None and first_token and bos not in (None, first_token.id):
        difference = (
            f"the GGUF's bos_token_id is {bos}, the tokenizer begins every text with "
            f"{first_token.id} ({first_token.text})"
        )
    if difference is None and adds_bos is not None and bool(adds_bos) != reference.adds_bos:
        difference = (
            f"add_bos_token is {bool(adds_bos)} in the GGUF, the tokenizer "
            f"{'adds' if reference.adds_bos else 'does not add'} one"
        )
    return Check.of("end tokens and BOS", "tokenizer", difference, {"end_tokens": len(ends)})
