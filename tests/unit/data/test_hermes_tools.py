"""Tools, calls and results in the tags of Hermes and of Qwen become those of chat APIs."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.chat_lines import REPLY, collect, read
from fakes.tool_chats import CLOCK, SET_LAMP, TOOLS

from ollama_bridge import cli
from ollama_bridge.data.chats.messages import collect_messages
from ollama_bridge.data.prepare import prepare
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Call, Message
from ollama_bridge.recipe.config import DataSection
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.jinja import ChatTemplate

# Written as Qwen's are; `fakes.formats` has them, but loads torch.
_TEMPLATES = Path(__file__).parents[2] / "fakes" / "chat_templates"
# The system turns of files that people have; %s is the list of tools.
_ASSIST = "You may call one or more functions to assist with the user query."
_ASSUME = "Don't make assumptions about what values to plug into functions."
_AS_FOLLOWS = "\n<tool_call>\n{'arguments': <args-dict>, 'name': <function-name>}\n</tool_call>"
_SCHEMA = (
    "{'title': 'FunctionCall', 'type': 'object', 'properties': {'arguments': {'title': 'Arguments',"
    " 'type': 'object'}, 'name': {'title': 'Name', 'type': 'string'}}, 'required': ['arguments', "
    "'name']}"
)
HERMES_FILE = (
    "You are a function calling AI model. You are provided with function signatures within <tools> "
    f"</tools> XML tags. {_ASSIST} {_ASSUME}\n<tools>\n%s\n</tools>\nFor each function call return "
    "a json object with function name and arguments within <tool_call> </tool_call> tags with the "
    f"following schema:{_AS_FOLLOWS}\n"
)
HERMES_2_PRO = (
    "You are a function calling AI model. You are provided with function signatures within "
    f"<tools></tools> XML tags.{_ASSIST} {_ASSUME}Here are the available tools:<tools> %s </tools>"
    f"Use the following pydantic model json schema for each tool call you will make: {_SCHEMA} For "
    "each function call return a json object with function name and arguments within "
    f"<tool_call></tool_call> XML tags as follows:{_AS_FOLLOWS}"
)
HERMES_AGENT = (
    "You are a function calling AI model. You are provided with function signatures within <tools> "
    f"</tools> XML tags. {_ASSIST} If available tools are not relevant in assisting with user "
    f"query, just respond in natural conversational language. {_ASSUME} After calling & executing "
    "the functions, you will be provided with function results within <tool_response> "
    "</tool_response> XML tags. Here are the available tools:\n<tools>\n%s\n</tools>\nFor each "
    f"function call return a JSON object, with the following pydantic model json schema for each:\n"
    f"{_SCHEMA}\nEach function call should be enclosed within <tool_call> </tool_call> XML tags.\n"
    f"Example:{_AS_FOLLOWS}"
)
QWEN = (
    f"# Tools\n\n{_ASSIST}\n\nYou are provided with function signatures within <tools></tools> XML "
    "tags:\n<tools>\n%s\n</tools>\n\nFor each function call, return a json object with function "
    "name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
PERSONA = "You run the house.\n    Be brief."
LISTED, LINES = json.dumps(TOOLS), "\n".join(map(json.dumps, TOOLS))
SYSTEMS = {
    "Hermes's file": HERMES_FILE % list(TOOLS),
    "Hermes 2 Pro's": HERMES_2_PRO % list(TOOLS),
    "Hermes Agent's": HERMES_AGENT % LISTED,
    "Qwen's": QWEN % LINES,
    "Python's, a line each": QWEN % "\n".join(map(str, TOOLS)),
    "bare functions": HERMES_FILE % json.dumps([tool["function"] for tool in TOOLS]),
}
ASKED = "Light in the cellar, and what time is it?"
ARGUMENTS = {"room": "cellar", "on": True}
TALK = (
    Message("user", ASKED),
    Message("assistant", "I see.", (Call("set_lamp", ARGUMENTS), Call("clock"))),
    Message("tool", '{"lit": true}', name="set_lamp"),
    Message("tool", "12:00", name="clock"),
    Message("assistant", "It is lit, at noon."),
)
JSON_CALL = json.dumps({"name": "set_lamp", "arguments": ARGUMENTS})
CALLED = (
    f"I see.\n<tool_call>\n{{'arguments': {ARGUMENTS}, 'name': 'set_lamp'}}\n</tool_call>\n"
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
)
LIT = '<tool_response>\n{"name": "set_lamp", "content": {\'lit\': True}}\n</tool_response>'
NOON = '<tool_response>\n{"name": "clock", "content": "12:00"}\n</tool_response>'


def hermes(*said: str, system: str = SYSTEMS["Hermes's file"], **more: object) -> dict[str, Any]:
    """A line as the files of that form are; speakers as the texts tell them."""
    turns = [{"from": "system", "value": system}]
    for text in said:
        speaker = "tool" if text.startswith("<tool_response>") else "gpt"
        turns.append({"from": "human" if len(turns) == 1 else speaker, "value": text})
    return {"id": "753d8365", "conversations": turns, "category": "Home", **more}


@pytest.mark.parametrize("system", SYSTEMS)
def test_lines_of_tags_are_read_as_tools(tmp_path: Path, system: str) -> None:
    """Whichever words the system turn has for them, and whether JSON's or Python's."""
    found = read(
        tmp_path, hermes(ASKED, CALLED, f"{LIT}\n{NOON}", TALK[-1].content, system=SYSTEMS[system])
    )
    assert found.messages == TALK
    assert found.tools == TOOLS


@pytest.mark.parametrize("form", ["{} {}", "{}\n\n{}", "{1}\n{0}"])
def test_what_a_system_turn_says_besides_stays(tmp_path: Path, form: str) -> None:
    """Its own words are learnt as they are."""
    system = form.format(PERSONA, SYSTEMS["Qwen's"])
    first, *_ = read(tmp_path, hermes("Hi", "Hello.", system=system)).messages
    assert first == Message("system", PERSONA)


def as_messages(*said: tuple[str, str], **more: object) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in said], **more}


FORMS = {
    "Qwen's results": as_messages(
        ("system", SYSTEMS["Qwen's"]),
        ("user", ASKED),
        ("assistant", CALLED),
        (
            "user",
            '<tool_response>\n{"lit": true}\n</tool_response>\n<tool_response>\n12:00\n'
            "</tool_response>",
        ),
        ("assistant", TALK[-1].content),
    ),
    "two turns of results": as_messages(
        ("system", SYSTEMS["Qwen's"]),
        ("user", ASKED),
        ("assistant", CALLED),
        ("tool", LIT),
        ("tool", NOON),
        ("assistant", TALK[-1].content),
    ),
    "results out of order": hermes(ASKED, CALLED, f"{NOON}\n{LIT}", TALK[-1].content),
    "results without tags": as_messages(
        ("system", SYSTEMS["Qwen's"]),
        ("user", ASKED),
        ("assistant", CALLED),
        ("tool", '{"lit": true}'),
        ("tool", "12:00"),
        ("assistant", TALK[-1].content),
    ),
    "tools beside": as_messages(
        ("user", ASKED),
        ("assistant", CALLED),
        ("tool", f"{LIT}{NOON}"),
        ("assistant", TALK[-1].content),
        tools=list(TOOLS),
    ),
    "tools beside, too": hermes(ASKED, CALLED, LIT + NOON, TALK[-1].content, tools=LISTED),
    "a system beside": {
        "system": SYSTEMS["Hermes Agent's"],
        "conversations": hermes(ASKED, CALLED, LIT + NOON, TALK[-1].content)["conversations"][1:],
    },
    "roles of ShareGPT": {
        "conversations": [
            {"role": role, "content": text}
            for role, text in (
                ("system", SYSTEMS["Hermes 2 Pro's"]),
                ("human", ASKED),
                ("model", CALLED),
                ("tool", LIT + NOON),
                ("model", TALK[-1].content),
            )
        ]
    },
    "calls beside": {
        "messages": [
            {"role": "system", "content": QWEN % LINES},
            {"role": "user", "content": ASKED},
            {
                "role": "assistant",
                "content": "I see.",
                "tool_calls": f'[{JSON_CALL}, {{"name": "clock", "arguments": {{}}}}]',
            },
            {"role": "tool", "content": '<tool_response>{"lit": true}</tool_response>'},
            {"role": "tool", "content": "12:00"},
            {"role": "assistant", "content": TALK[-1].content},
        ]
    },
    "calls in one tag": hermes(
        ASKED,
        f'I see. <tool_call>[{JSON_CALL}, {{"name": "clock"}}]</tool_call>',
        LIT + NOON,
        TALK[-1].content,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_tags_become_one(tmp_path: Path, form: str) -> None:
    """Results stand under their calls: by name, else in the order of the calls."""
    found = read(tmp_path, FORMS[form])
    asked, answer, *results, last = found.messages
    assert (asked, answer, last) == (*TALK[:2], TALK[-1])
    assert sorted(results, key=lambda one: one.name, reverse=True) == list(TALK[2:4])
    assert found.tools == TOOLS


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3"])
def test_what_a_template_writes_is_read_again(tmp_path: Path, name: str) -> None:
    """A rendered conversation, cut at the marks of its turns, is the one that was rendered."""
    template = ChatTemplate((_TEMPLATES / f"{name}.jinja").read_text(), special={}, adds_bos=False)
    rendered = template.render(Conversation(TALK, TOOLS), prompt=False)
    turns = [turn.removesuffix("<|im_end|>\n") for turn in rendered.split("<|im_start|>")[1:]]
    said = [(role, text) for role, _, text in (turn.partition("\n") for turn in turns)]
    found = read(tmp_path, as_messages(*said))
    messages = [one for one in found.messages if one.role != "system"]
    thought = "<think>\n\n</think>\n\n"  # an empty one of qwen3's, of its last answer
    assert [replace(one, content=one.content.removeprefix(thought)) for one in messages] == list(
        TALK
    )
    assert found.tools == TOOLS


def test_a_thought_stays_in_front_of_its_call(tmp_path: Path) -> None:
    """As the thinking of chat APIs does; a null that is said is an argument."""
    call = '<tool_call>{"name": "set_lamp", "arguments": "{\\"room\\": null}"}</tool_call>'
    answer = read(tmp_path, hermes(ASKED, f"<think>\nThe lamp.\n</think>\n\n{call}")).messages[-1]
    assert answer.content == "<think>\nThe lamp.\n</think>"
    assert answer.calls == (Call("set_lamp", {"room": None}),)


def test_a_result_may_look_like_one_with_its_name(tmp_path: Path) -> None:
    """What a tool gives is not opened where the name is no tool's, or there is more."""
    for said in (
        '{"name": "lamp.txt", "content": "lit"}',
        '{"name": "clock", "content": 1, "a": 2}',
        "{'lit': True}",
        "{lit}",
        "",
    ):
        result = f"<tool_response>{said}</tool_response>"
        call = '<tool_call>{"name": "clock"}</tool_call>'
        assert read(tmp_path, hermes(ASKED, call, result)).messages[-1].content == said


