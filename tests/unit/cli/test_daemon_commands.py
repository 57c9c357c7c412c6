"""Commands that a user of ``ollama`` types without thinking, against a fake daemon."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from fakes.command_line import Done, run_in_process
from fakes.daemon import Asked, FakeDaemon, Turn
from fakes.terminal import Screen, run_command

from ollama_bridge.cli import piped
from ollama_bridge.cli.connecting import load_ahead
from ollama_bridge.client import Client, Conversation
from ollama_bridge.digests import digest_file


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(models={"m:latest": "d" * 64}) as found:
        found.statuses = [{"status": "success"}]
        yield found


def command(daemon: FakeDaemon, *args: str, stdin: str = "") -> Done:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_HOST", daemon.host)
        return run_in_process(patch, list(args), stdin)


def test_run_with_the_flags_of_ollama(daemon: FakeDaemon) -> None:
    """Words need no quotes; piped text goes in front."""
    daemon.thinking = ["Hm."]
    done = run_command(
        daemon.host,
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


@pytest.mark.parametrize(
    ("words", "think", "prompt"),
    [
        (("--think", "hi"), True, "hi"),
        (("hi", "--think"), True, "hi"),
        (("--think", "high", "hi"), "high", "hi"),
        (("--think=false", "hi"), False, "hi"),
        (("--", "hi", "--think"), None, "hi --think"),
    ],
)
def test_think_may_stand_alone(
    daemon: FakeDaemon, words: tuple[str, ...], think: object, prompt: str
) -> None:
    """Then it is no word of the prompt that it takes."""
    assert command(daemon, "run", "m", *words).code == 0
    (asked,) = daemon.questions
    assert (asked.get("think"), asked["messages"][0]["content"]) == (think, prompt)


@pytest.mark.parametrize(
    ("words", "think", "told"),
    [
        (("run", "m", "--think=xhigh", "hi"), "xhigh", ""),
        (("run", "m", "--think=true", "xhigh", "hi"), True, ""),
        (("run", "m", "--think", "xhigh hi"), True, ""),
        (("run", "m", "--think", "xhigh", "hi"), None, "write --think=xhigh, or --think=true"),
        (("generate", "m", "--think", "xhigh"), None, "write --think=xhigh, or --think=true"),
        (("run", "m", "--think", "high", "hi"), None, "think with one of its levels: low, xhigh"),
        (("run", "m", "--think=hard", "hi"), None, "think with one of its levels: low, xhigh"),
        (("show", "m"), None, "low, xhigh"),
    ],
)
def test_a_model_s_own_levels_of_thinking(
    daemon: FakeDaemon,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    think: object,
    told: str,
) -> None:
    """The one that an error names can be typed, and none is asked as a word of the prompt."""
    levels = {"values": [False, "low", "xhigh"], "default": "xhigh"}
    daemon.shown = {**daemon.shown, "thinking": levels}
    done = run_in_process(monkeypatch, [*words, "--host", daemon.host])
    assert told in done.stdout + done.stderr
    assert [asked["think"] for asked in daemon.questions] == ([think] if think else [])


def test_the_limit_of_a_tag_is_kept(daemon: FakeDaemon) -> None:
    """Unless another is asked for."""
    daemon.shown = {**daemon.shown, "parameters": "num_predict                    24\nstop x"}
    for words in (("run", "m", "hi"), ("generate", "m", "hi"), ("run", "m", "-p", "num_predict=5")):
        assert command(daemon, *words, stdin="hi").code == 0
    limits = [asked["options"]["num_predict"] for asked in daemon.questions]
    assert limits == [24, 24, 5]


def test_run_pulls_what_is_not_there(daemon: FakeDaemon) -> None:
    """As ``ollama run`` does; what cannot be pulled is not there."""
    pulling = FakeDaemon(models={})

    def answer(asked: Asked) -> Turn:
        if asked.path == "/api/pull":
            pulling.models["new:latest"] = "d" * 64
        return Turn()

    pulling.turn = answer  # type: ignore[method-assign]
    with pulling:
        done = command(pulling, "run", "new", "--insecure", "hi")
        (pulled,) = [asked.json for asked in pulling.asked if asked.path == "/api/pull"]
    assert (done.code, done.stdout) == (0, "Hello!\n")
    assert "(new is not here yet: it is being pulled)" in done.stderr
    assert pulled["insecure"] is True
    daemon.statuses = [{"status": "pulling manifest"}, {"error": "no such host"}]
    done = command(daemon, "run", "gone", "hi")
    assert done.code == 3
    assert "has no model 'gone', and cannot pull it" in done.stderr


def test_run_of_a_model_that_embeds_prints_the_vector(daemon: FakeDaemon) -> None:
    """As ``ollama run`` does."""
    daemon.shown = {**daemon.shown, "capabilities": ["embedding"]}
    assert command(daemon, "run", "m", "two", "words").stdout == "[2.0, 1.0]\n"
    document = json.loads(command(daemon, "embed", "m", "one", "two words", "--json").stdout)
    assert (document["vectors"], document["prompt_tokens"]) == ([[1.0, 1.0], [2.0, 1.0]], 3)


@pytest.mark.parametrize(
    ("kind", "words", "named"),
    [
        ("embedding", ("--system", ""), "--system"),
        ("embedding", ("--image", "cat.png", "--verbose"), "--image, --verbose"),
        ("embedding", ("--think",), "--think"),
        ("embedding", ("--think=low", "--format", "json"), "--think, --format"),
        ("completion", ("--truncate",), "--truncate"),
        ("completion", ("--truncate", "--dimensions", "0"), "--truncate, --dimensions"),
    ],
)
def test_run_refuses_what_its_kind_of_model_would_drop(
    daemon: FakeDaemon,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    words: tuple[str, ...],
    named: str,
) -> None:
    """Before anything is asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    daemon.shown = {**daemon.shown, "capabilities": [kind]}
    done = run_in_process(monkeypatch, ["run", "m", *words, "--host", daemon.host, "--", "hi"])
    assert (done.code, done.stdout) == (2, "")
    assert f": {named} would have no effect\n" in done.stderr
    assert done.stderr.endswith(f"fix:   leave out {named}: ollama-bridge run m ...\n")
    assert not {asked.path for asked in daemon.asked} & {"/api/embed", "/api/chat"}


