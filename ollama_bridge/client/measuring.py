"""Estimates the length of a prompt that the daemon calls too long without saying by how much.

Ollama up to 0.25 does so, and every version does for embeddings. None of them counts the tokens of
a text for others; so a few parts of the prompt are read, which takes as long as a short question,
and the rest is taken to be alike. No input or output here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ollama_bridge.client.calls import PS
from ollama_bridge.client.readers import read_running
from ollama_bridge.client.steps import Fetch, Fetching
from ollama_bridge.client.values import context_in_use
from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.client.wire.fields import read_fields
from ollama_bridge.client.wire.refusals import overflow_text, unbatched_text
from ollama_bridge.errors import ContextOverflowError, DaemonError

_PART_CHARACTERS = 240
_PARTS = 3
_LIMIT_S = 60.0  # the model is loaded, so it takes a moment, or the daemon is busy
_STAYS = "10s"  # from one part to the next


class Measuring:
    """Reads parts of one prompt.

    Args:
        error: What the daemon said; of several texts it is told which.
        ends_s: When the question has to be done, by the monotonic clock.

    Attributes:
        ends_s: When the estimate has to be.
    """

    def __init__(self, error: ContextOverflowError, question: Call, ends_s: float) -> None:
        self.ends_s = min(ends_s, time.monotonic() + _LIMIT_S)
        self._error = error
        self._question = question
        self._body: dict[str, Any] = dict(question.json or {})
        self._text = _text_of(self._body)
        spare = max(0, len(self._text) - _PART_CHARACTERS)
        starts = [spare * number // (_PARTS - 1) for number in range(_PARTS)]
        self._parts = [self._text[start : start + _PART_CHARACTERS] for start in starts]
        self._say(error.message)

    @property
    def calls(self) -> Sequence[Call]:
        """What has to be asked, in this order: parts with the question's options, and the context.

        How long the model stays loaded is for the last part to say: one that leaves at once would
        be loaded anew for each, and its context would not be told.
        """
        *parts, last = [self._reading(part) for part in self._parts]
        staying = [replace(one, json={**(one.json or {}), "keep_alive": _STAYS}) for one in parts]
        return [*staying, PS, last]

    def tell(self, answers: Sequence[object]) -> None:
        """Put the estimate into the error.

        Args:
            answers: To :attr:`calls`.

        Raises:
            ReplyInvalidError: one does not say what it was asked for.
        """
        *read, running, last = answers
        read.append(last)
        counts = [read_fields(answer, "a part").whole("prompt_eval_count") for answer in read]
        characters = sum(len(part) for part in self._parts)
        limit = context_in_use(read_running(running), self._question.model)
        if not (characters and sum(counts) and limit):
            return
        error = self._error
        needed = round(len(self._text) * sum(counts) / characters)
        error.needed_tokens, error.is_estimate = needed, True
        if "input" in self._body and needed <= limit:
            message = unbatched_text(needed, limit)
            error.hint = (
                "shorten the text, raise num_batch (command line: -p num_batch=N), or have it cut "
                "(Python: truncate=True; embed: --truncate)"
            )
        else:
            error.limit_tokens = limit
            message = overflow_text(needed, limit, is_estimate=True)
        self._say(message)

    def _say(self, message: str) -> None:
        """Put it into the error, with which text it is about where there are several.

        By its number among all that the caller gave: whoever logs errors wants none of its words
        there.
        """
        texts = self._body.get("input")
        if isinstance(texts, list | tuple):
            before, count = self._question.part_of or (0, len(texts))
            place = before + [str(text) for text in texts].index(self._text) + 1
            longest = f", the longest of {len(texts)} in one request" if len(texts) > 1 else ""
            message += f" (text {place} of {count}{longest})" if count > 1 else ""
        self._error.message = message
        self._error.args = (message,)

    def _reading(self, part: str) -> Call:
        body: dict[str, Any] = {
            name: self._body[name]
            for name in ("model", "keep_alive", "shift")
            if name in self._body
        }
        options = dict(self._body.get("options") or {})
        if "input" in self._body:
            body |= {"input": [part], "truncate": False, "options": options}
            return replace(self._question, json=body)
        options |= {"num_predict": 1, "stop": []}
        body |= {"prompt": part, "raw": True, "stream": False, "options": options}
        return replace(self._question, path="/api/generate", json=body)


def measure(error: DaemonError, question: Call, ends_s: float) -> Fetching[None]:
    """Say by how much a prompt is too long where the daemon does not.

    Args:
        ends_s: When it has to be done, by the monotonic clock.
    """
    if not isinstance(error, ContextOverflowError) or error.needed_tokens is not None:
        return
    body = question.json or {}
    if body.get("truncate") and "input" in body:
        return  # which texts are cut is told, not by how much
    if not _text_of(dict(body)):
        return  # it is asked for in a way of its own
    unmeasured = Measuring(error, question, ends_s)
    with contextlib.suppress(DaemonError):  # that it is too long is what has to be told
        answers = []
        for call in unmeasured.calls:
            answers.append((yield Fetch(call, unmeasured.ends_s)))
        unmeasured.tell(answers)


def _text_of(body: dict[str, Any]) -> str:
    """The text that may be too long."""
    if "input" in body:
        texts = body["input"]
        return texts if isinstance(texts, str) else max(map(str, texts), key=len)
    said = [str(message.get("content") or "") for message in body.get("messages", ())]
    return "\n".join([body.get("system") or "", body.get("prompt") or "", *said])
