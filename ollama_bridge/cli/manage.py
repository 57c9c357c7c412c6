"""``create``, ``push``, ``ps``, ``cp``, ``rm`` and ``stop``: as ``ollama`` has them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ollama_bridge.artifacts import digest_file
from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.errors import ModelfileError
from ollama_bridge.reporting import Note, Progress

if TYPE_CHECKING:
    from ollama_bridge.client import Client

TagsArgument = Annotated[
    list[str], typer.Argument(metavar="TAG...", autocompletion=completion.tags)
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("create")(create)
    app.command("push")(push)
    app.command("ps")(ps)
    app.command("cp")(cp)
    app.command("rm")(rm)
    app.command("stop")(stop)


def create(
    tag: Annotated[str, typer.Argument(help="The tag in Ollama.")],
    modelfile: Annotated[
        Path, typer.Option("--file", "-f", help="The Modelfile.", dir_okay=False)
    ] = Path("Modelfile"),
    host: options.HostOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Make a tag of a Modelfile, as `ollama create` does: nothing is proven (see `package`).

    Examples:
      ollama-bridge create my-model -f Modelfile
    """
    from ollama_bridge.modelfile import check_tag, parse_modelfile

    check_tag(tag)
    try:
        content = parse_modelfile(modelfile.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise ModelfileError(
            f"{modelfile} cannot be read: {reason}", hint="name it with -f FILE"
        ) from exc
    with ConsoleReporter(quiet=quiet) as reporter, _client(host) as client:
        gguf = modelfile.parent / Path(content.from_)
        request: dict[str, Any]
        if gguf.is_file():
            digest = f"sha256:{digest_file(gguf)}"
            if not client.has_blob(digest):
                client.upload_blob(gguf, digest, on_progress=_bar(reporter, "upload"))
            request = content.to_request(tag, blob_digest=digest)
        else:
            request = content.to_request(tag, blob_digest="") | {"from": content.from_}
            del request["files"]
        client.create(request, on_status=lambda text: reporter.emit(Note("create", "info", text)))
    output.data(tag)


def push(
    tag: options.TagArgument,
    insecure: options.InsecureOption = False,
    host: options.HostOption = None,
    quiet: options.QuietOption = False,
) -> None:
    """Let Ollama push a tag to the registry in its name, as it is (see `publish`).

    Examples:
      ollama-bridge push registry.example.com/team/model:1
    """
    with ConsoleReporter(quiet=quiet) as reporter, _client(host) as client:
        client.push(tag, insecure=insecure, on_progress=_bar(reporter, "push"))
    output.data(tag)


def ps(host: options.HostOption = None, as_json: options.JSONOption = False) -> None:
    """List the models that are loaded.

    Examples:
      ollama-bridge ps
    """
    with _client(host) as client:
        running = client.ps()
    if as_json:
        output.data_json([asdict(one) for one in running])
        return
    rows = [
        {
            "NAME": one.name,
            "SIZE": output.size(one.size_bytes),
            "GPU": f"{100 * one.size_vram_bytes // max(one.size_bytes, 1)}%",
            "CONTEXT": one.context_length,
            "UNTIL": one.expires_at[:19],
        }
        for one in running
    ]
    output.table(rows, as_json=False)


def cp(
    source: options.TagArgument,
    destination: Annotated[str, typer.Argument(help="Its second name.")],
    host: options.HostOption = None,
) -> None:
    """Give a model a second name.

    Examples:
      ollama-bridge cp review-sentiment team/sentiment:1
    """
    with _client(host) as client:
        client.copy(source, destination)


def rm(tags: TagsArgument, host: options.HostOption = None) -> None:
    """Remove tags, and what no other tag needs.

    Examples:
      ollama-bridge rm review-sentiment-quick
    """
    with _client(host) as client:
        for tag in tags:
            client.delete(tag)
            output.say(f"removed {tag}")


def stop(tags: TagsArgument, host: options.HostOption = None) -> None:
    """Take models out of memory.

    Examples:
      ollama-bridge stop review-sentiment
    """
    with _client(host) as client:
        for tag in tags:
            client.show(tag)  # Ollama says nothing of a tag that it has not
            client.unload(tag)


def _client(host: str | None) -> Client:
    from ollama_bridge.client import Client

    return Client(host)


def _bar(reporter: ConsoleReporter, stage: str) -> Any:
    return lambda done, total: reporter.emit(Progress(stage, done, total, "bytes"))
