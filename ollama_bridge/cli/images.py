"""Images and sounds that a text names by their paths, as people type and terminals paste them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.cli.output import say
from ollama_bridge.models.paths import expand_home, is_dir, is_file

# What Ollama's own command line sends (cmd/interactive.go, extractFileNames).
_SUFFIX = r"\.(?:png|jpg|jpeg|webp|wav)"
_END = re.compile(rf"""{_SUFFIX}(["']?)(?=[.,;:!?)]*(?:\s|$))""", re.IGNORECASE)
_WORD = re.compile(r"(?<!\S)\S")
_NO_BLANKS = re.compile(r"(?:[^\s\\]|\\.)+")  # but for escaped ones
_IS_PATH = re.compile(r"(?:~[^/\s]*|\.{1,2})?/|[A-Za-z]:[\\/]")
_LONGEST = 4096  # characters of a path; no system takes more

_Ends = dict[str, list[int]]  # of names, by the quotation mark behind them


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
    rest = "\n".join(_without_images(line, files, missing) for line in text.split("\n"))
    return Named(rest.strip("\n") if files else text, tuple(files), tuple(missing))


def with_images(text: str) -> tuple[str, list[Path]]:
    """What is asked, and what is sent along; the user is told of it, and of what is not there."""
    named = images_in(text)
    for path in named.files:
        say(f"(with the {'sound' if path.suffix.lower() == '.wav' else 'image'} {path})")
    for name in named.missing:
        say(f"(no such image: {name})")
    return named.text, list(named.files)


def _without_images(line: str, files: list[Path], missing: list[str]) -> str:
    """What is left of a line; what it names is put to the others.

    Lines may be long (a log, JSON): each is searched once, and no word for more than a path.
    """
    ends: _Ends = {"": [], "'": [], '"': []}
    for found in _END.finditer(line):
        ends[found[1]].append(found.start(1))
    if not any(ends.values()):
        return line
    rest, place = "", 0
    for word in _WORD.finditer(line):
        begin = word.start()
        if begin < place:
            continue
        first, there = None, None
        for end, name in _names(line, begin, ends):
            first = first or name
            if (path := _file(name)) is not None:
                there = (path, end)
            elif not _is_within_folder(name):  # nor is any that is longer
                break
        if there is not None:
            files.append(there[0])
            rest, place = rest + line[place:begin], there[1]
        elif first is not None and _IS_PATH.match(first):
            missing.append(first)
    if not place:
        return line
    return re.sub(r"[ \t]{2,}", " ", rest + line[place:]).strip()


def _names(line: str, begin: int, ends: _Ends) -> Iterator[tuple[int, str]]:
    """What may be the name of an image that begins there, and where it ends; the shortest first."""
    limit = begin + _LONGEST
    for end in _after(begin, limit, ends.get(line[begin], [])):  # a quotation mark, maybe
        yield end + 1, line[begin + 1 : end]
        return
    if not _IS_PATH.match(line, begin):
        no_blanks = _NO_BLANKS.match(line, begin, limit)
        limit = no_blanks.end() if no_blanks is not None else begin
    for end in _after(begin, limit, ends[""]):
        yield end, line[begin:end]


def _after(begin: int, limit: int, ends: list[int]) -> Iterator[int]:
    for place in range(bisect_right(ends, begin), len(ends)):
        if ends[place] > limit:
            return
        yield ends[place]


def _readings(name: str) -> tuple[Path, Path]:
    """As it is, and with what is escaped in it."""
    return expand_home(name), expand_home(re.sub(r"\\(.)", r"\1", name))


def _file(name: str) -> Path | None:
    return next((path for path in _readings(name) if is_file(path)), None)


def _is_within_folder(name: str) -> bool:
    return any(is_dir(path.parent) for path in _readings(name))
