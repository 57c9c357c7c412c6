"""The half of the reference values that needs no weights: rendered prompts, tokens, turn ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from ollama_bridge.errors import ModelError
from ollama_bridge.models.probes import CONVERSATIONS, ProbeTurns
from ollama_bridge.reference import Special, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SENTINEL = "Sentinel system prompt."


class TextSide:
    """What the tokenizer alone decides: rendered prompts, their tokens, and how turns end."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, folder: Path, *, system: str | None
    ) -> None:
        self.tokenizer = tokenizer
        self.folder = folder
        self.limits: list[str] = []
        self.has_chat_template = bool(tokenizer.chat_template)
        empty = tokenizer("").input_ids
        self.adds_bos = bool(empty) and empty[0] == tokenizer.bos_token_id
        self.default_system = self._find_default_system() if self.has_chat_template else None
        self.system = system or self.default_system
        self._asked_system = system
        self.turn_end = self._find_turn_end() if self.has_chat_template else None
        self._trims = self.has_chat_template and self._find_trimming()

    def conversations(self) -> dict[str, tuple[tuple[Turn, ...], str, list[int]]]:
        """Turns, rendered text and token ids of every probe that the template can express."""
        probes = {}
        for name, turns in CONVERSATIONS.items():
            if not self.has_chat_template and len(turns) > 1:
                continue
            if self._trims and any(content.strip() != content for _, content in turns):
                continue
            rendered = self._render(turns)
            if rendered is None:
                self.limits.append(f"the chat template refuses conversations like {name!r}")
                continue
            text, ids = self._tokens(rendered)
            if not ids:
                continue  # nothing at all: no daemon answers that
            probes[name] = (
                tuple(Turn(role=role, content=content) for role, content in turns),
                text,
                ids,
            )
        if self._trims:
            self.limits.append(
                "the chat template trims white space around a message; Ollama's cannot"
            )
        if not probes:
            raise ModelError(f"{self.folder}: the chat template renders none of the probes")
        return probes

    def end_tokens(self, generation: Mapping[str, Any]) -> tuple[Special, ...]:
        """Tokens that end an answer, the one that the chat template writes first."""
        ids: list[int | None] = []
        if self.turn_end is not None:
            first = self.tokenizer(self.turn_end, add_special_tokens=False).input_ids[:1]
            ids += [token for token in first if self._is_special(token)]
        listed = generation.get("eos_token_id")
        ids += listed if isinstance(listed, list) else [listed]
        eos = self.special(self.tokenizer.eos_token)
        ids.append(eos.id if eos is not None else None)
        unique = dict.fromkeys(token for token in ids if token is not None)
        return tuple(
            Special(id=token, text=str(self.tokenizer.convert_ids_to_tokens(token)))
            for token in unique
        )

    def special(self, text: str | list[str] | None) -> Special | None:
        """A special token by its text."""
        if not isinstance(text, str):
            return None
        token = self.tokenizer.convert_tokens_to_ids(text)
        return Special(id=token, text=text) if isinstance(token, int) else None

    def _is_special(self, token: int) -> bool:
        added = self.tokenizer.added_tokens_decoder.get(token)
        return added is not None and added.special

    def _render(self, turns: ProbeTurns) -> str | None:
        messages = [{"role": role, "content": content} for role, content in turns]
        own_system = turns[0][0] == "system"
        if self._asked_system is not None and not own_system:
            messages.insert(0, {"role": "system", "content": self._asked_system})
        if not self.has_chat_template:
            # As modelfiles/completion.Modelfile.j2 writes it.
            return "\n\n".join(message["content"] for message in messages)
        return self._apply(messages, continued=turns[-1][0] == "assistant")

    def _apply(
        self, messages: list[dict[str, str]], *, continued: bool = False, prompt: bool = True
    ) -> str | None:
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=prompt and not continued,
                continue_final_message=continued,
            )
        except (jinja2.TemplateError, ValueError):
            return None  # templates raise on what they do not want, such as a system turn
        return str(rendered)

    def _tokens(self, rendered: str) -> tuple[str, list[int]]:
        ids = list(self.tokenizer(rendered, add_special_tokens=False).input_ids)
        bos = self.tokenizer.bos_token
        if not self.has_chat_template:
            return rendered, list(self.tokenizer(rendered).input_ids)
        if self.adds_bos and bos is not None and rendered.startswith(bos):
            # The daemon's tokenizer adds it as well: written by both it would be there twice.
            return rendered.removeprefix(bos), ids
        return rendered, ids

    def _find_default_system(self) -> str | None:
        plain = self._apply([{"role": "user", "content": "Hi"}])
        given = self._apply(
            [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": "Hi"}]
        )
        if plain is None:
            raise ModelError(f"{self.folder}: the chat template fails on a single user message")
        if given is None or given.count(_SENTINEL) != 1:
            return None
        before, after = given.split(_SENTINEL)
        if len(plain) <= len(before) + len(after):
            return None
        if plain.startswith(before) and plain.endswith(after):
            return plain[len(before) : len(plain) - len(after)]
        return None

    def _find_turn_end(self) -> str | None:
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Answer."}]
        rendered = self._apply(turns, prompt=False)
        if rendered is None or "Answer." not in rendered:
            return None
        # The line end belongs to the template's layout, not to what ends the turn.
        return rendered.rpartition("Answer.")[2].strip() or None

    def _find_trimming(self) -> bool:
        rendered = self._apply([{"role": "user", "content": "  padded  "}])
        return rendered is not None and "  padded  " not in rendered
