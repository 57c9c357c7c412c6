"""Finds what ships with the package and is meant to be edited: recipes, prompts, Modelfiles.

In a checkout they are ``training/`` and ``modelfiles/``; in a wheel they lie in ``_assets/``
beside this file.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from ollama_bridge.errors import ConfigError, DiskFullError

AssetGroup = Literal["recipes", "prompts", "modelfiles"]

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = {
    "recipes": _PACKAGE.parent / "training" / "recipes",
    "prompts": _PACKAGE.parent / "training" / "prompts",
    "modelfiles": _PACKAGE.parent / "modelfiles",
}
_SUFFIX = {"recipes": ".yaml", "prompts": ".jsonl", "modelfiles": ".Modelfile.j2"}


def _asset_dir(group: AssetGroup) -> Path:
    """The folder of one group of assets.

    Raises:
        ConfigError: the installation is incomplete.
    """
    for folder in (_PACKAGE / "_assets" / group, _CHECKOUT[group]):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"the {group} that ship with ollama-bridge are missing from this installation",
        hint="pip install --force-reinstall ollama-bridge",
    )


def list_assets(group: AssetGroup) -> dict[str, Path]:
    """Names and files of one group, sorted by name."""
    suffix = _SUFFIX[group]
    files = _asset_dir(group).glob(f"*{suffix}")
    return dict(sorted((file.name.removesuffix(suffix), file) for file in files))


def find_asset(group: AssetGroup, name: str) -> Path:
    """A shipped asset by name, or a file of the user's by path.

    Raises:
        ConfigError: neither exists.
    """
    shipped = list_assets(group)
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    raise ConfigError(
        f"no {group.removesuffix('s')} {name!r}: no such file, and none of that name ships "
        f"(shipped: {', '.join(shipped) or 'none'})",
        hint=f"ollama-bridge {'modelfiles' if group == 'modelfiles' else 'recipes'} ls",
    )


def find_recipe(name: str) -> Path:
    """A shipped recipe by name, or a recipe file by path."""
    return find_asset("recipes", name)


def home_dir() -> Path:
    """Where runs, imported models and fetched packages are kept.

    ``$OLLAMA_BRIDGE_HOME``, else ``$XDG_DATA_HOME/ollama-bridge``, else
    ``~/.local/share/ollama-bridge``. Read at every call, never at import. A relative
    ``XDG_DATA_HOME`` is ignored, as its specification asks.

    Raises:
        ConfigError: the user, or whom its ``~NAME`` names, has no home.
    """
    explicit = named_dir("OLLAMA_BRIDGE_HOME")
    if explicit is not None:
        return explicit
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        base = data_home if data_home.is_absolute() else Path.home() / ".local" / "share"
    except RuntimeError as exc:
        raise ConfigError(
            f"there is no folder to keep results in: {exc}",
            hint="export OLLAMA_BRIDGE_HOME=/path/to/a/folder",
        ) from exc
    return base / "ollama-bridge"


def named_dir(variable: str) -> Path | None:
    """The folder that a variable of the environment names; None: it names none.

    Raises:
        ConfigError: whom its ``~NAME`` names has no home.
    """
    explicit = os.environ.get(variable)
    try:
        return Path(explicit).expanduser().absolute() if explicit else None
    except RuntimeError as exc:
        raise ConfigError(
            f"{variable}={explicit}: {exc}", hint=f"export {variable}=/path/to/a/folder"
        ) from exc


def disk_full(path: Path) -> DiskFullError:
    """The error for a place without room; in our home it is not ``--out`` that leads elsewhere."""
    with contextlib.suppress(ConfigError):
        home, place = home_dir(), path.absolute()
        daemons = named_dir("OLLAMA_BRIDGE_DAEMON_DIR") or home / "daemon"
        if place.is_relative_to(daemons) and not daemons.is_relative_to(home):
            return DiskFullError(path, elsewhere="export OLLAMA_BRIDGE_DAEMON_DIR=/a/larger/disk")
        # What lies in these is where it is by default, and `--out` moves it alone.
        by_default = any(place.is_relative_to(home / name) for name in ("runs", "downloads"))
        if place.is_relative_to(home) and not by_default:
            return DiskFullError(path, elsewhere="export OLLAMA_BRIDGE_HOME=/a/larger/disk")
    return DiskFullError(path)