def both(folder: Path) -> tuple[Path, Path]:
    """The same conversations in Hermes's form and in OpenAI's, as files."""
    rooms = ("kitchen", "cellar", "attic", "garage", "hall", "porch", "barn", "cabin")
    words = ("please", "now", "quickly", "again", "later", "today", "first", "softly")
    tagged, plain = [], []
    for room, word in ((room, word) for room in rooms for word in words):
        asked, lit = f"{word} light the {room}", {"room": room, "on": True}
        system = f"{PERSONA}\n\n{SYSTEMS[list(SYSTEMS)[len(tagged) % len(SYSTEMS)]]}"
        call = f"<tool_call>\n{{'arguments': {lit}, 'name': 'set_lamp'}}\n</tool_call>"
        tagged.append(hermes(asked, call, LIT, f"Lit: {room}.", system=system))
        calls = [{"type": "function", "function": {"name": "set_lamp", "arguments": lit}}]
        messages = [
            {"role": "system", "content": PERSONA},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": '{"lit": true}'},
            {"role": "assistant", "content": f"Lit: {room}."},
        ]
        plain.append({"messages": messages, "tools": list(TOOLS)})
    paths = (folder / "hermes.jsonl", folder / "openai.jsonl")
    for path, records in zip(paths, (tagged, plain), strict=True):
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return paths


