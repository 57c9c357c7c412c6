"""One question until its answer is whole, through retries and continuations.

No input or output here, so both clients share it: they send :attr:`Answering.call`, hand over the
lines that come, and after a failure ask :meth:`Answering.recover` how to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ollama_bridge.client.answers.assembly import ReplyAssembler
from ollama_bridge.client.answers.demands import context_asked
from ollama_bridge.client.answers.thinking import opens_thinking
from ollama_bridge.client.values import Done, StreamEvent
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.retries import Attempts, Retries, is_passing
from ollama_bridge.errors import (
    ContextOverflowError,
    ContextReducedError,
    DaemonError,
    DaemonUnreachableError,
)

# What a raw continuation would not have: the daemon's reading of tool calls, a grammar that is in
# mid-word, and images.
_NOT_CONTINUED = ("tools", "format", "images")

_NUM_KEEP = 4  # Ollama's default


class Answering:
    """Reads one answer.

    Args:
        thinking_opened: Whether prompts for this model are known to open a thought.
        gives_out: Whether events reach the caller before the answer is whole; what nobody has seen
            may be begun anew.

    Attributes:
        call: What is to be sent next.
        ends_s: When the whole has to be done, by the clock.
        is_over: The answer is whole.
        unchecked_context: What context the question asks for, if it does, for once the answer has
            begun. Whoever looks takes it away.
        unrendered: Has to be asked first: how the daemon renders the question, without answering
            it. Its answer goes to :meth:`take_prompt`.
        opens_thinking: Whether it opened a thought.
        held: Events for when it is over.
    """

    def __init__(
        self,
        call: Call,
        timeouts: Timeouts,
        retries: Retries,
        *,
        gives_out: bool,
        thinking_opened: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._question = call
        self._body = dict(call.json or {})
        self.unchecked_context = context_asked(call)
        self._resumes = retries.resume
        self._gives_out = gives_out
        self.opens_thinking = thinking_opened
        self.held: Sequence[StreamEvent] = ()
        self._now_s, self._start_s = now_s, now_s()
        self._attempts = Attempts(retries, timeouts.total_s, now_s)
        self._overflow: ContextOverflowError | None = None
        self._ways_to_cut: list[dict[str, Any]] = []
        self._break: DaemonError | None = None
        self._prompt: str | None = self._body.get("prompt") if self._body.get("raw") else None
        self.ends_s = self._attempts.ends_s
        self.is_over = False
        self.unrendered: Call | None = None
        self.call = call
        if self._body.get("truncate"):
            # How much is too much is said only where cutting is forbidden, so that is asked first.
            self.call = replace(call, json=self._body | {"truncate": False})
        self._assembler = self._begin()

    def feed(self, line: bytes) -> Sequence[StreamEvent]:
        """Take a line; gives the events in it.

        Raises:
            DaemonError: it is an error, or no event.
        """
        if self._assembler.done:
            return ()  # after the terminal event nothing counts
        events = self._assembler.feed(line)
        if self._assembler.done and self._assembler.is_doubtful:
            *events, done = events
            self.held = (done,)
            self.unrendered = self._rendering()
        return events

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            StreamBrokenError: without its terminal event; RepetitionError: Ollama ended it so.
        """
        if not self._assembler.done:
            raise self._assembler.broken()
        self.is_over = self.unrendered is None

    def recover(self, error: DaemonError) -> float:
        """Decide what to do after a failure.

        Returns:
            How long to wait, in seconds, before :attr:`unrendered`, if set, or :attr:`call`.

        Raises:
            DaemonError: the same one, with what had come and the number of attempts, if it is
                final.
        """
        # The answer is whole, whatever became of the connection.
        if self._assembler.done and not isinstance(error, ContextReducedError):
            self.is_over = True
            return 0.0
        self._assembler.tell(error)
        if isinstance(error, ContextOverflowError) and self._may_truncate:
            return self._truncate(error)
        if self.unrendered is not None and not is_passing(error) and self._break is not None:
            self._break.attempts = self._attempts.number
            raise self._break from error  # this daemon cannot say how the answer would go on
        continues = self._resumes and self._can_continue
        begins_anew = not (self._gives_out and self._assembler.has_begun)
        try:
            pause_s = self._attempts.next_pause_s(error, allowed=continues or begins_anew)
        except DaemonError:
            raise self._told_of_the_break(error) from error.__cause__
        has_come = error.partial_text or error.partial_thinking
        if self._break is None or (has_come and not _is_nobody_there(error)):
            self._break = error if has_come or continues else None
        if continues:
            self._continue()
        else:
            self._assembler = self._begin()
        return pause_s

    def take_prompt(self, prompt: str) -> None:
        """Take what the model was given for the question: the answer goes on, or is over."""
        self.unrendered = None
        if not self._assembler.done:
            self._resume(prompt)
            return
        self.opens_thinking = opens_thinking(prompt)
        for event in self.held:
            if isinstance(event, Done):
                reply = self._assembler.split_again(event.reply, opens_thinking=self.opens_thinking)
                self.held = (Done(reply),)
        self.is_over = True

    def _told_of_the_break(self, error: DaemonError) -> DaemonError:
        """The error to raise: where nobody is there any more, how the answer broke off before."""
        broken = self._break
        if broken is None or not _is_nobody_there(error):
            return error
        broken.message = f"{broken.message}; since then {error.message}"
        broken.args = (broken.message,)
        broken.hint, broken.attempts = error.hint, error.attempts
        return broken

    def _resume(self, prompt: str) -> None:
        """Make :attr:`call` the continuation of what has come."""
        self._prompt = prompt
        options = dict(self._body.get("options") or {})
        options["num_predict"] -= self._assembler.pieces
        kept = ("model", "stream", "shift", "keep_alive", "logprobs", "top_logprobs")
        body = {name: self._body[name] for name in kept if name in self._body}
        body |= {
            "prompt": self._assembler.resume(prompt),
            "raw": True,
            "think": False,  # nothing is split off a continuation by the daemon
            "truncate": False,
            "options": options,
        }
        self.call = replace(self._question, path="/api/generate", json=body)

    def _begin(self) -> ReplyAssembler:
        assembler = ReplyAssembler(
            str(self._question.model),
            splits_thinking=not self._body.get("raw"),
            # A grammar holds from the first token on, whatever the prompt has opened.
            opens_thinking=self.opens_thinking and not self._body.get("format"),
            now_s=self._now_s,
            start_s=self._start_s,
        )
        assembler.overflow = self._overflow
        return assembler

    @property
    def _can_continue(self) -> bool:
        limit = (self._body.get("options") or {}).get("num_predict", 0)
        messages = self._body.get("messages") or ()
        return (
            not any(self._body.get(name) for name in _NOT_CONTINUED)
            and not any(one.get("images") for one in messages)
            and not self._assembler.has_tool_calls
            and self._overflow is None
            and 0 < self._assembler.pieces < limit
        )

    def _continue(self) -> None:
        if self._prompt is not None:
            self._resume(self._prompt)
        else:
            self.unrendered = self._rendering()

    def _rendering(self) -> Call:
        # The flag is not documented: a daemon without it answers, and then shortly.
        options = {**(self._body.get("options") or {}), "num_predict": 1}
        body = {**self._body, "stream": False, "_debug_render_only": True, "options": options}
        return replace(self._question, json=body)

    def _truncate(self, error: ContextOverflowError) -> float:
        if self._overflow is None:
            self._overflow = error
            told_tokens = None if error.is_estimate else error.limit_tokens
            self._ways_to_cut = self._find_ways_to_cut(told_tokens)
        self._assembler = self._begin()
        self.call = replace(self._question, json=self._ways_to_cut.pop(0))
        return 0.0

    def _find_ways_to_cut(self, limit_tokens: int | None) -> list[dict[str, Any]]:
        """Bodies in which the daemon may cut, from the one that costs least."""
        if limit_tokens is None or self._body["shift"]:
            return [self._body]
        # Within a text, a daemon that tells numbers cuts only where it may shift as well, to half
        # of the context and what it keeps. An answer that fits into the rest shifts nothing.
        options = dict(self._body["options"])
        room = (limit_tokens - options.get("num_keep", _NUM_KEEP) - 2) // 2
        options["num_predict"] = max(1, min(options["num_predict"], room))
        shifting = self._body | {"shift": True, "options": options}
        # Of a conversation it leaves out the oldest messages by the runner that is there, which
        # cannot shift: a question in which it may has the model loaded anew.
        return [self._body, shifting] if "messages" in self._body else [shifting]

    @property
    def _may_truncate(self) -> bool:
        return bool(self._body.get("truncate") and (self._ways_to_cut or self._overflow is None))


def _is_nobody_there(error: DaemonError) -> bool:
    return isinstance(error, DaemonUnreachableError) or error.phase == "connect"
