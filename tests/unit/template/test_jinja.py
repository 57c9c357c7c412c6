"""Chat templates rendered here, against transformers' own machinery."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.formats import CASES, chat_template, source_of
from transformers.utils.chat_template_utils import render_jinja_template

from ollama_bridge.errors import TemplateError
from ollama_bridge.template import jinja
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.generation import Domain, random_ones
from ollama_bridge.template.jinja import ChatTemplate, RefusedError

EVERYTHING = Domain(
    system=True,
    tools=True,
    many_calls=True,
    thinking=True,
    continued_thinking=True,
    thinks=(None, True, False),
)


def by_transformers(name: str, conversation: Conversation) -> str | None:
    """What ``apply_chat_template`` gives, or None where it raises."""
    arguments: dict[str, Any] = {"bos_token": CASES[name].bos, "eos_token": CASES[name].eos}
    if conversation.think is not None:
        arguments |= {"enable_thinking": conversation.think, "thinking": conversation.think}
    try:
        rendered, _ = render_jinja_template(
            [[message.to_jinja() for message in conversation.messages]],
            tools=[dict(tool) for tool in conversation.tools] or None,
            chat_template=source_of(name),
            add_generation_prompt=not conversation.continued,
            continue_final_message=conversation.continued,
            **arguments,
        )
    except Exception:
        return None
    return str(rendered[0])


@pytest.mark.parametrize("name", CASES)
def test_renders_as_transformers_does(name: str) -> None:
    """Text for text, and refusing what it refuses."""
    template = chat_template(name)
    for conversation in random_ones(EVERYTHING, 60, seed=5):
        wanted = by_transformers(name, conversation)
        try:
            assert template.render(conversation, with_bos=True) == wanted
        except RefusedError:
            assert wanted is None


def plain(source: str) -> str:
    """A template's prompt for one message."""
    template = ChatTemplate(source, special={}, adds_bos=False)
    return template.render(Conversation((Message("user", "Hi"),)))


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{% for a in range(99999) %}x{% endfor %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_that_does_not_end_is_stopped(source: str) -> None:
    """Loops within loops, and loops in a macro that calls itself."""
    with pytest.raises((TemplateError, RefusedError), match=r"not end|without end|recursion"):
        plain(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) if none %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n < 40 %}{{ m(n + 1) }}{{ m(n + 1) }}{% endif %}{% endmacro %}"
        "{{ m(0) }}",
        "{% for a in [1] recursive %}{% if loop.depth < 40 %}{{ loop([1, 1]) }}{% endif %}"
        "{% endfor %}",
        "{% set n = namespace(depth=0) %}{% block b %}{% set n.depth = n.depth + 1 %}"
        "{% if n.depth < 40 %}{{ self.b() }}{{ self.b() }}{% endif %}"
        "{% set n.depth = n.depth - 1 %}{% endblock %}",
    ],
)
def test_whatever_can_run_again_is_counted(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loop leaves out, too, and what calls itself twice at each of forty depths."""
    monkeypatch.setattr(jinja, "_MAX_STEPS", 2000)
    with pytest.raises(TemplateError, match="does not end"):
        plain(source)


def test_no_jinja_names_the_line() -> None:
    """A syntax error is one clear error."""
    with pytest.raises(TemplateError, match="line 2"):
        plain("a\n{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% set ns = namespace(a=1) %}{{ messages.append(1) }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    """What reaches for Python's own is refused."""
    with pytest.raises(RefusedError):
        plain(source)
