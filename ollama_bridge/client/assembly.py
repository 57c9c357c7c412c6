"""From the lines of a stream to typed events and one reply. No input or output here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ollama_bridge.client.fields import Fields
from ollama_bridge.client.thinking import ThinkingSplitter
from ollama_bridge.client.values import (
    Done,
    Reply,
    StreamEvent,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
    read_logprobs,
    read_timings,
    read_tool_calls,
)
from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonError,
    ModelNotFoundError,
    ReplyInvalidError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
)

_MAX_LINE_BYTES = 16 * 1024 * 1024  # far above any event; a page of a proxy has no end of line
_OVERFLOW_NUMBERS = re.compile(r'"n_prompt_tokens":(\d+).*?"n_ctx":(\d+)')


class LineSplitter:
    """Cuts bytes into lines, wherever the pieces were cut."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take a piece; gives the lines that are complete by now."""
        *lines, self._held = (self._held + piece).split(b"\n")
        if len(self._held) > _MAX_LINE_BYTES:
            raise ReplyInvalidError(f"the daemon sent a line of over {_MAX_LINE_BYTES} bytes")
        yield from (line for line in lines if line.strip())

    def finish(self) -> Iterator[bytes]:
        """The last line, if it had no end."""
        if self._held.strip():
            yield self._held
        self._held = b""


def parse_line(line: bytes, *, model: str | None, partial_text: str = "") -> dict[str, Any]:
    """One event of a stream.

    Raises:
        ReplyInvalidError: not a JSON object.
        RunnerCrashedError: the daemon reports an error; also ContextOverflowError.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ReplyInvalidError(
            "the daemon sent something that is not JSON: an HTML page of a proxy?",
            hint="check the address: ollama-bridge daemon status",
            model=model,
            partial_text=partial_text,
        ) from exc
    if not isinstance(data, dict):
        raise ReplyInvalidError(
            f"the daemon sent a {type(data).__name__}, not an object",
            model=model,
            partial_text=partial_text,
        )
    if "error" in data:
        message = error_text(data)
        status = data.get("status")
        if isinstance(status, int) and 400 <= status < 500:
            raise rejection(status, message, model=model)
        raise RunnerCrashedError(
            f"the daemon failed while answering: {_inner_message(message)[:500]}",
            hint="run it again; if it goes on, look at the daemon's log",
            model=model,
            partial_text=partial_text,
        )
    return data


def error_text(data: object) -> str:
    """The message in an error reply."""
    found = data.get("error") if isinstance(data, dict) else data
    if isinstance(found, dict):
        found = found.get("message", found)
    return " ".join(str(found).split())


def rejection(status_code: int, message: str, *, model: str | None) -> DaemonError:
    """The error for an answer with an error status."""
    shown = _inner_message(message)[:500]
    if status_code == 404 and "not found" in shown and model:
        return ModelNotFoundError(
            f"the daemon has no model {model!r}",
            status_code=status_code,
            model=model,
            hint=f"ollama pull {model}, or see what there is: ollama-bridge ls",
        )
    if status_code == 400 and "context" in shown and "exceed" in shown:
        numbers = _OVERFLOW_NUMBERS.search(message)
        if numbers:
            needed, limit = int(numbers[1]), int(numbers[2])
            shown = f"{needed} tokens, the limit is {limit}: {needed - limit} too many"
        return ContextOverflowError(
            f"the prompt does not fit the context: {shown}",
            status_code=status_code,
            model=model,
            hint="shorten the prompt, or raise the option num_ctx",
        )
    return RequestRejectedError(
        f"the daemon answered {status_code}: {shown}",
        status_code=status_code,
        model=model,
        hint=_hint(status_code, shown, model),
    )


def _hint(status_code: int, message: str, model: str | None) -> str | None:
    if "digest mismatch" in message:
        return "the file changed, or the digest is of another one: compute it again"
    if "does not support" in message:
        return f"see what the model can do: ollama-bridge show {model}"
    return {
        401: "set OLLAMA_API_KEY",
        403: "the daemon refuses this client; check OLLAMA_ORIGINS there",
        503: "the daemon is busy; try again in a moment",
    }.get(status_code)


def _inner_message(message: str) -> str:
    """Errors of the runner are JSON within the text."""
    try:
        inner = json.loads(message)
    except (ValueError, RecursionError):
        return message
    return error_text(inner) if isinstance(inner, dict) and "error" in inner else message


class ReplyAssembler:
    """Turns the events of ``generate`` or ``chat`` into typed ones, and into one reply.

    Args:
        model: Who was asked.
        splits_thinking: Whether a leading ``<think>`` is split off where the daemon did not.
    """

    def __init__(self, model: str, *, splits_thinking: bool = True) -> None:
        self._model = model
        self._splitter = ThinkingSplitter() if splits_thinking else None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] | None = None
        self.done = False

    @property
    def partial_text(self) -> str:
        """What came of the answer so far."""
        held = self._splitter.held_text if self._splitter else ""
        return "".join(self._text) + held

    def feed(self, line: bytes) -> Iterator[StreamEvent]:
        """Take one line of the stream.

        Raises:
            DaemonError: the line is an error or no event.
        """
        data = parse_line(line, model=self._model, partial_text=self.partial_text)
        fields = Fields(data, "a question")
        message = fields.inner("message") if fields.has("message") else fields
        thought = message.text("thinking")
        if thought:
            # The daemon splits by itself, so a tag in its text is text.
            yield from self._release()
            yield self._add_thinking(thought)
        yield from self._add_content(message.text("content") or message.text("response"))
        for call in read_tool_calls(message):
            self._tool_calls.append(call)
            yield call
        if fields.has("logprobs"):
            self._logprobs = [*(self._logprobs or ()), *read_logprobs(fields)]
        if data.get("done") is True:
            yield from self._release()
            reply = self._reply(fields)
            self.done = True
            yield Done(reply)

    def broken(self) -> StreamBrokenError:
        """The error for a stream that ended before its terminal event."""
        return StreamBrokenError(
            f"the answer of {self._model!r} ended without its terminal event "
            f"({len(self.partial_text)} characters had come)",
            hint="ask again; if it goes on, look at the daemon's log",
            model=self._model,
            partial_text=self.partial_text,
        )

    def _add_content(self, content: str) -> Iterator[StreamEvent]:
        thinking, text = self._splitter.feed(content) if self._splitter else ("", content)
        if thinking:
            yield self._add_thinking(thinking)
        if text:
            yield self._add_text(text)

    def _release(self) -> Iterator[StreamEvent]:
        """From here on nothing is held back."""
        thinking, text = self._splitter.finish() if self._splitter else ("", "")
        self._splitter = None
        if thinking:
            yield self._add_thinking(thinking)
        if text:
            yield self._add_text(text)

    def _add_thinking(self, piece: str) -> Thinking:
        self._thinking.append(piece)
        return Thinking(piece)

    def _add_text(self, piece: str) -> Text:
        self._text.append(piece)
        return Text(piece)

    def _reply(self, fields: Fields) -> Reply:
        return Reply(
            text=self.partial_text,
            thinking="".join(self._thinking).strip(),
            done_reason=fields.text("done_reason"),
            model=fields.text("model", self._model),
            prompt_tokens=fields.whole("prompt_eval_count"),
            generated_tokens=fields.whole("eval_count"),
            timings=read_timings(fields),
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            tool_calls=tuple(self._tool_calls),
        )