@pytest.mark.parametrize(
    ("kind", "words", "shown"),
    [
        ("embedding", ("--think=false", "--hide-thinking", "--no-markdown"), "[1.0, 1.0]\n"),
        ("embedding", ("--nowordwrap", "--verbose=false", "--truncate"), "[1.0, 1.0]\n"),
        ("completion", ("--truncate=false", "--system", "", "--verbose"), "Hello!\n"),
    ],
)
def test_run_takes_what_is_as_it_was_asked_or_was_not_given(
    daemon: FakeDaemon,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    words: tuple[str, ...],
    shown: str,
) -> None:
    """A vector has no thinking and no Markdown; what is off is the default."""
    daemon.shown = {**daemon.shown, "capabilities": [kind]}
    done = run_in_process(monkeypatch, ["run", "m", *words, "--host", daemon.host, "--", "hi"])
    assert (done.code, done.stdout) == (0, shown), done.stderr


def test_answers_are_events_for_programs(daemon: FakeDaemon) -> None:
    """Each a line; of a chat the errors, too, and what was shown."""
    daemon.thinking = ["Hm."]
    done = command(daemon, "run", "m", "hi", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["thinking", "text", "text", "text", "done"]
    assert (lines[-1]["text"], lines[-1]["prompt_tokens"], done.stderr) == ("Hello!", 7, "")
    talk = command(daemon, "chat", "m", "--json", stdin="hi\n/show system\n/list\n/nonsense\n")
    lines = [json.loads(line) for line in talk.stdout.splitlines()]
    assert [line.get("event") for line in lines[-4:]] == ["done", "shown", "listed", None]
    assert lines[-1]["error"]["message"] == "no command /nonsense"
    assert talk.code == lines[-1]["error"]["exit_code"] == 2


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_pipe_is_no_terminal(
    daemon: FakeDaemon, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a CI sets for colours: no spinner, no cursor, no Markdown."""
    monkeypatch.setenv(variable, "1")
    daemon.pieces = ["**Hel", "lo**!"]
    assert run_in_process(monkeypatch, ["run", "m", "hi", "--host", daemon.host]).stdout == (
        "**Hello**!\n"
    )
    words = ["monitor", "--host", daemon.host, "--count", "1", "--interval", "0.1"]
    assert "\x1b" not in run_in_process(monkeypatch, words).stdout


@pytest.mark.parametrize(
    ("words", "cut"),
    [((), None), (("--truncate=false",), None), (("--truncate=true",), 1), (("--truncate",), 1)],
)
def test_what_is_on_or_off_may_be_said(
    daemon: FakeDaemon, words: tuple[str, ...], cut: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``=false`` as ``ollama`` writes it; behind ``--`` it is a word of the prompt."""
    daemon.context_length = 4
    daemon.shown = {**daemon.shown, "capabilities": ["embedding"]}
    monkeypatch.setenv("OLLAMA_HOST", daemon.host)
    tail = ["m", "--", "one", "of", "five", "words", "--truncate=false"]
    done = run_in_process(monkeypatch, ["run", *words, *tail])
    assert (done.code, "was cut" in done.stderr) == ((3, False) if cut is None else (0, True))


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--modelfile", "FROM x\n"),
        ("--parameters", "stop x\n"),
        ("--system", "Be brief.\n"),
        ("--template", "{{ .Prompt }}\n"),
        ("--license", "MIT\n"),
    ],
)
def test_show_has_the_flags_of_ollama(daemon: FakeDaemon, flag: str, text: str) -> None:
    """One thing alone, to be written into a file."""
    more = {"system": "Be brief.", "template": "{{ .Prompt }}", "license": "MIT"}
    daemon.shown = {**daemon.shown, **more}
    assert command(daemon, "show", "m", flag).stdout == text
    told = json.loads(command(daemon, "show", "m", flag, "--json").stdout)
    assert told == {flag.removeprefix("--"): text.removesuffix("\n")}


