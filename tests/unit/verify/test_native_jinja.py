"""What a model must write so that a daemon's own Jinja can be tried."""

from __future__ import annotations

from typing import cast

import pytest
from fakes.formats import chat_template

from ollama_bridge.client import Client
from ollama_bridge.template.answers import written_answer
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.verify.native_jinja import find_native_jinja

CALL = Message("assistant", "", calls=(Call("look", {"at": "it"}, "abcdefghi"),))
THOUGHT = Message("assistant", "Five.", thinking="Hm.")
IN_TAGS = '<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>'
IN_LIST = '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "it"}, "id": "abcdefghi"}]'


@pytest.mark.parametrize(
    ("name", "think", "answer", "written"),
    [
        ("qwen2.5", None, CALL, IN_TAGS),
        ("qwen3", False, CALL, IN_TAGS),
        ("qwen3", True, THOUGHT, "<think>\nHm.\n</think>\n\nFive."),
        ("deepseek-r1", True, THOUGHT, "Hm.\n</think>\n\nFive."),
        ("mistral", None, CALL, IN_LIST),
        ("gemma2", None, Message("assistant", "Five."), "Five."),
    ],
)
def test_an_answer_is_what_the_chat_template_writes_behind_a_prompt(
    name: str, think: bool | None, answer: Message, written: str
) -> None:
    """Without what ends its turn, or what the prompt has already of a thought."""
    asked = Conversation((Message("user", "Hi"),), think=think)
    assert written_answer(chat_template(name), asked, answer) == written


def test_an_answer_that_is_refused_is_nothing() -> None:
    """Gemma 2 has no calls, and a template may raise."""
    refusing = chat_template("gemma2")
    asked = Conversation((Message("system", "Hm."), Message("user", "Hi")))
    assert written_answer(refusing, asked, Message("assistant", "Five.")) == ""


class OldDaemon:
    """Ollama 0.24, of which nothing else may be asked."""

    def version(self) -> str:
        """Its version."""
        return "0.24.0"


def test_a_daemon_that_renders_no_jinja_is_not_tried() -> None:
    """It would render a tag of the file by a Go template of its own."""
    old = cast("Client", OldDaemon())
    assert find_native_jinja(old, chat_template("qwen3"), lost=["tools"], kept=[]) is None
