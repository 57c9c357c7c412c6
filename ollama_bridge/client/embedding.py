"""Texts until each has its vector, through retries, and saying which were too long.

No input or output here, so both clients share it, as they share ``answering``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

from ollama_bridge.client.exchange import Call, Timeouts
from ollama_bridge.client.retries import Attempts, Retries
from ollama_bridge.client.values import Embeddings, Timings, read_embeddings
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


class Embedding:
    """One request for all its texts; where one is too long and may be cut, halves till it is alone.

    So the daemon reads texts side by side as far as it can: of N texts of which k are too long, it
    is asked about k log N times.

    Args:
        call: Of ``calls.embed``.
        timeouts: For the whole of it.
        retries: How often each request may be sent.

    Attributes:
        call: What is to be sent next; None: :attr:`found` has everything.
        ends_s: When the whole has to be done, by the monotonic clock.
    """

    def __init__(self, call: Call, timeouts: Timeouts, retries: Retries) -> None:
        self._question = call
        self._body: dict[str, Any] = dict(call.json or {})
        self._may_cut = bool(self._body["truncate"])
        self._parts: dict[int, Embeddings] = {}
        self._waiting = deque([range(len(self._body["input"]))])
        self._cut: list[int] = []
        self._attempts = Attempts(retries, timeouts.total_s)
        self.ends_s = self._attempts.ends_s
        # The daemon cuts silently where it may: so it may only where a text is known to need it.
        self.call: Call | None = None
        self._next()

    @property
    def found(self) -> Embeddings:
        """One vector a text."""
        return joined([self._parts[place] for place in sorted(self._parts)])

    def take(self, data: object) -> None:
        """Take the daemon's answer.

        Raises:
            ReplyInvalidError: it is not what was asked for.
            UnsupportedFeatureError: the model, or the daemon, has no vectors of that length.
        """
        texts = self._waiting[0]
        model = str(self._question.model)
        found = read_embeddings(data, model=model, count=len(texts))
        for vector in found.vectors[:1]:  # all are of one length
            self._check_length(len(vector))
        cut = (0,) if texts.start in self._cut else ()
        self._parts[texts.start] = replace(found, cut=cut)
        self._waiting.popleft()
        self._next()

    def recover(self, error: DaemonError) -> float:
        """Decide what to do after a failure.

        Returns:
            How long to wait before :attr:`call`, in seconds.

        Raises:
            DaemonError: the same one, if it is final.
        """
        if not (self._may_cut and isinstance(error, ContextOverflowError)):
            return self._attempts.next_pause_s(error)
        texts = self._waiting[0]
        if texts.start in self._cut:
            raise error
        if len(texts) <= 1:
            self._cut.append(texts.start)
        else:
            middle = len(texts) // 2
            self._waiting.popleft()
            self._waiting.extendleft([texts[middle:], texts[:middle]])
        self._next()
        return 0.0

    def _check_length(self, length: int) -> None:
        """Ollama cuts vectors where they are longer, and says nothing where they are not."""
        asked = self._body.get("dimensions")
        if asked not in (None, length):
            raise UnsupportedFeatureError(
                f"{asked} dimensions were asked for, but the vectors have {length}",
                status_code=400,
                model=str(self._question.model),
                hint=f"ask for {length} at most" if length < asked else "use a newer Ollama",
            )

    def _next(self) -> None:
        self.call = None
        if self._waiting:
            texts = self._waiting[0]
            part = _part(self._question, texts, is_last=len(self._waiting) == 1)
            may_cut = {"truncate": texts.start in self._cut}
            self.call = replace(part, json={**(part.json or {}), **may_cut})


def _part(question: Call, texts: range, *, is_last: bool) -> Call:
    """A question about some of its texts; a model that is to leave at once stays until the last."""
    body: dict[str, Any] = dict(question.json or {})
    body["input"] = body["input"][texts.start : texts.stop]
    if not is_last and _AT_ONCE.fullmatch(str(body.get("keep_alive"))):
        body["keep_alive"] = _STAYS
    return replace(question, json=body)
