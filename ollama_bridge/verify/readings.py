"""What a daemon makes of an answer that a chat template itself wrote: its calls, and its thought.

A model of no mind says that answer, word for word, behind the prompt that it answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ollama_bridge.client import Client
from ollama_bridge.client.values import Reply
from ollama_bridge.errors import DaemonError, RunnerCrashedError
from ollama_bridge.template.answers import written_answer
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.words import names_thinking
from ollama_bridge.verify.blank_gguf import Blank
from ollama_bridge.verify.trials import TRIAL, UNKNOWN, make, trials

WORD: Mapping[str, Any] = MappingProxyType({"word": "teapot"})
# Values that a parser has to know the types of, and text that means something in XML.
TYPED: Mapping[str, Any] = MappingProxyType(
    {"word": 'a <b> & "c"', "times": 3, "exact": True, "tags": ["x", "y"], "at": {"line": 1}}
)
_TYPES = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object"}
_QUESTION = Message("user", "What is it?")
_THOUGHT, _ANSWER = "Let me see.", "Five."
_MOST_TOKENS = 400  # that an answer may have; it has some dozen
_GO = "{{ .Prompt }}:"  # of a tag that nothing can go wrong with


@dataclass(frozen=True)
class Reading:
    """An answer that is to be read.

    Attributes:
        asked: What it answers.
        answer: Its parts.
        written: Its text as the chat template writes it; nothing: that cannot be told.
        prompt: In front of it.
    """

    asked: Conversation
    answer: Message
    written: str
    prompt: str

    @classmethod
    def of_call(
        cls, template: ChatTemplate, *arguments: Mapping[str, Any], thinking: str = ""
    ) -> Reading:
        """A call, or one of each arguments, and nothing else but a thought in front of it."""
        think = bool(thinking) if names_thinking(template.source) else None
        asked = Conversation((_QUESTION,), (_tool(arguments[0]),), think)
        calls = tuple(
            Call("look_up", one, f"a1B2c3D4{number}") for number, one in enumerate(arguments)
        )
        return cls._of(template, asked, Message("assistant", "", thinking, calls))

    @classmethod
    def of_thought(cls, template: ChatTemplate) -> Reading:
        """A thought, and what is said behind it."""
        think = True if names_thinking(template.source) else None
        answer = Message("assistant", _ANSWER, thinking=_THOUGHT)
        return cls._of(template, Conversation((_QUESTION,), think=think), answer)

    @classmethod
    def of_text(cls, template: ChatTemplate, *, think: bool | None) -> Reading:
        """What is said, and no more, although there is a tool."""
        asked = Conversation((_QUESTION,), (_tool(WORD),), think)
        return cls._of(template, asked, Message("assistant", _ANSWER))

    @classmethod
    def _of(cls, template: ChatTemplate, asked: Conversation, answer: Message) -> Reading:
        written = written_answer(template, asked, answer)
        told = answer.thinking in written
        return cls(asked, answer, written if told else "", template.render(asked))

    def blank(self, template: ChatTemplate, chat_template: str | None) -> Blank:
        """A file of a model that answers so.

        Args:
            template: Has the special tokens.
            chat_template: What the file carries.
        """
        return replace(blank_of(template, chat_template), says=self.written, behind=self.prompt)

    def is_read(self, client: Client) -> bool:
        """Whether the daemon gives back the parts that were written.

        Raises:
            DaemonError: it is gone, or busy: what it would make of it is not known.
        """
        try:
            try:
                reply = self._ask(client)
            except RunnerCrashedError:  # by what it read, or by a machine that is short of memory
                reply = self._ask(client)
        except UNKNOWN:
            raise
        except DaemonError:  # nothing is made of it
            return False
        found = [(call.name, dict(call.arguments)) for call in reply.tool_calls]
        wanted = [(call.name, dict(call.arguments)) for call in self.answer.calls]
        said = reply.thinking.strip(), reply.text.strip()
        return found == wanted and said == (self.answer.thinking, self.answer.content)

    def _ask(self, client: Client) -> Reply:
        try:
            return client.chat(
                TRIAL,
                _QUESTION.content,
                think=self.asked.think,
                tools=self.asked.tools,
                options={"num_predict": _MOST_TOKENS},
            )
        except UNKNOWN:
            raise
        except DaemonError:
            # The runner of an answer that 0.24 cannot read waits for ever, as would who asks next.
            client.unload(TRIAL)
            raise


def readings_of(template: ChatTemplate, *, tools: bool, thinks: bool) -> list[Reading]:
    """All that has to be read of the answers of a tag; what of it cannot be told comes empty.

    Two calls, and a thought in front of one, only where the chat template writes them.

    Args:
        template: The chat template.
        tools: Whether the tag can be offered tools.
        thinks: Whether it can be asked to think.
    """
    found = [Reading.of_thought(template)] if thinks else []
    if not tools:
        return found
    two = Reading.of_call(template, TYPED, WORD)
    found.append(two if two.written else Reading.of_call(template, TYPED))
    found.append(Reading.of_text(template, think=False if thinks else None))
    thoughtful = Reading.of_call(template, TYPED, thinking=_THOUGHT) if thinks else None
    return [*found, thoughtful] if thoughtful and thoughtful.written else found


def blank_of(template: ChatTemplate, chat_template: str | None) -> Blank:
    """A file of no weights, with the special tokens of a chat template."""
    special = template.special
    return Blank(
        chat_template=chat_template,
        bos=special.get("bos_token") or "<s>",
        eos=special.get("eos_token") or "</s>",
        adds_bos=template.adds_bos,
    )


def check_can_be_tried(client: Client) -> None:
    """Make sure that a daemon makes tags and runs them, where all that was tried came to nothing.

    On a full disk, or where no runner finds memory, every trial is answered by an error, as one is
    that the daemon cannot do.

    Raises:
        DaemonError: it does not: what it can do is not known.
    """
    asked = Conversation((_QUESTION,))
    plain = Reading(asked, Message("assistant", _ANSWER), _ANSWER, f"{_QUESTION.content}:")
    blank = Blank(says=plain.written, behind=plain.prompt)
    with trials(client):
        make(client, blank, template=_GO)
        said = plain._ask(client).text
    if said.strip() != _ANSWER:
        raise DaemonError(
            f"the daemon makes {said[:40]!r} of a model that says {_ANSWER!r}: what it does with "
            "the chat template cannot be seen",
            hint="restart Ollama, and run the same command again",
        )


def _tool(arguments: Mapping[str, Any]) -> dict[str, Any]:
    properties = {
        name: {"type": _TYPES[type(value)], "description": f"The {name}."}
        for name, value in arguments.items()
    }
    return {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look it up.",
            "parameters": {
                "type": "object",
                "required": list(arguments)[:1],
                "properties": properties,
            },
        },
    }
