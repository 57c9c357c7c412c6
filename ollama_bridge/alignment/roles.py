"""What chat templates write by a name that is another token in another tokenizer.

The digests that stores and trainings are found by do not have it, so it is asked for beside them.
"""

from __future__ import annotations

from ollama_bridge.encoding.encode import Tokenizer

_WRITTEN = {"bos_token": "prompts begin", "eos_token": "turns end"}


def role_difference(teacher: Tokenizer, student: Tokenizer) -> str | None:
    """What two chat templates write as other tokens, in words; None: nothing.

    An instruct model has another eos than its base, and still reads every token of it where the
    template has the end of a turn as text.
    """
    for name, said in _WRITTEN.items():
        theirs, ours = (
            getattr(one, name) if name in str(one.chat_template) else None
            for one in (teacher, student)
        )
        if theirs != ours:
            return f"{said} with {_named(theirs)} and with {_named(ours)}"
    return None


def _named(token: str | None) -> str:
    return "none" if token is None else repr(token)
