"""``doctor``: is this machine ready?"""

from __future__ import annotations

from typing import Annotated

import typer

from ollama_bridge.cli import options, output
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.errors import OllamaBridgeError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Install or start Ollama if that is what is missing.")
    ] = False,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Check cores, memory, types, disk and daemon; every problem comes with its fix.

    The exit code is 1 if there is a problem.

    Examples:
      ollama-bridge doctor
      ollama-bridge doctor --fix
    """
    from ollama_bridge.doctor import repair, run_doctor

    findings = run_doctor(host=host)
    failed = None
    for finding in findings if fix else ():
        if finding.repair is None:
            continue
        try:
            with ConsoleReporter() as reporter:
                output.say(f"fixed: {repair(finding, host=host, reporter=reporter)}")
        except OllamaBridgeError as error:  # told behind the findings
            failed = error
        findings = run_doctor(host=host)
    if as_json:
        output.data_json(
            [
                {"name": f.name, "status": f.status, "detail": f.detail, "fix": f.fix}
                for f in findings
            ]
        )
    else:
        for finding in findings:
            output.data(f"{finding.status:<8} {finding.name}: {finding.detail}")
            if finding.fix:
                output.data(f"{'':<8} fix: {finding.fix}")
    if failed is not None:
        if not as_json:
            raise failed
        # The findings are on stdout already: no second document follows them.
        raise typer.Exit(output.fail(failed, as_json=False))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)
