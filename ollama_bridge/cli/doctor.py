"""``doctor``: is this machine ready?"""

from __future__ import annotations

import typer

from ollama_bridge.cli import options, output


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(host: options.HostOption = None, as_json: options.JSONOption = False) -> None:
    """Look at cores, memory, types, disk and daemon; every finding comes with its fix.

    Exit code 1 if something stands in the way.
    """
    from ollama_bridge.doctor import run_doctor

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
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)
