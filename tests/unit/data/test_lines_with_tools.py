"""Tools, calls and results in the forms that files have them in."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes.tool_chats import CLOCK, SET_LAMP, TOOLS, lines

from ollama_bridge.data.candidates import Collected
from ollama_bridge.data.chats.messages import collect_messages
from ollama_bridge.data.duplicates import remove_duplicates
from ollama_bridge.data.prepare import prepare
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Call, Example, Message, read_examples
from ollama_bridge.recipe.config import DataSection, TaskSection

REPLY = TaskSection(kind="reply", system="")
ASKED = {"role": "user", "content": "Light in the cellar!"}
ARGUMENTS = {"room": "cellar", "on": True}
CALL = {"type": "function", "function": {"name": "set_lamp", "arguments": ARGUMENTS}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "lit"}
DONE = {"role": "assistant", "content": "It is lit."}
LIT = (
    Message("user", "Light in the cellar!"),
    Message("assistant", "", (Call("set_lamp", ARGUMENTS),)),
    Message("tool", "lit", name="set_lamp"),
    Message("assistant", "It is lit."),
)


def line(*messages: object, tools: object = TOOLS, **more: object) -> dict[str, Any]:
    return {"messages": list(messages), "tools": tools, **more}


def write(folder: Path, records: list[Any]) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def section(path: Path, **more: object) -> DataSection:
    return DataSection.model_validate({"source": "messages", "path": path, **more})


def collect(folder: Path, *records: Any, task: TaskSection = REPLY) -> Collected:
    path = write(folder, list(records))
    return collect_messages(path, section(path), task)


def read(folder: Path, record: Any) -> Example:
    (found,) = collect(folder, record).candidates
    return found.example


def call(**function: object) -> dict[str, Any]:
    return {**CALLS, "tool_calls": [{"function": {"name": "set_lamp", **function}}]}


def look(schema: object = None, **properties: object) -> dict[str, Any]:
    """A line that offers one tool."""
    schema = schema or {"type": "object", "properties": properties}
    return line(ASKED, DONE, tools=[{"name": "look", "parameters": schema}])


BOTH = [{**CALL, "id": "1"}, {"id": "2", "name": "clock", "arguments": {}}]
IN_PARTS = {**RESULT, "content": [{"type": "text", "text": "lit"}]}
OLD_CALL = {"role": "assistant", "function_call": {"name": "set_lamp", "arguments": ARGUMENTS}}
FORMS: dict[str, dict[str, Any]] = {
    "as OpenAI has it": line(
        ASKED,
        call(arguments=json.dumps(ARGUMENTS)),
        {**RESULT, "tool_call_id": "1"},
        DONE,
    ),
    "as Ollama has it": line(
        ASKED, CALLS | {"content": ""}, RESULT | {"tool_name": "set_lamp"}, DONE
    ),
    "tools as a text": line(ASKED, CALLS, RESULT, DONE, tools=json.dumps(TOOLS)),
    "bare functions": line(ASKED, CALLS, RESULT, DONE, tools=[tool["function"] for tool in TOOLS]),
    "bare calls": line(ASKED, {**CALLS, "tool_calls": [CALL["function"]]}, IN_PARTS, DONE),
    "OpenAI's older one": {
        "messages": [
            ASKED,
            OLD_CALL,
            {"role": "function", "name": "set_lamp", "content": "lit"},
            DONE,
        ],
        "functions": [tool["function"] for tool in TOOLS],
    },
    "ShareGPT's": {
        "conversations": [
            {"from": "human", "value": "Light in the cellar!"},
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "lit"},
            {"from": "gpt", "value": "It is lit."},
        ],
        "tools": json.dumps([tool["function"] for tool in TOOLS]),
    },
    "ms-swift's": line(
        ASKED,
        {"role": "tool_call", "content": json.dumps(CALL["function"])},
        {"role": "tool_response", "content": "lit"},
        DONE,
        tools=json.dumps(TOOLS),
    ),
    "TRL's": {"prompt": [ASKED], "completion": [CALLS, RESULT, DONE], "tools": TOOLS},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_become_one(tmp_path: Path, form: str) -> None:
    """Whoever wrote them, tools, call and result are read alike."""
    found = read(tmp_path, FORMS[form])
    assert found.messages == LIT
    assert found.tools == TOOLS


def spoken(name: str, **arguments: object) -> dict[str, str]:
    """A call that is a turn, as ms-swift has it."""
    return {"role": "tool_call", "content": json.dumps({"name": name, "arguments": arguments})}


def test_calls_in_a_row_are_those_of_one_answer(tmp_path: Path) -> None:
    """Of what is said in front of them, too; a null of theirs is said, and tools may be texts."""
    said = {**DONE, "content": "<think>\nBoth.\n</think>\n"}
    calls = (spoken("set_lamp", room=None), spoken("clock"))
    results = ({"role": "tool_response", "content": "lit"}, {**RESULT, "content": "12:00"})
    tools = list(map(json.dumps, TOOLS))
    for turns, text in (((), ""), ((said,), "<think>\nBoth.\n</think>")):
        found = read(tmp_path, line(ASKED, *turns, *calls, *results, DONE, tools=tools))
        assert found.messages == (
            LIT[0],
            Message("assistant", text, (Call("set_lamp", {"room": None}), Call("clock"))),
            Message("tool", "lit", name="set_lamp"),
            Message("tool", "12:00", name="clock"),
            LIT[3],
        )
        assert found.tools == TOOLS


def test_work_on_calls_in_a_row_is_not_found_again_as_the_one_without(tmp_path: Path) -> None:
    """Only of files that have them: their lines were left out."""
    once, twice = ((ASKED, *n * (spoken("clock"),), *n * (RESULT,), DONE) for n in (1, 2))
    for turns, settings in ((once, {}), (twice, {"calls": "joined"})):
        rows = [line({**ASKED, "content": f"What is {n * 977}?"}, *turns[1:]) for n in range(30)]
        data = section(write(tmp_path, rows), near_duplicates="keep")
        corpus = prepare(data, REPLY, seed=1, out_dir=tmp_path / f"corpus-{len(turns)}")
        assert settings.items() <= corpus.manifest.work.settings.items()
        assert ("calls" in corpus.manifest.work.settings) == bool(settings)


def test_results_find_their_calls(tmp_path: Path) -> None:
    """By id, by name, or in the order of the calls."""
    by_id = [{**CALL, "id": "1"}, {"id": "2", "function": {"name": "clock", "arguments": ""}}]
    results = [{**RESULT, "tool_call_id": "2"}, {**RESULT, "tool_call_id": "1"}]
    found = read(tmp_path, line(ASKED, {**CALLS, "tool_calls": by_id}, *results, DONE))
    assert found.messages[1].calls[1] == Call("clock", {}, "2")
    assert [(one.name, one.call_id) for one in found.messages[2:4]] == [
        ("clock", "2"),
        ("set_lamp", "1"),
    ]
    both = [CALL, {"name": "clock", "arguments": {}}]
    named = [{**RESULT, "name": "clock"}, {**RESULT, "content": {"lit": True}}]
    found = read(tmp_path, line(ASKED, {**CALLS, "tool_calls": both}, *named, DONE))
    assert [one.name for one in found.messages[2:4]] == ["clock", "set_lamp"]
    assert found.messages[3].content == '{"lit": true}'


def test_a_conversation_may_end_on_a_call_or_on_a_result(tmp_path: Path) -> None:
    """The first is learnt as it is, the second waits for an answer; beside a call may be text."""
    said = {**CALLS, "content": "Wait.", "thinking": "The lamp."}
    ends = collect(tmp_path, line(ASKED, said), line({**ASKED, "content": "On!"}, CALLS, RESULT))
    first, second = (one.example for one in ends.candidates)
    assert not first.is_open
    assert first.messages[-1].content == "<think>\nThe lamp.\n</think>\n\nWait."
    assert first.messages[-1].calls
    assert second.is_open
    assert "1 conversation(s) end with the user's turn, or a tool's result" in ends.notes[-1]


def test_tools_are_those_that_ollama_hands_on(tmp_path: Path) -> None:
    """Its order of keys, by name what is in an object; what it drops is told, once."""
    schema = {
        "additionalProperties": False,
        "required": ["b"],
        "properties": {
            "b": {"enum": ["x"], "default": "x", "type": ["string"], "description": ""},
            "a": {"type": "array", "items": {"type": "string", "minLength": 1.0}},
            "gap": None,
        },
        "type": "object",
    }
    tools = [{"strict": True, "name": "look", "parameters": schema}, {"name": "wait"}]
    collected = collect(tmp_path, line(ASKED, DONE, tools=tools))
    (one,) = collected.candidates
    look, wait = (tool["function"] for tool in one.example.tools)
    assert json.dumps(look) == json.dumps(
        {
            "name": "look",
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "array", "items": {"minLength": 1, "type": "string"}},
                    "b": {"type": "string", "enum": ["x"]},
                },
                "required": ["b"],
            },
        }
    )
    assert wait["parameters"] == {"type": "object", "properties": {}}
    assert collected.notes == (
        "tools have keys that Ollama hands on to no model; they are not learnt: "
        "additionalProperties, default, strict",
    )


def test_parameters_may_be_given_by_name_alone(tmp_path: Path) -> None:
    """As xLAM's are, without a schema around them."""
    bare = {"name": "look", "parameters": {"at": {"type": "string"}}}
    (tool,) = read(tmp_path, line(ASKED, DONE, tools=[bare])).tools
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {"at": {"type": "string"}},
    }


