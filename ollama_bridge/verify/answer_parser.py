"""Whether a tag still has the PARSER with which calls and thoughts were seen to come back.

Prompts say nothing of it: a tag that lost it is asked as before, and its calls come back as text.
"""

from __future__ import annotations

import re

from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verify.certificate import Check

NAME = "parser"
_PARSER = re.compile(r"^PARSER (\S+)\s*$", re.MULTILINE)


def check_parser(reference: ReferenceValues, modelfile: str) -> Check:
    """The tag's PARSER is that of its values, where these name one.

    Args:
        reference: The checkpoint's values.
        modelfile: The tag's, as the daemon shows it.
    """
    served = reference.template
    wanted = None if served is None else served.parser
    has = _PARSER.findall(modelfile)
    named = f"has PARSER {' and '.join(has)}" if has else "has no PARSER"
    return Check.of(
        NAME,
        "template",
        f"the tag {named}: tool calls and thoughts of its answers were seen to be found by {wanted}"
        if wanted is not None and has != [wanted]
        else None,
        {},
    )
