"""Answers as they come: Markdown on a terminal, plain text in a pipe, or lines of JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text as Styled

from ollama_bridge.cli.growing_answer import Column, GrowingAnswer, Tail
from ollama_bridge.cli.output import line_json, say, write
from ollama_bridge.client import Done, Dropped, Reply, Text, Thinking
from ollama_bridge.client.options import DEFAULT_NUM_PREDICT, Options
from ollama_bridge.client.session import SessionEvent


class AnswerView:
    """Shows one answer after the other.

    On a terminal a paragraph is rendered again as it grows, and left alone when it is whole, so
    that long answers scroll as any output does; of one that is longer than the screen the end is
    seen while it grows.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        markdown: bool = True,
        show_thinking: bool = True,
        as_json: bool = False,
    ) -> None:
        # Else FORCE_COLOR and its like would make a terminal of a pipe.
        self._console = console or Console(file=sys.stdout, force_terminal=sys.stdout.isatty())
        self.markdown = markdown
        self.show_thinking = show_thinking
        self.as_json = as_json

    @property
    def renders(self) -> bool:
        """Whether answers are rendered."""
        return self.markdown and self._console.is_terminal and not self._console.is_dumb_terminal

    def show(self, events: Iterable[SessionEvent]) -> Reply | None:
        """Show the events of an answer until it ends; None: it was stopped."""
        if self.as_json:
            return self._lines(events)
        return self._rendered(events) if self.renders else self._plain(events)

    def beside(
        self, answers: Mapping[str, Iterable[SessionEvent]], order: Iterable[str]
    ) -> dict[str, Reply | None]:
        """Show the answers of several models beside each other; they are asked in that order."""
        replies: dict[str, Reply | None] = {}
        if self.as_json:
            return {name: self._lines(answers[name], name) for name in order}
        if not self.renders:
            for name in order:
                self._console.print(f"--- {name}", highlight=False, markup=False)
                replies[name] = self._plain(answers[name])
            return replies
        columns = {name: Column(show_thinking=self.show_thinking) for name in answers}
        view = _beside(columns)
        try:
            with Live(view, console=self._console, refresh_per_second=8, transient=True):
                for name in order:
                    replies[name], columns[name].is_asked = None, True
                    for event in answers[name]:
                        replies[name] = _noted(event, replies[name])
                        columns[name].take(event)
        finally:
            for column in columns.values():
                column.end()
            self._console.print(view)
        return replies

    def _lines(self, events: Iterable[SessionEvent], model: str | None = None) -> Reply | None:
        reply = None
        for event in events:
            reply = _noted(event, reply)
            record = _event_record(event)
            line_json(record if model is None else {"model": model, **record})
        return reply

    def _plain(self, events: Iterable[SessionEvent]) -> Reply | None:
        reply = None
        thinks, wrote = False, False
        try:
            for event in events:
                if isinstance(event, Thinking) and self.show_thinking:
                    thinks = True
                    write(sys.stderr, event.text)
                elif isinstance(event, Text):
                    if thinks:
                        thinks = False
                        write(sys.stderr, "\n")
                    wrote = True
                    write(self._console.file, event.text)
                reply = _noted(event, reply)
        finally:
            if wrote:
                write(self._console.file, "\n")
        return reply

    def _rendered(self, events: Iterable[SessionEvent]) -> Reply | None:
        reply = None
        answer = GrowingAnswer(show_thinking=self.show_thinking)
        is_waiting = True  # for a model that is being loaded, or thinks unseen
        spinner = Spinner("dots")
        with Live(spinner, console=self._console, refresh_per_second=8, transient=True) as live:
            # Painted while something is printed above it, rich would clear lines of another height.
            # It has no public name for its lock: without it, that could happen.
            unpainted = getattr(live, "_lock", contextlib.nullcontext())
            try:
                for event in events:
                    with unpainted:
                        reply = _noted(event, reply)
                        for part in answer.take(event):
                            live.console.print(part)
                        if is_waiting and not answer.is_empty:
                            is_waiting = False
                            live.update(Tail(answer))
            finally:
                with unpainted:
                    for part in answer.end():
                        live.console.print(part)
        return reply


def _noted(event: SessionEvent, reply: Reply | None) -> Reply | None:
    """The reply so far, which ends an answer; that turns were left out is told."""
    if isinstance(event, Dropped):
        count = len(event.turns)
        turns = (
            f"{count} turns no longer fit and were" if count > 1 else "turn no longer fits and was"
        )
        say(f"(the oldest {turns} left out)")
    return event.reply if isinstance(event, Done) else reply


def _event_record(event: SessionEvent) -> dict[str, Any]:
    """An event for programs: which one, and what it brings."""
    match event:
        case Thinking() | Text():
            return {"event": type(event).__name__.lower(), "text": event.text}
        case Dropped(turns):
            return {"event": "dropped", "turns": len(turns)}
        case Done(reply):
            return {"event": "done", **reply_record(reply)}
    return {"event": "tool_call", "name": event.name, "arguments": dict(event.arguments)}


def reply_record(reply: Reply) -> dict[str, Any]:
    """A reply for programs: flat, without what was not asked for."""
    record = asdict(reply)
    timings = record.pop("timings")
    if record["logprobs"] is None:
        del record["logprobs"]
    return {**record, **timings}


def tell_cut(reply: Reply, options: Options, more: str) -> None:
    """Tell that an answer is not whole, and the setting that gives more.

    ``more`` says how a setting is changed, of a ``name`` and a ``value``.
    """
    if not reply.hit_limit:
        return
    limit = options.get("num_predict") or DEFAULT_NUM_PREDICT
    name, value = "num_predict", 4 * limit
    if reply.generated_tokens < limit:  # so it was the context that was full
        name, value = "num_ctx", 2 * (reply.prompt_tokens + reply.generated_tokens)
    say(f"(cut off at {name}; for longer answers: {more.format(name=name, value=value)})")


def timing(reply: Reply | None) -> str:
    """Times and rates of an answer, in one line; of none: it was stopped."""
    if reply is None:
        return "stopped"
    timings, pace = reply.timings, reply.pace
    parts = [f"{reply.prompt_tokens} + {reply.generated_tokens} tokens"]
    came_s = [] if pace is None else [pace.first_thinking_s, pace.first_text_s]
    firsts_s = [at_s for at_s in came_s if at_s is not None]
    if firsts_s:
        parts.append(f"first token {firsts_s[0]:.2f} s")
    if len(firsts_s) > 1:
        parts.append(f"first of the answer {firsts_s[1]:.2f} s")
    parts.append(f"load {timings.load_s:.2f} s")
    cached = reply.cached_tokens
    # Before 0.34 the time is of what was not cached, and nobody knows how much that was.
    read = None if cached is None else reply.prompt_tokens - cached
    for name, tokens, time_s in (
        ("prompt", read, timings.prompt_s),
        ("answer", reply.generated_tokens, timings.generate_s),
    ):
        if tokens is not None and time_s > 0:
            parts.append(f"{name} {tokens / time_s:.1f} tokens/s")
    if cached:
        parts.append(f"{cached} of the prompt cached")
    if reply.hit_limit:
        parts.append("cut")
    return ", ".join(parts)


def _beside(columns: Mapping[str, Column]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in columns:
        table.add_column(ratio=1)
    table.add_row(*(Styled(name, style="bold") for name in columns))
    table.add_row(*columns.values())
    return table