def test_names_of_ollama_are_known(daemon: FakeDaemon) -> None:
    """``list``, what is in a file, and two things at once, which are one too many."""
    daemon.shown = {**daemon.shown, "model_info": {"a.ids": [1, 2, 3, 4], "a.size": 5}}
    assert command(daemon, "list").stdout == command(daemon, "ls").stdout
    assert "a.ids   1, 2, 3, ... (4)\na.size  5\n" in command(daemon, "show", "-v", "m").stdout
    assert command(daemon, "show", "m", "--system", "--license").code == 2
    daemon.shown = {
        **daemon.shown,
        "details": {"parameter_size": "7B", "quantization_level": "Q4_0"},
        "model_info": {"general.architecture": "a", "a.context_length": 8},
    }
    told = command(daemon, "show", "m").stdout
    for name, value in (("size", "7B"), ("context length", "8"), ("quantization", "Q4_0")):
        assert re.search(f"^{name} +{value}$", told, re.MULTILINE)


def test_nothing_is_removed_where_one_is_not_there(daemon: FakeDaemon) -> None:
    """A typing error costs no model."""
    done = command(daemon, "rm", "m", "unknown", "--json")
    assert json.loads(done.stdout)["error"]["exit_code"] == done.code == 3
    assert list(daemon.models) == ["m:latest"]


