"""What system turns say of tools in tags: known words of it are taken out, others are refused.

A student's chat template says by itself where tools stand and how calls are written, in its own
tags. What a system turn says besides stays.
"""

from __future__ import annotations

import re

from ollama_bridge.errors import DataError

OTHER_WORDS = "in words that are not known"

_TAG = re.compile(r"</?(?:tools|tool_call|tool_response)>")
_SHOWN_CHARS = 60
# Blanks stand for gaps of any kind; TOOLS and its like for a pair of tags.
_SENTENCES = (
    # Hermes's, with the words that later files have.
    r"You are a function calling AI model(?: named Hermes 2 Pro| with self-recursion)?\.",
    r"You are (?:also )?provided with [^.:]*?function signatures within (?:XML tags )?TOOLS"
    r"(?: XML tags)?[.:]",
    r"(?:# Tools )?You may call one or more functions to assist with the user query\.",
    r"If available tools are not relevant in assisting with user query, just respond in natural "
    r"conversational language\.",
    r"Do(?:n't|n’t|n\"t| not) make assumptions about what values to plug into (?:functions|json "
    r"schema)\.",
    r"After calling (?:&|and) executing the functions, you will be provided with function results "
    r"within RESULT XML tags\.",
    r"Use the following pydantic model json schema for each tool call you will make: SCHEMA",
    r"For each function call,? return a json object,? with the following pydantic model json schema"
    r"(?: for each)?: SCHEMA",
    r"For each (?:extraction )?function call,? return a json object with (?:the )?function name "
    r"and arguments (?:within CALL|followed by a <tool_call>)(?: XML)? tags?"
    r"(?: as follows| with the following schema)?[:.]",
    r"Each function call should be enclosed within CALL XML tags(?: as follows)?[.:]",
    r"(?:Example: )?<tool_call> \{[^{}]*\} </tool_call>\.?",
)
_PARTS = {
    "TOOLS": r"<tools> </tools>",
    "CALL": r"<tool_call> </tool_call>",
    "RESULT": r"<tool_response> </tool_response>",
    # Braces in braces in braces: what pydantic says of a name and of arguments.
    "SCHEMA": r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}",
}
_MARK = "\0"  # where a sentence stood; no text has it
_MARKED_EDGE = re.compile(rf"^[ \t]*(?:{_MARK}[ \t]*)+|[ \t]*(?:{_MARK}[ \t]*)+$", re.MULTILINE)
_MARKED = re.compile(rf"[ \t]*(?:{_MARK}[ \t]*)+")


def _compiled(sentence: str) -> re.Pattern[str]:
    for name, part in _PARTS.items():
        sentence = sentence.replace(name, part)
    return re.compile(sentence.replace(" ", r"\s*"), re.IGNORECASE)


_INSTRUCTIONS = tuple(map(_compiled, _SENTENCES))


def without_instructions(text: str, *, where: str) -> str:
    """The words of a system turn that are not about the tags; empty: there are none.

    Args:
        text: Without the tools themselves.
        where: For messages.

    Raises:
        DataError: the tags are spoken of otherwise.
    """
    found = text.replace(_MARK, "")
    for sentence in _INSTRUCTIONS:
        found = sentence.sub(_MARK, found)
    found = _MARKED.sub(" ", _MARKED_EDGE.sub("", found))
    if other := _TAG.search(found):
        begin = max(0, other.start() - _SHOWN_CHARS)
        said = " ".join(found[begin : other.end() + _SHOWN_CHARS].split())
        raise DataError(f"{where}: its system turn speaks of {other[0]} {OTHER_WORDS}: {said!r}")
    return found.strip()
