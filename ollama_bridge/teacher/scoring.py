"""A daemon's distributions on text that it did not write: asked prefix by prefix.

A daemon reports log-probabilities of what it generates only. So the conversation is rendered by the
daemon, the beginning of the given answer is put behind it, and one token is asked for; of that
token only the rivals count. One request a token of the student: the daemon keeps the prompt it has
read, so a request costs little more than one step of decoding.

A prefix ends where a token of the *student* begins. Where the teacher cuts the text into other
tokens, what it says there is either about another token or about half of one; the daemon's own
count of the prompt's tokens tells, because it grows by one over a token that both have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ollama_bridge.answer_text import THOUGHT_END, behind_prompt
from ollama_bridge.client import AsyncClient
from ollama_bridge.client.jobs.jobs import Job
from ollama_bridge.client.jobs.records import next_token_from_record, next_token_to_record
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.examples import Message
from ollama_bridge.storage.journal import JSONRecord
from ollama_bridge.teacher.alignment import Distribution, Span, named_distribution
from ollama_bridge.teacher.token_bytes import TokenBytes

# A part is asked again if it was under way when the stage was killed. Each begins with reading the
# passage up to there, which the daemon has in its cache where it answered the part before.
_QUESTIONS_A_PART = 64


@dataclass(frozen=True)
class Place:
    """A student's token that the teacher is asked about.

    Attributes:
        number: Of the token in its turn.
        prefix: How much of the answer comes before it, in characters.
        end: Where it ends, in characters; None for the end token, which has no text.
    """

    number: int
    prefix: int
    end: int | None


@dataclass(frozen=True)
class Passage:
    """A given answer, and where in it the teacher is asked.

    Attributes:
        messages: The conversation before it.
        answer: Its text.
        places: In order.
        lead: Blanks that the student's first token has in front: its template's, not the answer's.
        tools: What the conversation offers.
    """

    messages: tuple[Message, ...]
    answer: str
    places: tuple[Place, ...]
    lead: bytes = b""
    tools: Sequence[Mapping[str, Any]] = ()

    @property
    def prefixes(self) -> tuple[int, ...]:
        """What is sent of the answer, in characters, in order.

        The ends of places, too: how the prompt grows over a token has to be known.
        """
        starts = {place.prefix for place in self.places}
        return tuple(sorted(starts | {one.end for one in self.places if one.end is not None}))


def places_of(
    tokens: Sequence[int], spans: Sequence[Span | None], answer: str, vocabulary: TokenBytes
) -> list[Place]:
    """Where the teacher can be asked about a turn: in front of its tokens and of its end token.

    Not inside a character: half of one cannot be sent.
    """
    characters = {0: 0}
    size_bytes = 0
    for number, character in enumerate(answer, start=1):
        size_bytes += len(character.encode(errors="replace"))
        characters[size_bytes] = number
    places = []
    last = -1
    for number, span in enumerate(spans):
        if span is None:
            continue
        last = number
        start, end = characters.get(span.start), characters.get(span.end)
        if start is not None and end is not None:
            places.append(Place(number, start, end))
    following = last + 1
    if 0 < following < len(tokens) and vocabulary.of(tokens[following]) is None:
        places.append(Place(following, len(answer), None))
    return places


@dataclass(frozen=True)
class Part:
    """A part of what is asked of a passage.

    Attributes:
        job: Asks; :func:`read_scores` reads its value.
        questions: How many it asks.
    """

    job: Job[AsyncClient]
    questions: int


def score(tag: str, passage: Passage, *, identity: str) -> list[Part]:
    """What asks for a passage, in parts that are small enough to be asked again after a kill."""
    prefixes = passage.prefixes
    starts = range(0, len(prefixes), _QUESTIONS_A_PART)
    parts = [prefixes[start : start + _QUESTIONS_A_PART] for start in starts]
    return [Part(_ask(tag, passage, part, identity=identity), len(part)) for part in parts]


def _ask(tag: str, passage: Passage, prefixes: Sequence[int], *, identity: str) -> Job[AsyncClient]:
    # Its places are not needed any more.
    messages, answer, has_lead = passage.messages, passage.answer, passage.lead != b""
    tools = list(map(dict, passage.tools))
    content = {
        "version": 2,  # of what is sent; 2: thoughts go on where the prompt opens one
        "messages": [message.to_dict() for message in messages],
        "answer": answer,
        "prefixes": prefixes,
        "identity": identity,
        "tag": tag,
        **({"blanks": "as the teacher's template has them"} if has_lead else {}),
        **({"tools": tools} if tools else {}),
    }

    async def run(client: AsyncClient) -> JSONRecord:
        # As it would have been asked for this answer: with its thought, or for none.
        think = None if THOUGHT_END in answer else False
        prompt = await client.render(tag, messages, think=think, tools=tools)
        blanks = ""
        if has_lead:
            answered = [*messages, Message("assistant", answer)]
            rendered = await client.render(tag, answered, think=think, tools=tools)
            blanks = _between(prompt, answer, rendered)
        found = [
            await client.next_token(
                tag, behind_prompt(prompt + blanks if prefix else prompt, answer, length=prefix)
            )
            for prefix in prefixes
        ]
        return {
            "prefixes": list(prefixes),
            "scores": [next_token_to_record(one) for one in found],
        }

    def canary(client: AsyncClient) -> Awaitable[object]:
        return client.next_token(tag, "1")

    return Job(digest_text(canonical_json(content)), run, canary)


def _between(prompt: str, answer: str, rendered: str) -> str:
    """The blanks that a template has between a prompt and its answer."""
    if not rendered.startswith(prompt):
        return ""
    rest = rendered[len(prompt) :]
    bare = rest.lstrip()
    return rest[: len(rest) - len(bare)] if bare.startswith(answer) else ""


def read_scores(
    values: Iterable[JSONRecord],
    passage: Passage,
    tokens: Sequence[int],
    vocabulary: TokenBytes,
    *,
    top_k: int,
) -> dict[int, Distribution]:
    """The distributions of a passage, by the number of the token in its turn.

    Args:
        values: Of its parts; without one whose question was refused, what it would have told is
            not known.
        vocabulary: The student's.
        top_k: Tokens kept at most.
    """
    scores = {
        prefix: next_token_from_record(record)
        for value in values
        for prefix, record in zip(value["prefixes"], value["scores"], strict=True)
    }
    found = {}
    for place in passage.places:
        one = scores.get(place.prefix)
        behind = None if place.end is None else scores.get(place.end)
        if one is None or (place.end is not None and behind is None):
            continue
        if behind is not None and behind.prompt_tokens - one.prompt_tokens != 1:
            continue  # the teacher has other tokens here
        target = tokens[place.number]
        lead = passage.lead if passage.lead and place.prefix == 0 else None
        distribution = named_distribution(
            one.top, vocabulary, target=target, top_k=top_k, lead=lead
        )
        if distribution is not None:
            found[place.number] = distribution
    return found