def test_a_tag_that_is_named_twice_is_removed_once(daemon: FakeDaemon) -> None:
    """However it is written: asked for again, the daemon has it no more."""
    daemon.models["b:latest"] = "b" * 64
    done = command(daemon, "rm", "m", "m", "b", "M:latest", "--json")
    assert (done.code, daemon.models) == (0, {})
    assert json.loads(done.stdout) == {"removed": ["m", "b"]}
    assert done.stderr == "removed m\nremoved b\n"


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is a prompt; it is said."""
    monkeypatch.setattr(piped, "_STDIN_WAITS_S", (0.01, 0.02))
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        began: list[str] = []
        note = partial(began.append, "m")
        assert piped.whole_prompt("hi", command="run", tag="m", meanwhile=note) == "hi"
        assert began == ["m"]
        told = capsys.readouterr().err
        assert "(waiting for piped text)" in told
        assert "nothing was piped in" in told
        os.write(writer, b"Dear Sirs,\n")
        os.close(writer)
        with_text = piped.whole_prompt("hi", command="run", tag="m", meanwhile=began.clear)
        assert with_text == "Dear Sirs,\nhi"
        assert began == ["m"]


def test_a_model_is_loaded_while_a_pipe_is_waited_for(daemon: FakeDaemon) -> None:
    """As the question wants it, so that it is loaded once."""
    said = Conversation("m", options={"num_ctx": 64}, keep_alive="1h")
    with Client(daemon.host) as client:
        load_ahead(client, said)
        load_ahead(client, replace(said, keep_alive=0))  # it would leave memory at once
        for thread in threading.enumerate():
            if thread.name.endswith("(_load)"):
                thread.join()
    (asked,) = daemon.questions
    assert (asked["options"], asked["keep_alive"], asked["shift"]) == ({"num_ctx": 64}, "1h", False)


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
    done = command(
        daemon, "chat", "m", "--keepalive", "10", stdin=f"hi\nand?\n/export {page}\n/bye\nnever\n"
    )
    assert done.code == 0, done.stderr
    assert done.stdout == "Hello!\nHello!\n"
    assert page.read_text().count("**You:**") == 2
    assert [asked["keep_alive"] for asked in daemon.questions] == [10, 10]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("run", "m", "--think=on", "hi"), 2, "think is 'on'"),
        (("run", "m", "--format", "none.json", "hi"), 2, "none.json"),
        (("run", "m", "-p", "temperature", "hi"), 2, "write it as name=value"),
        (("run", "m"), 2, "no prompt"),
        (("run", "m", "hi", "--keepalive", "soon"), 2, "--keepalive 'soon' is not a duration"),
        (("run", "m", "hi", "--keepalive", "inf"), 2, "--keepalive 'inf' is not a duration"),
        (("run", "bad name", "hi"), 2, "is not a valid tag name"),
        (("run", "", "hi"), 2, "is not a valid tag name"),
        (("run", "m", "--image", __file__, "hi"), 3, "'m' takes no images"),
        (("generate", "m", "--image", __file__, "hi"), 3, "'m' takes no images"),
        (("chat", "unknown"), 3, "unknown"),
        (("create", "new", "-f", "none"), 2, "none cannot be read"),
        (("rm", "unknown"), 3, "fix:   ollama-bridge ls\n"),
        (("stop", "unknown"), 3, "fix:   ollama-bridge ls\n"),
        (("cp", "unknown", "b"), 3, "unknown"),
        (("cp", "m", "bad name"), 2, "is not a valid tag name"),
        (("push", "team/unknown"), 3, "the daemon has no model 'team/unknown'"),
    ],
)
def test_bad_input_is_one_clear_error(
    daemon: FakeDaemon, args: tuple[str, ...], code: int, words: str
) -> None:
    """With its exit code."""
    done = command(daemon, *args)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.code == code


@pytest.mark.parametrize("typed", ["generate", "embed"])
def test_the_fix_of_no_prompt_is_the_command_that_was_typed(
    typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not `run`, which may not do what was wanted."""
    done = run_in_process(monkeypatch, [typed, "my model"])
    assert done.code == 2
    assert done.stderr.endswith(f"""fix:   ollama-bridge {typed} 'my model' "..."\n""")


@pytest.mark.parametrize("mode", ["PYTHONIOENCODING=utf-8", "LC_ALL=C"])
@pytest.mark.parametrize("typed", ["run", "chat", "embed"])
def test_piped_text_of_another_encoding_is_refused_with_its_fix(
    daemon: FakeDaemon, typed: str, mode: str
) -> None:
    """By each command that reads some; in a container without a locale, too."""
    name, _, value = mode.partition("=")
    done = subprocess.run(
        [sys.executable, "-m", "ollama_bridge", typed, "m"],
        capture_output=True,
        input="Grüße\n".encode("latin-1"),
        check=False,
        env={**os.environ, "OLLAMA_HOST": daemon.host, name: value},
        timeout=300,
    )
    fix = f"iconv -f latin1 -t utf-8 FILE | ollama-bridge {typed} m"
    assert (done.returncode, daemon.questions) == (2, [])
    assert done.stderr.decode() == f"error: stdin is not UTF-8 text\nfix:   {fix}\n"


