"""``recipes`` and ``modelfiles``: what ships to be read, copied and edited."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ollama_bridge.assets import AssetGroup, find_asset, list_assets
from ollama_bridge.cli import completion, options, output
from ollama_bridge.errors import ConfigError

recipes_app = typer.Typer(help="Recipes that ship.", no_args_is_help=True)
modelfiles_app = typer.Typer(help="Templates of Modelfiles that ship.", no_args_is_help=True)

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
    """List the shipped recipes."""
    import yaml

    rows = []
    for name, path in list_assets("recipes").items():
        description = yaml.safe_load(path.read_text(encoding="utf-8")).get("description", "")
        rows.append({"NAME": name, "DESCRIPTION": " ".join(description.split())})
    output.table(rows, as_json=as_json)


@recipes_app.command("show")
def recipes_show(name: RecipeName) -> None:
    """Print a recipe."""
    output.data(find_asset("recipes", name).read_text(encoding="utf-8"))


@recipes_app.command("copy")
def recipes_copy(name: RecipeName, target: TargetArgument = Path()) -> None:
    """Copy a recipe, to edit it."""
    _copy("recipes", name, target)


@modelfiles_app.command("ls")
def modelfiles_ls(as_json: options.JSONOption = False) -> None:
    """List the shipped Modelfile templates."""
    rows = [{"NAME": name, "FILE": path.name} for name, path in list_assets("modelfiles").items()]
    output.table(rows, as_json=as_json)


@modelfiles_app.command("show")
def modelfiles_show(name: ModelfileName) -> None:
    """Print a Modelfile template."""
    output.data(find_asset("modelfiles", name).read_text(encoding="utf-8"))


@modelfiles_app.command("copy")
def modelfiles_copy(name: ModelfileName, target: TargetArgument = Path()) -> None:
    """Copy a Modelfile template, to edit it."""
    _copy("modelfiles", name, target)


def _copy(group: AssetGroup, name: str, target: Path) -> None:
    source = find_asset(group, name)
    file = target / source.name if target.is_dir() else target
    if file.exists():
        raise ConfigError(f"{file} exists; it was not overwritten", hint="name another target")
    if not file.parent.is_dir():
        raise ConfigError(f"{file.parent} is no folder", hint=f"mkdir -p {file.parent}")
    shutil.copyfile(source, file)
    output.data(str(file))