def test_the_corpus_is_the_one_of_the_same_conversations_in_openais_form(tmp_path: Path) -> None:
    """Byte for byte, in every split."""
    made = []
    for path in both(tmp_path):
        data = DataSection.model_validate({"source": "messages", "path": path})
        made.append(prepare(data, REPLY, seed=1, out_dir=tmp_path / path.stem))
    hermes_corpus, openai_corpus = made
    for name in ("train", "validation", "test"):
        split = hermes_corpus.split_path(name).read_bytes()
        assert split
        assert split == openai_corpus.split_path(name).read_bytes()
    # What was text before is not found again as the work that it is now.
    assert hermes_corpus.manifest.work.settings["written_tools"] == "read"
    assert "written_tools" not in openai_corpus.manifest.work.settings


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            [CALLED.replace("cellar'", "cellar")],
            r"message 3: <tool_call> 1 is neither JSON .* nor Python's .unterminated string",
        ),
        (["<tool_call>{'a': 'it''s'}</tool_call>"], "message 3: .* Python's .a quote in a text."),
        (
            ["<tool_call>{'a': {1}}</tool_call>"],
            "message 3: .* nor Python's .what JSON does not have",
        ),
        (["<tool_call> </tool_call>"], "message 3: <tool_call> 1 is empty"),
        ([f"<tool_call>{JSON_CALL}"], "message 3 has <tool_call> without </tool_call>"),
        ([f"{JSON_CALL}</tool_call>"], "message 3 has </tool_call> without <tool_call>"),
        (
            [f"<tool_call>{JSON_CALL}<tool_call>{JSON_CALL}</tool_call>"],
            "message 3 has <tool_call> without </tool_call>",
        ),
        ([f"{CALLED} Done."], "message 3 has text behind a <tool_call>"),
        (
            ['<tool_call>{"name": "clock", "args": {"a": 1}}</tool_call>'],
            "message 3: <tool_call> 1 has what no call has: args",
        ),
        (['<tool_call>{"arguments": {}}</tool_call>'], "message 3: <tool_call> 1 has no name"),
        (
            ['<tool_call>{"name": "fly"}</tool_call>'],
            "message 3 calls fly, which the line does not",
        ),
        (
            ['<tool_call>{"name": "clock", "arguments": [1]}</tool_call>'],
            "message 3 calls clock with arguments that are no object",
        ),
        ([CALLED, f"{LIT}\nso"], "message 4 has text beside its <tool_response>"),
        ([CALLED, "<tool_response>lit"], "message 4 has <tool_response> without </tool_response>"),
        (
            [CALLED, LIT.replace("}}", "}")],
            "message 4: <tool_response> 1 is neither JSON .Expecting property name",
        ),
        (
            [CALLED, "<tool_response>lit</tool_response>", "Done."],
            "results that do not say of which call they are: 1, <tool_response>, of 2 calls",
        ),
        ([CALLED, f"{LIT}{LIT}", "Done."], "message 5 is a tool's result, but of no call before"),
        (["Hi.", LIT], "message 4 is a tool's result, but of no call before it"),
    ],
)
def test_what_is_half_read_is_told_with_its_line(
    tmp_path: Path, said: Sequence[str], message: str
) -> None:
    """A few such lines are left out and counted; of a file of them the form is told."""
    record = hermes(ASKED, *said)
    with pytest.raises(DataError, match=f"line 1: {message}") as caught:
        collect(tmp_path, record)
    if "<tool_" in message:
        assert "calls in tags end an answer" in str(caught.value.hint)
    good = [hermes(f"Light {n}", CALLED, LIT + NOON) for n in range(20)]
    collected = collect(tmp_path, record, *good)
    assert len(collected.candidates) == 20
    assert "1 of 21 conversations (4.8%) are left out" in collected.notes[0]
    assert "20 conversation(s) have tools, calls and results in tags" in " ".join(collected.notes)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("<tools>[{}</tools>", "inside of <tools> is neither JSON .Expecting"),
        (f"<tools>{LISTED}", "its system turn has <tools> without </tools>"),
        (f"<tools>{LISTED}</tools><tools>{LISTED}</tools>", "its system turn has several lists"),
        ("<tools>[{'name': 1}]</tools>", "tool 1 has no name"),
    ],
)
def test_tools_that_cannot_be_read_are_told(tmp_path: Path, system: str, message: str) -> None:
    """With the line."""
    with pytest.raises(DataError, match=f"line 1: {message}"):
        collect(tmp_path, hermes("Hi", "Hello.", system=system))


