"""Tools as a Go template writes them: what is nested in their parameters too."""

from __future__ import annotations

from typing import Any

import pytest

from ollama_bridge.template.authority import decide
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.marked_conversations import probe_tool

PROPERTIES: dict[str, dict[str, Any]] = {
    "list": {"type": "array", "items": {"type": "string"}, "description": "It's these."},
    "list of objects": {
        "type": "array",
        "items": {
            "properties": {"at": {"enum": ["a", 1, None, True], "type": "string"}},
            "required": ["at"],
            "type": "object",
        },
    },
    "object": {
        "type": "object",
        "properties": {
            "ends": {"type": "array", "items": {"type": ["integer", "null"]}},
            "within": {"type": "object", "properties": {"n": {"type": "number"}}},
        },
        "required": ["ends"],
    },
    "one of several": {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    },
    "nothing in it": {"type": "array", "items": {"enum": [], "properties": {}}},
    "anything": {"type": "array", "items": {}, "description": "These."},
    "nothing": {"type": "array", "items": False},
    "an object of no properties": {"type": "object", "properties": {}, "required": ["x"]},
    "anything within": {"type": "object", "properties": {"n": {"type": "array", "items": {}}}},
}


@pytest.mark.parametrize(
    "written",
    [
        "tool | tojson",
        "tool | tojson(indent=4)",
        "tool.function | tojson(indent=2)",
        "tool | string",
    ],
)
def test_what_is_nested_in_a_tools_parameters_is_written_alike(written: str) -> None:
    """In lines of its own where the whole tool is: Llama 3 and Granite indent."""
    template = ChatTemplate(
        f"{{% for tool in tools or [] %}}{{{{ {written} }}}}\n\n{{% endfor %}}"
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}[/]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        special={},
        adds_bos=False,
    )
    found = decide(template)
    assert found.go is not None
    assert found.tools
    for value in PROPERTIES.values():
        tool = probe_tool(0)
        tool["function"]["parameters"]["properties"] = {"a": value}
        asked = Conversation((Message("user", "Hi"),), tools=(tool,))
        assert GoTemplate(found.go).render(asked) == template.render(asked)


def test_what_is_nested_without_end_is_written_in_one_line_at_last() -> None:
    """Go's templates cannot count, so there is one for each depth; the tag says where it ends."""
    template = ChatTemplate(
        "{% for tool in tools or [] %}{{ tool | tojson(indent=4) }}\n\n{% endfor %}"
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}[/]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        special={},
        adds_bos=False,
    )
    deep: Any = "end"
    for _ in range(12):
        deep = [deep]
    inner: Any = {"type": ["integer", "null"], "items": {}, "enum": []}
    for name in "fedcb":
        inner = {"type": "object", "properties": {name: inner}}
    tool = probe_tool(0)
    tool["function"]["parameters"]["properties"] = {
        "a": {"type": "array", "items": {"x": deep}},
        "b": inner,
    }
    asked = Conversation((Message("user", "Hi"),), tools=(tool,))
    found = decide(template)
    assert found.go is not None
    rendered = GoTemplate(found.go).render(asked)
    assert '[[[[["end"]]]]]' in rendered
    assert '"properties": {"f":{"type":["integer","null"],"items":{}}}' in rendered
    assert any("eight brackets" in said for said in found.differences)
