"""Whether a tag has the PARSER that its calls are found by."""

from __future__ import annotations

import re

import pytest
from fakes.serving import small_reference

from ollama_bridge.client import ModelDetails
from ollama_bridge.reference import ServedTemplate
from ollama_bridge.template.authority import Authority
from ollama_bridge.verify.answer_parser import check_parser

SYSTEM = "A tag may have, for one\nPARSER qwen3-coder\namong its lines."


def tag(parser: str | None) -> ModelDetails:
    """A tag as the daemon shows it."""
    shown = f'FROM m.gguf\nTEMPLATE """{{{{ .Prompt }}}}"""\nSYSTEM """{SYSTEM}"""\n'
    shown += f"PARSER {parser}\n" if parser else ""
    return ModelDetails(shown, "{{ .Prompt }}", SYSTEM, "", {}, (), {})


@pytest.mark.parametrize(
    ("parser", "difference"),
    [
        ("qwen3-coder", None),
        (None, "the tag has no PARSER: tool calls and thoughts .* found by qwen3-coder"),
        ("olmo3", "the tag has PARSER olmo3: tool calls and thoughts .* found by qwen3-coder"),
    ],
)
@pytest.mark.parametrize("authority", ["template", "renderer"])
def test_a_tag_that_lost_its_parser_is_no_longer_proven(
    authority: Authority, parser: str | None, difference: str | None
) -> None:
    """Its prompts are as they were, and its calls come back as text; no line of SYSTEM is one."""
    reference = small_reference()
    served = ServedTemplate(
        authority=authority, go=None, reason="a test", conversations=1, parser="qwen3-coder"
    )
    check = check_parser(reference.model_copy(update={"template": served}), tag(parser))
    assert check.passed == (difference is None)
    if difference is not None:
        assert re.match(difference, str(check.difference))


def test_where_go_reads_nothing_is_compared() -> None:
    """A PARSER of a template of somebody's own is his."""
    assert check_parser(small_reference(), tag(None)).passed
    assert check_parser(small_reference(), tag("qwen3")).passed
