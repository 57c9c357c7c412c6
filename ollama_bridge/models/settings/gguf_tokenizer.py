"""Rebuilds a Hugging Face tokenizer from the metadata of a GGUF.

The result encodes as the daemon does with the same file, for what it serves is what a student
has to learn from. (One visible consequence: no Unicode normalisation, which GGUF cannot say.)
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ollama_bridge.errors import GGUFError
from ollama_bridge.models.gguf import pretokenizers
from ollama_bridge.models.settings.small_files import CHAT_TEMPLATE, TOKENIZER_CONFIG, TOOL_TEMPLATE
from ollama_bridge.models.settings.stripping import has_rule, stripped_by_rule
from ollama_bridge.template.comment import without_comment

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_SPACE = "\u2581"  # SentencePiece's visible space
# Characters of a piece, which is tried to be put together at each of them: published ones have 50.
_LONGEST_PIECE = 1024
_PREFIX = "tokenizer.ggml."
# Where our converter keeps the Jinja template out of the runtimes' sight, so that a model that
# Ollama renders by a Go template can still become a checkpoint that renders as it was trained.
KEPT_TEMPLATE_KEY = "ollama_bridge.chat_template"
# One that is for conversations with tools alone, as llama.cpp's converter writes Hermes'.
TOOL_TEMPLATE_KEY = "tokenizer.chat_template.tool_use"
# Roles that only runtimes know, as tokenizer_config.json keeps them: "eot" is eot_token there.
RUNTIME_ROLES = (
    "eot",
    "eom",
    "fim_pre",
    "fim_suf",
    "fim_mid",
    "fim_pad",
    "fim_rep",
    "fim_sep",
)


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that have a role; None where the file names none."""

    bos: int | None
    eos: int | None
    unknown: int | None
    padding: int | None
    ends: tuple[int, ...]
    runtime: Mapping[str, int]  # by RUNTIME_ROLES


