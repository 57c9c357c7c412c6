"""``monitor``: a live view of the daemon, its models and the machine."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ollama_bridge.cli import options, output
from ollama_bridge.errors import ConfigError

if TYPE_CHECKING:
    from ollama_bridge.monitoring import Observer, Snapshot


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("monitor")(monitor)


def monitor(
    interval_s: Annotated[float, typer.Option("--interval", help="Seconds between looks.")] = 1.0,
    count: Annotated[
        int | None, typer.Option(help="End after so many looks. Default: with Ctrl-C.")
    ] = None,
    prometheus: Annotated[
        int | None, typer.Option(metavar="PORT", help="Also serve 127.0.0.1:PORT/metrics.")
    ] = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Watch the daemon: models, requests, tokens a second, memory, and what is wrong.

    What single requests do is seen of a daemon on this machine only. With --json every look is a
    line; in a pipe every look is a few lines of text.

    Examples:
      ollama-bridge monitor
      ollama-bridge monitor --prometheus 9435
      ollama-bridge monitor --json --count 1
    """
    from ollama_bridge.monitoring import Exporter, Observer, exposition

    if not 0.1 <= interval_s <= 86_400:
        raise ConfigError(f"--interval {interval_s}: 0.1 seconds to a day")
    newest: list[Snapshot] = []
    with contextlib.ExitStack() as stack:
        observer = stack.enter_context(Observer(host))
        newest.append(observer.look())
        if prometheus is not None:
            page = stack.enter_context(Exporter(prometheus, lambda: exposition(newest[-1])))
            output.say(f"http://127.0.0.1:{page.port}/metrics")
        live = None
        if sys.stdout.isatty() and not as_json:
            live = stack.enter_context(Live(auto_refresh=False, console=Console()))
        for snapshot in _looks(observer, interval_s, count):
            newest[:] = [snapshot]
            if live is not None:
                live.update(view(snapshot), refresh=True)
            elif as_json:
                output.data(json.dumps({**asdict(snapshot), "alerts": snapshot.alerts()}))
            else:
                Console(width=100).print(view(snapshot))


def _looks(observer: Observer, interval_s: float, count: int | None) -> Iterator[Snapshot]:
    done = 0
    while count is None or done < count:
        time.sleep(interval_s)  # rates need two looks
        yield observer.look()
        done += 1


def view(seen: Snapshot) -> RenderableType:
    """A snapshot for people."""
    machine = seen.machine
    state = f"Ollama {seen.version} at {seen.host}" if seen.version else f"{seen.host}: no answer"
    parts: list[RenderableType] = [
        Text(
            f"{state}   {seen.tokens_per_s:.1f} tokens/s   CPU {machine.cpu_share:.0%}   "
            f"memory {output.size(machine.memory_used_bytes)} of "
            f"{output.size(machine.memory_bytes)}   swap {output.size(machine.swap_used_bytes)}"
            + (f"   {machine.hottest_c[0]:.0f} °C" if machine.hottest_c else ""),
            style="bold",
        )
    ]
    parts += [
        Text(f"{name}: {share:.0%}, {output.size(used)} of {output.size(total)}")
        for name, share, used, total in machine.gpus
    ]
    if seen.loaded:
        table = Table("MODEL", "SIZE", "GPU", "CONTEXT", "UNTIL", box=None, pad_edge=False)
        for one in seen.loaded:
            share = one.gpu_bytes / one.size_bytes if one.size_bytes else 0.0
            table.add_row(
                one.name,
                output.size(one.size_bytes),
                f"{share:.0%}",
                str(one.context_tokens),
                one.until[11:19],
            )
        parts.append(table)
    if seen.runners:
        table = Table(
            "RUNNER", "MODEL", "REQUESTS", "TOKENS", "TOKENS/S", "CPU", "MEMORY",
            box=None, pad_edge=False,
        )  # fmt: skip
        for runner in seen.runners:
            table.add_row(
                str(runner.pid),
                runner.model or "?",
                "?" if runner.slots is None else f"{runner.busy} of {runner.slots}",
                str(runner.tokens),
                f"{runner.tokens_per_s:.1f}",
                f"{runner.cpu_share:.0%}",
                output.size(runner.memory_bytes),
            )
        parts.append(table)
    parts += [Text(f"! {alert}", style="red") for alert in seen.alerts()]
    return Group(*parts)
