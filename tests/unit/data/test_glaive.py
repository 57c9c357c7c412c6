"""Lines of one text of turns become conversations with tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.chat_lines import REPLY, collect, read, section, write
from fakes.tool_chats import CLOCK, SET_LAMP

from ollama_bridge import cli
from ollama_bridge.data.prepare import prepare
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Call, Message

LEAD_IN = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if "
    "required -\n"
)
FUNCTIONS = "\n\n".join(json.dumps(tool["function"], indent=4) for tool in (SET_LAMP, CLOCK))
NO_FUNCTIONS = "SYSTEM: You are a helpful assistant, with no access to external functions.\n\n"
CALL = """<functioncall> {"name": "set_lamp", "arguments": '{"room": "aunt's", "on": true}'}"""
ASKED, LIT = "Light at my aunt's!", 'FUNCTION RESPONSE: {"lit": true}'
END = " <|endoftext|>"
TURNS = (f"USER: {ASKED}", f"ASSISTANT: {CALL}{END}", LIT, f"ASSISTANT: It is lit.{END}")
ARGUMENTS = {"on": True, "room": "aunt's"}
TALK = (
    Message("user", ASKED),
    Message("assistant", "", (Call("set_lamp", ARGUMENTS),)),
    Message("tool", '{"lit": true}', name="set_lamp"),
    Message("assistant", "It is lit."),
)


def glaive(*turns: str, system: str = LEAD_IN + FUNCTIONS + "\n") -> dict[str, Any]:
    return {"system": system, "chat": "\n\n\n".join(turns) + "\n\n\n"}


def test_a_text_of_turns_is_read_as_a_conversation(tmp_path: Path) -> None:
    """Its functions are tools, its calls calls, each response the result of the one before it."""
    found = read(tmp_path, glaive(*TURNS))
    assert found.messages == TALK
    assert found.tools == (SET_LAMP, CLOCK)


def test_without_functions_it_is_a_conversation_as_any_other(tmp_path: Path) -> None:
    """With its system turn; some files have one blank line in between."""
    turns = ("USER: Name a\n\nlamp.", f"ASSISTANT:\nArc.{END}", "USER: Thanks")
    line = {"system": NO_FUNCTIONS, "chat": "\n\n".join(turns)}
    found = read(tmp_path, line)
    assert [(one.role, one.content) for one in found.messages] == [
        ("system", "You are a helpful assistant, with no access to external functions."),
        ("user", "Name a\n\nlamp."),
        ("assistant", "Arc."),
        ("user", "Thanks"),
    ]
    assert not found.tools


def test_words_beside_functions_and_calls_stay(tmp_path: Path) -> None:
    """And arguments may be an object, or missing."""
    said = 'ASSISTANT: I see.\n<functioncall> {"name": "clock", "arguments": {}}' + END
    line = glaive(TURNS[0], said, system=f"{LEAD_IN}{FUNCTIONS}\n\nBe brief.")
    system, _, answer = read(tmp_path, line).messages
    assert system == Message("system", "Be brief.")
    assert answer == Message("assistant", "I see.", (Call("clock"),))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (TURNS[:1] + (f"ASSISTANT: {CALL}",), "turn 2 of the chat is an answer without"),
        (
            TURNS[:1] + (f"ASSISTANT: {CALL}{END}", 'FUNCTION RESPONSE: "\nASSISTANT: A"'),
            "turn 3 of the chat has ASSISTANT: inside",
        ),
        ((f"USER: Hi{END}", TURNS[3]), "turn 1 of the chat has <|endoftext|> inside"),
        (
            TURNS[:1] + (f"ASSISTANT: {CALL[:-5]}{END}",),
            "turn 2 of the chat: <functioncall> is neither JSON",
        ),
        (
            TURNS[:1] + (f"ASSISTANT: {CALL}{CALL}{END}",),
            "message 2 calls set_lamp with arguments that are no object",
        ),
        (
            TURNS[:1] + (f"ASSISTANT: {CALL}{END}".replace("aunt's", r"aunt\'s"),),
            "message 2 calls set_lamp with arguments that are no object",
        ),
        (
            TURNS[:1] + (f"ASSISTANT: {CALL}{END}".replace("set_lamp", "fly"),),
            "message 2 calls fly, which the line does not offer",
        ),
        (TURNS[:1] + TURNS[2:], "message 2 is a tool's result, but of no call before it"),
        (TURNS[:1] + 2 * TURNS[3:], "turn 3 is assistant, expected user"),
    ],
)
def test_damaged_lines_are_told(tmp_path: Path, turns: tuple[str, ...], message: str) -> None:
    """As that file has them; a few are left out, of a file of them the form is told."""
    with pytest.raises(DataError) as caught:
        collect(tmp_path, glaive(*turns))
    assert f"line 1: {message}" in str(caught.value)
    if "of the chat" in message:
        assert '"ASSISTANT: ... <|endoftext|>"' in str(caught.value.hint)
    good = [glaive(f"USER: Light {n}", *TURNS[1:]) for n in range(20)]
    assert len(collect(tmp_path, glaive(*turns), *good).candidates) == 20


def test_functions_that_are_cut_are_told(tmp_path: Path) -> None:
    """With the line."""
    line = glaive(*TURNS, system=LEAD_IN + FUNCTIONS[:-3])
    with pytest.raises(DataError, match="line 1: its list of functions is neither JSON"):
        collect(tmp_path, line)


def test_the_corpus_is_the_one_of_the_same_conversations_in_openais_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte; from the command line, which takes the file for conversations and says so."""
    rooms = ("kitchen", "cellar", "attic", "garage", "hall", "porch", "barn", "cabin")
    texts, plain = [], []
    for place, room in enumerate(room for room in rooms for _ in range(6)):
        asked = f"{room} {place * 977}"
        texts.append(glaive(f"USER: {asked}", *TURNS[1:]))
        plain.append(
            {
                "messages": [{"role": "user", "content": asked}]
                + [turn.to_dict() for turn in TALK[1:]],
                "tools": [SET_LAMP, CLOCK],
            }
        )
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "glaive.jsonl", *texts)
    words = ("prepare", "chat", "--data", "glaive.jsonl", "--out", "out")
    monkeypatch.setattr(sys, "argv", ["ollama-bridge", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert "48 conversation(s) are one text of turns, with their calls (Glaive's form)" in said
    corpora = [
        prepare(section(write(tmp_path / f"{name}.jsonl", *records)), REPLY, seed=1,
                out_dir=tmp_path / name)
        for name, records in (("texts", texts), ("plain", plain))
    ]  # fmt: skip
    for name in ("train", "validation", "test"):
        one, other = (corpus.split_path(name).read_bytes() for corpus in corpora)
        assert one
        assert one == other