def test_tags_are_listed_copied_removed(daemon: FakeDaemon) -> None:
    """As ``ollama`` does it."""
    assert command(daemon, "cp", "m", "team/m:1").code == 0
    assert "team/m:1" in command(daemon, "ls").stdout
    assert command(daemon, "ls", "Tea").stdout.splitlines()[1:][0].startswith("team/m:1\t")
    assert [one["name"] for one in json.loads(command(daemon, "ps", "m", "--json").stdout)] == [
        "m:latest"
    ]
    head, first, _ = command(daemon, "ps").stdout.splitlines()
    assert head.split("\t") == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert first.split("\t")[3:] == ["60%/40% CPU/GPU", "4096", "Stopping..."]
    assert command(daemon, "rm", "team/m:1").code == 0
    assert list(daemon.models) == ["m:latest"]
    assert command(daemon, "stop", "m").code == 0
    assert daemon.asked[-1].json["keep_alive"] == 0
    assert command(daemon, "push", "m").stdout == "m\n"
    assert daemon.asked[-1].path == "/api/push"


def test_a_name_alone_is_pulled_by_the_daemon(daemon: FakeDaemon) -> None:
    """And gets its second name."""
    done = command(daemon, "pull", "m", "--as", "mine", "--no-verify")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("mine:latest: sha256:ddd")
    assert "/api/pull" in [asked.path for asked in daemon.asked]


def test_create_sends_the_file_or_names_the_model(daemon: FakeDaemon, tmp_path: Path) -> None:
    """What FROM names is looked for beside the Modelfile."""
    gguf, modelfile = tmp_path / "m.gguf", tmp_path / "Modelfile"
    gguf.write_bytes(b"GGUF")
    modelfile.write_text("FROM ./m.gguf\nPARAMETER temperature 0.5\n")
    done = command(daemon, "create", "new", "-f", str(modelfile))
    assert done.code == 0, done.stderr
    digest = f"sha256:{digest_file(gguf)}"
    assert daemon.blobs[digest] == b"GGUF"
    assert daemon.asked[-1].json["files"] == {"model.gguf": digest}
    modelfile.write_text("FROM m\nSYSTEM Be brief.\n")
    assert command(daemon, "create", "new", "-f", str(modelfile)).code == 0
    assert daemon.asked[-1].json == {
        "model": "new",
        "from": "m",
        "system": "Be brief.",
        "stream": True,
    }
    modelfile.write_text("FROM ./gone.gguf\n")
    gone = command(daemon, "create", "new", "-f", str(modelfile))
    assert (gone.code, "FROM ./gone.gguf: there is no such file" in gone.stderr) == (2, True)


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="a file that nobody can read")
def test_create_of_what_cannot_be_read(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a GGUF in another user's store."""
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM /proc/self/mem\n")
    words = ["create", "new", "-f", str(modelfile), "--host", daemon.host]
    done = run_in_process(monkeypatch, words)
    assert (done.code, "/proc/self/mem cannot be read: Input/output" in done.stderr) == (2, True)


def test_texts_become_lines_of_numbers(daemon: FakeDaemon) -> None:
    """Given as arguments or as lines; a text that is too long is an error, or cut and told."""
    daemon.context_length = 2
    done = command(daemon, "embed", "m", "one", "two words")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[1.0, 1.0], [2.0, 1.0]]
    assert done.stderr == ""  # it was done at once
    long = command(daemon, "embed", "m", stdin="one\nof three words\n")
    assert (long.code, long.stdout) == (3, "")
    assert "(text 2 of 2, the longest of 2 in one request)" in long.stderr
    assert "three words" not in long.stderr  # who logs errors has no texts of users there
    command(daemon, "embed", "m", "one", "-p", "num_batch=4096", "-p", "num_ctx=2")
    assert daemon.asked[-1].json["options"] == {"num_batch": 4096, "num_ctx": 2}
    cut = command(daemon, "embed", "m", "--truncate", stdin="one\nof three words\n \n\n")
    assert len(cut.stdout.splitlines()) == 2
    assert "(text 2 was cut" in cut.stderr


