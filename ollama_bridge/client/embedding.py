"""Texts until each has its vector, through retries, and saying which were too long."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

from ollama_bridge.client.measuring import measure
from ollama_bridge.client.readers import read_embeddings
from ollama_bridge.client.steps import Fetch, Fetching, Pause
from ollama_bridge.client.values import Embeddings, Timings
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.retries import Attempts, Retries
from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonError,
    ReplyInvalidError,
    UnsupportedFeatureError,
)

# Of one request. A daemon that reads 40 tokens a second has it within the limits, to a fast one
# what lies between two requests is nothing.
_MOST_TEXTS = 128
_MOST_CHARACTERS = 32_768

_AT_ONCE = re.compile(r"0+(\.0*)?[a-z]*")  # a keep_alive of no time
_STAYS = "1m"  # from one request to the next


def pieces(question: Call) -> list[Call]:
    """A question about many texts as several, which are asked one after the other.

    A request is silent until its last vector is there, and whatever ends it takes all of them
    along; so its limits of time and size are for some of the texts only.

    Args:
        question: Of ``calls.embed``, or as ollama-python asks it.
    """
    texts = (question.json or {}).get("input")
    if not isinstance(texts, list | tuple):
        return [question]
    ranges, begin, characters = [], 0, 0
    for place, text in enumerate(texts):
        characters += len(text)
        is_full = place - begin >= _MOST_TEXTS or characters > _MOST_CHARACTERS
        if is_full and place > begin:
            ranges.append(range(begin, place))
            begin, characters = place, len(text)
    ranges.append(range(begin, len(texts)))
    return [
        replace(_part(question, one, is_last=one is ranges[-1]), part_of=(one.start, len(texts)))
        for one in ranges
    ]


def joined(parts: Sequence[Embeddings]) -> Embeddings:
    """What came of texts that follow each other, as one.

    Raises:
        ReplyInvalidError: the vectors are not of one length.
    """
    if len({len(vector) for part in parts for vector in part.vectors[:1]}) > 1:
        raise ReplyInvalidError(
            "the daemon sent vectors of several lengths: was the model replaced meanwhile?",
            hint="ask again",
            model=parts[0].model,
        )
    cut: list[int] = []
    count = 0
    for part in parts:
        cut += [count + place for place in part.cut]
        count += len(part.vectors)
    return replace(
        parts[0],
        vectors=tuple(vector for part in parts for vector in part.vectors),
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        timings=Timings(*map(sum, zip(*(astuple(part.timings) for part in parts), strict=True))),
        cut=tuple(cut),
    )


def embedded(question: Call, timeouts: Timeouts, retries: Retries) -> Fetching[Embeddings]:
    """One request for all its texts; where one is too long and may be cut, halves till it is alone.

    So the daemon reads texts side by side as far as it can: of N texts of which k are too long, it
    is asked about k log N times.

    Args:
        question: Of ``calls.embed``.

    Returns:
        One vector a text.

    Raises:
        ReplyInvalidError: the answer is not what was asked for.
        UnsupportedFeatureError: the model, or the daemon, has no vectors of that length.
        DaemonError: it failed for good.
    """
    body: dict[str, Any] = dict(question.json or {})
    model = str(question.model)
    attempts = Attempts(retries, timeouts.total_s)
    waiting = deque([range(len(body["input"]))])
    found: list[Embeddings] = []
    is_cut = False  # the daemon cuts silently where it may, so only a text that is known to need it
    while waiting:
        texts = waiting[0]
        part = _part(question, texts, is_last=len(waiting) == 1)
        part = replace(part, json={**(part.json or {}), "truncate": is_cut})
        try:
            data = yield Fetch(part, attempts.ends_s)
            vectors = read_embeddings(data, model=model, count=len(texts))
            _check_length(vectors, body.get("dimensions"), model=model)
        except DaemonError as error:
            yield from measure(error, question, attempts.ends_s)
            may_cut = body["truncate"] and isinstance(error, ContextOverflowError)
            if is_cut or not may_cut:
                yield Pause(attempts.next_pause_s(error))
            elif len(texts) <= 1:
                is_cut = True
            else:
                waiting.popleft()
                middle = len(texts) // 2
                waiting.extendleft([texts[middle:], texts[:middle]])
        else:
            waiting.popleft()
            found.append(replace(vectors, cut=(0,) if is_cut else ()))
            is_cut = False
    return joined(found)


def _check_length(found: Embeddings, asked: int | None, *, model: str) -> None:
    """Ollama cuts vectors where they are longer, and says nothing where they are not."""
    for vector in found.vectors[:1]:  # all are of one length
        if asked not in (None, len(vector)):
            raise UnsupportedFeatureError(
                f"{asked} dimensions were asked for, but the vectors have {len(vector)}",
                status_code=400,
                model=model,
                hint=f"ask for {len(vector)} at most"
                if len(vector) < asked
                else "use a newer Ollama",
            )


def _part(question: Call, texts: range, *, is_last: bool) -> Call:
    """A question about some of its texts; a model that is to leave at once stays until the last."""
    body: dict[str, Any] = dict(question.json or {})
    body["input"] = body["input"][texts.start : texts.stop]
    if not is_last and _AT_ONCE.fullmatch(str(body.get("keep_alive"))):
        body["keep_alive"] = _STAYS
    return replace(question, json=body)
