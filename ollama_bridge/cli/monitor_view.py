"""What ``monitor`` shows to people."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ollama_bridge.cli import loaded, output
from ollama_bridge.monitoring import Snapshot


def view(seen: Snapshot) -> RenderableType:
    """A snapshot for people."""
    machine = seen.machine
    state = f"Ollama {seen.version} at {seen.host}" if seen.version else f"{seen.host}: no answer"
    rate = "?" if seen.tokens_per_s is None else _rate(seen.tokens_per_s, seen.is_partial)
    where = "" if seen.is_local else "this machine: "
    parts: list[RenderableType] = [
        Text(
            f"{state}   {rate} tokens/s   {_queue(seen)}   {where}CPU {machine.cpu_share:.0%}   "
            f"memory {output.size(machine.memory_used_bytes)} of "
            f"{output.size(machine.memory_bytes)}   swap {output.size(machine.swap_used_bytes)}"
            + (f"   {machine.hottest_c[0]:.0f} °C" if machine.hottest_c else ""),
            style="bold",
        )
    ]
    parts += [
        Text(
            f"{gpu.name}: {'?' if gpu.share is None else f'{gpu.share:.0%}'}, "
            f"{_size(gpu.memory_used_bytes)} of {_size(gpu.memory_bytes)}"
            + (f", {gpu.temperature_c:.0f} °C" if gpu.temperature_c is not None else "")
        )
        for gpu in machine.gpus
    ]
    if seen.loaded:
        table = Table("MODEL", "SIZE", "GPU", "CONTEXT", "UNTIL", box=None, pad_edge=False)
        for one in seen.loaded:
            share = one.gpu_bytes / one.size_bytes if one.size_bytes else 0.0
            table.add_row(
                Text(output.visible(one.name)),
                output.size(one.size_bytes),
                f"{share:.0%}",
                str(one.context_tokens),
                loaded.until(one.until, datetime.fromtimestamp(seen.at_s, UTC)),
            )
        parts.append(table)
    if seen.runners:
        table = Table(
            "RUNNER", "MODEL", "REQUESTS", "TOKENS", "TOKENS/S", "CPU", "MEMORY",
            box=None, pad_edge=False,
        )  # fmt: skip
        for runner in seen.runners:
            told = runner.slots is not None
            table.add_row(
                str(runner.pid),
                Text(output.visible(runner.model or "?")),
                f"{runner.busy} of {runner.slots}" if told else "?",
                str(runner.tokens) if told else "?",
                _rate(runner.tokens_per_s, runner.is_partial) if told else "?",
                f"{runner.cpu_share:.0%}",
                output.size(runner.memory_bytes),
            )
        parts.append(table)
    parts += [Text(f"! {output.visible(alert)}", style="red") for alert in seen.alerts()]
    return Group(*parts)


def _queue(seen: Snapshot) -> str:
    """Between what nothing works on for certain, and all that have no answer yet."""
    if seen.waiting is None:
        return "queue ?"
    least = seen.queued or 0
    return f"queue {least}" if least == seen.waiting else f"queue {least} to {seen.waiting}"


def _rate(tokens_per_s: float, is_partial: bool) -> str:
    return f"{'>= ' if is_partial else ''}{tokens_per_s:.1f}"


def _size(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else output.size(size_bytes)