def test_tools_of_two_places_have_to_be_the_same(tmp_path: Path) -> None:
    """Else nobody knows which of them were offered."""
    with pytest.raises(DataError, match="its system turn offers other tools than the line"):
        collect(tmp_path, hermes("Hi", "Hello.", tools=[CLOCK]))
    found = read(tmp_path, hermes("Hi", "Hello.", tools=[CLOCK, SET_LAMP]))
    assert found.tools == TOOLS


@pytest.mark.parametrize("key", ["conversations", "system"])
def test_other_words_for_the_tags_are_told_with_what_takes_them_out(
    tmp_path: Path, key: str
) -> None:
    """A student would learn to write what its template does not; the command keeps the tools."""
    words = "Reply in <tool_call> and rhymes, or be silent."
    system = f"{QWEN % LINES}\n{words}"
    record = hermes(ASKED, CALLED, system=system)
    if key == "system":
        record = {"system": system, "conversations": record["conversations"][1:]}
    with pytest.raises(DataError, match="speaks of <tool_call> in words that are not") as caught:
        collect(tmp_path, record)
    assert "Reply in <tool_call> and rhymes" in str(caught.value)
    hint = str(caught.value.hint)
    assert hint.startswith("with nothing but its tools in each system turn that has them: jq -c ")
    if not shutil.which("jq"):  # it is not on every machine
        return
    _, _, command = hint.partition(": ")
    subprocess.run(["sh", "-c", command], check=True)
    path = Path(shlex.split(command)[-1])
    data = DataSection.model_validate({"source": "messages", "path": path})
    (one,) = collect_messages(path, data, REPLY).candidates
    assert one.example.messages == TALK[:2]
    assert one.example.tools == TOOLS


def test_calls_of_lines_without_tools_stay_text(tmp_path: Path) -> None:
    """Whose student has no template for tools may learn to write them; it is said."""
    record = as_messages(("user", ASKED), ("assistant", CALLED))
    collected = collect(tmp_path, record)
    assert collected.candidates[0].example.messages[-1].content == CALLED.strip()
    assert "1 conversation(s) have <tool_call> in an answer, but offer no tools" in str(
        collected.warnings
    )
    mentioned = as_messages(("user", "What is <tool_call>?"), ("assistant", "A tag."))
    collected = collect(tmp_path, mentioned)
    assert not collected.warnings
    assert not collected.notes


def test_prepare_says_what_was_read_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, of a file of both forms."""
    monkeypatch.chdir(tmp_path)
    texts = [path.read_text("utf-8") for path in both(tmp_path)]
    Path("mixed.jsonl").write_text("\n".join(texts).replace("light", "dim", 64), encoding="utf-8")
    words = ("prepare", "chat", "--data", "mixed.jsonl", "--out", "out")
    monkeypatch.setattr(sys, "argv", ["ollama-bridge", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert "64 conversation(s) have tools, calls and results in tags (Hermes's form)" in said
