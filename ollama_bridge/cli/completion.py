"""What a shell offers at Tab: what there is of ours (recipes, templates, runs, ...), and tags.

Completion must neither wait nor complain: without an answer at once it offers nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ollama_bridge.assets import home_dir, list_assets
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.quantization.file_types import FILE_TYPES

_PATIENCE_S = 0.5
_IN_OLLAMA = "ollama:"
# zsh evaluates the list that it is given, and typer's script for it escapes no backslash: a file
# called `\$(command).yaml` would run one.
_HARMLESS = re.compile(r"[\w./+:@%,=-]+")


def recipes(incomplete: str) -> list[str]:
    """Shipped recipes, and YAML files."""
    folder = incomplete[: incomplete.rfind("/") + 1]
    files = [f"{folder}{path.name}" for path in _listed(Path(folder)) if path.suffix == ".yaml"]
    return _offered([*list_assets("recipes"), *files], incomplete)


def shipped_recipes(incomplete: str) -> list[str]:
    """Shipped recipes alone."""
    return _offered(list_assets("recipes"), incomplete)


def modelfiles(incomplete: str) -> list[str]:
    """Shipped Modelfile templates."""
    return _offered(list_assets("modelfiles"), incomplete)


def file_types(incomplete: str) -> list[str]:
    """Types of GGUF files."""
    return _offered(FILE_TYPES, incomplete)


def runs(incomplete: str) -> list[str]:
    """Runs in our home folder."""
    from ollama_bridge.run_folder import is_note_alone

    folders = [path for path in _ours("runs") if path.is_dir() and not is_note_alone(path)]
    return _offered([path.name for path in folders], incomplete)


def labels(incomplete: str) -> list[str]:
    """Stores of soft labels in our home folder."""
    stores = [path for path in _ours("labels") if (path / "about.json").is_file()]
    return _offered([path.name for path in stores], incomplete)


def models(incomplete: str) -> list[str]:
    """Imported models in our home folder."""
    found = [path for path in _ours("models") if not path.name.startswith(".")]
    return _offered([path.name for path in found], incomplete)


def tags(incomplete: str) -> list[str]:
    """Tags of the daemon that OLLAMA_HOST names."""
    from ollama_bridge.client import Client, Timeouts

    limits = Timeouts(connect_s=_PATIENCE_S, between_tokens_s=_PATIENCE_S, total_s=_PATIENCE_S)
    try:
        with Client(timeouts=limits) as client:
            return _offered([model.name for model in client.list()], incomplete)
    except OllamaBridgeError:
        return []


def references(incomplete: str) -> list[str]:
    """Tags as model references; where none is offered, shells offer files."""
    kind, colon, tag = incomplete.partition(":")
    if colon:
        return [f"{_IN_OLLAMA}{name}" for name in tags(tag)] if kind == "ollama" else []
    # Fewer letters may begin a folder's name.
    begins = len(kind) >= 3 and _IN_OLLAMA.startswith(kind)
    return [f"{_IN_OLLAMA}{name}" for name in tags("")] if begins else []


def _ours(kind: str) -> list[Path]:
    try:
        return _listed(home_dir() / kind)
    except OllamaBridgeError:  # nobody's home
        return []


def _listed(folder: Path) -> list[Path]:
    """What is in a folder that may not be there, or be no name of one."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []


def _offered(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that begin like that."""
    return [name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name)]


@contextlib.contextmanager
def whole_words() -> Iterator[None]:
    """What bash asks, and is told: for it a colon ends a word, of a tag it is a part.

    So ``smollm2:1`` comes as three words, and only what is behind the last colon is taken.
    """
    asked = os.environ.get("COMP_WORDS", "")
    mended = re.sub(r"\s:(?:\s|$)", ":", asked)
    if os.environ.get("_OLLAMA_BRIDGE_COMPLETE") != "complete_bash" or mended == asked:
        yield
        return
    words = re.split(r"\s", mended)
    place = int(os.environ["COMP_CWORD"]) - (len(re.split(r"\s", asked)) - len(words))
    os.environ |= {"COMP_WORDS": mended, "COMP_CWORD": str(place)}
    typed, colon, _ = words[place].rpartition(":")
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            yield
    finally:
        for line in told.getvalue().splitlines():
            sys.stdout.write(line.removeprefix(typed + colon) + "\n")