def test_a_text_and_its_vector_are_on_lines_of_one_number(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty line was left out, and every vector behind it one line too early."""
    words = ["embed", "m", "--host", daemon.host]
    done = run_in_process(monkeypatch, words, "one\n \nthree\n")
    assert (done.code, done.stdout, daemon.asked) == (2, "", [])
    assert "line 2 of stdin is empty" in done.stderr
    assert "grep '[^[:space:]]' FILE | ollama-bridge embed m" in done.stderr


def test_a_byte_order_mark_is_no_text(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Excel, PowerShell and Notepad write one."""
    schema, prompts = tmp_path / "schema.json", tmp_path / "prompts.txt"
    schema.write_text('{"type": "object"}', encoding="utf-8-sig")
    prompts.write_text("hi there\n", encoding="utf-8-sig")
    at = ["--host", daemon.host]
    run_in_process(monkeypatch, ["generate", "m", "--format", str(schema), *at], "\ufeffhi")
    (asked,) = daemon.questions
    assert (asked["prompt"], asked["format"]) == ("hi", {"type": "object"})
    words = ["bench", "m", "--requests", "1", "--concurrency", "1", "--prompts", str(prompts)]
    run_in_process(monkeypatch, [*words, *at])
    chats = [body["messages"] for body in daemon.questions if "messages" in body]
    assert "hi there" in [messages[-1]["content"] for messages in chats]


def test_a_schema_that_is_nested_too_deep_is_told(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the option, before the question is asked."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"items":' * 200_000, encoding="utf-8")
    words = ["generate", "m", "--format", str(schema), "--host", daemon.host, "hi"]
    done = run_in_process(monkeypatch, words)
    assert (done.code, daemon.questions) == (2, [])
    assert f"--format {schema}: it is nested too deep" in done.stderr.replace("\n", "")


MANY = "".join("word " * (number % 7 + 1) + "\n" for number in range(300))


def test_vectors_are_printed_as_they_come(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what stops in the middle leaves what it had, and says where it stopped."""
    words = ["embed", "m", "--host", daemon.host]
    done = run_in_process(monkeypatch, words, MANY)
    assert [json.loads(line)[0] for line in done.stdout.splitlines()] == [
        number % 7 + 1 for number in range(300)
    ]
    whole = json.loads(run_in_process(monkeypatch, [*words, "--json"], MANY).stdout)
    assert (len(whole["vectors"]), whole["prompt_tokens"]) == (300, 1197)
    daemon.context_length = 7
    lines = MANY.splitlines()
    lines[140] = "word " * 8
    cut = run_in_process(monkeypatch, [*words, "--truncate", "-q"], "\n".join(lines))
    assert cut.stderr == "(text 141 was cut: it is longer than the model can read)\n"
    stopped = run_in_process(monkeypatch, [*words, "-q"], "\n".join(lines))
    assert (stopped.code, len(stopped.stdout.splitlines())) == (3, 128)
    assert stopped.stderr.startswith(
        "(128 vectors were printed; the next text is number 129)\nerror: "
    )


def test_a_bar_takes_nothing_of_what_is_piped_on(daemon: FakeDaemon) -> None:
    """It is drawn where stderr is a terminal; vectors go where they were sent."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ollama_bridge", "embed", "m"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        env={**os.environ, "OLLAMA_HOST": daemon.host, "TERM": "xterm"},
    )
    os.close(slave)
    try:
        out, _ = process.communicate(MANY, timeout=60)
        assert Screen(master).shows(b"300/300")
    finally:
        os.close(master)
    assert (process.returncode, len(out.splitlines())) == (0, 300)
