"""Images and sounds that a text names by their paths, as people type and terminals paste them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.cli.output import say

# What Ollama's own command line sends (cmd/interactive.go, extractFileNames).
_SUFFIX = r"\.(?:png|jpg|jpeg|webp|wav)"
_AFTER = r"(?=[.,;:!?)]*(?:\s|$))"
_END = re.compile(f"{_SUFFIX}{_AFTER}", re.IGNORECASE)
_QUOTED = re.compile(rf"""(["'])([^\n]+?{_SUFFIX})\1{_AFTER}""", re.IGNORECASE)
_WORD = re.compile(r"(?<!\S)\S")
_NO_BLANKS = re.compile(r"(?:[^\s\\]|\\.)+")  # but for escaped ones
_IS_PATH = re.compile(r"(?:~[^/\s]*|\.{1,2})?/|[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class Named:
    """What a text names.

    Attributes:
        text: Without the paths of what is sent along.
        files: That are there.
        missing: What looks like a path of one, and is not there.
    """

    text: str
    files: tuple[Path, ...]
    missing: tuple[str, ...]


def images_in(text: str) -> Named:
    """Find the images whose paths a text names: quoted, with escaped blanks, or as they are.

    A path that begins like one may have blanks: the longest that is there is taken.
    """
    files: list[Path] = []
    missing: list[str] = []
    rest, place = "", 0
    for word in _WORD.finditer(text):
        if word.start() < place:
            continue
        names = list(_names(text, word.start()))
        for end, name in names:
            if (path := _file(name)) is not None:
                files.append(path)
                rest, place = rest + text[place : word.start()], end
                break
        else:
            if names and _IS_PATH.match(names[-1][1]):
                missing.append(names[-1][1])
    if files:
        text = re.sub(r"[ \t]{2,}", " ", rest + text[place:]).strip()
    return Named(text, tuple(files), tuple(missing))


def with_images(text: str) -> tuple[str, list[Path]]:
    """What is asked, and what is sent along; the user is told of it, and of what is not there."""
    named = images_in(text)
    for path in named.files:
        say(f"(with the {'sound' if path.suffix.lower() == '.wav' else 'image'} {path})")
    for name in named.missing:
        say(f"(no such image: {name})")
    return named.text, list(named.files)


def _names(text: str, begin: int) -> Iterator[tuple[int, str]]:
    """What may be the name of an image that begins there, and where it ends; the longest first."""
    quoted = _QUOTED.match(text, begin)
    if quoted is not None:
        yield quoted.end(), quoted[2]
        return
    line_end = text.find("\n", begin)
    line = text[begin : line_end if line_end >= 0 else len(text)]
    is_path = _IS_PATH.match(line)
    for end in reversed([found.end() for found in _END.finditer(line)]):
        if is_path or _NO_BLANKS.fullmatch(line[:end]):
            yield begin + end, line[:end]


def _file(name: str) -> Path | None:
    for one in (name, re.sub(r"\\(.)", r"\1", name)):
        try:
            path = Path(one).expanduser()
            if path.is_file():
                return path
        except (OSError, RuntimeError, ValueError):  # no name of a file, or of a user
            continue
    return None
