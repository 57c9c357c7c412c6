"""A comment in a chat template, that keeps Ollama from taking it for another."""

from __future__ import annotations

# Ollama takes a Jinja template that is fewer than a hundred edits away from one that it knows for
# that one, and renders by its own Go template of that name.
_COMMENT = (
    "{# Kept as its checkpoint has it. This comment is here for one reason: Ollama replaces a chat "
    "template that is less than a hundred edits away from one that it knows by a Go template of "
    "its own, which leaves out what is special to this one, such as a default system prompt. #}"
)
_END = "\n"  # of a file, which is no part of any prompt; in front of a comment it would be


def with_comment(source: str) -> str:
    """A chat template that Ollama does not take for one of those that it knows."""
    if source.endswith(_END):
        return source.removesuffix(_END) + _COMMENT + _END
    return source + _COMMENT


def without_comment(source: str) -> str:
    """A chat template as its checkpoint has it."""
    if source.endswith(_COMMENT + _END):
        return source.removesuffix(_COMMENT + _END) + _END
    return source.removesuffix(_COMMENT)
