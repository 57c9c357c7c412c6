"""``daemon install|start|stop|status``."""

from __future__ import annotations

from typing import Annotated

import typer

from ollama_bridge.cli import options, output
from ollama_bridge.cli.progress import ConsoleReporter

app = typer.Typer(help="Get, start and stop an Ollama daemon.", no_args_is_help=True)


@app.command()
def install(
    version: Annotated[
        str | None,
        typer.Option(
            help="Build exactly this version, beside any that is there: 0.34.4, 0.33.3 or 0.24.0."
        ),
    ] = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Install Ollama if there is none (takes minutes if it has to be built).

    Examples:
      ollama-bridge daemon install
      ollama-bridge daemon install --version 0.24.0
    """
    from ollama_bridge.daemon.install import install_daemon

    with ConsoleReporter(quiet=quiet) as reporter:
        binary = install_daemon(version=version, reporter=reporter)
    output.fields({"binary": binary}, as_json=as_json)


@app.command()
def start(
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Use the running daemon, or start one with your own model store.

    Examples:
      ollama-bridge daemon start
    """
    from ollama_bridge.daemon.ensure import ensure_daemon

    with ConsoleReporter(quiet=quiet) as reporter:
        daemon = ensure_daemon(reporter=reporter, host=host)
    output.fields(
        {"host": daemon.host, "version": daemon.version, "binary": daemon.binary}, as_json=as_json
    )


@app.command()
def stop(as_json: options.JSONOption = False) -> None:
    """Stop the daemon that ollama-bridge started, and no other.

    Examples:
      ollama-bridge daemon stop
    """
    from ollama_bridge.daemon.ensure import stop_daemon

    output.fields({"stopped": stop_daemon()}, as_json=as_json)


@app.command()
def status(host: options.HostOption = None, as_json: options.JSONOption = False) -> None:
    """Say which daemon answers, and which binary serves `ollama run`.

    Examples:
      ollama-bridge daemon status --json
    """
    from ollama_bridge.daemon.ensure import daemon_status

    output.fields(daemon_status(host=host), as_json=as_json)
