"""``runs ls|show|rm``: what was built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from ollama_bridge.assets import home_dir
from ollama_bridge.cli import completion, options, output
from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.storage.artifacts import MANIFEST_NAME
from ollama_bridge.storage.folder_files import paths_named, statuses

# What is shown of an artefact, and how its manifest calls it.
_TOLD = {"stage": "stage", "key": "key", "made": "created_at", "facts": "facts"}

app = typer.Typer(help="Finished and unfinished runs.", no_args_is_help=True)

RunArgument = Annotated[
    str,
    typer.Argument(
        help="Name, as `runs ls` prints it, or a folder.", autocompletion=completion.runs
    ),
]


@app.command("ls")
def runs_ls(as_json: options.JSONOption = False) -> None:
    """List the runs in the home folder, and what those that are running have come to.

    The command that began an unfinished one goes on with it.

    Examples:
      ollama-bridge runs ls
    """
    from ollama_bridge.reporting import last_told
    from ollama_bridge.run_folder import EVENTS_NAME

    rows: list[dict[str, Any]] = []
    for run in _all_runs():
        size_bytes = sum(one.st_size for one in statuses(run))
        stages = len(_stages(run))
        state = _state(run, stages)
        rows.append(
            {
                "name": run.name,
                "state": state,
                "stages": stages,
                "size_bytes": size_bytes,
                "finished": state == "finished",
                "at": last_told(run / EVENTS_NAME) if state == "running" else None,
            }
        )
    output.listing(
        rows,
        [
            {
                "NAME": row["name"],
                "STATE": row["state"],
                "STAGES": row["stages"],
                "SIZE": output.size(row["size_bytes"]),
                "AT": row["at"] or "",
            }
            for row in rows
        ],
        as_json=as_json,
    )


@app.command("show")
def runs_show(run: RunArgument, as_json: options.JSONOption = False) -> None:
    """Show the artefacts of a run, and what each is made of.

    Examples:
      ollama-bridge runs show sentiment-quick
    """
    folder = find_run(run)
    rows: list[dict[str, Any]] = []
    for stage in _stages(folder):
        path = stage / MANIFEST_NAME
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            told = {name: manifest[key] for name, key in _TOLD.items()}
        except FileNotFoundError:  # a build is replacing it
            continue
        except (ValueError, KeyError, TypeError) as exc:
            raise ArtifactError(
                f"{path} cannot be read: {exc!r}",
                hint=f"remove the folder to build it again: rm -r {quote(str(stage))}",
            ) from exc
        rows.append({"artefact": stage.relative_to(folder).as_posix(), **told})
    output.listing(
        rows,
        [
            {
                "ARTEFACT": row["artefact"],
                "STAGE": row["stage"],
                "KEY": row["key"][:12],
                "MADE": row["made"],
                "FACTS": json.dumps(row["facts"], ensure_ascii=False),
            }
            for row in rows
        ],
        as_json=as_json,
    )


@app.command("rm")
def runs_rm(
    run: RunArgument,
    yes: options.YesOption = False,
    as_json: options.JSONOption = False,
) -> None:
    """Remove a run's artefacts. Its tags in Ollama stay.

    Examples:
      ollama-bridge runs rm sentiment-quick --yes
    """
    from ollama_bridge.run_folder import hold_run

    folder = find_run(run)
    if not yes:
        typer.confirm(f"remove {folder}?", abort=True, err=True)
    try:
        with hold_run(folder, hint="wait for it, or stop it"):
            shutil.rmtree(folder)
    except OSError as exc:
        raise ArtifactError(f"{exc.filename} cannot be removed: {exc.strerror}") from exc
    if as_json:
        output.data_json({"removed": folder})
    output.say(f"removed {folder}")


def _runs_dir() -> Path:
    return home_dir() / "runs"


def _all_runs() -> list[Path]:
    from ollama_bridge.run_folder import is_note_alone

    folders = (path for path in _runs_dir().glob("*") if path.is_dir())
    return sorted(folder for folder in folders if not is_note_alone(folder))


def _state(run: Path, stages: int) -> str:
    """Finished: nothing in it was begun only, and a build or a package has come to its end.

    What was never begun, or whose artefacts somebody removed, is empty. Running: a process works
    there now.
    """
    from ollama_bridge.publishing.papers import CARD_NAME  # written last
    from ollama_bridge.run_folder import is_held, is_run
    from ollama_bridge.storage.drafts import holds_draft

    if is_held(run):
        return "running"
    if holds_draft(run):
        return "unfinished"
    if is_run(run):
        return "finished" if (run / CARD_NAME).exists() else "unfinished"
    return "finished" if stages else "empty"


def _stages(run: Path) -> list[Path]:
    stages = (path.parent for path in paths_named(run, MANIFEST_NAME))
    return sorted(stage for stage in stages if not stage.name.startswith("."))


def find_run(run: str) -> Path:
    """The folder of a run, by its name or path.

    Raises:
        ConfigError: there is none.
        ArtifactError: the folder is no run.
    """
    from ollama_bridge.run_folder import is_run, noted_run

    # `rm` must never be talked into removing a folder that is not a run: what is no name of one
    # (nothing at all, or dots) is not put behind the folder of all of them.
    named = [folder for folder in _all_runs() if folder.name == run]
    if named:
        return named[0]
    folder = Path(run).resolve()
    if not run or not folder.is_dir():
        noted = {path.name: noted_run(path) for path in _runs_dir().glob("*")}
        kept_in = noted.get(run)
        if kept_in is not None:
            raise ConfigError(
                f"run {run!r} is not in {_runs_dir()}: it was made with --out {kept_in}",
                hint=f"ollama-bridge runs show {quote(str(kept_in))}",
            )
        raise ConfigError(f"no run {run!r} in {_runs_dir()}", hint="ollama-bridge runs ls")
    if not is_run(folder):
        raise ArtifactError(f"{folder} is not a run: it has no events.jsonl")
    return folder
