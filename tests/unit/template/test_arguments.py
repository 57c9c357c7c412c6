"""Calls whose arguments are written one by one, as families that mark calls up do."""

from __future__ import annotations

import pytest

from ollama_bridge.template.arguments import EachArgument, find_each
from ollama_bridge.template.authority import AnswerParser, Served, decide, lost_by, served_by
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.jinja import ChatTemplate

# Tools as JSON, and each call as the loop in CALL writes it.
SOURCE = """
{%- if tools %}{{- '<tools>' + (tools | tojson) + '</tools>' }}{% endif %}
{%- for message in messages %}
{{- '<' + message.role + '>' + message.content }}
{%- for call in message.tool_calls or [] %}{% set asked = call.function.arguments %}CALL{% endfor %}
{{- '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{% endif %}"""
LOOP = "{%- for key, value in asked.items() %}EACH{% endfor %}"
MARKED = (
    "{{- '<call=' + call.function.name + '>\\n' }}"
    + LOOP.replace(
        "EACH",
        "{{- '<parameter=' + key + '>\\n' + (value if value is string else value | tojson) "
        "+ '\\n</parameter>\\n' }}",
    )
    + "{{- '</call>' }}"
)
PAIRS = (
    "{{- '<call>' + call.function.name }}"
    + LOOP.replace(
        "EACH",
        "{{- '<key>' + key + '</key>' }}{% if value is string %}{{- '<value>' + value }}"
        "{% elif value is mapping or value is iterable %}{{- '<value>' + (value | tojson) }}"
        "{% else %}{{- '<value>' + (value | string) }}{% endif %}{{- '</value>' }}",
    )
    + "{{- '</call>' }}"
)
PYTHONIC = (
    "{{- '[' + call.function.name + '(' }}"
    + LOOP.replace("EACH", "{{- key + '=' + (value | tojson) + (', ' if not loop.last else '') }}")
    + "{{- ')]' }}"
)
QUOTED = PYTHONIC.replace(
    "(value | tojson)", '("\'" + value + "\'" if value is string else value | tojson)'
)


def served(call: str) -> Served:
    """The decision for a chat template that writes calls so."""
    return decide(ChatTemplate(SOURCE.replace("CALL", call), special={}, adds_bos=False))


@pytest.mark.parametrize("call", [MARKED, PAIRS, PYTHONIC, QUOTED])
def test_arguments_one_by_one_are_proven(call: str) -> None:
    """Texts raw, in quotes or as JSON; true, false and null as JSON or as Python has them."""
    found = served(call)
    assert found.tools, found.differences
    assert found.go is not None
    assert any("a PARSER may find them" in said for said in found.differences)
    template = ChatTemplate(SOURCE.replace("CALL", call), special={}, adds_bos=False)
    assert lost_by(template, found) == ("tool calls",)
    read = served_by(template, AnswerParser("some"))
    assert (read.authority, read.go) == ("template", found.go)
    assert lost_by(template, read) == ()
    assert not any("a PARSER may find them" in said for said in read.differences)


def test_the_go_template_writes_them() -> None:
    """No argument, one and several, of every type."""
    go = GoTemplate(served(MARKED).go or "")
    asked = {"a": "x\n<y>", "b": True, "c": None, "d": [1, "two"]}
    for arguments, wanted in (
        ({}, ""),
        ({"a": "1"}, "<parameter=a>\n1\n</parameter>\n"),
        (
            asked,
            "<parameter=a>\nx\n<y>\n</parameter>\n<parameter=b>\ntrue\n</parameter>\n"
            '<parameter=c>\nnull\n</parameter>\n<parameter=d>\n[1, "two"]\n</parameter>\n',
        ),
    ):
        messages = (
            Message("user", "Hi"),
            Message("assistant", "", calls=(Call("f", arguments),)),
            Message("tool", "done", name="f"),
        )
        rendered = go.render(Conversation(messages))
        assert rendered == (
            f"<user>Hi</s><assistant><call=f>\n{wanted}</call></s><tool>done</s><assistant>"
        )


@pytest.mark.parametrize(
    "each",
    [
        "{{- key + '=' + (value | string | upper) }}",
        "{{- key + '=' + (value | string) + ';' }}",  # lists as Python prints them
        "{{- key + '=<' + (value | string | length | string) + '>' + (value | string) }}",
        "{{- '<![CDATA[' + value + ']]>' if '\\n' in value | string else value | string }}",
    ],
    ids=["changed", "python", "measured", "by content"],
)
def test_what_go_cannot_write_costs_the_tools(each: str) -> None:
    """And nothing else."""
    found = served("{{- '<call>' + call.function.name }}" + LOOP.replace("EACH", each))
    assert found.authority == "template"
    assert not found.tools
    assert any("assistant's arguments" in difference for difference in found.differences)


def test_marks_are_not_cut() -> None:
    """Two prompts differ from the middle of a mark on; the arguments begin at the mark."""
    form = EachArgument("<a ", ">", "</a><a ", "</a>", "", ("true", "false", "null"))
    assert find_each(lambda arguments: f"<f>{form.write(arguments)}</f>") == form
