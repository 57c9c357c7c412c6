"""What a Modelfile of a person's asks the daemon for: nothing of it is dropped without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.command_line import run_line

from ollama_bridge.cli.creating import read_creation, read_modelfile
from ollama_bridge.errors import ModelfileError
from ollama_bridge.storage.artifacts import Work
from ollama_bridge.storage.drafts import open_draft


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With GGUF files, some of one name; it is the user's home, too."""
    for name in ("m.gguf", "mmproj.gguf", "a.gguf", "sub/m.gguf", "two [x]/m-1.gguf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"GGUF")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_instruction_is_sent(folder: Path) -> None:
    """As the API has them: what a chat saved is made again of what ``show --modelfile`` prints."""
    text = (
        "FROM m\nREQUIRES v0.14.0\nLICENSE MIT\nLICENSE More.\nSYSTEM Be brief.\n"
        'MESSAGE user hi: there\nMESSAGE assistant """Hello!\nYou."""\nPARAMETER stop x\n'
    )
    made = read_creation(text, "new", folder)
    assert not made.files
    assert made.request == {
        "model": "new",
        "from": "m",
        "requires": "0.14.0",
        "license": ["MIT", "More."],
        "system": "Be brief.",
        "parameters": {"stop": ["x"]},
        "messages": [
            {"role": "user", "content": "hi: there"},
            {"role": "assistant", "content": "Hello!\nYou."},
        ],
    }


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("FROM m.gguf", {"files": {"model.gguf": "m.gguf"}}),
        ("FROM ~/m.gguf", {"files": {"model.gguf": "m.gguf"}}),
        (
            "FROM ./m.gguf\nFROM mmproj.gguf",
            {"files": {"m.gguf": "m.gguf", "mmproj.gguf": "mmproj.gguf"}},
        ),
        ("FROM m*.gguf", {"files": {"m.gguf": "m.gguf", "mmproj.gguf": "mmproj.gguf"}}),
        (
            "FROM m.gguf\nFROM sub/m.gguf",
            {"files": {"0/m.gguf": "m.gguf", "1/m.gguf": "sub/m.gguf"}},
        ),
        ("FROM ./[as]*", {"files": {"model.gguf": "a.gguf"}}),  # a folder is none of them
        ("FROM two [x]/m-1.gguf", {"files": {"model.gguf": "two [x]/m-1.gguf"}}),
        ("FROM m\nADAPTER ./a.gguf", {"adapters": {"model.gguf": "a.gguf"}}),
        ("FROM m\nDRAFT a.gguf", {"draft_files": {"model.gguf": "a.gguf"}}),
    ],
)
def test_files_are_looked_for_beside_the_modelfile(
    text: str, files: dict[str, dict[str, str]], folder: Path
) -> None:
    """Several for a model that sees; home folders and patterns as Ollama has them."""
    made = read_creation(text, "new", folder)
    expected = {
        place: {name: folder / path for name, path in named.items()}
        for place, named in files.items()
    }
    assert made.files == expected
    assert ("from" in made.request) == ("files" not in files)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SYSTEM x", "no FROM line"),
        ("FROM ./gone.gguf", "line 1: FROM ./gone.gguf: there is no such file"),
        ("FROM ~/gone.gguf", "there is no such file"),
        ("FROM gone.gguf", "there is no such file"),
        (f"FROM /{'x' * 300}", "there is no such file"),
        ("FROM ./sub", "line 1: FROM ./sub: this is a folder"),
        ("FROM m\nADAPTER gone", "line 2: ADAPTER gone: there is no such file"),
        ("FROM m\nFROM other", "line 2: a second FROM"),
        ("FROM m\nFROM m.gguf", "line 2: a second FROM"),
        ("FROM m\nREQUIRES banana", "line 2: REQUIRES banana: not a version"),
        ("FROM m\nMESSAGE tool hi", "line 2: MESSAGE tool: the role must be one of system, user"),
    ],
)
def test_what_ollama_would_refuse_or_drop_is_told(text: str, told: str, folder: Path) -> None:
    """With its line; a path is never taken for the name of a tag."""
    with pytest.raises(ModelfileError) as refused:
        read_creation(text, "new", folder)
    assert told in refused.value.message


def test_a_tag_may_be_named_like_a_file(folder: Path) -> None:
    """Those of some registries end so; a folder may have its name."""
    for tag in ("hf.co/team/m-GGUF:m.gguf", "sub"):
        assert read_creation(f"FROM {tag}", "new", folder).request["from"] == tag


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_modelfile_as_editors_and_shells_write_it(tmp_path: Path, encoding: str) -> None:
    """PowerShell writes UTF-16 with a mark and other line ends, which Ollama takes as well."""
    text = "FROM m\r\nSYSTEM Grüße.\r\n"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "Modelfile").write_bytes((mark + text).encode(encoding))
    read = read_modelfile(tmp_path / "Modelfile", hint="")
    assert read_creation(read, "new", tmp_path).request["system"] == "Grüße."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("SYSTEM Grüße".encode("latin-1"), "it is neither UTF-8 nor UTF-16"),
        (b"\xff\xfeF", "it is neither UTF-8 nor UTF-16"),
        (None, "No such file"),
    ],
)
def test_a_modelfile_that_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    """One error of `register` as of `create`, before a daemon is asked for anything."""
    with open_draft(tmp_path / "gguf", Work(kind="gguf", stage="convert", version=1)) as draft:
        (draft.path / "model.gguf").write_bytes(b"GGUF")
        draft.commit()
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("Modelfile").write_bytes(content)
    for line in ("register ./gguf new --modelfile Modelfile --out out", "create new -f Modelfile"):
        done = run_line(monkeypatch, f"ollama-bridge {line}")
        assert done.code == 2
        assert f"Modelfile cannot be read: {reason}" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line", ["register ./gguf new --modelfile M --out out", "create new -f M --quiet"]
)
def test_characters_that_ollama_drops_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    """Nobody sees them, so that nobody would miss them; before a daemon is asked for anything."""
    with open_draft(tmp_path / "gguf", Work(kind="gguf", stage="convert", version=1)) as draft:
        (draft.path / "model.gguf").write_bytes(b"GGUF")
        draft.commit()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:1/nothing")  # none is started there
    text = 'FROM m\nSYSTEM """a\u00a0b\u200dc\u00a0\nd\x07"""\nLICENSE \ufeffMIT\nTEMPLATE x\n'
    Path("M").write_text(text, encoding="utf-8")
    told = run_line(monkeypatch, f"ollama-bridge {line}").stderr.splitlines()
    loses = "loses characters that Ollama does not take from a Modelfile"
    assert [row for row in told if row.startswith("warning")] == [
        f"warning: lines 2 to 3: SYSTEM {loses}: 2 x U+00A0 NO-BREAK SPACE, "
        "U+200D ZERO WIDTH JOINER, U+0007",
        f"warning: line 4: LICENSE {loses}: U+FEFF ZERO WIDTH NO-BREAK SPACE",
    ]


@pytest.mark.parametrize("flag", ["--force", "--draft-quantize int4"])
def test_flags_of_an_import_of_ollama_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: str
) -> None:
    """They were unknown options; of a Modelfile `ollama create` refuses them, too."""
    monkeypatch.chdir(tmp_path)
    done = run_line(monkeypatch, f"ollama-bridge create new {flag} -f Modelfile")
    assert done.code == 2
    assert f"{flag.split()[0]} is for a folder of safetensors" in done.stderr
    assert "ollama-bridge package FOLDER new" in done.stderr
