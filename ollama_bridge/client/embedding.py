"""Texts until each has its vector, through retries, and saying which were too long.

No input or output here, so both clients share it, as they share ``answering``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from ollama_bridge.client.exchange import Call, Timeouts
from ollama_bridge.client.retries import Attempts, Retries
from ollama_bridge.client.values import Embeddings, read_embeddings
from ollama_bridge.errors import ContextOverflowError, DaemonError


class Embedding:
    """Asks for all texts at once; where one is too long and may be cut, by halves till it is alone.

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
        parts = [self._parts[place] for place in sorted(self._parts)]
        return replace(
            parts[0],
            vectors=tuple(vector for part in parts for vector in part.vectors),
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            cut=tuple(self._cut),
        )

    def take(self, data: object) -> None:
        """Take the daemon's answer.

        Raises:
            ReplyInvalidError: it is not what was asked for.
        """
        texts = self._waiting[0]
        model = str(self._question.model)
        self._parts[texts.start] = read_embeddings(data, model=model, count=len(texts))
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

    def _next(self) -> None:
        self.call = None
        if self._waiting:
            texts = self._waiting[0]
            body = {
                **self._body,
                "input": self._body["input"][texts.start : texts.stop],
                "truncate": texts.start in self._cut,
            }
            self.call = replace(self._question, json=body)
