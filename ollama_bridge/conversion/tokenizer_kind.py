"""Which of llama.cpp's tokenizers splits texts as a ``tokenizer.json`` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ollama_bridge.conversion.space_prefix import SPACE, find_space_prefix
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.gguf import pretokenizers

_NORMALIZERS_LOST = ("NFC",)  # llama.cpp has no normalisation; text that is NFC is not changed
_TEXTS = ("Hello", "Two  words\nand more")


@dataclass(frozen=True)
class Kind:
    """What ``tokenizer.ggml.model`` says, and what goes with it.

    Attributes:
        model: ``gpt2`` or ``llama``, which is SentencePiece.
        pre: Its name of the splitting.
        space_prefix: It puts a space in front of texts.
        notes: What it will do otherwise than the tokenizer.
    """

    model: str
    pre: str
    space_prefix: bool
    notes: list[str] = field(default_factory=list)


def find_kind(
    document: Mapping[str, Any], prompts: Callable[[], Sequence[str]], *, where: str
) -> Kind:
    """Find it.

    Args:
        document: ``tokenizer.json``.
        prompts: Gives some that the chat template writes; none where there is none.
        where: The document lies, for messages.

    Raises:
        ConversionError: there is none.
    """
    model: Mapping[str, Any] = document.get("model") or {}
    if model.get("type") != "BPE":
        raise _error(where, f"a {model.get('type')} tokenizer cannot be written, only BPE can")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _error(where, f"BPE with {key} cannot be written")
    if model.get("byte_fallback"):
        return _sentencepiece(document, prompts, where)
    names = [step.get("type") for step in _steps(document.get("normalizer"))]
    lost = [name for name in names if name in _NORMALIZERS_LOST]
    if lost != names:
        raise _error(where, f"normalizer {names} cannot be written")
    notes = []
    if lost:
        notes.append(
            f"Ollama will not normalise text ({', '.join(lost)}): decomposed accents give "
            "other tokens than in training"
        )
    section = document.get("pre_tokenizer")
    pre = pretokenizers.by_structure(section, ignore_merges=bool(model.get("ignore_merges")))
    if pre is None:
        raise _error(
            where,
            f"pre_tokenizer {[step.get('type') for step in _steps(section)]} is not one that "
            f"llama.cpp is known to have ({', '.join(pretokenizers.known_names())})",
        )
    return Kind("gpt2", pre.name, space_prefix=False, notes=notes)


def _sentencepiece(
    document: Mapping[str, Any], prompts: Callable[[], Sequence[str]], where: str
) -> Kind:
    steps = _steps(document.get("normalizer"))
    kinds = [step.get("type") for step in steps]
    visible = bool(steps) and steps[-1].get("content") == SPACE
    before = _steps(document.get("pre_tokenizer"))
    if visible and [step.get("pattern") for step in before] == [{"String": " "}]:
        before = []  # Gemma: splits at spaces, of which the normalizer leaves none
    if not before and visible and kinds in (["Prepend", "Replace"], ["Replace"]):
        return Kind("llama", "default", space_prefix="Prepend" in kinds)
    metaspace = before[0] if [step.get("type") for step in before] == ["Metaspace"] else {}
    if not steps and metaspace.get("replacement") == SPACE and not metaspace.get("split", True):
        scheme = metaspace.get("prepend_scheme", "always")
        return _metaspace(document, prompts(), scheme, where)
    raise _error(
        where,
        f"normalizer {kinds} with pre_tokenizer {[step.get('type') for step in before]} "
        "does not split as llama.cpp's SentencePiece tokenizer does",
        hint="put the base model's tokenizer.json back, if it is not the one that was trained",
    )


def _metaspace(
    document: Mapping[str, Any], prompts: Sequence[str], scheme: str, where: str
) -> Kind:
    prefix = find_space_prefix(document, prompts or _TEXTS)
    if prefix is None:
        raise _error(
            where,
            f"Metaspace ({scheme}) puts spaces into the chat template's prompts; llama.cpp can "
            "put them in front and behind every special token, or nowhere, and neither fits",
            hint="train with a chat template that begins with {{ bos_token }}, or with "
            "AutoTokenizer.from_pretrained(base, legacy=True)",
        )
    notes = []
    if scheme != "never":
        alike = "chat template's prompts" if prompts else "texts that begin with a word"
        notes.append(
            f"Ollama splits the {alike} as the tokenizer does; other texts may have a space "
            f"more or less in front (Metaspace, {scheme})"
        )
    return Kind("llama", "default", prefix, notes)


def _error(where: str, message: str, *, hint: str | None = None) -> ConversionError:
    return ConversionError(f"{where}: {message}", hint=hint)


def _steps(section: object) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, with sequences laid flat."""
    if not isinstance(section, Mapping):
        return []
    if section.get("type") != "Sequence":
        return [section]
    inner = section.get("normalizers", section.get("pretokenizers", []))
    return [step for part in inner for step in _steps(part)]
