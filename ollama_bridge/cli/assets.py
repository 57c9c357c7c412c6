"""``recipes`` and ``modelfiles``: what ships to be read, copied and edited."""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from ollama_bridge.assets import AssetGroup, find_asset, list_assets
from ollama_bridge.cli import completion, options, output
from ollama_bridge.errors import ConfigError

recipes_app = typer.Typer(help="Shipped recipes.", no_args_is_help=True)
modelfiles_app = typer.Typer(help="Shipped Modelfile templates.", no_args_is_help=True)

_NAME_HELP = "Name, as `ls` prints it."
RecipeName = Annotated[
    str, typer.Argument(help=_NAME_HELP, autocompletion=completion.shipped_recipes)
]
ModelfileName = Annotated[
    str, typer.Argument(help=_NAME_HELP, autocompletion=completion.modelfiles)
]
TargetArgument = Annotated[Path, typer.Argument(help="File or folder to copy to.")]


@recipes_app.command("ls")
def recipes_ls(as_json: options.JSONOption = False) -> None:
    """List the shipped recipes.

    Examples:
      ollama-bridge recipes ls
    """
    import yaml

    rows = []
    for name, path in list_assets("recipes").items():
        description = yaml.safe_load(path.read_text(encoding="utf-8")).get("description", "")
        rows.append({"name": name, "description": " ".join(description.split())})
    _tell(rows, as_json=as_json)


@recipes_app.command("show")
def recipes_show(name: RecipeName, as_json: options.JSONOption = False) -> None:
    """Print a recipe.

    Examples:
      ollama-bridge recipes show sentiment
    """
    _show("recipes", name, as_json=as_json)


@recipes_app.command("copy")
def recipes_copy(
    name: RecipeName, target: TargetArgument = Path(), as_json: options.JSONOption = False
) -> None:
    """Copy a recipe, to edit it.

    Examples:
      ollama-bridge recipes copy sentiment mine.yaml
    """
    _copy("recipes", name, target, as_json=as_json)


@modelfiles_app.command("ls")
def modelfiles_ls(as_json: options.JSONOption = False) -> None:
    """List the shipped Modelfile templates.

    Examples:
      ollama-bridge modelfiles ls
    """
    rows = [{"name": name, "file": path.name} for name, path in list_assets("modelfiles").items()]
    _tell(rows, as_json=as_json)


@modelfiles_app.command("show")
def modelfiles_show(name: ModelfileName, as_json: options.JSONOption = False) -> None:
    """Print a Modelfile template.

    Examples:
      ollama-bridge modelfiles show chatml
    """
    _show("modelfiles", name, as_json=as_json)


@modelfiles_app.command("copy")
def modelfiles_copy(
    name: ModelfileName, target: TargetArgument = Path(), as_json: options.JSONOption = False
) -> None:
    """Copy a Modelfile template, to edit it.

    Examples:
      ollama-bridge modelfiles copy chatml mine.j2
    """
    _copy("modelfiles", name, target, as_json=as_json)


def _tell(rows: list[dict[str, str]], *, as_json: bool) -> None:
    table = [{name.upper(): value for name, value in row.items()} for row in rows]
    output.listing(rows, table, as_json=as_json)


def _show(group: AssetGroup, name: str, *, as_json: bool) -> None:
    text = find_asset(group, name).read_text(encoding="utf-8")
    output.either(text, {"name": name, "text": text}, as_json=as_json)


def _copy(group: AssetGroup, name: str, target: Path, *, as_json: bool) -> None:
    source = find_asset(group, name)
    file = target / source.name if target.is_dir() else target
    if file.exists():
        raise ConfigError(f"{file} exists; it was not overwritten", hint="name another target")
    if not file.parent.is_dir():
        raise ConfigError(
            f"{file.parent} is not a folder", hint=f"mkdir -p {quote(str(file.parent))}"
        )
    try:
        shutil.copyfile(source, file)
    except OSError as exc:
        raise ConfigError(f"{file} cannot be written: {exc.strerror}") from exc
    output.either(str(file), {"path": file}, as_json=as_json)