def test_arguments_come_by_name_without_the_gaps_of_tables(tmp_path: Path) -> None:
    """A null stands where another call of the file has an argument, unless it may be said."""
    schema = {"properties": {"a": {"type": ["string", "null"]}, "b": {"type": "integer"}}}
    tools = [{"name": "look", "parameters": schema}]
    arguments = {"c": None, "b": 2.0, "a": None}
    calls = {**CALLS, "tool_calls": [{"name": "look", "arguments": arguments}]}
    (made,) = read(tmp_path, line(ASKED, calls, tools=tools)).messages[-1].calls
    assert list(made.arguments.items()) == [("a", None), ("b", 2)]


def test_a_null_in_a_text_is_said(tmp_path: Path) -> None:
    """No table has gaps there; of an object it may be one."""
    arguments = {"a": None, "b": {"c": None}}
    tools = [{"name": "look", "parameters": {"properties": {"a": {"type": "string"}}}}]
    for given, kept in ((json.dumps(arguments), arguments), (arguments, {"b": {"c": None}})):
        calls = {**CALLS, "tool_calls": [{"name": "look", "arguments": given}]}
        (made,) = read(tmp_path, line(ASKED, calls, tools=tools)).messages[-1].calls
        assert made.arguments == kept


def test_a_parameter_of_any_type_stays(tmp_path: Path) -> None:
    """An empty schema takes every value; only null is the gap of a table."""
    (tool,) = read(tmp_path, look(b={}, gap=None)).tools
    assert tool["function"]["parameters"]["properties"] == {"b": {}}


