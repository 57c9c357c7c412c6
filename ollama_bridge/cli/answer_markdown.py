"""Markdown on a terminal, as models write it: every word of an answer is seen."""

from __future__ import annotations

from markdown_it import MarkdownIt
from rich.markdown import Markdown

# Each block is rendered alone, so that a definition of a link would define nothing; pictures and
# bare addresses would be shown otherwise than they were written.
_NOT_TAKEN = ["reference", "image", "autolink"]
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
_PARSER.disable(_NOT_TAKEN)


class AnswerMarkdown(Markdown):
    """Markdown of which nothing is taken for HTML, whose lines end where they end.

    rich leaves out what CommonMark calls HTML: ``<answer>42</answer>``, ``vector<int>``.

    Args:
        text: One or more whole blocks, or one that grows.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, hyperlinks=False)
        self.parsed = _PARSER.parse(text)
        for block in self.parsed:
            for one in block.children or ():
                if one.type == "softbreak":
                    one.type = "hardbreak"
