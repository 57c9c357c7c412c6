"""Whether a tag still has the PARSER with which calls and thoughts were seen to come back.

Prompts say nothing of it: a tag that lost it is asked as before, and its calls come back as text.
"""

from __future__ import annotations

from ollama_bridge.client import ModelDetails
from ollama_bridge.client.built_in import built_in_code
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verify.certificate import Check

NAME = "parser"


def check_parser(reference: ReferenceValues, details: ModelDetails) -> Check:
    """The tag's PARSER is that of its values, where these name one.

    Args:
        reference: The checkpoint's values.
        details: The tag, as the daemon shows it.
    """
    served = reference.template
    wanted = None if served is None else served.parser
    has = built_in_code(details).get("PARSER")
    named = f"has PARSER {has}" if has else "has no PARSER"
    return Check.of(
        NAME,
        "template",
        f"the tag {named}: tool calls and thoughts of its answers were seen to be found by {wanted}"
        if wanted is not None and has != wanted
        else None,
        {},
    )
