"""What a question asks for and a daemon may leave out without a word. No input or output here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ollama_bridge.client.values import RunningModel, context_in_use
from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.errors import ContextReducedError, UnsupportedFeatureError

# Model and ``num_ctx`` of a question; model and level of thinking.
ContextAsked = tuple[str, int]
LevelAsked = tuple[str, str]

_KNOWN_FOR_S = 300.0


class Known:
    """What was looked at, for a while: somebody else may make another model of a tag."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._until_s: dict[ContextAsked | LevelAsked, float] = {}

    def __contains__(self, asked: ContextAsked | LevelAsked) -> bool:
        """Whether it need not be looked at again."""
        return self._until_s.get(asked, -math.inf) > self._now_s()

    def add(self, asked: ContextAsked | LevelAsked) -> None:
        """It was looked at just now."""
        self._until_s[asked] = self._now_s() + _KNOWN_FOR_S

    def clear(self) -> None:
        """Know nothing any more: a model was made, or taken away."""
        self._until_s.clear()


def context_asked(question: Call) -> ContextAsked | None:
    """The context that a question asks for; None: whatever there is."""
    asked = ((question.json or {}).get("options") or {}).get("num_ctx")
    return (str(question.model), asked) if asked else None


def check_context(asked: ContextAsked, running: Sequence[RunningModel]) -> bool:
    """Compare the context that was asked for with what the model runs with.

    Args:
        running: What is loaded, now that the answer has begun.

    Returns:
        Whether it is told.

    Raises:
        ContextReducedError: it is shorter.
    """
    model, tokens = asked
    length = context_in_use(running, model)
    if 0 < length < tokens:
        error = ContextReducedError(
            f"num_ctx is {tokens}, but the daemon runs {model!r} with a context of {length} tokens",
            asked_tokens=tokens,
            used_tokens=length,
            hint=f"ask for num_ctx {length} at most: the model was trained for no more",
            model=model,
        )
        error.phase = "first_token"
        raise error
    return length > 0


def level_asked(question: Call) -> LevelAsked | None:
    """The level of thinking that a question asks for; None: none by name."""
    think = (question.json or {}).get("think")
    return (str(question.model), think) if isinstance(think, str) else None


def check_level(asked: LevelAsked, levels: Sequence[str]) -> None:
    """Compare a level of thinking with those of the model.

    Args:
        levels: Of the model; empty: nobody tells.

    Raises:
        UnsupportedFeatureError: it is none of them.
    """
    model, level = asked
    if levels and level not in levels:
        raise UnsupportedFeatureError(
            f"{model!r} has no thinking level {level!r}: the daemon would use its default",
            status_code=400,
            model=model,
            hint=f"think with one of its levels: {', '.join(levels)}",
        )
