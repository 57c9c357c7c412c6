"""A conversation with a real model: at the prompt, with values, beyond the context's length."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import psutil
import pytest
from fakes.private_daemon import PrivateDaemon
from fakes.terminal import run_command
from pydantic import BaseModel, Field

from ollama_bridge import compat
from ollama_bridge.client import Client, Conversation, Dropped, Session
from ollama_bridge.monitoring import Observer, observer

pytestmark = pytest.mark.live

TAG = "chat-test:1"
OPTIONS = {"num_thread": 1, "num_ctx": 512, "temperature": 0, "num_predict": 24}


def command(daemon: PrivateDaemon, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run_command(daemon.host, *args, stdin=stdin)


@pytest.fixture(scope="module", autouse=True)
def model(
    daemon: PrivateDaemon, teacher_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The real SmolLM2, by ``create -f``."""
    modelfile = tmp_path_factory.mktemp("modelfile") / "Modelfile"
    lines = [f"PARAMETER {name} {value}" for name, value in OPTIONS.items()]
    modelfile.write_text("\n".join([f"FROM {teacher_gguf}", *lines]))
    done = command(daemon, "create", TAG, "-f", str(modelfile))
    assert done.returncode == 0, done.stderr
    yield
    # A runner is the file's: left in memory, it would be listed under this name for other tests.
    for name in ("stop", "rm"):
        done = command(daemon, name, TAG)
        assert done.returncode == 0, done.stderr


def test_a_chat_from_a_pipe(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """Asked, asked again, saved as a model that has what was said, made anew of what that shows."""
    page, file = tmp_path / "chat.md", tmp_path / "chat.json"
    lines = [
        "What is the capital of France?",
        "/retry",
        f"/export {page}",
        f"/save {file}",
        "/save chat-test:mine",
        "/compare chat-test:mine",
        "Is it large?",
        "/timing",
    ]
    done = command(daemon, "chat", TAG, stdin="\n".join(lines))
    assert done.returncode == 0, done.stderr
    first, again, *rest = done.stdout.splitlines()
    assert "Paris" in first
    assert first == again
    assert rest[0] == f"--- {TAG}"
    assert "--- chat-test:mine" in rest
    assert "Paris" in page.read_text()
    assert json.loads(file.read_text())["turns"][0]["is_whole"] is True
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(command(daemon, "show", "chat-test:mine", "--modelfile").stdout)
    made = command(daemon, "create", "chat-test:anew", "-f", str(modelfile))
    assert made.returncode == 0, made.stderr
    with daemon.client() as client:
        mine, anew = (client.show(f"chat-test:{name}") for name in ("mine", "anew"))
        assert "Paris" in mine.modelfile
        assert mine.raw["messages"] == anew.raw["messages"]
        for name in ("mine", "anew"):
            client.delete(f"chat-test:{name}")


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def runners_of(daemon: PrivateDaemon) -> set[int]:
    """Ids of the processes in which a daemon has models loaded."""
    assert daemon.pid is not None
    return {child.pid for child in psutil.Process(daemon.pid).children(recursive=True)}


def test_ctrl_c_at_a_terminal_stops_the_answer_not_the_chat(daemon: PrivateDaemon) -> None:
    """Typed into a pseudo-terminal, as a person does it; the model is loaded before that, once."""
    assert command(daemon, "stop", TAG).returncode == 0
    until(lambda: not runners_of(daemon))
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"OLLAMA_HOST": daemon.host, "TERM": "xterm"}
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(
            sys.executable,
            [sys.executable, "-m", "ollama_bridge", "chat", TAG, "-p", "num_predict=400"],
        )
    screen = bytearray()
    termios.tcsetwinsize(terminal, (24, 80))

    def shows(text: bytes) -> Callable[[], bool]:
        def look() -> bool:
            while select.select([terminal], [], [], 0)[0]:
                try:
                    screen.extend(os.read(terminal, 65536))
                except OSError:  # it ended
                    break
            return text in screen

        return look

    try:
        until(shows(b">>>"))
        with Client(daemon.host) as client:
            until(lambda: any(one.is_called(TAG) for one in client.ps()))
        loaded = runners_of(daemon)
        os.write(terminal, b"Write a long story about a dog and a bone.\r")
        until(shows(b"Once upon"))
        assert runners_of(daemon) == loaded
        os.write(terminal, b"\x03")
        until(shows(b"(stopped)"))
        os.write(terminal, b"/bye\r")
        until(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
        child = 0
        assert screen.index(b"Once upon") < screen.index(b"(stopped)")
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)


class Verdict(BaseModel):
    """A feeling, how sure of it one is, and a word for it."""

    label: Literal["positive", "negative"]
    stars: int = Field(ge=1, le=5)
    word: str = Field(pattern=r"^[a-z]{1,12}$")


