"""What is kept of a chat: files and models, none of which replaces what is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.chats import Chat
from fakes.command_line import run_in_process
from fakes.daemon import FakeDaemon

from ollama_bridge.client import Conversation


@pytest.fixture
def chat() -> Iterator[Chat]:
    with FakeDaemon(models={"m:latest": "d" * 64, "other:latest": "e" * 64}) as daemon:
        found = Chat(daemon)
        yield found
        found.client.close()


def words(messages: object) -> list[str]:
    """What each of them says."""
    return [one["content"] for one in messages]  # type: ignore[attr-defined]


def test_a_conversation_is_saved_loaded_and_exported(chat: Chat, tmp_path: Path) -> None:
    """As a file to go on from, as a file to read, as a model."""
    file, page = tmp_path / "a.json", tmp_path / "a.md"
    chat.repl.said.keep_alive = "1h"
    chat("/system Be brief.", "/set parameter seed 1", "one", f"/save {file}", f"/export {page}")
    assert page.read_text() == "# m\n\n> Be brief.\n\n**You:** one\n\nHello!\n"
    chat.repl.said.keep_alive = None
    chat("/clear", "/system", f"/load {file}", "two")
    assert chat.last["keep_alive"] == "1h"
    assert [one["content"] for one in chat.last["messages"]] == [  # type: ignore[attr-defined]
        "Be brief.",
        "one",
        "Hello!",
        "two",
    ]
    chat.daemon.statuses = [{"status": "success"}]
    own = [{"role": "user", "content": "Zero"}, {"role": "assistant", "content": "0"}]
    chat.daemon.shown = {**chat.daemon.shown, "messages": own}
    chat("/undo", "/save mine")
    (created,) = [asked.json for asked in chat.daemon.asked if asked.path == "/api/create"]
    assert created == {
        "model": "mine",
        "from": "m",
        "system": "Be brief.",
        "parameters": {"seed": 1},
        "messages": [
            *own,
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "Hello!"},
        ],
        "stream": True,
    }
    chat("/load other", "hi")
    assert (chat.last["model"], chat.last["keep_alive"]) == ("other", "1h")


@pytest.mark.parametrize(
    ("capabilities", "level", "think"),
    [
        (["thinking"], "high", "high"),
        (["thinking"], "xhigh", None),
        ([], "high", None),
        ([], "on", None),
        ([], "off", False),
    ],
)
@pytest.mark.parametrize("command", ["load", "compare"])
def test_another_model_thinks_as_it_can(
    chat: Chat,
    capsys: pytest.CaptureFixture[str],
    command: str,
    capabilities: list[str],
    level: str,
    think: bool | str | None,
) -> None:
    """Asked to think as it cannot, it would refuse every question."""
    chat.daemon.shown = {**chat.daemon.shown, "capabilities": capabilities}
    chat.repl.said.think = {"on": True, "off": False}.get(level, level)
    chat(f"/{command} other", "hi")
    assert (chat.last["model"], chat.last.get("think")) == ("other", think)
    told = f"(other cannot think that way: /think {level} is off)"
    assert (told in capsys.readouterr().err) == (think is None)


def test_another_tag_is_asked_with_what_the_person_gave(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with the first tag's own limit, nor with an instruction, which is told."""
    chat.daemon.made["m:latest"] = {"parameters": "num_predict 8"}
    chat.repl.said.options = {"num_predict": 8}
    chat("/set parameter temperature 0", "/set format json", "/system Be brief.", "/load other")
    chat("hi")
    assert chat.last["options"] == {"temperature": 0.0, "num_predict": 1024}
    assert (chat.last["format"], len(words(chat.last["messages"]))) == ("json", 1)
    assert "(other, 0 turns; without the text of /system)" in capsys.readouterr().err
    del chat.daemon.models["other:latest"]
    chat("/load m", "hi")
    assert chat.last["options"] == {"temperature": 0.0, "num_predict": 8}


@pytest.mark.parametrize(("tag", "think"), [("other", []), ("other", ["--think"]), ("m", [])])
def test_another_tag_goes_on_with_a_file(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str, think: list[str]
) -> None:
    """As it can: every question was refused by one that cannot think, or cut at another's limit."""
    thinks = {"parameters": "num_predict 8", "capabilities": ["thinking"]}
    chat.daemon.made["m:latest"] = thinks
    said = Conversation("m", options={"num_predict": 8, "seed": 1}, think=True)
    said.save(tmp_path / "a.json")
    words = ["chat", "--load", str(tmp_path / "a.json"), tag, *think, "--host", chat.daemon.host]
    run_in_process(monkeypatch, words, "hi\n")
    limit = 8 if tag == "m" else 1024
    assert chat.last["options"] == {"num_predict": limit, "seed": 1}
    assert chat.last.get("think") == (None if tag == "other" and not think else True)


