"""What ``create -f`` sends: every instruction of a Modelfile, and the files that it names.

As ``parser.CreateRequest`` of Ollama (v0.34.4) reads them; what it drops without a word is told.
"""

from __future__ import annotations

import codecs
import glob
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from ollama_bridge.cli import output
from ollama_bridge.errors import ModelfileError
from ollama_bridge.modelfile.grammar import Command, read_commands
from ollama_bridge.modelfile.value import modelfile_of
from ollama_bridge.models.paths import expand_home, is_dir, is_file

# Instructions that name files, and where the request has them.
_FILES = {"from": "files", "adapter": "adapters", "draft": "draft_files"}
_ELSEWHERE = (*_FILES, "license", "message", "requires")
_ROLES = ("system", "user", "assistant")
_VERSION = re.compile(r"v?(\d+(\.\d+){0,2}([-+][\w.+-]+)?)", re.ASCII)
# No tag is written so, but for one that ends in .gguf, which has a colon.
_IS_PATH = re.compile(r"([~/]|\.{1,2}/|[A-Za-z]:[\\/]).*|[^:]+\.gguf")


_NAMED = 5  # kinds of character in one warning
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_modelfile(path: Path, *, hint: str) -> str:
    """A Modelfile's text: UTF-8, or UTF-16 as PowerShell's ``>`` writes it. Ollama takes both.

    Raises:
        ModelfileError: it cannot be read, or is no text.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith(_UTF16) else "utf-8"
        return io.TextIOWrapper(io.BytesIO(content), encoding=encoding).read()
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is neither UTF-8 nor UTF-16"
        raise ModelfileError(f"{path} cannot be read: {reason}", hint=hint) from exc


def warn_of_dropped(text: str) -> None:
    """Tell which characters a Modelfile loses: as Ollama reads it, it is sent without them.

    Raises:
        ModelfileError: what Ollama would refuse.
    """
    for command in read_commands(text):
        lines = [line for line, _ in command.dropped]
        if not lines:
            continue
        where = f"line {lines[0]}" if lines[0] == lines[-1] else f"lines {lines[0]} to {lines[-1]}"
        counts = Counter(character for _, character in command.dropped)
        named = [
            f"{f'{count} x ' if count > 1 else ''}U+{ord(character):04X}"
            f" {unicodedata.name(character, '')}".rstrip()
            for character, count in counts.most_common(_NAMED)
        ]
        more = f" and {len(counts) - _NAMED} other kinds" if len(counts) > _NAMED else ""
        output.say(
            f"warning: {where}: {command.name.upper()} loses characters that Ollama does not take "
            f"from a Modelfile: {', '.join(named)}{more}"
        )


@dataclass(frozen=True)
class Creation:
    """A request for ``/api/create``, and its files by field of it and by name in it."""

    request: dict[str, Any]
    files: dict[str, dict[str, Path]] = field(default_factory=dict)


def read_creation(text: str, tag: str, folder: Path) -> Creation:
    """Read a Modelfile, whose paths begin in a folder.

    Raises:
        ModelfileError: what Ollama would refuse or drop, and paths where nothing is.
    """
    commands = read_commands(text)
    sources = [one for one in commands if one.name == "from"]
    rest = [one for one in commands if one.name not in _ELSEWHERE]
    request = modelfile_of([*sources[:1], *rest]).to_request(tag, blob_digest="")
    del request["files"]
    files = {
        place: _files([one for one in commands if one.name == name], folder)
        for name, place in _FILES.items()
    }
    tags = [one for one in sources if not _paths(one, folder)]
    if len(tags) + bool(files["files"]) > 1:
        raise ModelfileError(
            f"line {sources[1].line}: a second FROM; several are allowed only if all name files"
        )
    if tags:
        request["from"] = tags[0].value
    licenses = [one.value for one in commands if one.name == "license" and one.value]
    if licenses:
        request["license"] = licenses if licenses[1:] else licenses[0]
    messages = [_message(one) for one in commands if one.name == "message"]
    if messages:
        request["messages"] = messages
    for one in commands:
        if one.name == "requires":
            version = _VERSION.fullmatch(one.value)
            if version is None:
                raise ModelfileError(
                    f"line {one.line}: REQUIRES {one.value}: not a version of Ollama"
                )
            request["requires"] = version[1]
    return Creation(request, {place: named for place, named in files.items() if named})


def _message(command: Command) -> dict[str, str]:
    if command.argument not in _ROLES:
        raise ModelfileError(
            f"line {command.line}: MESSAGE {command.argument}: the role must be one of "
            f"{', '.join(_ROLES)}"
        )
    return {"role": command.argument, "content": command.value}


def _files(commands: Sequence[Command], folder: Path) -> dict[str, Path]:
    """Files by the names that the daemon is told, which are not read again."""
    paths = [path for one in commands for path in _paths(one, folder)]
    if len(paths) == 1:
        return {"model.gguf": paths[0]}
    names = [re.sub(r"[\\:]", "_", path.name) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number}/{name}" for number, name in enumerate(names)]
    return dict(zip(names, paths, strict=True))


def _paths(command: Command, folder: Path) -> list[Path]:
    """The files that an instruction names, by a path or a pattern; none: it names a tag.

    Raises:
        ModelfileError: it names a path, and there is no file.
    """
    path = folder / expand_home(command.value)
    what = f"line {command.line}: {command.name.upper()} {command.value}"
    is_path = command.name != "from" or _IS_PATH.fullmatch(command.value)
    if is_file(path):
        return [path]
    if is_dir(path) and (is_path or any(path.glob("*.safetensors"))):
        raise ModelfileError(
            f"{what}: this is a folder", hint=f"ollama-bridge package {quote(str(path))} TAG"
        )
    if set("*?[") & set(command.value):
        names = sorted(glob.glob(str(expand_home(command.value)), root_dir=folder))  # noqa: PTH207
        files = [folder / name for name in names if is_file(folder / name)]
        if files:
            return files
    if is_path:
        raise ModelfileError(f"{what}: there is no such file", hint=f"ls {quote(str(path.parent))}")
    return []
