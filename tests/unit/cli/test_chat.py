"""The chat at the prompt: every command, images, and what happens when something goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.chats import Chat
from fakes.command_line import run_in_process
from fakes.daemon import FakeDaemon, Fault, Turn
from fakes.terminal import Terminal
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from ollama_bridge.assets import home_dir
from ollama_bridge.cli.chat.chat import typed
from ollama_bridge.cli.chat.lines import LineReader
from ollama_bridge.cli.chat.repl import HELP, EndOfChat
from ollama_bridge.client import Conversation


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    models = {"m:latest": "d" * 64, "other:latest": "e" * 64}
    with FakeDaemon(models=models) as found:
        yield found


@pytest.fixture
def chat(daemon: FakeDaemon) -> Iterator[Chat]:
    found = Chat(daemon)
    yield found
    found.client.close()


@pytest.mark.parametrize(
    ("typed", "stops"),
    [
        ("END", ["END"]),
        ("A B", ["A", "B"]),
        ('"User: " it\'s a\\nb #1', ["User: ", "it's", "a\\nb", "#1"]),
        ('say "no', ["say", '"no']),
    ],
)
def test_stops_are_words(chat: Chat, typed: str, stops: list[str]) -> None:
    """As they are typed; quotation marks hold blanks together."""
    chat(f"/set parameter stop {typed}", "hi")
    assert chat.last["options"]["stop"] == stops  # type: ignore[index]


def test_a_person_at_a_terminal(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Tab, Ctrl-C, an editor at Ctrl-G, Ctrl-D; ``OLLAMA_NOHISTORY`` keeps nothing of it.

    Ctrl-C and Ctrl-D drop a text of several lines that is not ended. What ``run`` is given holds
    for its chat: an image goes with the first question. The model is loaded while it is typed.
    Ctrl-Z is none of what is asked: it stops the program where a shell waits that could go on.
    """
    image = tmp_path / "c.png"
    image.write_bytes(b"2")
    kept = [{"role": "user", "content": "Zero?"}, {"role": "assistant", "content": "It is 0."}]
    daemon.shown = {**daemon.shown, "messages": kept, "capabilities": ["tools", "vision"]}
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho written there > "$1"\n')
    editor.chmod(0o755)
    words = ["run", "m", "--keepalive", "1h", "--image", str(image)]
    environment = {"OLLAMA_HOST": daemon.host, "OLLAMA_EDITOR": str(editor)}
    with Terminal(*words, OLLAMA_NOHISTORY="1", **environment) as terminal:
        for typed, shown in (
            (b"", b">>> Zero?"),
            (b"", b"It is 0."),
            (b"", b">>>"),
            (b"/se", b"/se"),  # what Tab adds to it may be drawn at once or later, so: one by one
            (b"\t", b"t"),
            (b" para", b"para"),
            (b"\t", b"meter"),
            (b" temp", b"temp"),
            (b"\t", b"erature"),
            (b" 0.5\r", b"/set parameter temperature 0.5"),  # drawn once more, whole
            (b"", b"\x1b[?2004l"),  # the prompt is over
            (b"", b">>>"),
            (b"\x03", b"(Ctrl-D or /bye ends the chat)"),
            (b"", b">>>"),
            (b"\x07", b"written there"),
            (b"\r", b"Hello!"),
            (b"", b">>>"),
            (b"an\x1ad?\r", b"Hello!"),
            (b"", b">>>"),
            (b'"""dropped\r', b"..."),
            (b"\x03", b"(the text is dropped)"),
            (b"", b">>>"),
            (b"/banana\r", b"no command /banana"),
            (b"", b">>>"),
            (b'\x1b[200~    def f():\r        """Doc."""\x1b[201~\r', b"Hello!"),
            (b"", b">>>"),
            (b'"""not sent\r', b"..."),
            (b"\x04", b'(the text has no closing """, so it is not sent)'),
        ):
            assert terminal.shows(shown, after=typed), typed
        assert terminal.ends() == 0
    loaded, asked, then, pasted = daemon.questions
    assert pasted["messages"][-1]["content"] == '    def f():\n        """Doc."""'
    assert "prompt" not in loaded
    assert {name: asked[name] for name in ("model", "keep_alive", "shift")} == {
        name: loaded[name] for name in ("model", "keep_alive", "shift")
    }
    assert asked["messages"] == [{"role": "user", "content": "written there", "images": ["Mg=="]}]
    assert then["messages"][-1] == {"role": "user", "content": "and?"}
    assert (asked["options"]["temperature"], then["keep_alive"]) == (0.5, "1h")
    assert not (home_dir() / "chat-history").read_text()


