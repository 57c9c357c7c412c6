"""Commands that a user of ``ollama`` types without thinking, against a fake daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon
from fakes.terminal import run_command

from ollama_bridge.artifacts import digest_file
from ollama_bridge.cli import ask


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(models={"m:latest": "d" * 64}) as found:
        found.statuses = [{"status": "success"}]
        yield found


def command(daemon: FakeDaemon, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run_command(daemon.host, *args, stdin=stdin)


def test_run_with_the_flags_of_ollama(daemon: FakeDaemon) -> None:
    """Words need no quotes; piped text goes in front."""
    daemon.thinking = ["Hm."]
    done = command(
        daemon,
        *("run", "m", "--verbose", "--hidethinking", "--format", "json", "--think", "true"),
        *("--keepalive", "10", "--nowordwrap", "-p", "temperature=0", "--system", "Be brief."),
        *("Answer", "this:"),
        stdin="Dear Sirs,\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Hello!\n"
    assert "7 + 3 tokens" in done.stderr
    assert "Hm." not in done.stderr
    (asked,) = daemon.questions
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Dear Sirs,\nAnswer this:"},
    ]
    assert (asked["format"], asked["think"], asked["keep_alive"]) == ("json", True, 10)
    assert asked["options"]["temperature"] == 0


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is a prompt; it is said."""
    monkeypatch.setattr(ask, "_STDIN_WAITS_S", (0.01, 0.02))
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert ask.whole_prompt("hi", tag="m") == "hi"
        told = capsys.readouterr().err
        assert "(waiting for what is piped in)" in told
        assert "nothing was piped in" in told
        os.write(writer, b"Dear Sirs,\n")
        os.close(writer)
        assert ask.whole_prompt("hi", tag="m") == "Dear Sirs,\nhi"


def test_generate_gives_the_whole_reply_as_json(daemon: FakeDaemon) -> None:
    """Flat, with times in seconds."""
    done = command(daemon, "generate", "m", "--json", "--raw", stdin="once")
    reply = json.loads(done.stdout)
    assert (reply["text"], reply["total_s"], reply["prompt_tokens"]) == ("Hello!", 4.0, 7)
    assert daemon.questions[0]["raw"] is True
    assert "logprobs" not in reply


def test_lines_of_a_pipe_are_a_chat(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Commands too; the exit code is that of a chat."""
    page = tmp_path / "chat.md"
    done = command(daemon, "chat", "m", stdin=f"hi\nand?\n/export {page}\n/bye\nnever\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Hello!\nHello!\n"
    assert page.read_text().count("**You:**") == 2


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("run", "m", "--think", "hard", "hi"), 2, "--think hard"),
        (("run", "m", "--format", "none.json", "hi"), 2, "none.json"),
        (("run", "m", "-p", "temperature", "hi"), 2, "write it as name=value"),
        (("run", "m"), 2, "no prompt"),
        (("chat", "unknown"), 3, "unknown"),
        (("create", "new", "-f", "none"), 2, "none cannot be read"),
        (("rm", "unknown"), 3, "unknown"),
        (("stop", "unknown"), 3, "unknown"),
        (("cp", "unknown", "b"), 3, "unknown"),
    ],
)
def test_bad_input_is_one_clear_error(
    daemon: FakeDaemon, args: tuple[str, ...], code: int, words: str
) -> None:
    """With its exit code."""
    done = command(daemon, *args)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


def test_tags_are_listed_copied_removed(daemon: FakeDaemon) -> None:
    """As ``ollama`` does it."""
    assert command(daemon, "cp", "m", "team/m:1").returncode == 0
    assert "team/m:1" in command(daemon, "ls").stdout
    assert json.loads(command(daemon, "ps", "--json").stdout)[0]["name"] == "m:latest"
    assert command(daemon, "rm", "team/m:1").returncode == 0
    assert list(daemon.models) == ["m:latest"]
    assert command(daemon, "stop", "m").returncode == 0
    assert daemon.asked[-1].json["keep_alive"] == 0
    assert command(daemon, "push", "m").stdout == "m\n"
    assert daemon.asked[-1].path == "/api/push"


def test_a_name_alone_is_pulled_by_the_daemon(daemon: FakeDaemon) -> None:
    """And gets its second name."""
    done = command(daemon, "pull", "m", "--as", "mine", "--no-verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine:latest: sha256:ddd")
    assert "/api/pull" in [asked.path for asked in daemon.asked]


def test_create_sends_the_file_or_names_the_model(daemon: FakeDaemon, tmp_path: Path) -> None:
    """What FROM names is looked for beside the Modelfile."""
    gguf, modelfile = tmp_path / "m.gguf", tmp_path / "Modelfile"
    gguf.write_bytes(b"GGUF")
    modelfile.write_text("FROM ./m.gguf\nPARAMETER temperature 0.5\n")
    done = command(daemon, "create", "new", "-f", str(modelfile))
    assert done.returncode == 0, done.stderr
    digest = f"sha256:{digest_file(gguf)}"
    assert daemon.blobs[digest] == b"GGUF"
    assert daemon.asked[-1].json["files"] == {"model.gguf": digest}
    modelfile.write_text("FROM m\nSYSTEM Be brief.\n")
    assert command(daemon, "create", "new", "-f", str(modelfile)).returncode == 0
    assert daemon.asked[-1].json == {
        "model": "new",
        "from": "m",
        "system": "Be brief.",
        "stream": True,
    }


def test_texts_become_lines_of_numbers(daemon: FakeDaemon) -> None:
    """Given as arguments or as lines; a text that is too long is an error, or cut and told."""
    daemon.context_length = 2
    done = command(daemon, "embed", "m", "one", "two words")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[1.0, 1.0], [2.0, 1.0]]
    long = command(daemon, "embed", "m", stdin="one\n\nof three words\n")
    assert (long.returncode, long.stdout) == (3, "")
    cut = command(daemon, "embed", "m", "--truncate", stdin="one\n\nof three words\n")
    assert len(cut.stdout.splitlines()) == 2
    assert "(text 2 was cut" in cut.stderr