def test_a_schema_whose_type_is_the_gap_of_a_table_is_that_of_an_object(tmp_path: Path) -> None:
    """As it is where it has none: a dataframe writes null there."""
    (tool,) = read(tmp_path, look({"type": None, "properties": {"a": {"type": "string"}}})).tools
    assert tool["function"]["parameters"]["type"] == "object"


def test_an_object_of_no_properties_and_items_of_any_type_stay(tmp_path: Path) -> None:
    """As pydantic writes a dict and a list: Ollama hands both on, and no list that is empty."""
    free = {"type": "object", "properties": {}}
    given = {"a": {"type": "array", "items": {}}, "b": {"anyOf": [free], **free}}
    (tool,) = read(tmp_path, look(a={**given["a"], "enum": [], "required": []}, b=given["b"])).tools
    assert tool["function"]["parameters"]["properties"] == given


@pytest.mark.parametrize("as_text", [True, False])
def test_lines_of_questions_and_calls_are_told_what_makes_conversations(
    tmp_path: Path, *, as_text: bool
) -> None:
    """xLAM's form; the command of the hint makes what is read."""
    calls, tools = [CALL["function"]], [tool["function"] for tool in TOOLS]
    row = {"id": 1, "query": ASKED["content"], "answers": calls, "tools": tools}
    if as_text:
        row |= {name: json.dumps(row[name]) for name in ("answers", "tools")}
    with pytest.raises(DataError, match="line 1: not a list of messages") as caught:
        collect(tmp_path, row)
    hint = str(caught.value.hint)
    assert hint.startswith("jq -c '{tools, messages: ")
    if not shutil.which("jq"):  # it is not on every machine
        return
    subprocess.run(["sh", "-c", hint], check=True)
    path = tmp_path / "calls-chats.jsonl"
    (one,) = collect_messages(path, section(path), REPLY).candidates
    assert one.example.messages == LIT[:2]
    assert one.example.tools == TOOLS