def test_what_a_loaded_tag_has_in_it_is_shown(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is sent, too; in lines that are piped in nobody wants to be reminded."""
    own = [{"role": "user", "content": "Zero"}, {"role": "assistant", "content": "It is 0."}]
    chat.daemon.shown = {**chat.daemon.shown, "messages": own}
    assert chat("/load other") == "It is 0.\n"
    assert ">>> Zero" in capsys.readouterr().err
    chat.repl.is_typed = False
    assert chat("/load other") == ""


def test_what_a_tag_has_in_it_counts_as_said(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is sent with every question, also after ``/clear``."""
    page = tmp_path / "a.md"
    chat("one", "/save mine", "/load mine", "two", f"/export {page}", "/show info", "/clear")
    assert page.read_text() == "# mine\n\n**You:** one\n\nHello!\n\n**You:** two\n\nHello!\n"
    done = capsys.readouterr()
    assert "turns             1\nin the model      2 messages\n" in done.out
    assert "(the turns inside mine are still sent: to stop it, /load" in done.err
    chat("/load m", "/clear")
    assert "still sent" not in capsys.readouterr().err


def test_files_are_named_as_in_a_shell(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``~`` is the user's home wherever a file is named."""
    monkeypatch.setenv("HOME", str(tmp_path))
    chat("one", "/save ~/a.json", "/export ~/a.md", "/clear", "/load ~/a.json")
    assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.json", "a.md"]
    assert len(chat.repl.said.turns) == 1


@pytest.mark.parametrize("line", ["/save {}.json", "/export {}.md", "/save other"])
def test_only_what_a_chat_saved_is_replaced(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str
) -> None:
    """Neither a file of the user's nor a model that may have been proven."""
    for name in ("mine.json", "mine.md"):
        (tmp_path / name).write_text("{}")
    chat("one", line.format(tmp_path / "mine"))
    told = capsys.readouterr().err
    assert "it was not" in told
    assert "\nfix: " in told
    assert {path.read_text() for path in tmp_path.glob("mine.*")} == {"{}"}
    assert "/api/create" not in [asked.path for asked in chat.daemon.asked]


def test_what_a_chat_saved_is_saved_anew(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As a file and as a model; of which it is said what a model cannot have."""
    file = tmp_path / "mine.json"
    chat("one", f"/save {file}", "/save mine", "two", f"/save {file}", "/think off", "/save Mine")
    assert len(Conversation.load(file).turns) == 2
    assert "(saved: Mine; only a file keeps think)" in capsys.readouterr().err
    made = [asked.json for asked in chat.daemon.asked if asked.path == "/api/create"]
    assert [len(one["messages"]) for one in made] == [2, 4]


def test_what_is_saved_into_the_tag_that_answers_is_there_once(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon sends what a tag has in it: each save would have stored it once more."""
    chat("/system Be brief.", "one", "/save mine", "/load mine", "two", "/save mine", "three")
    assert words(chat.last["messages"]) == ["three"]
    assert "these turns are now part of mine" in capsys.readouterr().err
    chat("/save mine")
    made = [asked.json for asked in chat.daemon.asked if asked.path == "/api/create"]
    assert words(made[-1]["messages"])[::2] == ["one", "two", "three"]


def test_a_tag_that_was_saved_of_a_chat_hears_nothing_twice(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked beside the first, it has the turns in it; what was said since it has not."""
    chat("one", "/save mine", "two", "/compare mine", "three")
    asked, beside = chat.daemon.questions[-2:]
    assert words(asked["messages"])[::2] == ["one", "two", "three"]
    assert words(beside["messages"])[::2] == ["two", "three"]
    chat("/save mine")
    assert "mine is part of /compare" in capsys.readouterr().err
    chat("/compare off", "/load other", "/compare mine", "four")
    assert words(chat.last["messages"]) == ["four"]


def test_a_file_of_turns_that_the_tag_has_in_it_sends_the_others_alone(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Saved into a file and a tag: the daemon sends the tag's by itself."""
    file = tmp_path / "a.json"
    chat("one", "/save mine", "/load mine", "two", f"/save {file}", "/save mine", f"/load {file}")
    assert "(mine already contains 1 of these turns)" in capsys.readouterr().err
    chat("three")
    assert words(chat.last["messages"]) == ["three"]
    chat("/load other", "/compare m", "four", f"/load {file}")  # another chat in between
    chat("five")
    assert words(chat.last["messages"]) == ["five"]


def test_a_file_keeps_the_turns_that_its_tag_has_in_it(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It may be the only place that has them when the tag is gone, or another one goes on."""
    file = tmp_path / "a.json"
    chat("one", f"/save {file}", "/save m2", "/load m2")
    turns = Conversation.load(file).turns
    Conversation("m2", turns=turns).save(file)
    chat(f"/load {file}", "two", f"/save {file}")
    assert words(chat.last["messages"]) == ["two"]
    kept = Conversation.load(file)
    assert [turn.question["content"] for turn in kept.turns] == ["one", "two"]
    chat("/save m2", "three", f"/save {file}")
    assert words(chat.last["messages"]) == ["three"]
    assert len(Conversation.load(file).turns) == 3
    chat("/compare other", "four")
    assert words(chat.last["messages"])[::2] == ["one", "two", "three", "four"]
    chat("/compare off", "/clear", f"/save {file}")
    assert not Conversation.load(file).turns


def test_a_tag_has_not_heard_what_its_picture_showed(chat: Chat, tmp_path: Path) -> None:
    """It keeps none: the turn goes with its picture, and what was said of it after that."""
    file = tmp_path / "a.json"
    chat.daemon.shown = {**chat.daemon.shown, "capabilities": ["completion", "vision"]}
    chat("zero")
    chat.repl.images = [b"\x89PNG\r\n\x1a\n"]
    chat("one", "two", "/save mine")
    said = chat.repl.said
    Conversation("mine", turns=said.turns).save(file)
    chat(f"/load {file}", "three", f"/save {file}")
    sent = chat.last["messages"]
    assert words(sent)[::2] == ["one", "two", "three"]
    assert "images" in sent[0]  # type: ignore[index]
    kept = Conversation.load(file)
    assert ["images" in turn.question for turn in kept.turns] == [False, True, False, False]


def test_turns_that_were_left_out_since_are_not_sent_again(chat: Chat) -> None:
    """The chat begins with what the saved tag has at its end."""
    chat("one", "two", "/save mine", "three")
    chat.repl.said.drop_oldest()
    chat("/compare mine", "four")
    assert words(chat.last["messages"])[::2] == ["three", "four"]


@pytest.mark.parametrize("name", ["other", "mine", "copy"])
def test_a_tag_with_turns_in_it_is_not_for_that_a_chats(
    chat: Chat, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Written into a Modelfile, made of what a chat saved, or a second name of that."""
    chat("one", "/save mine")
    chat.client.copy("mine", "copy")
    if name != "copy":
        turns = [{"role": "user", "content": "Zero"}]
        chat.client.create({"model": name, "from": "m", "messages": turns})
    before = dict(chat.daemon.models)
    chat(f"/save {name}")
    told = capsys.readouterr().err
    assert f"{name} was not saved by a chat of yours; it was not replaced" in told
    assert chat.daemon.models == before


def test_without_a_home_a_model_is_saved_once(
    chat: Chat, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that it cannot be replaced is told with it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(tmp_path / "file" / "home"))
    chat("one", "/save mine")
    told = capsys.readouterr().err
    assert "so /save cannot replace mine:latest: Not a directory" in told
    assert "(saved: mine)" in told


def test_the_tag_that_answers_is_not_to_be_removed_for_a_save(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """The turns that it has in it are nowhere else."""
    chat("one", "/save m")
    told = capsys.readouterr().err
    assert "/save under another name: the new tag includes the turns of m" in told
    assert "ollama-bridge rm" not in told


def test_images_are_not_lost_in_the_tag_that_answers(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tag has no room for them, and the chat would forget them."""
    chat.daemon.statuses = [{"status": "success"}]
    chat.daemon.shown = {**chat.daemon.shown, "capabilities": ["completion", "vision"]}
    chat("one", "/save mine", "/load mine")
    chat.repl.images = [b"\x89PNG\r\n\x1a\n"]
    chat("two", "/save mine")
    assert "mine cannot keep the images of this chat" in capsys.readouterr().err
    assert len([asked for asked in chat.daemon.asked if asked.path == "/api/create"]) == 1
    assert "images" in chat.repl.said.turns[-1].question


def test_a_page_is_written_while_the_daemon_is_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is then that somebody wants to keep the words."""
    page = tmp_path / "a.md"
    with FakeDaemon(models={"m:latest": "d" * 64}) as daemon:
        chat = Chat(daemon)
        chat("one")
    chat(f"/export {page}")
    chat.client.close()
    assert page.read_text() == "# m\n\n**You:** one\n\nHello!\n"
    assert "(the turns inside m could not be read and are left out: " in capsys.readouterr().err
