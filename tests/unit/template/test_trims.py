"""White space that a chat template cuts off: a Go template cuts it off as well, or says so."""

from __future__ import annotations

import pytest
from fakes.formats import source_of

from ollama_bridge.template.authority import decide
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.jinja import ChatTemplate


def qwen3(thought: str) -> ChatTemplate:
    """Qwen 3's format, with another thing done to a thought."""
    source = source_of("qwen3").replace("thought.strip('\\n')", thought)
    return ChatTemplate(source, special={}, adds_bos=False)


@pytest.mark.parametrize(
    ("thought", "cut"),
    [
        ("thought.strip('\\n')", ("\n\n", "\n")),
        ("thought.strip()", ("\n ", " \n")),
        ("thought.rstrip('\\n')", ("", "\n")),
        ("thought", ("", "")),
    ],
    ids=["line ends", "white space", "line ends behind", "nothing"],
)
def test_white_space_is_cut_off_thoughts_too(thought: str, cut: tuple[str, str]) -> None:
    """Ollama hands thoughts out with the line end before their tag, and gets them back so."""
    template = qwen3(thought)
    found = decide(template)
    assert found.go is not None
    assert found.thinking
    assert not any("around a thought" in one for one in found.differences)
    question, call = Message("user", "Hi"), Call("look", {})
    for before, behind in (cut, ("", "")):
        thinks = Message("assistant", "", thinking=f"{before}Hm, \n hm.{behind}", calls=(call,))
        asked = Conversation((question, thinks, Message("tool", "So.", name="look")), think=True)
        wanted = template.render(asked)
        assert "<think>\nHm, \n hm.\n</think>" in wanted
        assert GoTemplate(found.go).render(asked) == wanted


def test_white_space_around_a_thought_that_is_cut_otherwise_has_a_name() -> None:
    """Whatever a template does to it beyond that."""
    found = decide(qwen3("thought.strip(' \\n')"))
    assert found.thinking
    assert any("around a thought" in one for one in found.differences)
