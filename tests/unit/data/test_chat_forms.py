"""Conversations in other forms than that of chat APIs, from the command line on."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ollama_bridge import cli
from ollama_bridge.data.chats.forms import find_messages
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.storage.artifacts import Corpus

SYSTEM = "You answer for the shop."
QUESTION, ANSWER, MORE, LAST = "Is lamp {} sold?", "It was {}, yes.", "And desk {}?", "No, {}."


def sharegpt(number: int, *, opened_by: str = "human", answered_by: str = "gpt") -> object:
    """As in the files of that name: an id, and who speaks as ``from``."""
    speakers = (opened_by, answered_by, opened_by, answered_by)
    said = [
        {"from": speaker, "value": text.format(number)}
        for speaker, text in zip(speakers, (QUESTION, ANSWER, MORE, LAST), strict=True)
    ]
    return {"id": f"identity_{number}", "conversations": said}


def in_turns(number: int) -> list[dict[str, str]]:
    roles = ("user", "assistant", "user", "assistant")
    return [
        {"role": role, "content": text.format(number)}
        for role, text in zip(roles, (QUESTION, ANSWER, MORE, LAST), strict=True)
    ]


def with_system(number: int) -> object:
    """LLaMA-Factory's: the system prompt is a column, and so are the tools."""
    record = sharegpt(number, answered_by="model")
    assert isinstance(record, dict)
    return record | {"system": SYSTEM, "tools": ""}


def with_system_turn(number: int) -> object:
    record = sharegpt(number, opened_by="user", answered_by="chatgpt")
    assert isinstance(record, dict)
    turns = [{"from": "system", "value": SYSTEM}, *record["conversations"]]
    return {"conversations": turns, "source": "wild"}


def trl(number: int) -> object:
    *prompt, answer = in_turns(number)
    first = {"role": "system", "content": SYSTEM}
    return {"prompt": [first, *prompt], "completion": [answer]}


def write(path: Path, records: Sequence[object]) -> None:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in records), encoding="utf-8")


def prepare(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ollama-bridge", "prepare", "chat", *words, "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def prepared() -> list[Example]:
    corpus = Corpus.open(Path("out"))
    names = ("train", "validation", "test")
    return [one for name in names for one in read_examples(corpus.split_path(name))]


@pytest.mark.parametrize(
    ("form", "system"),
    [
        (sharegpt, None),
        (with_system, SYSTEM),
        (with_system_turn, SYSTEM),
        (trl, SYSTEM),
        (lambda number: {"conversations": in_turns(number)}, None),
    ],
    ids=["sharegpt", "system", "system turn", "trl", "roles"],
)
def test_forms_of_conversations_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: object, system: str | None
) -> None:
    """As ``messages`` would be: every line, its speakers and its system turn."""
    monkeypatch.chdir(tmp_path)
    assert callable(form)
    write(Path("chats.jsonl"), [form(number * 1001) for number in range(40)])
    assert prepare(monkeypatch, "--data", "chats.jsonl") == 0
    found = {one.id: one.messages for one in prepared()}
    assert len(found) == 40
    expected = [{"role": "system", "content": system}] if system else []
    expected += in_turns(2 * 1001)
    assert [turn.to_dict() for turn in found["line-3"]] == expected


@pytest.mark.parametrize("speaker", ["tool", "function_call", "observation"])
def test_tools_of_sharegpt_that_nobody_offered_are_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    speaker: str,
) -> None:
    """Said with the line, and with what is missing."""
    monkeypatch.chdir(tmp_path)
    write(Path("chats.jsonl"), [*map(sharegpt, range(39)), sharegpt(99, answered_by=speaker)])
    assert prepare(monkeypatch, "--data", "chats.jsonl") == 0
    said = " ".join(capsys.readouterr().err.split())
    reason = "message 2 is a tool's result, but of no call before it"
    if speaker == "function_call":
        reason = "message 2 calls a tool without a name"
    assert f"1 of 40 conversations (2.5%) are left out: {reason}" in said


@pytest.mark.parametrize(
    ("record", "converted"),
    [
        (
            {"dialog turns": in_turns(3)},
            {"messages": in_turns(3)},
        ),
        (
            {"prompt": in_turns(3)[:1], "chosen": in_turns(3)[1:2], "rejected": in_turns(4)[1:2]},
            {"prompt": in_turns(3)[:1], "completion": in_turns(3)[1:2]},
        ),
    ],
)
def test_other_forms_are_told_with_what_makes_them_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: dict[str, object],
    converted: dict[str, object],
) -> None:
    """A list of turns under another name, and a pair of answers: the command is jq's."""
    monkeypatch.chdir(tmp_path)
    write(Path("my chats.jsonl"), [record])
    assert prepare(monkeypatch, "--data", "my chats.jsonl") != 0
    _, _, hint = capsys.readouterr().err.rpartition("jq -c ")
    form, source, to, target = shlex.split(hint.strip())
    assert (Path(source).name, to, Path(target).name) == (
        "my chats.jsonl",
        ">",
        "my chats-chats.jsonl",
    )
    # What jq would write; it is not on every machine.
    name = next(iter(record))
    assert form == (
        "{prompt, completion: .chosen}" if "chosen" in record else f'{{messages: .["{name}"]}}'
    )
    assert find_messages(converted) is not None
    assert find_messages(record) is None


def test_a_conversation_that_was_asked_for_as_a_table_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns that are named make a table of any file."""
    monkeypatch.chdir(tmp_path)
    write(Path("chats.jsonl"), [sharegpt(1)])
    words = ("--data", "chats.jsonl", "--text-col", "conversations", "--label-col", "id")
    assert prepare(monkeypatch, *words) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "conversations is a list, not a text" in said
    assert "leave out --text-col and --label-col" in said


def test_json_lines_of_another_name_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A header of braces would be taken for columns."""
    monkeypatch.chdir(tmp_path)
    write(Path("chats.txt"), [{"messages": in_turns(1)}])
    assert prepare(monkeypatch, "--data", "chats.txt") != 0
    said = "".join(capsys.readouterr().err.split())
    assert "holdsJSONlines,butitsnamesaysCSV" in said
    assert "chats.jsonl" in said.rpartition("mv")[2]
