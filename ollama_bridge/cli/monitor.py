"""``monitor``: a live view of the daemon, its models and the machine."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.cli import options, output
from ollama_bridge.errors import ConfigError, DaemonError

if TYPE_CHECKING:
    from ollama_bridge.monitoring import Observer, Snapshot

_SOON_S = 1.0
_OPEN = (
    "warning: anyone who can reach this address can read the names of models and how busy this "
    "machine is; to serve only this machine, give a PORT without a HOST"
)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("monitor")(monitor)


def monitor(
    interval_s: Annotated[float, typer.Option("--interval", help="Seconds between looks.")] = 1.0,
    count: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many looks. Default: at Ctrl-C.")
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Also serve /metrics at this address. Default of HOST: 127.0.0.1.",
        ),
    ] = None,
    host: options.HostOption = None,
    as_json: options.JSONLinesOption = False,
) -> None:
    """Watch the daemon: models, requests, queue, tokens a second, memory, and what is wrong.

    Single requests, and how many wait, can be seen only if the daemon is on this machine. The queue
    is "3 to 4" if one of 4 requests without an answer may already have a slot. A rate is ">=" if
    more may have come and gone between two looks. The processor and the memory are those of this
    machine, wherever the daemon is.

    With --json every look is a line. In a pipe every look is a few lines of text, or nothing with
    --prometheus. With --count the exit code is 3 if the daemon did not answer the last look.

    Examples:
      ollama-bridge monitor
      ollama-bridge monitor --prometheus 9435
      ollama-bridge monitor --json --count 1
    """
    from rich.console import Console
    from rich.live import Live

    from ollama_bridge.cli.monitor_view import view
    from ollama_bridge.monitoring import Exporter, Observer, exposition

    if not 0.1 <= interval_s <= 86_400:
        raise ConfigError(f"--interval {interval_s}: it must be 0.1 seconds to a day")
    newest: list[Snapshot] = []
    with contextlib.ExitStack() as stack:
        observer = stack.enter_context(Observer(host))
        newest.append(observer.look())
        if prometheus is not None:
            name, port = _read_listening(prometheus)
            page = stack.enter_context(Exporter(port, lambda: exposition(newest[-1]), host=name))
            output.say(page.url)
            if not page.is_loopback:
                output.say(_OPEN)
        live = None
        if output.can_repaint(sys.stdout) and not as_json:
            live = stack.enter_context(Live(auto_refresh=False, console=Console()))
        for snapshot in _looks(observer, interval_s, count):
            newest[:] = [snapshot]
            if live is not None:
                live.update(view(snapshot), refresh=True)
            elif as_json:
                told = {"queued": snapshot.queued, "alerts": snapshot.alerts()}
                output.line_json({**asdict(snapshot), **told})
            elif prometheus is None:
                Console(width=200, force_terminal=False).print(view(snapshot))
    if newest[-1].problem is not None:
        raise typer.Exit(DaemonError.exit_code)


def _read_listening(text: str) -> tuple[str, int]:
    """Where ``--prometheus`` is heard: on loopback, where it names no other address."""
    name, colon, port = text.rpartition(":")
    if not port.isdecimal() or (colon and not name):
        raise ConfigError(
            f"--prometheus {text}: this is not a port",
            hint="write 9435, or 0.0.0.0:9435 for other machines",
        )
    return name.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _looks(observer: Observer, interval_s: float, count: int | None) -> Iterator[Snapshot]:
    wait_s = min(interval_s, _SOON_S)  # rates need two looks, and nobody wants to wait a minute
    done = 0
    while count is None or done < count:
        time.sleep(wait_s)
        yield observer.look()
        wait_s = interval_s
        done += 1
