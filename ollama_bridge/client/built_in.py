"""Which code of Ollama's own renders a tag and reads its answers, in the Modelfile that is shown.

No field of a reply has it (up to 0.34.4 at least), and what is shown is not always a Modelfile that
Ollama reads: a line that begins with a quote is shown without quotes of its own. So the texts that
have fields are cut out as they are shown, and no line of theirs is taken for an instruction.
"""

from __future__ import annotations

import re

from ollama_bridge.client.values import ModelDetails

_INSTRUCTION = re.compile(r"(RENDERER|PARSER) (.+)")
_BEHIND = ("PARAMETER ", "LICENSE ", "MESSAGE ")  # what Ollama shows behind them, texts too


def built_in_code(details: ModelDetails) -> dict[str, str]:
    """``RENDERER`` and ``PARSER`` with their names, as far as a tag has them.

    Args:
        details: Of the tag.
    """
    found = {}
    for line in _without_texts(details).split("\n"):
        if line.startswith(_BEHIND):
            break
        match = _INSTRUCTION.fullmatch(line)
        if match is not None:
            found[match[1]] = match[2]
    return found


def _without_texts(details: ModelDetails) -> str:
    shown = details.modelfile
    for name, text in (("TEMPLATE", details.template), ("SYSTEM", details.system)):
        for quotes in ('"""', '"', ""):
            before, there, behind = shown.partition(f"\n{name} {quotes}{text}{quotes}\n")
            if there:
                shown = f"{before}\n{behind}"
                break
    return shown
