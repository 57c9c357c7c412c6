"""Another tag in a chat: what it has in it already, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ollama_bridge.cli.output import say
from ollama_bridge.cli.question_options import LEVELS
from ollama_bridge.client import Client, Conversation, ModelDetails
from ollama_bridge.client.conversation import Turn
from ollama_bridge.client.tag_limits import with_own_limit
from ollama_bridge.client.wire.refusals import no_images
from ollama_bridge.errors import ModelNotFoundError


def show_if_there(client: Client, tag: str) -> ModelDetails | None:
    """What the daemon knows of a tag; None: it is gone."""
    try:
        return client.show(tag)
    except ModelNotFoundError:
        return None


def unheard(
    turns: Sequence[Turn],
    other: Sequence[Mapping[str, Any]],
    *,
    first: Sequence[Mapping[str, Any]] = (),
) -> list[Turn]:
    """What a tag has not heard of what was said.

    It may have been saved of this chat, which has gone on since, or left out its oldest turns: what
    the tag has in it ends with what the chat begins with. A tag keeps no images: from the first
    turn with some on, nothing was heard.

    Args:
        turns: Of the chat.
        other: What the tag has in it.
        first: What the tag that was asked has in it, in front of the turns.
    """
    heard = [*map(_words, other)]
    seen = next((place for place, turn in enumerate(turns) if "images" in turn.question), None)
    for place in range(len(turns), 0, -1):
        said = [message for turn in turns[:place] for message in turn.messages]
        known = [*map(_words, [*first, *said])]
        if known == heard[max(0, len(heard) - len(known)) :]:
            return list(turns[min(place, len(turns) if seen is None else seen) :])
    return list(turns)


def check_seen(
    tag: str, turns: Sequence[Turn], details: ModelDetails, *, unanswered: Mapping[str, Any] | None
) -> None:
    """Refuse turns, and a question that had no answer, with images that a tag cannot see.

    Raises:
        UnsupportedFeatureError: there are some.
    """
    questions = [*(turn.question for turn in turns), unanswered or {}]
    if details.takes_images is False and any("images" in question for question in questions):
        raise no_images(tag)


def without_heard(said: Conversation, details: ModelDetails) -> Conversation:
    """A loaded chat that sends no turn that its tag has in it: the daemon does that by itself.

    Raises:
        UnsupportedFeatureError: it sends images that the tag cannot see.
    """
    turns = unheard(said.turns, details.messages)
    check_seen(said.model, turns, details, unanswered=None)
    heard = said.turns[: len(said.turns) - len(turns)]
    if heard:
        say(f"({said.model} already contains {len(heard)} of these turns)")
    return replace(said, turns=turns, heard=heard)


def settings_for(
    said: Conversation, tag: str, details: ModelDetails, before: ModelDetails | None
) -> Conversation:
    """How another tag is asked: as the one before, where it can, and of nothing that was said.

    The limit that the tag ``before`` itself sets is none that a person gave; None: it is gone.
    """
    own = with_own_limit({}, before).items() if before is not None else ()
    given = {name: value for name, value in said.options.items() if (name, value) not in own}
    return replace(
        said,
        model=tag,
        options=with_own_limit(given, details),
        think=_thinking_for(said.think, tag, details),
        turns=[],
        dropped=[],
        heard=[],
    )


def _thinking_for(think: bool | str | None, tag: str, details: ModelDetails) -> bool | str | None:
    """How another model is to think where it can; else as it does by itself, which is told."""
    levels = details.think_levels or LEVELS
    can = "thinking" in details.capabilities and (not isinstance(think, str) or think in levels)
    if not think or can:
        return think
    say(f"({tag} cannot think that way: /think {think if isinstance(think, str) else 'on'} is off)")
    return None


def _words(message: Mapping[str, Any]) -> tuple[str, str]:
    return str(message.get("role")), str(message.get("content", ""))
