"""Calls in brackets, as ToolACE's lines have them, become calls of tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.chat_lines import collect, read
from fakes.tool_chats import CLOCK, SET_LAMP

from ollama_bridge.errors import DataError
from ollama_bridge.examples import Call, Message

SET_MANY = {
    "name": "Set All Lamps",
    "description": "Switch lamps.",
    "parameters": {
        "type": "dict",
        "properties": {"rooms": {"type": "array", "items": {"type": "string"}}, "how": {}},
    },
    "required": None,
}
LEAD_IN = (
    "You are an expert in composing functions. You are given a question and a set of possible "
    "functions. \nBased on the question, you will need to make one or more function/tool calls to "
    "achieve the purpose. \nIf none of the function can be used, point it out. If the given "
    "question lacks the parameters required by the function,\nalso point it out. You should only "
    "return the function call in tools call sections.\n"
)
FUNCTIONS = json.dumps([SET_LAMP["function"], SET_MANY, CLOCK["function"]])
FORMAT = (
    f"Here is a list of functions in JSON format that you can invoke:\n{FUNCTIONS}. \nShould you "
    "decide to return the function call(s). \nPut it in the format of [func1(params_name="
    "params_value, params_name2=params_value2...), func2(params)]\n\nNO other text MUST be "
    "included. \n"
)
ASKED = "Light in the cellar, and the time?"
CALLED = '[set_lamp(room="cellar", on=True), clock()]'
RESULTS = '[{"name": "set_lamp", "results": {"lit": true}}, {"name": "clock", "results": "12:00"}]'
TALK = (
    Message("user", ASKED),
    Message("assistant", "", (Call("set_lamp", {"on": True, "room": "cellar"}), Call("clock"))),
    Message("tool", '{"lit": true}', name="set_lamp"),
    Message("tool", "12:00", name="clock"),
    Message("assistant", "It is lit, at noon."),
)


def toolace(*said: str, system: str = LEAD_IN + FORMAT) -> dict[str, Any]:
    turns = []
    for text in said:
        speaker = "tool" if text.startswith("[{") else "assistant"
        turns.append({"from": speaker if turns else "user", "value": text})
    return {"system": system, "conversations": turns}


def calls(folder: Path, text: str) -> tuple[Call, ...]:
    return read(folder, toolace(ASKED, text)).messages[-1].calls


def test_calls_in_brackets_are_read(tmp_path: Path) -> None:
    """With their tools, and the results that the turn of the tool names."""
    collected = collect(tmp_path, toolace(ASKED, CALLED, RESULTS, TALK[-1].content))
    (one,) = collected.candidates
    assert one.example.messages == TALK
    assert one.example.tools[0] == SET_LAMP
    assert one.example.tools[1]["function"]["name"] == "Set All Lamps"
    assert "1 conversation(s) have calls in brackets (ToolACE's form)" in collected.notes[0]


@pytest.mark.parametrize("form", ["{} {}", "{1}\n{0}"])
def test_what_a_system_turn_says_besides_stays(tmp_path: Path, form: str) -> None:
    """In ``messages`` too; an answer that calls nothing is a text."""
    system = form.format("You run the house.", FORMAT)
    turns = [("system", system), ("user", "Hi"), ("assistant", "[Hello](there)")]
    line = {"messages": [{"role": role, "content": text} for role, text in turns]}
    first, _, last = read(tmp_path, line).messages
    assert first == Message("system", "You run the house.")
    assert last == Message("assistant", "[Hello](there)")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("[Set All Lamps(rooms=['a)', \"b's\"], how={'dim': None})]",
         {"how": {"dim": None}, "rooms": ["a)", "b's"]}),
        ('[Set All Lamps(rooms=["a", "b"], how=true)]', {"how": True, "rooms": ["a", "b"]}),
        ("[ Set All Lamps ( how=-1.5 ) ]", {"how": -1.5}),
        ("[Set All Lamps(how=null)]", {"how": None}),
    ],
)  # fmt: skip
def test_arguments_are_values_of_python_or_json(
    tmp_path: Path, text: str, arguments: dict[str, Any]
) -> None:
    """Brackets and quotes inside of texts are theirs."""
    assert calls(tmp_path, text) == (Call("Set All Lamps", arguments),)


def test_one_call_takes_whatever_result_there_is(tmp_path: Path) -> None:
    """There is no other that it could be of."""
    said = '[{"time": "12:00"}]'
    result = read(tmp_path, toolace(ASKED, "[clock()]", said)).messages[-1]
    assert result == Message("tool", said, name="clock")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["[fly(to='Oslo')]"], "message 3 calls fly in brackets, which the line does not offer"),
        (["[clock() and clock()]"], "message 3 has 'and clock()]' behind a call in brackets"),
        (["[clock(), fly()]"], "message 3 has ', fly()]' behind a call in brackets"),
        (["[set_lamp(room=cellar)]"], "calls set_lamp with a value that is no literal, in brack"),
        (["[set_lamp('cellar')]"], "calls set_lamp with what are no parameters by name"),
        (["[set_lamp(room='a', room='b')]"], "calls set_lamp with what are no parameters by name"),
        (["[set_lamp(room='aunt''s')]"], "calls set_lamp with what are no parameters by name"),
        (["[set_lamp(room='aunt's')]"], "calls set_lamp with what cannot be read in brackets"),
        (
            ["[set_lamp(room=['cellar')]]"],
            "message 3 calls set_lamp with what has no end, in brack",
        ),
        (["[set_lamp(room=('cellar')]"], "message 3 calls set_lamp with what has no end, in brack"),
        ([CALLED, "[{}]"], "message 4 has not a result in brackets for each of the calls"),
        ([CALLED, RESULTS.replace("clock", "set_lamp")], "message 4 has not a result in brackets"),
    ],
)
def test_what_is_half_read_is_told_with_its_line(
    tmp_path: Path, said: list[str], message: str
) -> None:
    """A few such lines are left out, of a file of them the form is told."""
    with pytest.raises(DataError) as caught:
        collect(tmp_path, toolace(ASKED, *said))
    assert "line 1: message " in str(caught.value)
    assert message in str(caught.value)
    if "not offer" not in message:
        assert "an answer that calls is [name(parameter=value" in str(caught.value.hint)
    good = [toolace(f"Light {n}", CALLED) for n in range(20)]
    assert len(collect(tmp_path, toolace(ASKED, *said), *good).candidates) == 20


def test_functions_that_are_cut_are_told(tmp_path: Path) -> None:
    """With the line."""
    system = FORMAT.replace('"name": "clock"', '"name" "clock"')
    with pytest.raises(DataError, match="line 1: its list of functions is neither JSON"):
        collect(tmp_path, toolace(ASKED, CALLED, system=system))
