"""``labels ls|show|rm``: teachers' soft labels, which runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ollama_bridge.assets import home_dir
from ollama_bridge.cli import completion, options, output

app = typer.Typer(help="Soft labels of teachers, which runs share.", no_args_is_help=True)

StoreArgument = Annotated[
    str,
    typer.Argument(
        help="Id, as `labels ls` prints it, or its beginning.", autocompletion=completion.labels
    ),
]


@app.command("ls")
def labels_ls(as_json: options.JSONOption = False) -> None:
    """List the stores of soft labels in the home folder.

    Examples:
      ollama-bridge labels ls
    """
    from ollama_bridge.label_store.catalogue import list_stores

    stores = list_stores(_stores_dir())
    rows = [
        {
            "ID": store.info.store_id,
            "TEACHER": _short(store.teacher_path),
            "LABELS": store.info.kept,
            "ROWS": store.rows,
            "TOKENS": store.positions,
            "B/TOKEN": f"{store.bytes_per_token:.0f}",
            "SIZE": output.size(store.size_bytes),
            "USED BY": ", ".join(_short(str(path)) for path in store.used_by) or "(none)",
        }
        for store in stores
    ]
    output.listing([store.to_dict() for store in stores], rows, as_json=as_json)


@app.command("show")
def labels_show(store: StoreArgument, as_json: options.JSONOption = False) -> None:
    """Show what a store holds, and which artefacts use it.

    Examples:
      ollama-bridge labels show 01234567
    """
    from ollama_bridge.label_store.catalogue import find_store, summarize

    found = summarize(find_store(_stores_dir(), store))
    output.fields(
        {
            "id": found.info.store_id,
            "path": found.folder,
            "state": "finished" if found.finished else "unfinished: label again to resume",
            "labels": found.info.kept,
            "teacher": f"{found.teacher_path} ({found.info.teacher[:12]})",
            "computed in": found.info.dtype,
            "vocabulary": found.info.vocab_size,
            "rows": found.rows,
            "tokens": found.positions,
            "size": f"{output.size(found.size_bytes)} ({found.bytes_per_token:.1f} bytes a token)",
            "used by": "\n         ".join(map(str, found.used_by)) or "(none)",
        },
        found.to_dict(),
        as_json=as_json,
    )


@app.command("rm")
def labels_rm(
    store: StoreArgument,
    yes: options.YesOption = False,
    as_json: options.JSONOption = False,
) -> None:
    """Remove a store. Runs that use it keep their labels; refused while a run is labelling.

    Examples:
      ollama-bridge labels rm 01234567 --yes
    """
    from ollama_bridge.label_store.catalogue import find_store, remove_store

    folder = find_store(_stores_dir(), store)
    if not yes:
        typer.confirm(f"remove {folder}?", abort=True, err=True)
    free_bytes, kept_bytes = remove_store(folder)
    if as_json:
        output.data_json({"removed": folder, "freed_bytes": free_bytes, "kept_bytes": kept_bytes})
    kept = f"; {output.size(kept_bytes)} stay with the runs that use them" if kept_bytes else ""
    output.say(f"removed {folder}: {output.size(free_bytes)} freed{kept}")


def _stores_dir() -> Path:
    return home_dir() / "labels"


def _short(path: str) -> str:
    """A folder of ours as people call it: runs/NAME/teacher, models/..."""
    return path.removeprefix(f"{home_dir()}/")
