"""What Go template code writes of a text is what Python's ``json`` writes, and its ``repr``."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_bridge.template import go_functions, json_in_go
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.nodes import Node, Say


def template_of(nodes: Sequence[Node]) -> GoTemplate:
    """Writes each message's text by the body of a template."""
    parts = (node.text if isinstance(node, Say) else f"{{{{ {node.text} }}}}" for node in nodes)
    return GoTemplate(
        f'{{{{ define "text" }}}}{"".join(parts)}{{{{ end }}}}'
        '{{ range .Messages }}{{ template "text" .Content }}{{ end }}'
    )


AS_JSON, AS_REPR = template_of(json_in_go.string()), template_of(json_in_go.printed_string())
# Mostly what is escaped by Go's %q, by its json, by repr, by all alike, or by none.
TEXTS = st.text(
    st.sampled_from("ab\"'\\\n\r\t\b\x07\x0b\x1f\x7f<>&é€\u00a0\u00ad\u2028\u2029\ue000😀"),
    max_size=40,
) | st.text(st.characters(exclude_categories=["Cs"]))


def written(text: str, template: GoTemplate = AS_JSON) -> str:
    return template.render(Conversation((Message("user", text),)))


@given(TEXTS)
@example("a\u2028" * 8)
@example('{"city": "Paris"}\n')
def test_texts(text: str) -> None:
    assert written(text) == json.dumps(text, ensure_ascii=False)


@given(TEXTS)
@example("it's")
@example("'\"")
def test_texts_as_python_prints_them(text: str) -> None:
    assert written(text, AS_REPR) == repr(text)


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
