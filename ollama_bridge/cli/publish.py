"""``publish``, ``pull`` and ``card``: models on their way to other machines."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.progress import ConsoleReporter


class Through(StrEnum):
    """Who sends."""

    AUTO = "auto"
    REGISTRY = "registry"
    DAEMON = "daemon"


ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REFERENCE", help="REGISTRY/NAMESPACE/NAME:TAG.")
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="Run that made the tag, for its card. Default: found by the tag.",
        autocompletion=completion.runs,
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (publish, pull, card):
        app.command(command.__name__)(command)


def publish(
    tag: options.TagArgument,
    reference: ReferenceArgument,
    through: Annotated[
        Through,
        typer.Option(
            help="Who sends it: ollama-bridge (registry), or Ollama (daemon), which adds nothing."
        ),
    ] = Through.AUTO,
    run: RunOption = None,
    license_: options.LicenseOption = None,
    card: Annotated[
        bool, typer.Option(help="Add model card, certificate and lineage as layers.")
    ] = True,
    mount_from: Annotated[
        str | None,
        typer.Option(help="NAMESPACE/NAME in the same registry that may already have the weights."),
    ] = None,
    insecure: options.InsecureOption = False,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Publish a tag to a registry; run it again to resume after an interruption.

    Credentials: OLLAMA_BRIDGE_REGISTRY_USER with ..._PASSWORD, or ..._TOKEN; or a file that
    ..._PASSWORD_FILE or ..._TOKEN_FILE names. OLLAMA_BRIDGE_REGISTRY: the only host that gets them.

    Examples:
      ollama-bridge publish review-sentiment ghcr.io/team/sentiment:1.0
      ollama-bridge publish my-model localhost:5000/team/my-model:1 --license LICENSE
    """
    from ollama_bridge.publishing import publication

    with ConsoleReporter(quiet=quiet) as reporter:
        done = publication.publish(
            tag,
            reference,
            way=through.value,
            run_dir=_run_dir(run),
            license_file=license_,
            card=card,
            mount_from=mount_from,
            insecure=insecure,
            host=host,
            reporter=reporter,
        )
    told = "pushed by the daemon"
    if done.sent_bytes is not None and done.size_bytes is not None:
        sent = f"{output.size(done.sent_bytes)} of {output.size(done.size_bytes)} sent"
        told = f"{done.digest}, {sent}"
    output.either(f"{done.reference}: {told}", asdict(done), as_json=as_json)


def pull(
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="REGISTRY/NAMESPACE/NAME:TAG, or NAME:TAG.")
    ],
    tag: Annotated[
        str | None, typer.Option("--as", help="Name in Ollama. Default: the reference.")
    ] = None,
    through: Annotated[
        Through,
        typer.Option(
            help="Who fetches it: ollama-bridge (registry) or Ollama (daemon). auto: Ollama, if it "
            "knows the registry."
        ),
    ] = Through.AUTO,
    verify: Annotated[bool, typer.Option(help="Verify the model before it gets its name.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for unfinished downloads.", file_okay=False)
    ] = None,
    insecure: options.InsecureOption = False,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Pull a model into Ollama, and verify it if it carries what proves it.

    Also from registries that `ollama pull` cannot read; credentials as for `publish`.

    Examples:
      ollama-bridge pull deepseek-r1:1.5b
      ollama-bridge pull ghcr.io/team/sentiment:1.0
      ollama-bridge pull localhost:5000/team/my-model:1 --as my-model
    """
    from ollama_bridge.publishing import retrieval

    if through is Through.AUTO:
        through = Through.DAEMON if _daemon_knows(reference) else Through.REGISTRY
    with ConsoleReporter(quiet=quiet) as reporter:
        fetch = retrieval.pull if through is Through.REGISTRY else retrieval.pull_through_daemon
        done = fetch(
            reference,
            tag=tag,
            out_dir=out,
            insecure=insecure,
            verify=verify,
            host=host,
            reporter=reporter,
        )
    output.either(f"{done.tag}: {done.digest}, {done.verdict}", asdict(done), as_json=as_json)


def card(
    tag: options.TagArgument,
    run: RunOption = None,
    license_: options.LicenseOption = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Print a tag's model card: the one it carries, else one from the run that made the tag.

    Examples:
      ollama-bridge card review-sentiment > README.md
    """
    from ollama_bridge.publishing import papers

    text = papers.card(tag, run_dir=_run_dir(run), license_file=license_, host=host)
    output.either(text, {"tag": tag, "card": text}, as_json=as_json)


def _daemon_knows(reference: str) -> bool:
    """Whether a model lies where ``ollama pull`` finds it: at Ollama's or Hugging Face's."""
    host, *rest = reference.rpartition("://")[2].split("/")
    if len(rest) == 1 and (host == "localhost" or set(".:") & set(host)):
        return False  # a registry, no user of Ollama's: it is told what is missing
    return len(rest) < 2 or host in ("registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co")


def _run_dir(run: str | None) -> Path | None:
    if run is None:
        return None
    from ollama_bridge.cli.runs import find_run

    return find_run(run)
