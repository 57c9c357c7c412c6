"""Holds the values that a tag carries against those of the checkpoint that it was proven to be."""

from __future__ import annotations

from collections.abc import Iterator

from ollama_bridge.errors import ArtifactError
from ollama_bridge.reference import ReferenceValues, TokenScore
from ollama_bridge.verify.bounds import Bounds
from ollama_bridge.verify.measured import Measured, Place
from ollama_bridge.verify.scores import ServedScore, special_texts


def carries_others(carried: object, reference: ReferenceValues, bounds: Bounds) -> bool:
    """Whether a tag carries another model's values: then it is refused wherever they are all.

    Args:
        carried: What stands under ``REFERENCE_KEY``; values that cannot be read say nothing here.
        reference: Of the checkpoint.
        bounds: What the tag itself was held against.
    """
    try:
        values = ReferenceValues.parse(carried if isinstance(carried, str) else "", where="tag")
    except ArtifactError:
        return False
    found = dict(_places(values))
    places = [
        Place("", prompt, 0, 0, top, tuple(_as_served(one) for one in found[prompt]))
        for prompt, top in _places(reference)
        if prompt in found
    ]
    if not places:  # behind another system prompt, or on another day, there is nothing to compare
        return values.system == reference.system and not (values.dates or reference.dates)
    return not Measured(places, (), special=special_texts(reference)).is_within(bounds)


def _places(values: ReferenceValues) -> Iterator[tuple[str, tuple[TokenScore, ...]]]:
    for conversation in values.conversations:
        yield conversation.rendered, conversation.top
    for answer in values.answers:
        rendered = values.conversation(answer.conversation).rendered
        for position in answer.positions:
            yield rendered + position.prefix, position.top


def _as_served(score: TokenScore) -> ServedScore:
    return ServedScore(score.text or "", score.logprob)