def test_a_history_that_cannot_be_written_any_more_is_told_once(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: each line that was typed ended in a traceback."""
    with create_pipe_input() as keys, create_app_session(keys, DummyOutput()):
        lines = typed(chat.repl, LineReader())
        keys.send_text("one\r")
        assert next(lines) == "one"
        history = home_dir() / "chat-history"
        assert "+one" in history.read_text()
        history.unlink()
        history.parent.rmdir()
        for text in ("two", "three", "four"):
            keys.send_text(f"{text}\r")
            assert next(lines) == text
    told = f"(the history of what you type is not saved: {history}: No such file or directory)"
    assert capsys.readouterr().err.count(told) == 1


@pytest.mark.parametrize(
    ("value", "is_kept"), [("", True), ("0", True), ("'false'", True), ("1", False), ("yes", False)]
)
def test_the_history_is_switched_off_as_ollama_reads_it(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, value: str, is_kept: bool
) -> None:
    """``OLLAMA_NOHISTORY=0`` means to keep it."""
    monkeypatch.setenv("OLLAMA_NOHISTORY", value)
    with create_pipe_input() as keys, create_app_session(keys, DummyOutput()):
        keys.send_text("one\r")
        assert next(typed(chat.repl, LineReader())) == "one"
    assert ("+one" in (home_dir() / "chat-history").read_text()) == is_kept


def test_questions_are_answered_and_remembered(chat: Chat) -> None:
    """An empty line is no question."""
    assert chat("hi", "") == "Hello!\n"
    chat("and?")
    assert len(chat.daemon.questions) == 2
    assert [one["role"] for one in chat.last["messages"]] == ["user", "assistant", "user"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "is_literal"),
    [
        ("/* of a library */", False),
        ("/etc: what is in it?", False),
        ("/bye", True),
        ("\n  /clear\n  is one of mine\n", True),
    ],
)
def test_what_looks_like_a_command_can_be_asked(chat: Chat, text: str, is_literal: bool) -> None:
    """Where it is none, or was pasted or put between marks."""
    chat.repl.take(text, is_literal=is_literal)
    assert chat.last["messages"] == [{"role": "user", "content": text.strip("\n")}]


def test_settings_go_with_every_question(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    """Options, system, think, format."""
    chat(
        "/set parameter temperature 0.5",
        '/set parameter stop END "User: "',
        "/system Be brief.",
        "/set nothink",
        "/set format json",
        "hi",
    )
    assert chat.last["options"] == {
        "temperature": 0.5,
        "stop": ["END", "User: "],
        "num_predict": 1024,
    }
    assert chat.last["messages"][0] == {"role": "system", "content": "Be brief."}  # type: ignore[index]
    assert (chat.last["think"], chat.last["format"]) == (False, "json")
    chat.daemon.shown = {**chat.daemon.shown, "capabilities": ["completion", "thinking"]}
    chat("/think high", "/set noformat", "/think hard", "hi")
    assert chat.last["think"] == "high"
    assert "format" not in chat.last
    told = capsys.readouterr().err
    assert "/think hard: for m write on, off, low, medium, high, max" in told
    levels = {"values": [False, "low", "xhigh"], "default": "xhigh"}
    chat.daemon.shown = {**chat.daemon.shown, "thinking": levels}
    chat("/think xhigh", "/think high", "hi")
    assert chat.last["think"] == "xhigh"
    assert "/think high: for m write on, off, low, xhigh" in capsys.readouterr().err
    chat("/set budget 500")
    assert chat.repl.said.budget_tokens == 500
    chat("/set budget off")
    assert chat.repl.said.budget_tokens is None
    chat("/set verbose", "hi")
    assert "7 + 3 tokens, first token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/banana", "no command /banana"),
        ("/", "no command /"),
        ("/set banana", "/set banana: not understood"),
        ("/set budget", "/set budget: not understood"),
        ("/set budget 0", "budget_tokens is 0"),
        ("/set parameter temprature 1", "temperature"),
        ("/set parameter temperature hot", "temperature"),
        ("/set parameter temperature 0 1", "only one value is allowed"),
        ('/set parameter "stop END"', "not understood"),
        ("/think hard", "/think hard: m cannot think"),
        ("/think high", "/think high: m cannot think"),
        ("/set think", "/think on: m cannot think"),
        ("/show banana", "/show banana: not understood"),
        ("/load", "/load needs a name"),
        ("/load none.json", "none.json cannot be read"),
        ("/load ~unheard-of/x.json", "~unheard-of/x.json cannot be read"),
        ("/save ~unheard-of/x.json", "~unheard-of/x.json cannot be written"),
        (f"/save {'x' * 300}.json", "cannot be written: File name too long"),
        (f"/export {'x' * 300}.md", "cannot be written: File name too long"),
        ("/load unknown", "unknown"),
        ("/save", "/save needs a name"),
        ("/export none/none.md", "cannot be written"),
        ("/retry", "nothing was asked yet"),
        ("/compare m", "m is the model that you talk to"),
        ("/compare unknown", "unknown"),
    ],
)
def test_what_goes_wrong_is_told_and_the_chat_goes_on(
    chat: Chat, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    """One clear error."""
    chat(line)
    assert words in capsys.readouterr().err
    assert chat("hi") == "Hello!\n"


def test_an_error_of_the_daemon_does_not_end_the_chat(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """What came is on the screen."""
    chat.daemon.fault = Fault.ERROR_LINE
    assert chat("hi").startswith("Hel")
    assert "error:" in capsys.readouterr().err
    chat.daemon.fault = None
    assert chat("hi") == "Hello!\n"
    assert len(chat.last["messages"]) == 1  # type: ignore[arg-type]


def test_a_question_that_does_not_fit_names_what_helps_here(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option of the command line is none of a chat's."""
    chat.daemon.script = lambda asked: Turn(refusal=(400, "longer than the context length"))
    chat("hi")
    told = capsys.readouterr().err
    assert "/set parameter num_ctx N" in told
    assert "-p num_ctx" not in told


def test_ctrl_c_stops_the_answer_not_the_chat(
    chat: Chat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came is kept."""
    write = chat.screen.write

    def interrupt(text: str) -> int:
        write(text)
        if text == "Hel":
            raise KeyboardInterrupt
        return len(text)

    monkeypatch.setattr(chat.screen, "write", interrupt)
    chat("hi")
    assert "(stopped)" in capsys.readouterr().err
    assert [(turn.answer, turn.is_whole) for turn in chat.repl.said.turns] == [("Hel", False)]


def test_undo_retry_clear(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    """The last turn, again, or away with everything."""
    chat("one", "two", "/undo")
    assert "(taken back: two)" in capsys.readouterr().err
    chat.daemon.pieces = ["Other"]
    assert chat("/retry") == "Other\n"
    assert [turn.answer for turn in chat.repl.said.turns] == ["Other"]
    chat.daemon.fault = Fault.ERROR_LINE
    chat("three", "/undo")
    assert "(taken back: three; it had no answer)" in capsys.readouterr().err
    assert [turn.answer for turn in chat.repl.said.turns] == ["Other"]
    chat("/clear", "/undo")
    assert "(nothing was asked)" in capsys.readouterr().err


def test_two_models_answer_beside_each_other(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its own answers from here on, after the same history, with the same settings."""
    chat("one", "/system Be brief.", "/compare other")
    assert chat("two") == "--- m\nHello!\n--- other\nHello!\n"
    assert [one["model"] for one in chat.daemon.questions[-2:]] == ["m", "other"]
    assert [len(one["messages"]) for one in chat.daemon.questions[-2:]] == [4, 4]
    assert "other: 7 + 3 tokens" in capsys.readouterr().err
    chat("three", "four")
    asked = [one["model"] for one in chat.daemon.questions[-4:]]
    assert asked == ["other", "m", "m", "other"]  # so that the one that is loaded begins
    chat("/compare off")
    assert chat("three") == "Hello!\n"


@pytest.mark.parametrize("given", [None, 7])
def test_each_of_two_models_has_its_own_limit(chat: Chat, given: int | None) -> None:
    """Unless the person gave one."""
    chat.repl.said.options = {"num_predict": given or 24}
    limits = iter([f"num_predict {limit}" for limit in (48, 24)])  # of the other, of the first
    show = chat.client.show
    chat.client.show = lambda tag: replace(show(tag), parameters=next(limits))  # type: ignore[method-assign]
    chat("/compare other", "hi")
    asked = [one["options"]["num_predict"] for one in chat.daemon.questions]
    assert asked == ([7, 7] if given == 7 else [24, 48])


@pytest.mark.parametrize("stopped", ["m", "other"])
@pytest.mark.parametrize(
    ("asked", "asked_again"), [("two", ["one", "Hello!", "two"]), ("/retry", ["one"])]
)
def test_two_models_are_asked_the_same_whatever_goes_wrong(
    chat: Chat,
    capsys: pytest.CaptureFixture[str],
    stopped: str,
    asked: str,
    asked_again: list[str],
) -> None:
    """An error of either, or Ctrl-C: neither has the question, and both are asked it by /retry."""
    chat("/compare other", "one")
    chat.daemon.script = lambda seen: Turn(
        fault=Fault.ERROR_LINE if seen.json["model"] == stopped else None
    )
    chat(asked)
    assert "this question was taken back for all of them" in capsys.readouterr().err
    chat.daemon.script = None
    chat("/retry")
    assert [
        [one["content"] for one in question["messages"]] for question in chat.daemon.questions[-2:]
    ] == [asked_again] * 2
    chat("/undo", "three")
    assert [len(one["messages"]) for one in chat.daemon.questions[-2:]] == [len(asked_again)] * 2


def test_ctrl_c_stops_both_of_two_models(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second was not asked yet, so the first forgets that it was."""
    chat("/compare other", "one")
    write = chat.screen.write

    def interrupt(text: str) -> int:
        if text == "Hel":
            raise KeyboardInterrupt
        return write(text)

    with monkeypatch.context() as inside:
        inside.setattr(chat.screen, "write", interrupt)
        chat("two")
    assert [len(one.conversation.turns) for one in chat.repl.sessions.values()] == [1, 1]


def test_both_answers_are_columns_on_a_terminal(daemon: FakeDaemon) -> None:
    """Side by side."""
    found = Chat(daemon, terminal=True)
    with found.client:
        screen = found("/compare other", "hi")
    assert any(line.count("Hello!") == 2 for line in screen.splitlines())


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("", "capabilities"),
        ("info", "context length    8"),
        ("modelfile", "FROM x"),
        ("parameters", "seed"),
        ("system", "Be brief."),
        ("license", "(none)"),
        ("template", "{{ .Prompt }}"),
    ],
)
def test_the_model_can_be_looked_at(
    chat: Chat, capsys: pytest.CaptureFixture[str], what: str, words: str
) -> None:
    """What the daemon knows, and what was set here; nothing else."""
    info = {"general.architecture": "a", "a.context_length": 8}
    chat.daemon.shown = {**chat.daemon.shown, "template": "{{ .Prompt }}", "model_info": info}
    chat("/system Be brief.", "/set parameter seed 1", f"/show {what}", "/list", "/help")
    done = capsys.readouterr()
    shown, _, listed = done.out.partition("NAME\tSIZE\n")
    assert words in shown
    assert ("{{ .Prompt }}" in shown) == (what == "template")
    assert "other:latest" in listed
    assert HELP in done.err


def test_parameters_are_shown_once_as_they_are_in_effect(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the chat in place of the tag's, and the limit that ends an answer."""
    shown = 'num_predict  64\nstop  "a"\nstop  "b"\ntop_k  5\nseed  1'
    chat.daemon.shown = {**chat.daemon.shown, "parameters": shown}
    chat("/set parameter num_predict 64", "/set parameter seed 2", "/show parameters")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    tags = [["stop", '"a"'], ["stop", '"b"'], ["top_k", "5"]]
    assert lines == [*tags, ["num_predict", "64"], ["seed", "2"]]
    chat.repl.said.options = {}
    chat("/show parameters", "hi")
    limit = chat.last["options"]["num_predict"]  # type: ignore[index]
    assert capsys.readouterr().out.splitlines()[-1].split() == ["num_predict", str(limit)]


@pytest.mark.parametrize("line", ["/bye", "/exit"])
def test_goodbye(chat: Chat, line: str) -> None:
    """Ends the chat."""
    with pytest.raises(EndOfChat):
        chat(line)


def test_images_go_by_their_paths(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is sent is told, and what is not there: without it a model would make something up."""
    image = tmp_path / "a b.png"
    image.write_bytes(b"2")
    chat.daemon.shown = {**chat.daemon.shown, "capabilities": ["completion", "vision"]}
    chat(f"'{image}' What is it? No {tmp_path}/x.png.")
    assert chat.last["messages"] == [
        {"role": "user", "content": f"What is it? No {tmp_path}/x.png.", "images": ["Mg=="]}
    ]
    told = capsys.readouterr().err
    assert f"(with the image {image})" in told
    assert f"(no such image: {tmp_path}/x.png)" in told


@pytest.mark.parametrize(("capability", "is_typed"), [("tools", True), ("vision", False)])
def test_a_path_is_only_words_where_nobody_would_send_it(
    chat: Chat, tmp_path: Path, capability: str, is_typed: bool
) -> None:
    """To a model that sees nothing, in lines that others wrote, or in what was pasted."""
    image = tmp_path / "logo.png"
    image.write_bytes(b"2")
    chat.daemon.shown = {**chat.daemon.shown, "capabilities": ["completion", capability]}
    chat.repl.is_typed = is_typed
    asked = f"Write a script that halves {image} and keeps its name."
    chat(asked)
    assert chat.last["messages"] == [{"role": "user", "content": asked}]
    chat.daemon.shown = {**chat.daemon.shown, "capabilities": ["completion", "vision"]}
    chat.repl.is_typed = True
    pasted = f'def logo():\n    it = "{image}"\n    return  it'
    chat("/load m")
    chat.repl.take(pasted, is_literal=True)
    assert chat.last["messages"] == [{"role": "user", "content": pasted}]
    chat(asked)
    assert chat.last["messages"][-1]["images"] == ["Mg=="]  # type: ignore[index]


def test_images_for_a_model_that_takes_none_are_refused(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ollama 0.24 would answer without them: the next question, and those that were said before."""
    image, file = tmp_path / "a.png", tmp_path / "a.json"
    image.write_bytes(b"2")
    seeing = {**daemon.shown, "capabilities": ["completion", "vision"]}
    daemon.made = {"m:latest": seeing, "other:latest": {"capabilities": ["completion"]}}
    refused = "error: 'other' takes no images"
    chat = Chat(daemon)
    with chat.client:
        for lines in (
            ("/load other", "/compare m", f"What is {image}?"),
            ("/load m", "/compare other", f"What is {image}?"),
        ):
            chat(*lines)
            assert refused in capsys.readouterr().err
            assert not daemon.questions
        chat("/compare off", f"What is {image}?", f"/save {file}", "/compare other")
        assert refused in capsys.readouterr().err
        assert list(chat.repl.sessions) == ["m"]
        chat.repl.session.go_back(([], []), unanswered=chat.repl.said.turns[-1].question)
        chat("/compare other")
        assert refused in capsys.readouterr().err
        kept = Conversation.load(file)
        replace(kept, model="other").save(file)
        chat(f"/load {file}", "and?")
        assert refused in capsys.readouterr().err
        assert [one["model"] for one in daemon.questions] == ["m", "m"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_HOST", daemon.host)
        done = run_in_process(patch, ["chat", "other", "--load", str(file)], "and?\n")
    assert (done.code, refused in done.stderr) == (3, True)
    assert len(daemon.questions) == 2
