"""What Ollama takes a Jinja chat template for that it renders itself: it goes by words.

Source: Ollama 0.34.4, ``server/images.go`` and ``thinking/template.go``. Versions before 0.30
render no Jinja.
"""

from __future__ import annotations

_SPLITS = ("content.split('</think>')", 'content.split("</think>")')
_NOT_WITH = ("reasoning_content", "<SPECIAL_12>")


def names_tools(source: str) -> bool:
    """Whether requests with tools are taken for it."""
    return "tools" in source or "tool_call" in source


def names_thinking(source: str) -> bool:
    """Whether it is listed as one that thinks, and thoughts are told from answers by its tags."""
    return "<think>" in source and "</think>" in source


def cuts_thoughts(source: str) -> bool:
    """Whether it is listed as one that thinks for what it cuts off past answers alone.

    What Ollama then does with answers is not seen in the words.
    """
    cuts = any(split in source for split in _SPLITS)
    return cuts and not any(word in source for word in _NOT_WITH) and not names_thinking(source)
