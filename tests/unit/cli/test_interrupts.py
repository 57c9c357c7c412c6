"""Ctrl-C in the middle of every command that takes long: a word, exit code 130, nothing half."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn
from fakes.terminal import (
    CTRL_C,
    Terminal,
    interrupt,
    run_command,
    start_command,
    wait_until_it_sleeps,
)
from fakes.trainable import tiny_base, tiny_corpus

from ollama_bridge import cli
from ollama_bridge.cli.chat.chat import talk
from ollama_bridge.cli.chat.repl import Repl


@dataclass
class StallingDaemon(FakeDaemon):
    """Falls silent before the end of one route's replies."""

    route: str = ""

    def turn(self, asked: Asked) -> Turn:
        return Turn(fault=Fault.STALL if asked.path == self.route else None)

    def is_asked(self) -> bool:
        return any(asked.path == self.route for asked in self.asked)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StallingDaemon]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Modelfile").write_text("FROM m\n")
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    with StallingDaemon(models={"m:latest": "d" * 64}) as found:
        yield found


@pytest.mark.parametrize(
    ("line", "route"),
    [
        ("pull m", "/api/pull"),
        ("push m", "/api/push"),
        ("create new -f Modelfile", "/api/create"),
        ("run m hi", "/api/chat"),
        ("run m hi --json", "/api/chat"),
        ("generate m hi", "/api/generate"),
        ("bench m --words 4 --picture speed.svg", "/api/chat"),
        ("batch in.jsonl out.jsonl --model m", "/api/generate"),
    ],
)
def test_ctrl_c_ends_a_command(line: str, route: str, daemon: StallingDaemon) -> None:
    """While the daemon works for it."""
    daemon.route = route
    interrupt(*line.split(), when=daemon.is_asked, OLLAMA_HOST=daemon.host)
    assert not Path("out.jsonl").exists()
    assert not Path("speed.svg").exists()


@pytest.mark.parametrize("line", ["pull m", "pull m --json", "batch in.jsonl out.jsonl --model m"])
def test_sigterm_ends_what_resumes_as_ctrl_c_does(line: str, daemon: StallingDaemon) -> None:
    """As `docker stop` and `timeout` send it."""
    daemon.route = "/api/pull" if line.startswith("pull") else "/api/generate"
    interrupt(*line.split(), when=daemon.is_asked, by=signal.SIGTERM, OLLAMA_HOST=daemon.host)
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "environment"),
    [("run m hi", {}), ("pull m", {"TORCHELASTIC_RUN_ID": "none"})],
)
def test_sigterm_ends_at_once(
    line: str, environment: dict[str, str], daemon: StallingDaemon
) -> None:
    """What keeps nothing; and what torchrun started, which may be deaf while it waits."""
    daemon.route = "/api/chat" if line.startswith("run") else "/api/pull"
    with start_command(*line.split(), OLLAMA_HOST=daemon.host, **environment) as process:
        while not daemon.is_asked():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_sigterm_in_a_training_leaves_what_resumes(tmp_path: Path) -> None:
    """The lock is let go of, and the state is there."""
    base, corpus = tiny_base(tmp_path / "base"), tiny_corpus(tmp_path / "corpus")
    line = ["finetune", "sentiment-quick", "--base", str(base.path), "--corpus", str(corpus.path)]
    line += ["--out", str(tmp_path / "tuned"), "--set", "teacher.tune.checkpoint_interval_s=1e-9"]
    line += ["--set", "teacher.tune.min_steps=100000"]
    interrupt(
        *line,
        when=lambda: any(tmp_path.glob(".*/resume.safetensors")),
        waits=False,
        by=signal.SIGTERM,
        OMP_NUM_THREADS="1",
    )
    assert any(tmp_path.glob(".*/resume.safetensors"))


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_of_several_processes_the_first_says_so(
    rank: str, times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun passes Ctrl-C on to all that it started."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(cli, "app", lambda **_: 130)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.count("interrupted") == times


def test_a_batch_goes_on_where_it_was_interrupted(daemon: StallingDaemon) -> None:
    """What was answered is not asked again."""
    daemon.route = "/api/generate"
    line = ("batch", "in.jsonl", "out.jsonl", "--model", "m")
    interrupt(*line, when=daemon.is_asked, OLLAMA_HOST=daemon.host)
    daemon.route = ""
    assert run_command(daemon.host, *line).returncode == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


def test_a_batch_that_ends_early_says_what_is_kept(daemon: StallingDaemon) -> None:
    """And that the same command goes on."""
    refusal = (404, "model 'm' not found")

    def turn(asked: Asked) -> Turn:
        is_last = asked.path == "/api/generate" and len(daemon.questions) > 1
        return Turn(refusal=refusal if is_last else None)

    daemon.turn = turn  # type: ignore[method-assign]
    line = ("batch", "in.jsonl", "out.jsonl", "--model", "m", "--concurrency", "1")
    found = run_command(daemon.host, *line)
    assert found.returncode == 3
    assert "1 of 2 questions are kept: the same command goes on from there\nerror" in found.stderr


def test_what_came_is_ended_by_its_line(daemon: StallingDaemon) -> None:
    """So that the word stands on a line of its own; programs are told in their language."""
    daemon.route = "/api/chat"
    for words, last in (((), "Hello"), (("--json",), "")):
        with start_command("run", "m", "hi", *words, OLLAMA_HOST=daemon.host) as process:
            assert process.stdout is not None
            seen = process.stdout.read(5) if not words else process.stdout.readline()
            wait_until_it_sleeps(process.pid)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, "interrupted\n")
        if not words:
            assert (seen + out)[:5] == last
            assert (seen + out).endswith("\n")
        else:
            assert json.loads(out.splitlines()[-1])["error"]["exit_code"] == 130


def test_ctrl_c_ends_a_chat_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody who would type on."""

    class Interrupted(Repl):
        def __init__(self) -> None:
            self.is_typed = True

        def do(self, text: str, *, is_literal: bool = False) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    with pytest.raises(KeyboardInterrupt):
        talk(Interrupted())


@pytest.mark.parametrize(
    ("typed", "said", "code"), [(CTRL_C, b"interrupted", 130), (b"n\r", b"not confirmed", 1)]
)
def test_a_question_may_be_left(tmp_path: Path, typed: bytes, said: bytes, code: int) -> None:
    """By Ctrl-C as any command; what was to be removed is there still."""
    log = tmp_path / "runs" / "mine" / "events.jsonl"
    log.parent.mkdir(parents=True)
    log.touch()
    with Terminal("runs", "rm", "mine", OLLAMA_BRIDGE_HOME=str(tmp_path)) as terminal:
        assert terminal.shows(b"[y/N]:")
        assert terminal.shows(said, after=typed)
        assert terminal.ends() == code
    assert log.exists()
