"""What a teacher's tag puts before a question, or gives up for it, told before it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

from ollama_bridge.examples import Example
from ollama_bridge.teacher.respondent import Respondent


def told_of_own_words(respondent: Respondent, asked: Iterable[Example]) -> str | None:
    """What the teacher reads that the student will not, or the other way round.

    Args:
        respondent: Who is asked.
        asked: What for.

    Returns:
        A sentence; None: both read the same.
    """
    own = respondent.system.strip()
    read = {next((m.content for m in one.prompt if m.role == "system"), "") for one in asked}
    keep = f'--set task.system="$(ollama-bridge show {quote(respondent.name)} --system)"'
    parts: list[str] = []
    if own and read - {"", own}:
        parts.append(
            "not with its own SYSTEM but with that of the corpus "
            f"(its own: prepare or build with {keep})"
        )
    if own and "" in read:
        parts.append(
            "with its own SYSTEM where the corpus has none, which the student will not read "
            f"(for it to do so: prepare or build with {keep})"
        )
    if respondent.has_messages:
        parts.append("behind the MESSAGEs of its tag, which the student will not read")
    return f"{respondent.name} is asked {'; '.join(parts)}" if parts else None
