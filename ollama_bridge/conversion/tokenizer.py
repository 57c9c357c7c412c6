"""The tokenizer section of a GGUF, from ``tokenizer.json``.

Everything is written explicitly, for what a GGUF leaves out a runtime fills in: a missing
``add_bos_token`` has put token 0 in front of every prompt.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType, TokenType
from tokenizers import Tokenizer

from ollama_bridge.conversion.surrounding import find_surrounding
from ollama_bridge.conversion.token_types import added_type, with_printed
from ollama_bridge.conversion.tokenizer_kind import find_kind
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures.config import integer
from ollama_bridge.models.architectures.entries import Entry, array, flag, number, text
from ollama_bridge.models.settings import stripping
from ollama_bridge.models.settings.generation_defaults import read_generation_config
from ollama_bridge.models.settings.gguf_tokenizer import KEPT_TEMPLATE_KEY, RUNTIME_ROLES, filler
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.settings.named_ends import ignored_ends, is_special_in, named_ends
from ollama_bridge.models.settings.tokenizer_settings import (
    OTHER_TOKENIZER,
    default_template,
    overruled_roles,
    token_text,
    tokenizer_settings,
)
from ollama_bridge.models.sources.origin import owners_folder
from ollama_bridge.models.template_trial import check_chat_template
from ollama_bridge.template.comment import with_comment
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.jinja import ChatTemplate, RefusedError

_PREFIX = "tokenizer.ggml."
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# Pieces that no merge makes must lose against every piece that one does.
_NO_MERGE_SCORE = -1e9
_CONVERSATIONS = (
    (Message("user", "Hello"),),
    (Message("system", "Be brief."), Message("user", "Hello")),
    (Message("user", "Hello"), Message("assistant", "Yes?"), Message("user", "  Two  words")),
)


class TokenizerSection:
    """A checkpoint's tokenizer, checked and ready to be written.

    Args:
        folder: The checkpoint.
        config: Its ``config.json``.
        ends: Ids of more tokens that end an answer, such as the chat template's end of a turn.
        printed: Texts that a daemon has to print though they may be special tokens, such as the
            tags around thoughts, by which it tells those from an answer.

    Raises:
        ConversionError: the tokenizer does something that a GGUF cannot say.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        *,
        ends: Sequence[int] = (),
        printed: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._owners = owners_folder(folder)
        self._where = str(self._owners / "tokenizer.json")
        self._config = config
        self._document = read_json_object(folder / "tokenizer.json")
        self._settings = tokenizer_settings(folder)
        self._generation = read_generation_config(folder)
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as exc:  # the library raises no other type
            raise self._error(f"cannot be read: {exc}") from exc
        self._tokenizer.no_padding()  # what a training left switched on
        self._tokenizer.no_truncation()
        self.notes = overruled_roles(folder)
        self._model: Mapping[str, Any] = self._document.get("model") or {}
        self._added: list[Mapping[str, Any]] = self._document.get("added_tokens") or []
        self._kind = find_kind(self._document, lambda: self._prompts, where=self._where)
        self.notes += self._kind.notes
        self._tokens, self._types = self._vocabulary()
        own = self._end_ids()
        self._ends = list(dict.fromkeys([*own[:1], *ends, *own]))
        if not self._ends:
            # llama.cpp would take token 11 (BPE) or 2 (SentencePiece) for it.
            raise ConversionError(
                f"{self._owners}: no token is named that ends an answer, so a runtime would choose "
                "one of its own",
                hint="name eos_token in tokenizer_config.json, or eos_token_id in config.json",
            )
        self._types = with_printed(self._types, self._ids(printed), ends=self._ends)
        self._roles = self._runtime_roles()
        self._adds_bos, self._adds_eos = self._surrounding(self._role_id("bos"))
        self.follows_rule = stripping.follows_rule(self._added, self._tokens)
        self._check_stripping()

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """The tokens that end an answer, the main one first."""
        return tuple(self._tokens[id_] for id_ in self._ends)

    def entries(self, *, chat_template: bool) -> list[Entry]:
        """All ``tokenizer.*`` keys; the chat template where runtimes look for it, or for us."""
        bos = self._role_id("bos")
        entries = [
            text(f"{_PREFIX}model", self._kind.model),
            text(f"{_PREFIX}pre", self._kind.pre),
            array(f"{_PREFIX}tokens", self._tokens, GGUFValueType.STRING),
            array(f"{_PREFIX}token_type", self._types, GGUFValueType.INT32),
        ]
        merges = self.merges
        if self._kind.model == "llama":
            entries.append(array(f"{_PREFIX}scores", self._scores(merges), GGUFValueType.FLOAT32))
        elif merges:
            joined = [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in merges]
            entries.append(array(f"{_PREFIX}merges", joined, GGUFValueType.STRING))
        for key, id_ in (
            ("bos_token_id", bos),
            ("unknown_token_id", self._role_id("unk")),
            ("padding_token_id", self._role_id("pad")),
        ):
            if id_ is not None:
                entries.append(number(_PREFIX + key, id_))
        entries += [
            number(f"{_PREFIX}eos_token_id", self._ends[0]),
            *(number(f"{_PREFIX}{role}_token_id", id_) for role, id_ in self._roles.items()),
            array(f"{_PREFIX}eos_token_ids", self._ends, GGUFValueType.INT32),
        ]
        entries += [
            flag(f"{_PREFIX}add_bos_token", value=self._adds_bos),
            flag(f"{_PREFIX}add_eos_token", value=self._adds_eos),
            flag(f"{_PREFIX}add_space_prefix", value=self._kind.space_prefix),
        ]
        template = self._chat_template()
        if template:
            if chat_template:
                entries.append(text("tokenizer.chat_template", with_comment(template)))
            else:
                entries.append(text(KEPT_TEMPLATE_KEY, template))
        return entries

    def _error(self, message: str, *, hint: str = OTHER_TOKENIZER) -> ConversionError:
        return ConversionError(f"{self._where}: {message}", hint=hint)

    @functools.cached_property
    def _prompts(self) -> list[str]:
        """Some that the chat template writes; none where there is none."""
        source = self._chat_template()
        if source is None:
            return []
        check_chat_template(source, where=str(self._owners))
        named = {name: token_text(value) for name, value in self._settings.items()}
        special = {
            name: content
            for name, content in named.items()
            if name.endswith("_token") and content is not None
        }
        template = ChatTemplate(source, special=special, adds_bos=False)
        prompts = []
        for messages in _CONVERSATIONS:
            with contextlib.suppress(RefusedError):
                prompts.append(template.render(Conversation(messages)))
        return prompts

    def _vocabulary(self) -> tuple[list[str], list[int]]:
        """Token texts and types by id; ids that nobody uses are filled up."""
        size = integer(self._config, "vocab_size")
        tokens = [filler(id_) for id_ in range(size)]
        types = [int(TokenType.UNUSED)] * size
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        if known and max(known.values()) >= size:
            raise self._error(
                f"token ids reach {max(known.values())}, the "
                f"model has {size} rows, so a token was added that the model never saw",
                hint="give it a row: model.resize_token_embeddings(len(tokenizer)); "
                "model.save_pretrained(folder)",
            )
        sentencepiece = self._kind.model == "llama"
        unknown = self._model.get("unk_token")
        for token, id_ in known.items():
            tokens[id_] = token
            types[id_] = int(TokenType.NORMAL)
            if sentencepiece and _BYTE.fullmatch(token):
                types[id_] = int(TokenType.BYTE)
        for added in self._added:
            # The library goes by the text, not by the file's id, and leaves out one without any.
            if added["content"] in known:
                kind = added_type(added, sentencepiece=sentencepiece)
                types[known[added["content"]]] = int(kind)
        if sentencepiece and unknown in known:
            types[known[unknown]] = int(TokenType.UNKNOWN)
        if len(set(tokens)) != size:
            raise self._error("a token has the text of a filler such as [PAD100]")
        return tokens, types

    def _check_stripping(self) -> None:
        lost = [] if self.follows_rule else stripping.stripping(self._added)
        if not lost:
            return
        said = f"spaces around {', '.join(lost[:5])} as the tokenizer does"
        self.notes.append(f"Ollama will not strip {said}")
        plain = stripping.without_stripping(self._document)
        for prompt in self._prompts[:1]:
            encoded = [
                one.encode(prompt, add_special_tokens=False).ids for one in (self._tokenizer, plain)
            ]
            if encoded[0] != encoded[1]:
                raise self._error(
                    f"Ollama does not strip {said}, and the chat template has some",
                    hint="write the chat template without blanks there, and train with that",
                )

    @functools.cached_property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of pieces that are put together, in their order."""
        merges = []
        for merge in self._model.get("merges") or []:
            parts = merge.split(" ") if isinstance(merge, str) else merge
            if len(parts) != 2:
                raise self._error(f"merge {merge!r} does not have two parts")
            merges.append((parts[0], parts[1]))
        return merges

    def _scores(self, merges: list[tuple[str, str]]) -> list[float]:
        """Scores under which SentencePiece merges in the order of the merges."""
        ranks: dict[str, int] = {}
        for rank, (left, right) in enumerate(merges):
            ranks.setdefault(left + right, rank)
        return [
            -float(ranks[token]) if token in ranks else _NO_MERGE_SCORE for token in self._tokens
        ]

    def _ids(self, texts: Sequence[str]) -> list[int]:
        encoded = [self._tokenizer.encode(one, add_special_tokens=False) for one in texts]
        return [id_ for one in encoded for id_ in one.ids]

    def _role_id(self, role: str) -> int | None:
        """The id of bos, eos, unk or pad."""
        content = token_text(self._settings.get(f"{role}_token"))
        if content is not None:
            id_: int | None = self._tokenizer.token_to_id(content)
            if id_ is not None:
                return id_
            if role == "pad" and self._tokenizer.get_vocab_size() < len(self._tokens):
                return None  # transformers adds it where there are rows left; nobody pads here
            raise self._error(f"{role}_token {content!r} is not in the vocabulary")
        id_ = self._config.get(f"{role}_token_id")
        if type(id_) is not int:
            return None
        if role in ("pad", "unk") and not 0 <= id_ < len(self._tokens):
            return None  # -1, or a token that was never added: nobody needs either
        return self._checked(role, id_)

    def _checked(self, role: str, id_: int) -> int:
        if not 0 <= id_ < len(self._tokens):
            raise self._error(f"{role} token id {id_} is outside of {len(self._tokens)} tokens")
        return id_

    def _end_ids(self) -> list[int]:
        """Ids that end an answer: the tokenizer's first, then those of the configs."""
        own = self._role_id("eos") if self._settings.get("eos_token") else None
        sources = (self._generation, self._config)
        is_special = functools.partial(is_special_in, self._document)
        ids = named_ends(*sources, eos=own, is_special=is_special)
        for ignored in ignored_ends(*sources, eos=own, is_special=is_special):
            said = repr(self._tokens[ignored]) if 0 <= ignored < len(self._tokens) else ignored
            self.notes.append(
                f"config.json names token {said} as an end, but no other file does and it is not "
                "a special token: answers do not end there"
            )
        first = () if own is None else (own,)
        return [self._checked("eos", id_) for id_ in dict.fromkeys((*first, *ids))]

    def _runtime_roles(self) -> dict[str, int]:
        """Tokens that only runtimes ask for.

        Of the ends, llama.cpp knows those that are called eos, eot and eom, and some famous texts;
        all of eos_token_ids only Ollama's own engine.
        """
        named = {role: self._role_id(role) for role in RUNTIME_ROLES}
        others = [id_ for id_ in self._ends[1:] if id_ not in (named["eot"], named["eom"])]
        for role in ("eot", "eom"):
            if named[role] is None and others:
                named[role] = others.pop(0)
        if named["eot"] is None:
            named["eot"] = self._ends[0]
        if others:
            self.notes.append(
                f"Ollama may not end answers at {', '.join(self._tokens[id_] for id_ in others)}: "
                "a GGUF has room for three ends"
            )
        return {role: id_ for role, id_ in named.items() if id_ is not None}

    def _surrounding(self, bos: int | None) -> tuple[bool, bool]:
        """Whether BOS is to be added in front and EOS behind."""
        found = find_surrounding(self._tokenizer, self._prompts, bos)
        self.notes += found.notes
        eos = self._ends[:1]
        if found.first not in ([], [bos]) or found.last not in ([], eos):
            raise self._error(
                f"the post-processor adds {found.first} before and {found.last} after a text; "
                f"a GGUF can say only BOS ({bos}) and EOS ({eos})",
                hint="name what it adds (tokenizer.bos_token = ..., tokenizer.eos_token = ...; "
                "tokenizer.save_pretrained(folder)), or give the model a chat template",
            )
        return bool(found.first), bool(found.last)

    def _chat_template(self) -> str | None:
        file = self._folder / "chat_template.jinja"
        if file.is_file():
            try:
                return file.read_bytes().decode()
            except UnicodeDecodeError as exc:
                raise ConversionError(f"{file} is not UTF-8 text: {exc}") from exc
        return default_template(self._settings, self._owners)
