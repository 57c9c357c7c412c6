"""Which images a question names: however their paths are typed, or pasted by a terminal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.command_line import run_in_process
from fakes.daemon import FakeDaemon

from ollama_bridge.cli import images
from ollama_bridge.cli.images import Named, images_in

BLANK, PLAIN, SOUND, DEEP = "a b.png", "c.JPG", "d.wav", "e f/g (1) h.webp"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With some files, as the folder that one works in, and as one's home."""
    for name in (BLANK, PLAIN, SOUND, DEEP):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "rest", "names"),
    [
        ('What is "{}/a b.png"?', "What is ?", [BLANK]),
        ("'{}/a b.png' what?", "what?", [BLANK]),
        (r"What is {}/a\ b.png and {}/c.JPG?", "What is and ?", [BLANK, PLAIN]),
        ("{}/a b.png what?", "what?", [BLANK]),
        ("{}/a b.png or {}/c.JPG: a dog?", "or : a dog?", [BLANK, PLAIN]),
        ("In {}/e f/g (1) h.webp, please.", "In , please.", [DEEP]),
        ("./a b.png and ~/c.JPG", "and", [BLANK, PLAIN]),
        ("c.JPG and a\\ b.png", "and", [PLAIN, BLANK]),
        ("c.JPG, or b.png", ", or b.png", [PLAIN]),
        ("What is said in d.wav?", "What is said in ?", [SOUND]),
        ("first\n{}/c.JPG\nlast", "first\n\nlast", [PLAIN]),
        ("{}/c.JPG\n    if a:  # is in\n        b  {}/c.JPG", "    if a:  # is in\nb", [PLAIN] * 2),
    ],
)
def test_files_that_are_there_are_found(
    typed: str, rest: str, names: list[str], folder: Path
) -> None:
    """And their paths are no part of the question."""
    found = images_in(typed.replace("{}", str(folder)))
    assert found.text == rest
    assert [path.samefile(folder / name) for path, name in zip(found.files, names, strict=True)]
    assert not found.missing


@pytest.mark.parametrize(
    ("typed", "missing"),
    [
        ("/no where/x y.png what?", ["/no where/x y.png"]),
        ("'/no where/x.png' and ./y.jpg", ["/no where/x.png", "./y.jpg"]),
        ("~nobody/x.png", ["~nobody/x.png"]),
        ("~\x00/x.png", ["~\x00/x.png"]),
        (f"{'x' * 300}.png", []),
        ("none.png or https://example.org/a.png", []),
        ("/no/x.pngx", []),
        ("two  blanks", []),
    ],
)
def test_what_is_not_there_stays_in_the_text(typed: str, missing: list[str], folder: Path) -> None:
    """And is named, where it looks like a path."""
    assert images_in(typed) == Named(typed, (), tuple(missing))


def test_a_long_line_is_searched_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log, or JSON on one line: not for every word of it again, nor for every path all others."""
    searched: list[int] = []
    ends = images._END
    monkeypatch.setattr(
        images,
        "_END",
        SimpleNamespace(finditer=lambda text: [searched.append(len(text)), ends.finditer(text)][1]),
    )
    asked: list[Path] = []
    monkeypatch.setattr(images, "is_file", lambda path: [asked.append(path), path.is_file()][1])
    log = '{"at": "/no/where", "text": "word word"} ' * 500
    paths = "".join(f"/no/{number}.png " for number in range(200))
    found = images_in(f"{log}{paths}{log}{folder}/{BLANK}")
    assert [path.name for path in found.files] == [BLANK]
    assert len(found.missing) == 200
    assert sum(searched) == len(f"{log}{paths}{log}{folder}/{BLANK}")
    assert len(asked) < 3000


@pytest.mark.parametrize("capability", ["vision", "tools"])
def test_one_question_names_them_too(
    capability: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that can look at them; as ``ollama run`` has it, the shell's quotes are gone."""
    with FakeDaemon(models={"m:latest": "d" * 64}) as daemon:
        daemon.shown = {**daemon.shown, "capabilities": ["completion", capability]}
        words = ["run", "m", "What", "is", f"{folder}/a b.png", "--host", daemon.host]
        assert run_in_process(monkeypatch, words).code == 0
        ((message,),) = [asked["messages"] for asked in daemon.questions]
    assert message.get("images") == (["MQ=="] if capability == "vision" else None)
