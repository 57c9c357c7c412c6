"""The half of the reference values that needs no weights: rendered prompts, tokens, turn ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollama_bridge.errors import ModelError
from ollama_bridge.models.probes import (
    CONVERSATIONS,
    THINKING_CONVERSATIONS,
    TOOL_CONVERSATIONS,
)
from ollama_bridge.models.settings.chat_template import (
    adds_bos,
    chat_template_of,
    is_special,
    leaves_bos_out,
    turn_end_between,
    turn_end_of,
    turn_end_token,
)
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.settings.named_ends import is_special_in, named_ends
from ollama_bridge.models.settings.stripping import follows_rule, stripping, without_stripping
from ollama_bridge.reference import ServedTemplate, Special, Turn
from ollama_bridge.template.authority import (
    NativeJinja,
    OllamasOwn,
    Renderer,
    Served,
    decide,
    lost_by,
    served_by,
)
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.jinja import RefusedError
from ollama_bridge.template.marked_conversations import use_of_system

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_SENTINEL = "Sentinel system prompt."
_TOOL_TEMPLATE = "tool_use"  # what transformers takes where there are tools
_TOOLS_LOST = (
    f"its chat template for tools ({_TOOL_TEMPLATE}) is not served: for a tag with tools make it "
    "the only one (chat_template.jinja), if it writes conversations without tools as well"
)


class TextSide:
    """What the tokenizer alone decides: rendered prompts, their tokens, and how turns end.

    Raises:
        TemplateError: the chat template is no Jinja, or does not end.
        ModelError: it fails on a single user message.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        folder: Path,
        *,
        system: str | None,
        renderer: OllamasOwn | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.folder = folder
        self.limits: list[str] = []
        self.dates: dict[str, str] = {}
        self.adds_bos = adds_bos(tokenizer) and not leaves_bos_out(tokenizer)
        self._template = chat_template_of(tokenizer)
        self.has_chat_template = self._template is not None
        self.default_system = self._find_default_system()
        self._asked_system = system
        self.turn_end = turn_end_of(self._template) if self._template is not None else None
        self._renderer = renderer
        self._served = self._decide()
        self._plain: Tokenizer | None = None  # the tokenizer as llama.cpp has it, if that differs
        if _loses_stripping(tokenizer):
            self._plain = without_stripping(json.loads(tokenizer.backend_tokenizer.to_str()))
        if self._served is not None:
            self.limits += self._served.differences
        if _has_tool_template(tokenizer):
            self.limits.append(_TOOLS_LOST)
        if self.default_system is not None and not self._can_be_given(self.default_system):
            self.default_system = None  # the chat template's own business
        self.system = system or self.default_system

    def _decide(self) -> Served | None:
        if self._template is None:
            return None
        if self._renderer is not None:
            return served_by(self._template, self._renderer)
        return decide(self._template)

    @property
    def served(self) -> ServedTemplate | None:
        """Who renders."""
        served = self._served
        if served is None or self._template is None:
            return None
        own = self._renderer
        return ServedTemplate(
            authority=served.authority,
            go=served.go,
            reason=served.reason,
            capabilities=(
                *(("tools",) if served.tools else ()),
                *(("thinking",) if served.thinking else ()),
            ),
            conversations=served.conversations,
            renderer=own.name if isinstance(own, Renderer) else None,
            parser=None if own is None or isinstance(own, NativeJinja) else own.parser,
            lost=lost_by(self._template, served),
        )

    def conversations(self, *, longest: int) -> dict[str, tuple[Conversation, str, list[int]]]:
        """What is said, rendered text and token ids of every probe that can be served.

        Args:
            longest: Tokens that a prompt may have.
        """
        probes = {}
        for name, conversation in self._probes():
            rendered = self._render(conversation)
            if rendered is None:
                self.limits.append(f"the chat template refuses conversations like {name!r}")
                continue
            text, ids = self._tokens(rendered)
            if not self._is_served(conversation, text):
                continue  # one of the differences that have a name
            if not self._is_split_alike(rendered, ids):
                self.limits.append(
                    f"conversations like {name!r} have spaces next to special tokens, which the "
                    "tokenizer strips and Ollama does not"
                )
                continue
            if not ids:
                continue  # nothing at all: no daemon answers that
            if len(ids) > longest:
                self.limits.append(f"conversations like {name!r} do not fit the context")
                continue
            probes[name] = (conversation, text, ids)
        if not probes and self._use_of_system() == "refused":
            raise ModelError(
                f"{self.folder}: the chat template refuses a system prompt, and the tag has SYSTEM",
                hint="make the tag without it, or from a folder with a chat_template.jinja that "
                "writes one",
            )
        if not probes:
            raise ModelError(
                f"{self.folder}: the chat template renders none of the probes as Ollama can serve "
                f"it: {self.limits[-1] if self.limits else 'they are empty'}"
            )
        return probes

    def _use_of_system(self) -> str | None:
        """What becomes of the SYSTEM that was asked for; None: none was, or nothing renders."""
        if not self._asked_system or self._template is None:
            return None
        return use_of_system(self._template)

    def _probes(self) -> Iterator[tuple[str, Conversation]]:
        served = self._served
        for name, turns in CONVERSATIONS.items():
            if served is None and len(turns) > 1:
                continue
            messages = tuple(Message(role, content) for role, content in turns)
            yield name, Conversation(messages, think=_unasked(served))
        if served is not None and served.tools:
            for name, conversation in TOOL_CONVERSATIONS.items():
                probe = conversation.handed_on if served.authority == "jinja" else conversation
                yield name, replace(probe, think=_unasked(served))
        if served is not None and served.thinking:
            for name, conversation in THINKING_CONVERSATIONS.items():
                asked = conversation.think
                yield (
                    name,
                    replace(conversation, think=_unasked(served) if asked is None else asked),
                )

    def _is_served(self, conversation: Conversation, rendered: str) -> bool:
        served = self._served
        if served is None:
            return True
        if served.go is None:
            # The daemon's Jinja or its own code: see the differences that `authority` names.
            past = any(message.thinking for message in conversation.messages)
            return not conversation.continued and not (past and served.authority == "jinja")
        go = GoTemplate(served.go).render(self._with_system(conversation))
        return go == rendered

    def _is_split_alike(self, rendered: str, ids: list[int]) -> bool:
        if self._plain is None:
            return True
        return (
            ids == self._plain.encode(rendered, add_special_tokens=not self.has_chat_template).ids
        )

    def end_tokens(
        self, generation: Mapping[str, Any], config: Mapping[str, Any]
    ) -> tuple[Special, ...]:
        """Tokens that end an answer, the one that the chat template writes first."""
        turn_end = turn_end_token(self.tokenizer, self.turn_end) if self.turn_end else None
        eos = self.special(self.tokenizer.eos_token)
        ids = named_ends(
            generation,
            config,
            eos=eos.id if eos else None,
            turn_end=turn_end,
            is_special=lambda id_: is_special_in(
                read_json_object(self.folder / "tokenizer.json"), id_
            ),
        )
        texts = {token: text for text, token in self.tokenizer.get_vocab().items()}
        return tuple(Special(id=token, text=texts[token]) for token in ids if token in texts)

    def warnings(self) -> Iterator[str]:
        """What a user would not expect of the tag, in sentences."""
        if not self.has_chat_template:
            yield (
                "there is no chat template: the tag continues texts (for one that answers: package "
                "--chat-template FILE.jinja)"
            )
        if self._use_of_system() == "left out":
            yield "the chat template leaves a system prompt out: SYSTEM does not reach the model"
        if _has_tool_template(self.tokenizer):
            yield _TOOLS_LOST

    def without_end(self, ends: Sequence[Special]) -> str | None:
        """That nothing which the chat template writes ends an answer, with what to do about it.

        Args:
            ends: Tokens that the checkpoint's files name as ends.

        Returns:
            None: something does, or the chat template refuses to tell.
        """
        if self._template is None:
            return None
        between = turn_end_between(self._template)
        if between is None:
            return None
        ids = self.tokenizer(f"{self.turn_end or ''}{between}", add_special_tokens=False).input_ids
        known = {token.id for token in ends}
        at_the_end = self.turn_end is not None and self._has_special(self.turn_end)
        if at_the_end or any(token in known for token in ids):
            return None
        what = "writes nothing behind an answer"
        if self.turn_end is not None:
            what = f"ends turns with {self.turn_end!r}, which is plain text"
        named = " or ".join(repr(token.text) for token in ends)
        unless = f" unless it was trained to write {named}" if named else ""
        return (
            f"the chat template {what}, and none of the checkpoint's own answers was seen to end: "
            f"the tag's answers go on up to num_predict{unless}. Give the chat template that it "
            "was trained with (--chat-template FILE.jinja), or what begins the next turn as a stop "
            "(-p stop=TEXT)"
        )

    def _has_special(self, text: str) -> bool:
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return any(is_special(self.tokenizer, token) for token in ids)

    def special(self, text: str | list[str] | None) -> Special | None:
        """A special token by its text."""
        if not isinstance(text, str):
            return None
        token = self.tokenizer.convert_tokens_to_ids(text)
        return Special(id=token, text=text) if isinstance(token, int) else None

    def _with_system(self, conversation: Conversation) -> Conversation:
        """As the daemon completes it: a tag's SYSTEM stands before what brings none."""
        if self._asked_system is None or conversation.messages[0].role == "system":
            return conversation
        messages = (Message("system", self._asked_system), *conversation.messages)
        return replace(conversation, messages=messages)

    def _render(self, conversation: Conversation) -> str | None:
        conversation = self._with_system(conversation)
        if self._template is None:
            # As modelfiles/completion.Modelfile.j2 writes it.
            return "\n\n".join(message.content for message in conversation.messages)
        try:
            return self._template.render(conversation, clock=self._date, with_bos=True)
        except RefusedError:
            return None  # templates raise on what they do not want, such as a system turn

    def _date(self, form: str) -> str:
        return self.dates.setdefault(form, datetime.now().strftime(form))

    def _apply(self, *messages: Message) -> str | None:
        if self._template is None:
            return None
        try:
            return self._template.render(Conversation(messages))
        except RefusedError:
            return None

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
        if self._template is None:
            return None
        question = Message("user", "Hi")
        try:
            plain = self._template.render(Conversation((question,)))
        except RefusedError as exc:
            raise ModelError(
                f"{self.folder}: the chat template fails on a single user message: {exc}",
                hint="give it another one: --chat-template FILE.jinja (package, convert, verify)",
            ) from exc
        given = self._apply(Message("system", _SENTINEL), question)
        if given is None or given.count(_SENTINEL) != 1:
            return None
        before, after = given.split(_SENTINEL)
        if len(plain) <= len(before) + len(after):
            return None
        if plain.startswith(before) and plain.endswith(after):
            return plain[len(before) : len(plain) - len(after)]
        return None

    def _can_be_given(self, default: str) -> bool:
        """Whether a SYSTEM of the default's words does what the chat template does by itself.

        It does not where the default depends on the day, or on tools.
        """
        template, other_day = self._template, datetime(2031, 2, 3)
        for _, conversation in self._probes() if template is not None else ():
            if conversation.system or template is None:
                continue
            messages = (Message("system", default), *conversation.messages)
            try:
                plain = template.render(conversation, clock=other_day.strftime)
                given = template.render(
                    replace(conversation, messages=messages), clock=other_day.strftime
                )
            except RefusedError:
                continue
            if plain != given:
                return False
        return True


def _loses_stripping(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether it strips spaces next to special tokens that Ollama will leave there."""
    added = [
        {
            "content": token.content,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
        }
        for token in tokenizer.added_tokens_decoder.values()
    ]
    return bool(stripping(added)) and not follows_rule(added, tokenizer.get_vocab().keys())


def _has_tool_template(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether conversations with tools have a chat template of their own, by its name."""
    return isinstance(tokenizer.chat_template, dict) and _TOOL_TEMPLATE in tokenizer.chat_template


def turns_of(conversation: Conversation) -> tuple[Turn, ...]:
    """The messages, as reference values keep them."""
    return tuple(Turn(**message.to_ollama()) for message in conversation.messages)


def _unasked(served: Served | None) -> bool | None:
    """What a request without ``think`` means: a daemon lets a model think that can."""
    return True if served is not None and served.thinking else None