class GGUFTokenizer:
    """The tokenizer section of a GGUF, checked.

    Raises:
        GGUFError: the section is missing, contradicts itself, or is of a kind that is not read.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self._path = path
        self._metadata = metadata
        self.tokens: list[str] = self._list("tokens", str)
        if len(set(self.tokens)) != len(self.tokens):
            raise self._error("tokens holds the same token twice")
        types = self._list("token_type", int, required=False) or [_NORMAL] * len(self.tokens)
        if len(types) != len(self.tokens):
            raise self._error(f"token_type has {len(types)} entries, tokens {len(self.tokens)}")
        self._types: list[int] = types
        self.ids = self._special_ids()
        self._used = self._count_used()

    def write(self, folder: Path, *, max_length: int) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat templates.

        Raises:
            GGUFError: the tokenizers library refuses what the file says.
        """
        kind = self._metadata.get(f"{_PREFIX}model")
        if kind == "gpt2":
            document = self._byte_level_bpe()
        elif kind == "llama":
            document = self._sentencepiece_bpe()
        else:
            raise self._error(f"model is {reprlib.repr(kind)}; gpt2 and llama are read")
        text = json.dumps(document, ensure_ascii=False)
        try:
            Tokenizer.from_str(text)
        except Exception as exc:  # the library raises no other type
            raise self._error(f"the vocabulary contradicts itself: {exc}") from exc
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
        }
        for role, id_ in (
            ("bos", self.ids.bos),
            ("eos", self.ids.eos),
            ("unk", self.ids.unknown),
            ("pad", self.ids.padding),
            *self.ids.runtime.items(),
        ):
            if id_ is not None:
                config[f"{role}_token"] = self.tokens[id_]
        (folder / TOKENIZER_CONFIG).write_text(
            json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
        template = self._chat_template()
        if template is not None:
            # newline="": a template with \r\n must stay as it is
            (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8", newline="")
            for_tools = self._metadata.get(TOOL_TEMPLATE_KEY)
            if isinstance(for_tools, str) and for_tools:
                (folder / TOOL_TEMPLATE).parent.mkdir(exist_ok=True)
                (folder / TOOL_TEMPLATE).write_text(for_tools, encoding="utf-8", newline="")

    def _chat_template(self) -> str | None:
        for key in ("tokenizer.chat_template", KEPT_TEMPLATE_KEY):
            value = self._metadata.get(key)
            if isinstance(value, str) and value:
                return without_comment(value)
        return None

    def _error(self, message: str) -> GGUFError:
        return GGUFError(f"{self._path}: tokenizer: {message}")

    def _list(self, name: str, type_: type, *, required: bool = True) -> list[Any]:
        values = self._metadata.get(_PREFIX + name)
        if values is None and not required:
            return []
        if not isinstance(values, list) or not all(type(value) is type_ for value in values):
            raise self._error(f"{name} is missing or not an array of {type_.__name__}")
        return values

    def _flag(self, name: str, *, default: bool) -> bool:
        value = self._metadata.get(_PREFIX + name, default)
        if not isinstance(value, bool):
            raise self._error(f"{name} is {value!r}, expected a bool")
        return value

    def _special_ids(self) -> SpecialIds:
        def one(name: str) -> int | None:
            value = self._metadata.get(_PREFIX + name)
            if value is None:
                return None
            if type(value) is not int or not 0 <= value < len(self.tokens):
                raise self._error(f"{name} is {value!r}, the vocabulary has {len(self.tokens)}")
            return value

        eos = one("eos_token_id")
        several = self._list("eos_token_ids", int, required=False)
        if not all(0 <= value < len(self.tokens) for value in several):
            raise self._error(f"eos_token_ids is {several}, outside of the vocabulary")
        runtime = {role: one(f"{role}_token_id") for role in RUNTIME_ROLES}
        candidates = (eos, runtime["eot"], runtime["eom"], *several)
        ends = dict.fromkeys(value for value in candidates if value is not None)
        return SpecialIds(
            bos=one("bos_token_id"),
            eos=eos,
            unknown=one("unknown_token_id"),
            padding=one("padding_token_id"),
            ends=tuple(ends),
            runtime={role: id_ for role, id_ in runtime.items() if id_ is not None},
        )

    def _count_used(self) -> int:
        """How many tokens there are without the fillers at the end, which no tokenizer has."""
        size = len(self.tokens) - _count_ollama_fillers(self._metadata)
        roles = (self.ids.bos, self.ids.eos, self.ids.unknown, self.ids.padding, *self.ids.ends)
        if any(id_ is not None and id_ >= size for id_ in roles):
            return len(self.tokens)
        return _count_without_fillers(self.tokens[:size], self._types)

    def _added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are found in the text before it is split: all that are not normal."""
        roles = {self.ids.bos, self.ids.eos} if set(self._types) == {_NORMAL} else set()
        strips = has_rule(self._metadata.get("general.name"))
        return [
            {
                "id": id_,
                "content": self.tokens[id_],
                "single_word": False,
                "lstrip": False,
                "rstrip": strips and stripped_by_rule(self.tokens[id_]),
                "normalized": False,
                "special": type_ != _USER_DEFINED,
            }
            for id_, type_ in enumerate(self._types[: self._used])
            if type_ in (_UNKNOWN, _CONTROL, _USER_DEFINED) or id_ in roles
        ]

    def _byte_level_bpe(self) -> dict[str, Any]:
        name = self._metadata.get(f"{_PREFIX}pre", "default")
        pre = pretokenizers.by_name(name) if isinstance(name, str) else None
        if pre is None:
            raise self._error(
                f"pre is {reprlib.repr(name)}; these are read: "
                f"{', '.join(pretokenizers.known_names())}"
            )
        merges = []
        for index, merge in enumerate(self._list("merges", str)):
            parts = merge.split(" ")
            if len(parts) != 2:
                raise self._error(f"merges[{index}] is {merge!r}, expected two parts")
            merges.append(parts)
        if len(pre.steps) == 1:
            pre_tokenizer = dict(pre.steps[0])
        else:
            pre_tokenizer = {"type": "Sequence", "pretokenizers": [dict(s) for s in pre.steps]}
        return self._document(
            normalizer=None,
            pre_tokenizer=pre_tokenizer,
            decoder={
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            adds_bos=self._flag("add_bos_token", default=pre.adds_bos),
            model={"ignore_merges": pre.ignore_merges, "merges": merges},
        )

    def _sentencepiece_bpe(self) -> dict[str, Any]:
        scores = self._list("scores", float)
        if len(scores) != len(self.tokens):
            raise self._error(f"scores has {len(scores)} entries, tokens {len(self.tokens)}")
        longest = max(len(token) for token in self.tokens)
        if longest > _LONGEST_PIECE:
            raise self._error(
                f"a token has {longest} characters, at most {_LONGEST_PIECE} are accepted"
            )
        prefix = self._flag("add_space_prefix", default=True)
        visible = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
        steps = [{"type": "Prepend", "prepend": _SPACE}, visible] if prefix else [visible]
        decoders: list[dict[str, Any]] = [
            {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prefix:
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        unknown = self.ids.unknown
        return self._document(
            normalizer={"type": "Sequence", "normalizers": steps},
            pre_tokenizer=None,
            decoder={"type": "Sequence", "decoders": decoders},
            adds_bos=self._flag("add_bos_token", default=True),
            model={
                "unk_token": None if unknown is None else self.tokens[unknown],
                "fuse_unk": True,
                "byte_fallback": True,
                "merges": _merges_of_scores(self.tokens[: self._used], self._types, scores),
            },
        )

    def _document(
        self,
        *,
        normalizer: dict[str, Any] | None,
        pre_tokenizer: dict[str, Any] | None,
        decoder: dict[str, Any],
        adds_bos: bool,
        model: dict[str, Any],
    ) -> dict[str, Any]:
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added_tokens(),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self._post_processor(adds_bos=adds_bos),
            "decoder": decoder,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: id_ for id_, token in enumerate(self.tokens[: self._used])},
                **model,
            },
        }

    def _post_processor(self, *, adds_bos: bool) -> dict[str, Any] | None:
        adds_eos = self._flag("add_eos_token", default=False)
        first = [self.ids.bos] if adds_bos and self.ids.bos is not None else []
        last = [self.ids.eos] if adds_eos and self.ids.eos is not None else []
        if not first and not last:
            return None

        def special(id_: int, type_id: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": self.tokens[id_], "type_id": type_id}}

        def around(name: str, type_id: int) -> list[dict[str, Any]]:
            return [
                *(special(id_, type_id) for id_ in first),
                {"Sequence": {"id": name, "type_id": type_id}},
                *(special(id_, type_id) for id_ in last),
            ]

        return {
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": around("A", 0) + around("B", 1),
            "special_tokens": {
                self.tokens[id_]: {
                    "id": self.tokens[id_],
                    "ids": [id_],
                    "tokens": [self.tokens[id_]],
                }
                for id_ in (*first, *last)
            },
        }


def filler(id_: int) -> str:
    """The text of a row of the embedding that no token uses."""
    return f"[PAD{id_}]"


def _count_without_fillers(tokens: Sequence[str], types: Sequence[int]) -> int:
    """How many tokens there are before the fillers at the end."""
    size = min(len(tokens), len(types))
    while size and types[size - 1] == _UNUSED and tokens[size - 1] == filler(size - 1):
        size -= 1
    return size


def _count_ollama_fillers(metadata: Mapping[str, Any]) -> int:
    """How many tokens at the end are fillers of Ollama's converter, which are like added tokens.

    It counts them from 0, and not by their ids. Source: ``LoadModelMetadata`` of Ollama's
    ``convert/convert.go`` (0.24).
    """
    tokens = metadata.get(f"{_PREFIX}tokens")
    types = metadata.get(f"{_PREFIX}token_type")
    if not isinstance(tokens, list) or not isinstance(types, list) or filler(0) not in tokens:
        return 0
    begin = tokens.index(filler(0))
    count = len(tokens) - begin
    are_fillers = tokens[begin:] == [filler(number) for number in range(count)]
    return count if are_fillers and types[begin:] == [_USER_DEFINED] * count else 0


def _merges_of_scores(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """The merges that do what SentencePiece does with scores: best piece first.

    Every way to put a piece together from two others is a merge of the piece's rank.
    """
    ids = {
        token: id_
        for id_, token in enumerate(tokens)
        if types[id_] in (_NORMAL, _USER_DEFINED) and token
    }
    ranked = []
    for token, id_ in ids.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                ranked.append((-scores[id_], id_, ids[left], ids[right], left, right))
    ranked.sort(key=lambda entry: entry[:4])
    return [(left, right) for *_, left, right in ranked]
