"""From the lines of a stream to typed events and one reply. No input or output here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ollama_bridge.client.answers.repeats import Repeats
from ollama_bridge.client.answers.thinking import (
    THINKING_CLOSE,
    THINKING_OPEN,
    ThinkingSplitter,
    opens_thinking,
)
from ollama_bridge.client.readers import read_logprobs, read_timings, read_tool_calls
from ollama_bridge.client.values import (
    Cut,
    Done,
    Pace,
    Reply,
    StreamEvent,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
)
from ollama_bridge.client.wire.fields import Fields
from ollama_bridge.client.wire.lines import parse_line
from ollama_bridge.client.wire.refusals import advice_on_end, repetition
from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonError,
    RepetitionError,
    StreamBrokenError,
)


class ReplyAssembler:
    """Turns the events of ``generate`` or ``chat`` into typed ones, and into one reply.

    Args:
        splits_thinking: Whether a leading ``<think>`` is split off where the daemon did not.
        opens_thinking: The prompt has opened it already.
        start_s: When it was first asked, by the clock; None: now.

    Attributes:
        done: The terminal event has come.
        has_begun: Something was handed out.
        pieces: How many pieces have come; the daemon sends one a token.
        overflow: What was said of the prompt before the daemon was allowed to cut it; None: it was
            not.
    """

    def __init__(
        self,
        model: str,
        *,
        splits_thinking: bool = True,
        opens_thinking: bool = False,
        now_s: Callable[[], float] = time.monotonic,
        start_s: float | None = None,
    ) -> None:
        self._model = model
        self._now_s = now_s
        self._start_s = now_s() if start_s is None else start_s
        self._opens_thinking = opens_thinking
        self._splitter = ThinkingSplitter(inside=opens_thinking) if splits_thinking else None
        self._splits_thinking = splits_thinking
        self._content: list[str] = []
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._daemon_splits = False
        self._first_thinking: tuple[float, int] | None = None
        self._first_text: tuple[float, int] | None = None
        self._tool_calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._resumed = 0
        self._pieces_before = 0
        self._repeats = Repeats()
        self.pieces = 0
        self.has_begun = False
        self.overflow: ContextOverflowError | None = None
        self.done = False

    @property
    def partial_text(self) -> str:
        """What came of the answer so far."""
        held = self._splitter.held_text if self._splitter else ""
        return "".join(self._text) + held

    @property
    def has_tool_calls(self) -> bool:
        """Whether the model asked for a tool, which no continuation of the text would repeat."""
        return bool(self._tool_calls)

    @property
    def is_doubtful(self) -> bool:
        """Whether only the prompt can tell what was thought: a closing tag that nothing opened.

        Also the other way round: nothing closed what the prompt is said to have opened.
        """
        if self._daemon_splits or not self._splits_thinking:
            return False
        closes = THINKING_CLOSE in "".join(self._content)
        return not closes if self._opens_thinking else closes and not self._thinking

    def feed(self, line: bytes) -> list[StreamEvent]:
        """Take one line of the stream.

        Raises:
            DaemonError: the line is an error or no event.
        """
        data = parse_line(line, model=self._model)
        fields = message = Fields(data, "a question")
        if fields.has("message"):
            message = fields.inner("message")
        said = message.data
        events: list[StreamEvent] = []
        # A stream is thousands of these, so what is absent is not asked for field by field.
        thought = message.text("thinking") if "thinking" in said else ""
        content = message.text("content") or message.text("response")
        if thought or content:
            self.pieces += 1
            self._repeats.see(thought or content)
        if thought:
            # The daemon splits by itself, so a tag in its text is text.
            self._daemon_splits = True
            self._release(events)
            self._add_thinking(thought, events)
        if content:
            self._content.append(content)
            self._add_content(content, events)
        if "tool_calls" in said:
            calls = read_tool_calls(message)
            self._tool_calls += calls
            events += calls
        if "logprobs" in data and fields.has("logprobs"):
            self._logprobs = self._logprobs or []
            self._logprobs += read_logprobs(fields)
        if data.get("done") is True:
            self._release(events)
            events.append(Done(self._reply(fields)))
            self.done = True
        self.has_begun = self.has_begun or bool(events)
        return events

    def tell(self, error: DaemonError) -> None:
        """Put into an error what had come before it."""
        error.model = error.model or self._model
        error.partial_text = error.partial_text or self.partial_text
        error.partial_thinking = "".join(self._thinking).strip()
        if isinstance(error, RepetitionError):
            error.pieces = self.pieces

    def broken(self) -> DaemonError:
        """The error for a stream that ended before its terminal event."""
        if self._repeats.end_an_answer:
            return repetition(self._model)
        error = StreamBrokenError(
            f"the answer of {self._model!r} ended without its terminal event "
            f"({len(self.partial_text)} characters had come)",
            hint=advice_on_end(may_hide=self._daemon_splits or not self.pieces),
            model=self._model,
            partial_text=self.partial_text,
        )
        error.phase = "between_tokens"
        return error

    def resume(self, prompt: str) -> str:
        """What has to be sent raw, so that the answer goes on where it broke off.

        From then on :meth:`feed` takes the lines of that raw answer.
        """
        self._resumed += 1
        self._pieces_before = self.pieces
        self._repeats = Repeats()
        if not self._daemon_splits:
            return prompt + "".join(self._content)  # the splitter goes on as well
        # The daemon took the tags and the blanks around them away: they are put back as
        # deepseek-r1 and its kin write them. Later on it is ours to split.
        self._daemon_splits = False
        opening = "" if opens_thinking(prompt) else f"{THINKING_OPEN}\n"
        thought = "".join(self._thinking)
        text = "".join(self._content)
        so_far = opening + thought
        if text:
            so_far = f"{opening}{thought.rstrip()}\n{THINKING_CLOSE}\n\n{text}"
        else:
            self._splitter = ThinkingSplitter(inside=True)
        self._content = [so_far]
        return prompt + so_far

    def split_again(self, reply: Reply, *, opens_thinking: bool) -> Reply:
        """The whole reply, now that it is known whether the prompt opened the thought."""
        splitter = ThinkingSplitter(inside=opens_thinking)
        parts = (splitter.feed("".join(self._content)), splitter.finish())
        thinking, text = ("".join(part) for part in zip(*parts, strict=True))
        return replace(reply, thinking=thinking.strip(), text=text)

    def _add_content(self, content: str, events: list[StreamEvent]) -> None:
        if self._splitter is None:
            self._add_text(content, events)
            return
        thinking, text = self._splitter.feed(content)
        self._add_thinking(thinking, events)
        self._add_text(text, events)
        if self._splitter.is_settled:
            self._splitter = None

    def _release(self, events: list[StreamEvent]) -> None:
        """From here on nothing is held back."""
        if self._splitter is not None:
            thinking, text = self._splitter.finish()
            self._splitter = None
            self._add_thinking(thinking, events)
            self._add_text(text, events)

    def _add_thinking(self, piece: str, events: list[StreamEvent]) -> None:
        if piece:
            if self._first_thinking is None:
                self._first_thinking = (self._now_s(), self.pieces)
            self._thinking.append(piece)
            events.append(Thinking(piece))

    def _add_text(self, piece: str, events: list[StreamEvent]) -> None:
        if piece:
            if self._first_text is None:
                self._first_text = (self._now_s(), self.pieces)
            self._text.append(piece)
            events.append(Text(piece))

    def _reply(self, fields: Fields) -> Reply:
        # A continued answer's prompt is the question and what had come before.
        before = self._pieces_before
        prompt_tokens = fields.whole("prompt_eval_count")
        return Reply(
            text=self.partial_text,
            thinking="".join(self._thinking).strip(),
            done_reason=fields.text("done_reason"),
            model=fields.text("model", self._model),
            prompt_tokens=max(0, prompt_tokens - before),
            generated_tokens=fields.whole("eval_count") + before,
            timings=read_timings(fields),
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            tool_calls=tuple(self._tool_calls),
            cut=None
            if self.overflow is None
            else Cut(self.overflow.needed_tokens, prompt_tokens, self.overflow.is_estimate),
            resumed=self._resumed,
            pace=self._pace(),
            cached_tokens=fields.whole("prompt_eval_cached_count")
            if fields.has("prompt_eval_cached_count")
            else None,
        )

    def _pace(self) -> Pace:
        thinking_s, thinking_at = self._first_thinking or (None, None)
        text_s, text_at = self._first_text or (None, None)
        return Pace(
            first_thinking_s=None if thinking_s is None else thinking_s - self._start_s,
            first_text_s=None if text_s is None else text_s - self._start_s,
            whole_s=self._now_s() - self._start_s,
            tokens_to_thinking=thinking_at,
            tokens_to_text=text_at,
        )