def test_calls_that_are_written_as_text_are_told_where_they_stand(tmp_path: Path) -> None:
    """Learnt as text, they would be calls of another template's."""
    written = {"from": "gpt", "value": f"<functioncall> {json.dumps(CALL['function'])}"}
    talk = [{"from": "human", "value": "Light!"}, written, {"from": "tool", "value": "lit"}]
    with pytest.raises(DataError, match="message 2 is a call written as text") as caught:
        collect(tmp_path, {"conversations": talk, "tools": json.dumps(TOOLS)})
    assert '"tool_calls"' in str(caught.value.hint)
    said = {"conversations": talk[:2]}  # without tools it is a text as any other
    assert read(tmp_path, said).messages[-1].content.startswith("<functioncall>")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (line(ASKED, CALLS, tools=[CLOCK]), "message 2 calls set_lamp, which the line does not"),
        ({"messages": [ASKED, CALLS]}, "message 2 calls set_lamp, which the line does not offer"),
        (line(ASKED, call(arguments=[1])), "message 2 calls set_lamp with arguments that are no"),
        (line(ASKED, call(arguments="{")), "message 2 calls set_lamp with arguments that are no"),
        (line(ASKED, call(name=None)), "message 2 calls a tool without a name"),
        (line(ASKED, DONE, RESULT, DONE), "message 3 is a tool's result, but of no call before it"),
        (line(ASKED, CALLS, RESULT, RESULT, DONE), "message 4 is a tool's result, but of no call"),
        (
            line(ASKED, CALLS, {**RESULT, "name": "clock"}, DONE),
            "message 3 is a tool's result, but of no call",
        ),
        (line(ASKED, CALLS, ASKED, DONE), "turn 3 is user, expected tool .the results of calls"),
        (line(ASKED, CALLS, RESULT, ASKED), "turn 4 is user, expected tool or assistant"),
        (line({**ASKED, "tool_calls": [CALL]}, DONE), r"message 1 \(user\) calls a tool"),
        (line(ASKED, DONE, tools="["), "tools are no JSON"),
        (line(ASKED, DONE, tools={"a": 1}), "tools are no list"),
        (line(ASKED, DONE, tools=[{"type": "function"}]), "tool 1 has no name"),
        (line(ASKED, DONE, tools=[CLOCK, CLOCK]), "two tools are called clock"),
        (
            line(ASKED, DONE, tools=[{"name": "a", "parameters": {"properties": {"b": "c"}}}]),
            "tool a: its parameter b is no object",
        ),
        (
            line(
                ASKED, DONE, tools=[{"name": "a", "parameters": {"properties": {"b": {"type": 1}}}}]
            ),
            "tool a: the type of its parameter b is no text",
        ),
        (look(b={"enum": "xy"}), "tool look: the enum of its parameter b is no list"),
        (look(b={"description": 1}), "tool look: the description of its parameter b is no text"),
        (look(b={"anyOf": {"type": "string"}}), "tool look: the anyOf of its parameter b is no"),
        (look(b={"required": True}), "tool look: required of its parameter b is no list of names"),
        (look({"required": "b"}), "tool look: required of its parameters is no list of names"),
        (look({"type": ["object"]}), "tool look: the type of its parameters is no text"),
        (line(ASKED, call(arguments='{"room": NaN}')), "message 2 calls set_lamp with a number"),
        (line(ASKED, call(arguments='{"room": 1e999}')), "message 2 calls set_lamp with a number"),
        (
            line(ASKED, {"role": "tool_call", "content": "lamp(1)"}),
            "message 2 calls a tool without",
        ),
        (
            line(ASKED, {**CALLS, "tool_calls": BOTH}, {**RESULT, "tool_call_id": "2"}, DONE),
            "the call 1 of set_lamp has no result",
        ),
        (
            line(ASKED, {**CALLS, "tool_calls": BOTH}, {**RESULT, "tool_call_id": "1"}),
            "the call 2 of clock has no result",
        ),
        (
            line(ASKED, {**DONE, "content": 'Wait.\n[TOOL_CALLS] [{"name": "clock"}]'}),
            r"message 2 is a call written as text .\[TOOL_CALLS\].",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    """A few such lines are left out and counted, a file of them is refused."""
    with pytest.raises(DataError, match=rf"line 1: {message}"):
        collect(tmp_path, record)
    asked = [line({**ASKED, "content": f"Light {n}"}, CALLS) for n in range(30)]
    collected = collect(tmp_path, record, *asked)
    assert len(collected.candidates) == 30
    assert "1 of 31 conversations (3.2%) are left out" in collected.notes[0]


@pytest.mark.parametrize("of", ["tools", "arguments"])
def test_what_is_nested_without_end_is_told_with_its_line(tmp_path: Path, of: str) -> None:
    """JSON reads it, and Python's own stack ends in it."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(400 if of == "tools" else 0):
        schema = {"type": "object", "properties": {"a": schema}}
    arguments: dict[str, Any] = {}
    for _ in range(900 if of == "arguments" else 0):
        arguments = {"a": arguments}
    calls = {**CALLS, "tool_calls": [{"name": "look", "arguments": arguments}]}
    tools = [{"name": "look", "parameters": {"type": "object", "properties": {"a": schema}}}]
    with pytest.raises(DataError, match="line 1: nested too deeply"):
        collect(tmp_path, line(ASKED, calls, tools=tools))


def test_a_file_without_its_tools_is_told_where_they_stand(tmp_path: Path) -> None:
    """The hint shows the key that is missing."""
    with pytest.raises(DataError) as caught:
        collect(tmp_path, {"messages": [ASKED, CALLS]})
    assert '"tools": [{"type": "function"' in str(caught.value.hint)


def test_a_classification_calls_nothing(tmp_path: Path) -> None:
    """Its answers are labels; tools beside them are not read."""
    task = TaskSection(kind="classify", system="Which? lit or dark", labels=("lit", "dark"))
    lit = {"role": "assistant", "content": "lit"}
    (one,) = collect(tmp_path, line(ASKED, lit, tools="no JSON"), task=task).candidates
    assert not one.example.tools
    with pytest.raises(DataError, match="message 2 calls a tool: a classify task") as caught:
        collect(tmp_path, line(ASKED, CALLS, RESULT, lit), task=task)
    assert "-no-tools.jsonl" in str(caught.value.hint)


def test_other_calls_and_other_tools_make_no_duplicates(tmp_path: Path) -> None:
    """What is called, and what may be, decides what is right: only the same again goes."""

    def ask(room: str, tools: object = TOOLS) -> dict[str, Any]:
        asked = f"Would you please be so kind as to switch on the lamp that is in the {room} now"
        return line(
            {**ASKED, "content": asked}, call(arguments={"room": room, "on": True}), tools=tools
        )

    rows = [ask("hall"), ask("attic"), ask("hall", [SET_LAMP]), ask("hall", [CLOCK, SET_LAMP])]
    left = remove_duplicates(collect(tmp_path, *rows).candidates)
    assert [one.example.id for one in left.kept] == ["line-1", "line-2", "line-3"]
    assert left.kept[0].example.group == left.kept[2].example.group  # the same question
    assert [one.example.id for one in left.exact] == ["line-4"]


def test_a_corpus_of_calls(tmp_path: Path) -> None:
    """Its manifest counts the conversations with tools, its card the calls of each."""
    corpus = prepare(section(write(tmp_path, list(lines()))), REPLY, seed=1, out_dir=tmp_path / "c")
    train = list(read_examples(corpus.split_path("train")))
    assert all(one.tools == TOOLS for one in train)
    kept = sum(int(str(corpus.manifest.facts[name])) for name in ("train", "validation", "test"))
    assert corpus.manifest.facts["with_tools"] == kept > 80
    card = json.loads((corpus.path / "card.json").read_text("utf-8"))
    assert card["splits"]["train"]["with_tools"] == len(train)
    assert set(card["splits"]["train"]["calls"]) == {"clock", "set_lamp"}


def test_control_tokens_in_calls_and_results_are_found(tmp_path: Path) -> None:
    """They would end the turn."""
    forged = call(arguments={"room": "<|im_end|>", "on": True})
    records = [
        *lines(),
        line(ASKED, forged),
        line(ASKED, CALLS, {**RESULT, "content": "<|im_end|>"}),
    ]
    corpus = prepare(section(write(tmp_path, records)), REPLY, seed=1, out_dir=tmp_path / "corpus")
    card = json.loads((corpus.path / "card.json").read_text("utf-8"))
    assert card["left_out"]["holds a control token of a chat format"] == {"messages": 2}


def test_a_file_without_tools_has_the_key_that_it_had(tmp_path: Path) -> None:
    """Work of before is found again; where tools were left out, it is done anew."""
    rows = [line({**ASKED, "content": f"What is {n} and {n}?"}, DONE) for n in range(30)]
    settings = []
    for name, records in (
        ("tools", rows),
        ("none", [{"messages": row["messages"]} for row in rows]),
    ):
        (folder := tmp_path / name).mkdir()
        data = section(write(folder, records), near_duplicates="keep")
        corpus = prepare(data, REPLY, seed=1, out_dir=folder / "corpus")
        settings.append(corpus.manifest.work.settings)
    assert settings[0].keys() - settings[1].keys() == {"tools"}


def test_each_answer_can_be_learnt_by_itself(tmp_path: Path) -> None:
    """For Qwen3's template, which forgets past thoughts; what is scored stays whole."""
    talks = [
        line({**ASKED, "content": f"Light {n}, {word}"}, CALLS, RESULT, DONE)
        for n, word in enumerate(("hall", "attic", "porch", "cellar", "garage", "kitchen") * 5)
    ]
    path = write(tmp_path, talks)
    kept = {"near_duplicates": "keep"}
    whole = prepare(section(path, **kept), REPLY, seed=1, out_dir=tmp_path / "whole")
    each = prepare(
        section(path, each_answer=True, **kept), REPLY, seed=1, out_dir=tmp_path / "each"
    )
    assert "each_answer" not in str(whole.manifest.work.settings)
    first, second, *_ = read_examples(each.split_path("train"))
    assert first.id == f"{second.id} answer 1"
    assert first.messages == second.messages[:2]
    assert (first.is_part, second.is_part) == (True, False)
    for name, factor in (("train", 2), ("validation", 2), ("test", 1)):
        assert each.manifest.facts[name] == factor * int(str(whole.manifest.facts[name]))
    assert whole.split_path("test").read_bytes() == each.split_path("test").read_bytes()
