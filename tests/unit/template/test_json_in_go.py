"""What Go template code writes of a text as JSON is what Python's ``json`` writes."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_bridge.template import go_functions, json_in_go
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.nodes import Say

BODY = "".join(
    node.text if isinstance(node, Say) else f"{{{{ {node.text} }}}}" for node in json_in_go.string()
)
TEMPLATE = GoTemplate(
    f'{{{{ define "string" }}}}{BODY}{{{{ end }}}}'
    '{{ range .Messages }}{{ template "string" .Content }}{{ end }}'
)


def written(text: str) -> str:
    return TEMPLATE.render(Conversation((Message("user", text),)))


# Mostly what is escaped by Go's %q, by its json, by both alike, or by neither.
@given(
    st.text(st.sampled_from('ab"\\\n\t\b\x07\x0b\x1f\x7f<>&é€\u00a0\u2028\u2029😀'), max_size=40)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
@example("a\u2028" * 8)
@example('{"city": "Paris"}\n')
def test_texts(text: str) -> None:
    assert written(text) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize("text", ["word " * 80, '{"a": "b"}' * 40], ids=["plain", "escaped"])
def test_not_by_single_characters(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon takes more than a second for 100,000 steps, each time it renders them."""
    steps = []
    shorten = go_functions.FUNCTIONS["slice"]
    monkeypatch.setitem(
        go_functions.FUNCTIONS,  # type: ignore[arg-type]
        "slice",
        lambda *given: steps.append(given) or shorten(*given),
    )
    assert written(text) == json.dumps(text)
    assert len(steps) < len(text) / 2