def test_an_answer_is_a_value(daemon: PrivateDaemon) -> None:
    """Whatever the model would say: the grammar holds, and what it cannot hold is checked."""
    with daemon.client() as client:
        parsed = client.parse(
            TAG,
            "Judge this review: 'The battery died after two days.' The word is lower case.",
            Verdict,
            options={"temperature": 0.8, "seed": 1, "num_predict": 80},
            attempts=8,
        )
    assert parsed.value.label in ("positive", "negative")
    assert 1 <= parsed.value.stars <= 5
    assert parsed.generated_tokens >= parsed.reply.generated_tokens > 0


def test_a_conversation_outgrows_its_context_and_says_so(daemon: PrivateDaemon) -> None:
    """The daemon refuses, the oldest turns go, and every reply is to a prompt that fitted."""
    question = "Repeat: " + "the river runs past the old stone mill, " * 12
    with Client(daemon.host) as client:
        session = Session(client, Conversation(TAG, options=OPTIONS, reserve_tokens=0))
        dropped = 0
        for _ in range(6):
            events = list(session.stream(question))
            dropped += sum(len(one.turns) for one in events if isinstance(one, Dropped))
        assert dropped == len(session.conversation.dropped) > 0
        assert dropped + len(session.conversation.turns) == 6
        roomy = Session(client, Conversation(TAG, options=OPTIONS, reserve_tokens=256))
        for _ in range(6):
            events = list(roomy.stream(question))
        assert len(roomy.conversation.dropped) > dropped


def test_speeds_are_a_machine_s(daemon: PrivateDaemon) -> None:
    """More tokens than none, and no more of one request than memory allows."""
    done = command(
        daemon,
        *("bench", TAG, "--requests", "2", "--concurrency", "1,2", "--tokens", "8"),
        *("--words", "16", "--json", "--quiet"),
    )
    assert done.returncode == 0, done.stderr
    (speed,) = json.loads(done.stdout)
    assert speed["load_s"] > 0
    for measured in speed["measured"]:
        assert 0 < measured["decode_rate"]["p50"] < speed["bound_rate"]
        assert measured["first_token_s"]["p50"] > 0
        assert measured["prompt_rate"]["p50"] > 0
        assert measured["throughput"] > 0


def test_what_the_document_shows_works(
    daemon: PrivateDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Python block of docs/asking.md, as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "asking.md").read_text(encoding="utf-8")
    monkeypatch.setenv("OLLAMA_HOST", daemon.host)
    compat._default.cache_clear()
    monkeypatch.chdir(tmp_path)
    template = (
        "{{ if .Tools }}{{ range .Tools }}{{ .Function.Name }} {{ end }}{{ end }}"
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n"
    )
    with daemon.client() as client:
        client.create({"model": "smollm2:135m", "from": TAG, "template": template})
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            code = compile(block, "docs/asking.md", "exec", dont_inherit=True)
            exec(code, {"__name__": "client_example"})
        client.delete("smollm2:135m")
    compat._default().close()  # as ollama-python's, it is open for as long as the program
    compat._default.cache_clear()
    assert (tmp_path / "chat.json").is_file()


def test_a_request_is_seen_while_it_runs(
    daemon: PrivateDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner of the model, busy, with tokens coming; that it ended unseen is told."""
    monkeypatch.setattr(observer, "_SLOTS_LIMIT_S", 30.0)  # of a machine that has other work
    with daemon.client() as client, Observer(daemon.host) as looking:
        story = client.stream(TAG, "Tell a long story.", options={"num_predict": 400})
        next(story)
        looking.look()
        for _ in range(20):
            next(story)
        seen = [one for one in looking.look().runners if one.model == TAG]
        story.close()  # type: ignore[attr-defined]
        ended = seen[0]
        while ended.busy:
            (ended,) = (one for one in looking.look().runners if one.model == TAG)
    assert [(one.busy, one.is_partial) for one in seen] == [(1, False)]
    assert seen[0].tokens > 0
    assert ended.is_partial
    assert ended.tokens_total >= seen[0].tokens_total
    assert seen[0].tokens_per_s > 0
    assert seen[0].stuck_s == 0


def test_requests_that_wait_are_counted(daemon: PrivateDaemon) -> None:
    """Three more than there are slots: these three have no word of an answer yet."""
    with daemon.client() as client, Observer(daemon.host) as looking:
        client.load(TAG)
        (runner,) = (one for one in looking.look().runners if one.model == TAG)
        assert runner.slots
        questions = [f"Tell long story {number}." for number in range(runner.slots + 3)]
        with ThreadPoolExecutor(len(questions)) as pool:
            answers = [
                pool.submit(client.generate, TAG, question, options={"num_predict": 40})
                for question in questions
            ]
            looks = []
            while not all(answer.done() for answer in answers):
                looks.append(looking.look())
        last = looking.look()
    queues = {
        (one.waiting, one.queued)
        for one in looks
        if sum(runner.busy for runner in one.runners) == runner.slots
    }
    assert (3, max(0, 3 - runner.slots)) in queues
    assert max(waiting for waiting, _ in queues if waiting is not None) <= len(questions)
    assert (last.waiting, last.queued) == (0, 0)
