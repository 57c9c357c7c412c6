"""Shows a run's events on stderr: bars with ETA on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ollama_bridge import reporting
from ollama_bridge.cli.launch import is_first_process
from ollama_bridge.cli.output import can_repaint, say, visible
from ollama_bridge.closing import Closing

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_INTERVAL_S = 15.0


class ConsoleReporter(Closing):
    """A reporter for people. Use as a context manager, so that the bars end cleanly."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet or not is_first_process()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun_s: dict[str, float] = {}
        self._begun_done: dict[str, int] = {}
        self._last_line_s = time.monotonic()  # what takes no longer needs no line

    def __enter__(self) -> Self:
        """Start the display."""
        if can_repaint(sys.stderr) and not self._quiet:
            self._bars = _bars()
            self._bars.start()
        return self

    def close(self) -> None:
        """Stop the display."""
        if self._bars is not None:
            self._bars.stop()

    def emit(self, event: reporting.Event) -> None:
        """Show one event."""
        if self._quiet:
            return
        match event:
            case reporting.StageStarted(stage=stage):
                self._begun_s.pop(stage, None)
                self._end_bar(stage)
            case reporting.StageReused(stage=stage, path=path):
                self._line(f"{stage}: done before ({path})")
            case reporting.StageFinished(stage=stage, elapsed_s=elapsed_s, path=path):
                self._end_bar(stage)
                self._line(f"{stage}: done in {_duration(elapsed_s)} ({path})")
            case reporting.Note(stage=stage, level=level, message=message):
                prefix = "warning: " if level == "warning" else ""
                self._line(f"{stage}: {prefix}{message}")
            case reporting.Progress():
                self._progress(event)
            case reporting.Metric(stage=stage, step=step, values=values):
                # The curve is in events.jsonl; here only what was measured on held-out text.
                held_out = {
                    name.removeprefix("validation_"): value
                    for name, value in values.items()
                    if name.startswith("validation_")
                }
                if held_out:
                    self._line(f"{stage}: validation at step {step}: {_numbers(held_out)}")
            case reporting.StageFailed():
                self._end_bar(event.stage)

    def _progress(self, event: reporting.Progress) -> None:
        if self._bars is not None:
            task = self._tasks.get(event.stage)
            extra = _numbers(event.fields)
            if task is None:
                task = self._bars.add_task(
                    event.stage, total=event.total, unit=event.unit, extra=extra
                )
                self._tasks[event.stage] = task
            self._bars.update(
                task, completed=event.done, total=event.total, extra=extra, unit=event.unit
            )
            return
        now_s = time.monotonic()
        begun_s = self._begun_s.setdefault(event.stage, now_s)
        begun_done = self._begun_done.setdefault(event.stage, event.done)
        if now_s - self._last_line_s < _LINE_INTERVAL_S or now_s == begun_s:
            return
        self._last_line_s = now_s
        made = event.done - begun_done
        eta = ""
        if made > 0:
            eta_s = (now_s - begun_s) / made * (event.total - event.done)
            eta = f", {_duration(eta_s)} left"
        numbers = _numbers(event.fields)
        tail = f"  {numbers}" if numbers else ""
        say(f"{event.stage}: {event.done}/{event.total} {event.unit}{eta}{tail}")

    def _end_bar(self, stage: str) -> None:
        task = self._tasks.pop(stage, None)
        if self._bars is not None and task is not None:
            self._bars.remove_task(task)
        self._begun_done.pop(stage, None)

    def _line(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(visible(text), highlight=False, markup=False)
        else:
            say(text)


@contextlib.contextmanager
def shown(*, quiet: bool = False, tensorboard: Path | None = None) -> Iterator[reporting.Reporter]:
    """A reporter for people, and one for TensorBoard where a folder for it is given.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    with contextlib.ExitStack() as stack:
        console = stack.enter_context(ConsoleReporter(quiet=quiet))
        if tensorboard is None or not is_first_process():
            yield console
            return
        from ollama_bridge.cli.tensorboard import TensorBoardReporter

        board = stack.enter_context(TensorBoardReporter(tensorboard))
        yield reporting.TeeReporter(console, board)


def _bars() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description:<12}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[unit]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[extra]}"),
        console=Console(stderr=True),
        transient=False,
        # What goes into a file or a pipe is data, and does not belong on stderr.
        redirect_stdout=sys.stdout.isatty(),
    )


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def _numbers(values: object) -> str:
    if not isinstance(values, dict):
        return ""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
