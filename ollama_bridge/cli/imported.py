"""``models ls|show|rm``: what was imported of tags, files and the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ollama_bridge.assets import home_dir
from ollama_bridge.cli import completion, options, output

app = typer.Typer(
    help="Models of tags, files and the hub, as they were imported.", no_args_is_help=True
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Id, as `models ls` prints it, or its beginning.", autocompletion=completion.models
    ),
]
_DAMAGED = "(damaged: imported again when asked for)"


@app.command("ls")
def models_ls(as_json: options.JSONOption = False) -> None:
    """List the imported models in the home folder. FREES is what `models rm` would free of SIZE.

    Examples:
      ollama-bridge models ls
    """
    from ollama_bridge.models.sources.catalogue import list_cached

    models = list_cached(_models_dir())
    output.listing(
        [model.to_dict() for model in models],
        [
            {
                "ID": model.folder.name,
                "SOURCE": _DAMAGED if model.source is None else model.source,
                "SIZE": output.size(model.size_bytes),
                "FREES": output.size(model.own_bytes),
                "LAST USED": model.used_at,
            }
            for model in models
        ],
        as_json=as_json,
    )


@app.command("show")
def models_show(model: ModelArgument, as_json: options.JSONOption = False) -> None:
    """Show what a model was made of, and what it takes.

    Examples:
      ollama-bridge models show gguf-0123
    """
    from ollama_bridge.models.sources.catalogue import find_cached, summarize

    found = summarize(find_cached(_models_dir(), model))
    made_of = [f"{role} {digest}" for role, digest in found.inputs.items()]
    output.fields(
        {
            "id": found.folder.name,
            "path": found.folder,
            "source": _DAMAGED if found.source is None else found.source,
            "made of": "\n           ".join(made_of),
            "size": f"{output.size(found.size_bytes)} ({output.size(found.own_bytes)} its own)",
            "last used": found.used_at,
        },
        found.to_dict(),
        as_json=as_json,
    )


@app.command("rm")
def models_rm(
    model: ModelArgument,
    yes: options.YesOption = False,
    as_json: options.JSONOption = False,
) -> None:
    """Remove an imported model, not its source. Refused while a run is importing it.

    A run that trains from it ends with an error, and goes on when its command is run again.

    Examples:
      ollama-bridge models rm gguf-0123 --yes
    """
    from ollama_bridge.models.sources.catalogue import find_cached, remove_cached

    folder = find_cached(_models_dir(), model)
    if not yes:
        typer.confirm(f"remove {folder}?", abort=True, err=True)
    freed_bytes = remove_cached(folder)
    if as_json:
        output.data_json({"removed": folder, "freed_bytes": freed_bytes})
    output.say(f"removed {folder}: {output.size(freed_bytes)} freed")


def _models_dir() -> Path:
    return home_dir() / "models"
