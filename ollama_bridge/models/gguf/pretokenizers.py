"""What the names in ``tokenizer.ggml.pre`` mean, as Hugging Face pre-tokenizers and back.

A GGUF names how text is split before merging; llama.cpp has the regexes in its code
(``src/llama-vocab.cpp``). llama.cpp's converter finds the name from a hash over the ids of one
text, so a changed vocabulary is not recognised though nothing in the splitting changed. Here the
name is found from the *structure* of ``tokenizer.json``, and a structure that is not in the table
is an error: a wrong name is a model that reads other tokens than it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MODERN_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MODERN_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_LLAMA3_REGEX = rf"{_MODERN_WORDS}|\p{{N}}{{1,3}}|{_MODERN_TAIL}"
_QWEN2_REGEX = rf"{_MODERN_WORDS}|\p{{N}}|{_MODERN_TAIL}"
_GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Words are split where lower case turns to upper; llama.cpp's own regex agrees on ASCII letters and
# treats all others as both cases.
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+",
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*",
)
_SLASH_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN_REGEX = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SLASH_TAIL}"
_GPT4O_REGEX = "|".join(
    (*(f"{word}{_CONTRACTIONS}?" for word in _CASED), r"\p{N}{1,3}", _SLASH_TAIL)
)
# Every character is in some match, so keeping the matches alone is the same as isolating them.
_COVERING = (_LLAMA3_REGEX, _QWEN2_REGEX, _TEKKEN_REGEX, _GPT4O_REGEX)

JSONObject = Mapping[str, Any]


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


_DIGITS = {"type": "Digits", "individual_digits": True}


@dataclass(frozen=True)
class PreTokenizer:
    """How one name splits text.

    Attributes:
        name: As the converter writes it.
        aliases: Other names for the same splitting.
        steps: Hugging Face pre-tokenizers, as JSON, one after another.
        ignore_merges: Whether a whole word of the vocabulary is taken without merging.
        adds_bos: Whether llama.cpp puts BOS in front where the file does not say.
    """

    name: str
    steps: tuple[JSONObject, ...]
    aliases: tuple[str, ...] = ()
    ignore_merges: bool = False
    adds_bos: bool = False


PRE_TOKENIZERS = (
    PreTokenizer(
        "smollm",
        steps=(_DIGITS, _byte_level(use_regex=True)),
        aliases=("starcoder", "refact", "command-r", "codeshell"),
    ),
    PreTokenizer(
        "gpt-2", steps=(_byte_level(use_regex=True),), aliases=("phi-2", "mpt", "olmo", "jina-es")
    ),
    PreTokenizer(
        "llama-bpe",
        steps=(_split(_LLAMA3_REGEX), _byte_level(use_regex=False)),
        aliases=("llama3", "llama-v3", "falcon3", "pixtral"),
        ignore_merges=True,
        adds_bos=True,
    ),
    PreTokenizer(
        "smaug-bpe",
        steps=(_split(_LLAMA3_REGEX), _byte_level(use_regex=False)),
        aliases=("dbrx", "chatglm-bpe", "glm4"),
    ),
    PreTokenizer(
        "tekken",
        steps=(_split(_TEKKEN_REGEX), _byte_level(use_regex=False)),
        ignore_merges=True,
        adds_bos=True,
    ),
    PreTokenizer(
        "gpt-4o",
        steps=(_split(_GPT4O_REGEX), _byte_level(use_regex=False)),
        aliases=("llama4",),
    ),
    PreTokenizer(
        "qwen2",
        steps=(_split(_QWEN2_REGEX), _byte_level(use_regex=False)),
        aliases=("deepseek-r1-qwen", "stablelm2"),
    ),
    PreTokenizer(
        "deepseek-coder",
        steps=(
            _split("[\r\n]"),
            _split(r"\s?\p{L}+"),
            _split(r"\s?\p{P}+"),
            _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
            _DIGITS,
            _byte_level(use_regex=False),
        ),
    ),
    PreTokenizer(
        "default",  # what llama.cpp does with files that say nothing
        steps=(
            _split(r"[\p{P}\$\+<=>\^~\|]+"),
            _split(_GPT2_REGEX),
            _split(r"\p{N}+"),
            _split(r"[0-9][0-9][0-9]"),
            _byte_level(use_regex=False),
        ),
    ),
)


def known_names() -> tuple[str, ...]:
    """Every name that can be read, aliases too."""
    return tuple(name for entry in PRE_TOKENIZERS for name in (entry.name, *entry.aliases))


def by_name(name: str) -> PreTokenizer | None:
    """The entry of a name as it stands in a GGUF."""
    for entry in PRE_TOKENIZERS:
        if name == entry.name or name in entry.aliases:
            return entry
    return None


def by_structure(pre_tokenizer: JSONObject | None, *, ignore_merges: bool) -> PreTokenizer | None:
    """The entry that splits exactly as a ``pre_tokenizer`` of ``tokenizer.json`` does."""
    wanted = (_canonical(pre_tokenizer), ignore_merges)
    for entry in PRE_TOKENIZERS:
        if (_canonical_steps(entry.steps), entry.ignore_merges) == wanted:
            return entry
    return None


def _canonical(section: JSONObject | None) -> tuple[tuple[object, ...], ...]:
    if section is None:
        return ()
    if section.get("type") == "Sequence":
        return _canonical_steps(section.get("pretokenizers", ()))
    return _canonical_steps((section,))


def _canonical_steps(steps: Sequence[JSONObject]) -> tuple[tuple[object, ...], ...]:
    """What decides the splitting, without what does not (such as trim_offsets)."""
    result: list[tuple[object, ...]] = []
    for step in steps:
        kind = step.get("type")
        if kind == "Sequence":
            result += _canonical(step)
        elif kind == "ByteLevel":
            result.append(
                (kind, bool(step.get("add_prefix_space")), bool(step.get("use_regex", True)))
            )
        elif kind == "Digits":
            result.append((kind, bool(step.get("individual_digits"))))
        elif kind == "Split":
            pattern = step.get("pattern", {})
            regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
            how = step.get("behavior"), bool(step.get("invert"))
            if how == ("Removed", True) and regex in _COVERING:
                how = ("Isolated", False)
            result.append((kind, regex, *how))
        else:
            result.append((kind,))
    return tuple(result)
