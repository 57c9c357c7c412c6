"""One question whose parts stay as the daemon sent them, until its answer is whole.

For who hands them on in another shape than ours. No input or output here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ollama_bridge.client.answers.demands import context_asked
from ollama_bridge.client.answers.repeats import Repeats
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.lines import parse_line
from ollama_bridge.client.wire.refusals import advice_on_end, repetition
from ollama_bridge.client.wire.retries import Attempts, Retries
from ollama_bridge.errors import (
    ContextReducedError,
    DaemonError,
    RepetitionError,
    StreamBrokenError,
)


class RawAnswering:
    """Reads one answer.

    Args:
        call: The question, streamed.
        retries: How often it may be asked; what broke off is not continued.
        gives_out: Whether parts reach the caller before the answer is whole; what nobody has seen
            may be begun anew.

    Attributes:
        came: The parts of this attempt.
        ends_s: When the whole has to be done, by the monotonic clock.
        unchecked_context: What context the question asks for, if it does, for once the answer has
            begun. Whoever looks takes it away.
    """

    def __init__(
        self, call: Call, timeouts: Timeouts, retries: Retries, *, gives_out: bool
    ) -> None:
        self._call = call
        self._gives_out = gives_out
        self._attempts = Attempts(retries, timeouts.total_s)
        self.ends_s = self._attempts.ends_s
        self.unchecked_context = context_asked(call)
        self.came: list[dict[str, Any]] = []
        self._repeats = Repeats()

    @property
    def is_over(self) -> bool:
        """Whether the terminal event has come."""
        return bool(self.came) and self.came[-1].get("done") is True

    def feed(self, line: bytes) -> dict[str, Any]:
        """Take a line; gives the part in it.

        Raises:
            DaemonError: it is an error, or none.
        """
        part = parse_line(line, model=self._call.model)
        self.came.append(part)
        message = part.get("message")
        said = message if isinstance(message, Mapping) else part
        self._repeats.see(said.get("thinking") or said.get("content") or said.get("response"))
        return part

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            StreamBrokenError: without its terminal event; RepetitionError: Ollama ended it so.
        """
        if not self.is_over:
            if self._repeats.end_an_answer:
                raise repetition(self._call.model)
            text, thinking = self._texts()
            raise StreamBrokenError(
                f"{self._call.path} of {self._call.model!r} ended without its terminal event",
                hint=advice_on_end(may_hide=bool(thinking) or not text),
                model=self._call.model,
            )

    def recover(self, error: DaemonError) -> float:
        """Decide what to do after a failure.

        Returns:
            How long to wait before the question is asked again, in seconds.

        Raises:
            DaemonError: the same one, if it is final.
        """
        if self.is_over and not isinstance(error, ContextReducedError):
            return 0.0  # the answer is whole, whatever became of the connection
        self._tell(error)
        allowed = not (self._gives_out and self.came)
        pause_s = self._attempts.next_pause_s(error, allowed=allowed)
        self.came.clear()
        self._repeats = Repeats()
        return pause_s

    def _tell(self, error: DaemonError) -> None:
        """Put into an error what had come before it."""
        error.partial_text, error.partial_thinking = self._texts()
        if isinstance(error, RepetitionError):
            error.pieces = len(self.came)

    def _texts(self) -> tuple[str, str]:
        """What came of the answer, and of the thinking before it."""
        whole: dict[str, Any] = {}
        with contextlib.suppress(TypeError, AttributeError, IndexError):  # odd parts, or none
            whole = joined(self.came)
        message = whole.get("message")
        said = message if isinstance(message, Mapping) else whole
        text = said.get("content") or said.get("response") or ""
        return text, said.get("thinking") or ""


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The reply that a stream amounts to: texts joined, lists chained, the rest of its last part.

    Args:
        parts: At least one.
    """
    whole = dict(parts[-1])
    for name in ("response", "thinking"):
        if any(part.get(name) for part in parts):
            whole[name] = "".join(part.get(name) or "" for part in parts)
    messages = [part["message"] for part in parts if isinstance(part.get("message"), Mapping)]
    if messages:
        message = dict(messages[-1])
        for name in ("content", "thinking"):
            if any(one.get(name) for one in messages):
                message[name] = "".join(one.get(name) or "" for one in messages)
        calls = [call for one in messages for call in one.get("tool_calls") or ()]
        whole["message"] = message | ({"tool_calls": calls} if calls else {})
    logprobs = [entry for part in parts for entry in part.get("logprobs") or ()]
    return whole | ({"logprobs": logprobs} if logprobs else {})
