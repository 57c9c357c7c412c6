"""``create``, ``push``, ``ps``, ``cp``, ``rm`` and ``stop``: as ``ollama`` has them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.cli import completion, loaded, options, output
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ConfigError, ModelfileError, ModelNotFoundError
from ollama_bridge.reporting import Note, tell_bytes

if TYPE_CHECKING:
    from ollama_bridge.client import Client
    from ollama_bridge.reporting import Reporter

TagsArgument = Annotated[
    list[str], typer.Argument(metavar="TAG...", autocompletion=completion.tags)
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (create, push, ps, cp, rm, stop):
        app.command(command.__name__)(command)


def create(
    tag: Annotated[str, typer.Argument(help="Name of the tag in Ollama.")],
    modelfile: Annotated[Path, typer.Option("--file", "-f", help="The Modelfile.")] = Path(
        "Modelfile"
    ),
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            "-q",
            help="Quantize to this type (only Ollama before 0.34; see `package --type`).",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", hidden=True)] = False,
    draft_quantize: Annotated[str | None, typer.Option("--draft-quantize", hidden=True)] = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress on stderr.")] = False,
) -> None:
    """Make a tag from a Modelfile, as `ollama create` does; nothing is proven (see `package`).

    Examples:
      ollama-bridge create my-model -f Modelfile
    """
    from ollama_bridge.cli.creating import read_creation, read_modelfile, warn_of_dropped
    from ollama_bridge.modelfile import check_tag

    check_tag(tag)
    if force or draft_quantize is not None:
        raise ConfigError(
            f"{'--force' if force else '--draft-quantize'} is for a folder of safetensors that "
            "`ollama create` itself imports, and does not apply here",
            hint=f"leave it out, or make the tag of the folder: ollama-bridge package FOLDER {tag}",
        )
    text = read_modelfile(modelfile, hint="name it with -f FILE")
    content = read_creation(text, tag, modelfile.parent)
    warn_of_dropped(text)
    request = dict(content.request)
    with ConsoleReporter(quiet=quiet) as reporter, _client(host) as client:
        for place, files in content.files.items():
            request[place] = {
                name: _uploaded(client, path, reporter) for name, path in files.items()
            }
        if quantize is not None:
            request["quantize"] = quantize
        client.create(request, on_status=lambda text: reporter.emit(Note("create", "info", text)))
    output.either(tag, {"tag": tag}, as_json=as_json)


def push(
    tag: options.TagArgument,
    insecure: options.InsecureOption = False,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Let Ollama push a tag to the registry in its name, as it is (see `publish`).

    Examples:
      ollama-bridge push registry.example.com/team/model:1
    """
    with ConsoleReporter(quiet=quiet) as reporter, _client(host) as client:
        client.show(tag)  # of one that it has not Ollama names the file that is missing
        client.push(tag, insecure=insecure, on_progress=tell_bytes(reporter, "push"))
    output.either(tag, {"tag": tag}, as_json=as_json)


def ps(
    prefix: options.PrefixArgument = "",
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """List the models that are loaded.

    Examples:
      ollama-bridge ps
    """
    with _client(host) as client:
        running = [one for one in client.ps() if options.begins_with(one.name, prefix)]
    rows = [
        {
            "NAME": one.name,
            "ID": one.digest.removeprefix("sha256:")[:12],
            "SIZE": output.size(one.size_bytes),
            "PROCESSOR": loaded.processor(one.size_bytes, one.size_vram_bytes),
            "CONTEXT": one.context_length,
            "UNTIL": loaded.until(one.expires_at, datetime.now(UTC)),
        }
        for one in running
    ]
    output.listing([asdict(one) for one in running], rows, as_json=as_json)


def cp(
    source: options.TagArgument,
    destination: Annotated[str, typer.Argument(help="The second name.")],
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Give a model a second name.

    Examples:
      ollama-bridge cp review-sentiment team/sentiment:1
    """
    from ollama_bridge.modelfile import check_tag

    check_tag(destination)
    with _client(host) as client:
        client.copy(source, destination)
    if as_json:
        output.data_json({"source": source, "destination": destination})
    output.say(f"copied {source} to {destination}")


def rm(
    tags: TagsArgument, host: options.HostOption = None, as_json: options.JSONOption = False
) -> None:
    """Remove tags, and what no other tag needs; if one of them is missing, none is removed.

    Examples:
      ollama-bridge rm review-sentiment-quick review-reply
    """
    from ollama_bridge.client.model_names import name_key

    named: dict[str, str] = {}
    for tag in tags:
        named.setdefault(name_key(tag), tag)  # m and m:latest are one
    tags = [*named.values()]
    with _client(host) as client:
        for tag in tags:
            _check_is_there(client, tag)
        for tag in tags:
            client.delete(tag)
            output.say(f"removed {tag}")
    if as_json:
        output.data_json({"removed": tags})


def stop(
    tags: TagsArgument, host: options.HostOption = None, as_json: options.JSONOption = False
) -> None:
    """Take models out of memory.

    Examples:
      ollama-bridge stop review-sentiment
    """
    with _client(host) as client:
        for tag in tags:
            _check_is_there(client, tag)  # Ollama says nothing of a tag that it has not
            client.unload(tag)
    if as_json:
        output.data_json({"stopped": tags})


def _check_is_there(client: Client, tag: str) -> None:
    try:
        client.show(tag)
    except ModelNotFoundError as error:
        error.hint = "ollama-bridge ls"  # nobody pulls what is to go
        raise


def _client(host: str | None) -> Client:
    from ollama_bridge.client import Client

    return Client(host)


def _uploaded(client: Client, path: Path, reporter: Reporter) -> str:
    """The digest of a file that the daemon has, or is given."""
    try:
        digest = f"sha256:{digest_file(path)}"
    except OSError as exc:  # such as one of a store that is another user's
        raise ModelfileError(
            f"{path} cannot be read: {exc.strerror}", hint=f"ls -l {quote(str(path))}"
        ) from exc
    if not client.has_blob(digest):
        client.upload_blob(path, digest, on_progress=tell_bytes(reporter, "upload"))
    return digest
