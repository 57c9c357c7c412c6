"""The tags that Ollama finds around thoughts in the Go templates that are written."""

from __future__ import annotations

import pytest
from fakes.formats import CASES, chat_template

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.synthesis import synthesise
from ollama_bridge.template.thinking_tags import find_thinking_tags
from ollama_bridge.template.writer import write


@pytest.mark.parametrize("name", CASES)
def test_the_tags_are_those_of_the_format(name: str) -> None:
    """Whatever else stands around thoughts in the Go template."""
    format_ = synthesise(chat_template(name))
    thinking = format_.thinking
    wanted = () if thinking is None else (thinking.opening.strip(), thinking.closing.strip())
    assert find_thinking_tags(write(format_)) == wanted


@pytest.mark.parametrize(
    "source",
    [
        "{{ range .Messages }}{{ $x := .Thinking }}{{ .Content }}{{ end }}",
        "{{ range $.Tools }}<think>{{ .Thinking }}</think>{{ end }}",
        "{{ range .Messages }}{{ range .ToolCalls }}<a>{{ .Thinking }}</a>{{ end }}{{ end }}",
        "<think>{{ .Thinking }}</think>",
    ],
    ids=["no texts", "no messages", "not nearest", "no range"],
)
def test_other_places_have_no_tags(source: str) -> None:
    """Thoughts that no text stands around, or that are no message's."""
    assert find_thinking_tags(source) == ()


@pytest.mark.parametrize("source", ["{{ if .A }}" * 5000 + "{{ end }}" * 5000, "{{ if"])
def test_values_of_anybodys_are_refused_in_words(source: str) -> None:
    """A tag that was pulled carries its Go template."""
    with pytest.raises(TemplateError, match=r"nested too deeply|line 1"):
        find_thinking_tags(source)
