"""What shells are offered at Tab, asked the way they ask."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon, Fault
from fakes.terminal import Screen

from ollama_bridge.cli import completion

COMMAND = Path(sys.executable).parent / "ollama-bridge"
MODELS = {"tiny:135m": "d" * 64, "tiny:latest": "d" * 64, "big:7b": "e" * 64}


def offered(words: str, *, cwd: Path, host: str | None = None) -> list[str]:
    """The completions of a line whose last word is being typed."""
    done = subprocess.run(
        [COMMAND],
        cwd=cwd,
        env={
            **os.environ,
            "_OLLAMA_BRIDGE_COMPLETE": "complete_bash",
            "COMP_WORDS": f"ollama-bridge {words}",
            "COMP_CWORD": str(len(words.split(" "))),
            **({"OLLAMA_HOST": host} if host else {}),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("buil", ["build"]),
        ("build sent", ["sentiment", "sentiment-quick"]),
        ("build mi", ["mine.yaml"]),
        ("recipes show rep", ["reply"]),
        ("modelfiles copy chat", ["chatml"]),
        ("runs show my", ["my-run"]),
        ("labels rm 01", ["0123456789abcdef"]),
        ("models rm g", ["gguf-0123"]),
        ("convert --ty", ["--type"]),
    ],
)
def test_names_are_offered(
    words: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands, options, recipes, the user's own recipe files, templates and runs."""
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "home" / "runs" / "my-run").mkdir(parents=True)
    store = tmp_path / "home" / "labels" / "0123456789abcdef"
    store.mkdir(parents=True)
    (store / "about.json").touch()
    for name in ("gguf-0123", ".gguf-0123.draft"):
        (tmp_path / "home" / "models" / name).mkdir(parents=True)
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(tmp_path / "home"))
    assert offered(words, cwd=tmp_path) == expected


def test_paths_may_be_typed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they name is offered, and nothing where it cannot be looked at; patterns are none."""
    for name in ("a/mine.yaml", "a/[x].yaml", "a/mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert completion.recipes(f"{tmp_path}/a/m") == [f"{tmp_path}/a/mine.yaml"]
    assert completion.recipes("a/") == ["a/mine.yaml"]
    assert completion.recipes("../none/") == completion.recipes("a/[m") == []
    assert completion.runs(f"{tmp_path}/") == completion.labels("/") == completion.runs("**") == []
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", "~unheard-of/x")
    assert completion.runs("") == completion.labels("") == []


def test_names_that_a_shell_could_run_are_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """zsh evaluates what it is offered; a repository or a daemon may hold any name."""
    hostile = ["\\$(id)", "`id`", "a b", "a'b", "a;b", "a\\"]
    for name in (*hostile, "mine"):
        (tmp_path / f"{name}.yaml").touch()
        (tmp_path / "home" / "runs" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(tmp_path / "home"))
    with FakeDaemon(models=dict.fromkeys([*hostile, "team/m:1b"], "d" * 64)) as daemon:
        monkeypatch.setenv("OLLAMA_HOST", daemon.host)
        assert completion.tags("") == ["team/m:1b"]
    assert completion.runs("") == ["mine"]
    assert [name for name in completion.recipes("") if "." in name] == ["mine.yaml"]


def completing(name: str, shell: str, host: str) -> tuple[dict[str, str], bytes]:
    """What a shell runs with, and what ``--show-completion`` prints for it."""
    environment = {**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    environment |= {"OLLAMA_HOST": host, "TERM": "dumb", "SHELL": shell}
    # Whatever shell runs the tests.
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    script = subprocess.run(
        [COMMAND, "--show-completion", name], env=environment, capture_output=True, check=True
    )
    return environment, script.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "before"),
    [
        ("bash", ["--noprofile", "--rcfile", ".zshrc", "-i"], b""),
        ("zsh", ["-i"], b"autoload -Uz compinit\ncompinit -u -D\n"),
    ],
)
def test_a_person_s_tab(name: str, arguments: list[str], before: bytes, tmp_path: Path) -> None:
    """In an interactive shell that has what ``--show-completion`` prints; a colon is no end."""
    if (shell := shutil.which(name)) is None:
        pytest.skip(f"there is no {name}")
    with FakeDaemon(models=MODELS) as daemon:
        environment, script = completing(name, shell, daemon.host)
        (tmp_path / ".zshrc").write_bytes(before + script + b"\nPS1='ready> '\n")
        environment["ZDOTDIR"] = str(tmp_path)
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(tmp_path)
            os.execve(shell, [shell, *arguments], environment)
        termios.tcsetwinsize(terminal, (24, 200))
        try:
            screen = Screen(terminal)
            assert screen.shows(b"ready> ")
            for typed, shown in (
                (b"run ti\t", b"run tiny:"),
                (b"chat big:7b --compare tiny:1\t", b"big:7b --compare tiny:135m "),
                (b"package x y --base ollama:tiny:1\t", b"--base ollama:tiny:135m "),
                (b"recipes show sentiment-\t", b"sentiment-quick "),
            ):
                os.write(terminal, b"ollama-bridge " + typed)
                assert screen.shows(shown), typed
                os.write(terminal, b"\x15")  # Ctrl-U: the line is empty again
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(terminal)


def test_fish_offers_the_same(tmp_path: Path) -> None:
    """Asked for its completions of a line, with what ``--show-completion`` prints."""
    if (fish := shutil.which("fish")) is None:
        pytest.skip("there is no fish")
    with FakeDaemon(models=MODELS) as daemon:
        environment, script = completing("fish", fish, daemon.host)
        asked = "".join(
            f"complete -C 'ollama-bridge {line}'\n"
            for line in ("chat big:7b --compare tiny:1", "recipes show sentiment-")
        )
        (tmp_path / "asked.fish").write_bytes(script + b"\n" + asked.encode())
        environment |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        done = subprocess.run(
            [fish, "asked.fish"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout.split() == ["tiny:135m", "sentiment-quick"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("ollama:ti", ["ollama:tiny:135m", "ollama:tiny:latest"]),
        ("oll", ["ollama:tiny:135m", "ollama:tiny:latest", "ollama:big:7b"]),
        ("o", []),
        ("./ti", []),
        ("hf:ti", []),
    ],
)
def test_tags_are_models_too(
    typed: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As references; folders and files are the shell's to offer."""
    with FakeDaemon(models=MODELS) as daemon:
        monkeypatch.setenv("OLLAMA_HOST", daemon.host)
        assert completion.references(typed) == expected


def test_tags_come_from_the_daemon(tmp_path: Path) -> None:
    """The daemon is asked; without one, or with one that is silent, nothing is offered, soon."""
    with FakeDaemon(models={"tiny:latest": "d" * 64, "big:7b": "e" * 64}) as daemon:
        assert offered("run ti", cwd=tmp_path, host=daemon.host) == ["tiny:latest"]
    with FakeDaemon(fault=Fault.SILENT) as daemon:
        assert offered("run ti", cwd=tmp_path, host=daemon.host) == []
    assert offered("show ti", cwd=tmp_path) == []
