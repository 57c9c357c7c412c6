"""Conversations as JSONL."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from ollama_bridge.data.candidates import Collected
from ollama_bridge.data.chats.messages import collect_messages
from ollama_bridge.data.duplicates import remove_duplicates
from ollama_bridge.data.splitting import Sizes, split
from ollama_bridge.errors import DataError
from ollama_bridge.recipe.config import DataSection, TaskSection

REPLY = TaskSection(kind="reply", system="Answer.")
CLASSIFY = TaskSection(kind="classify", system="Which?", labels=("yes", "no"))


def turns(*contents: str, system: str | None = None) -> dict[str, object]:
    messages = [{"role": "system", "content": system}] if system else []
    for place, content in enumerate(contents):
        messages.append({"role": "assistant" if place % 2 else "user", "content": content})
    return {"messages": messages}


def collect(folder: Path, records: list[object], task: TaskSection = REPLY) -> Collected:
    path = folder / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    data = DataSection.model_validate({"source": "messages", "path": path})
    return collect_messages(path, data, task)


def test_the_system_turn_is_the_tasks_unless_given(tmp_path: Path) -> None:
    """A conversation keeps its own system turn, else it gets the task's."""
    collected = collect(tmp_path, [turns("a", "b"), turns("c", "d", "e", "f", system="Be kind.")])
    assert [one.example.messages[0].content for one in collected.candidates] == [
        "Answer.",
        "Be kind.",
    ]
    assert len(collected.candidates[1].example.messages) == 5


def test_the_same_text_under_another_system_turn_is_no_duplicate(tmp_path: Path) -> None:
    """Per-row instructions ask different things of one text; a split holds it once all the same."""
    food, service = "Rate the food.", "Rate the service."
    texts = ("It was cold, but they came at once.", "They were rude. Nice soup!")
    rows = [turns(text, "no", system=food) for text in texts]
    rows += [turns(text, "yes", system=service) for text in texts]
    rows += [turns(texts[0], "yes", system=service), turns(f"{texts[0]}!?", "no", system=food)]
    left = remove_duplicates(collect(tmp_path, rows, CLASSIFY).candidates)
    assert [one.example.id for one in left.kept] == [f"line-{n}" for n in range(1, 5)]
    assert not left.contradictory
    assert len({(one.example.messages[1].content, one.example.group) for one in left.kept}) == 2

    longer = [
        turns(text, "yes", system=s)
        for s, text in ((food, "a b c d e" * 9), (service, "a b c d e" * 9 + "f"))
    ]
    left = remove_duplicates(collect(tmp_path, longer, CLASSIFY).candidates)
    assert [one.example.group for one in left.kept] == [left.kept[0].example.group] * 2

    shops = [turns("Open on Sunday?", "We are not.", system=shop) for shop in ("A", "B", "B")]
    shops.append(turns("Open on a Sunday?", "We are not.", system="C"))
    left = remove_duplicates(collect(tmp_path, shops).candidates)
    assert [one.example.id for one in left.kept] == ["line-1", "line-2", "line-4"]


def test_what_is_alike_under_other_system_turns_is_in_one_split(tmp_path: Path) -> None:
    """As it would be a duplicate under the same one; other answers and right answers differ."""
    ask, say = "Could you tell me until when you are open {}?", "We are open until six o'clock {}."
    rows = [
        turns(ask.format("today"), say.format("today"), system="A"),
        turns(ask.format("then"), "No idea.", system="A"),
        turns(ask.format("todays"), say.format("todays"), system="B"),
        turns(ask.format("to-day"), "Ask at the desk, please, it depends on the day.", system="B"),
        turns("How much is twelve and nine, in a word?") | {"label": "21"},
        turns("How much is twelve and nine, in words?", system="B") | {"label": "twenty one"},
        turns("Where do you have the seven lamps?"),
        turns("Where do you have the seven lamps", "Upstairs.", system="B"),
        turns("Where do you have the seven lamps now?", system="C"),
    ]
    left = remove_duplicates(collect(tmp_path, rows).candidates)
    assert len(left.kept) == len(rows)
    groups = [one.example.group for one in left.kept]
    assert groups[0] == groups[2]
    assert groups[6] == groups[7] == groups[8]
    assert len(set(groups)) == 6
    assert left.contrasts == 2


def test_the_label_of_a_classification_is_the_last_answer(tmp_path: Path) -> None:
    """Labels are matched in any case; unknown ones are listed."""
    (only,) = collect(tmp_path, [turns("a", "YES")], CLASSIFY).candidates
    assert only.example.label == only.example.messages[-1].content == "yes"
    with pytest.raises(DataError, match=r"'maybe' in 1 line\(s\): 2") as caught:
        collect(tmp_path, [turns("a", "yes"), turns("b", "maybe")], CLASSIFY)
    assert ": the last answers have labels that the task does not have" in str(caught.value)


def test_free_text_is_no_label(tmp_path: Path) -> None:
    """Conversations have no column that could be the right one, but another recipe."""
    records: list[object] = [turns(f"question {n}", f"answer {n}") for n in range(30)]
    with pytest.raises(DataError, match="10 more labels: is it the right recipe") as caught:
        collect(tmp_path, records, CLASSIFY)
    path = tmp_path / "chats.jsonl"
    assert caught.value.hint == f"answers in free text: ollama-bridge build chat --data {path}"


def thought(answer: str, field: str = "thinking") -> dict[str, object]:
    said = {"role": "assistant", "content": answer, field: " They ask twice.\r\n"}
    return {"messages": [{"role": "user", "content": "a"}, said]}


@pytest.mark.parametrize("field", ["thinking", "reasoning_content"])
def test_thinking_is_learnt_before_its_answer(tmp_path: Path, field: str) -> None:
    """As Ollama and OpenAI-compatible servers hand it out; a classification keeps it too."""
    (only,) = collect(tmp_path, [thought("b", field)]).candidates
    assert only.example.messages[-1].content == "<think>\nThey ask twice.\n</think>\n\nb"
    (only,) = collect(tmp_path, [thought("Yes", field)], CLASSIFY).candidates
    assert only.example.messages[-1].content == "<think>\nThey ask twice.\n</think>\n\nyes"
    assert only.example.label == "yes"


def test_a_reply_may_have_a_right_answer(tmp_path: Path) -> None:
    """It is no class: texts that have one each can be split all the same."""
    records = [turns(f"{number}+{number}?") | {"label": 2 * number} for number in range(1, 9)]
    candidates = collect(tmp_path, records).candidates
    assert [one.example.label for one in candidates][:2] == ["2", "4"]
    parts = split(candidates, Sizes(test=2, validation=2), seed=0)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [4, 2, 2]
    assert len({one.stratum for one in candidates}) == 1


def test_a_right_answer_is_what_a_dataframe_made_a_fraction_of(tmp_path: Path) -> None:
    """One missing sum makes ``9.0`` of each, which no answer says; a truth is as in tables."""
    given = [9.0, float("nan"), 2.5, -0.0, 1e300, True, "9.0", 7]
    records = [turns(f"sum {n}", "a") | {"label": label} for n, label in enumerate(given)]
    found = [one.example.label for one in collect(tmp_path, records).candidates]
    assert found == ["9", None, "2.5", "0", "1e+300", "true", "9.0", "7"]


def test_a_question_may_have_several_traces(tmp_path: Path) -> None:
    """Ways to one right answer are no duplicates, but never lie in two splits."""
    other = thought("b") | {"label": "b"}
    ways = [other, other, turns("a", "b") | {"label": "b"}]
    unique = remove_duplicates(collect(tmp_path, ways).candidates)
    assert [one.example.id for one in unique.kept] == ["line-1", "line-3"]
    assert {one.example.group for one in unique.kept} == {"line-1"}


def test_same_prompt_same_document(tmp_path: Path) -> None:
    """Two answers to one question stay in one split, and so do lines of one group."""
    records = [turns("Hello!", "a"), turns("hello", "b"), turns("c", "d") | {"group": "x"}]
    groups = [one.example.group for one in collect(tmp_path, records).candidates]
    assert groups == ["line-1", "line-1", "group-x"]


def test_a_group_is_what_a_dataframe_makes_of_it(tmp_path: Path) -> None:
    """A column of numbers with a gap is written as floats, and the gap as NaN."""
    groups = [12.0, 12, float("nan"), None, ""]
    records = [turns(f"q{place}", "a") | {"group": own} for place, own in enumerate(groups)]
    found = [one.example.group for one in collect(tmp_path, records).candidates]
    assert found == ["group-12", "group-12", "line-3", "line-4", "line-5"]


def test_a_log_exported_turn_by_turn_stays_in_one_split(tmp_path: Path) -> None:
    """Every answer is learnt, so a scored one must not be an early turn of a training text."""
    records = []
    for number in range(60):
        said = [f"question {number}", f"answer {number}", f"and {number}?", f"more {number}"]
        records += [turns(*said[:2]), turns(*said)]
    parts = split(collect(tmp_path, records).candidates, Sizes(test=24, validation=12), seed=0)
    learnt, scored = (
        {turn for one in parts[name] for turn in one.example.messages if turn.role == "assistant"}
        for name in ("train", "test")
    )
    assert len(scored) == 24
    assert not learnt & scored


def test_groups_that_share_a_question_are_one_document(tmp_path: Path) -> None:
    """The rest of both groups goes with it, also where a third line joins them."""
    records = [
        turns("p", "1") | {"group": "a"},
        turns("q", "2") | {"group": "b"},
        turns("r", "3"),
        turns("P.", "4") | {"group": "b"},
    ]
    groups = [one.example.group for one in collect(tmp_path, records).candidates]
    assert groups == ["group-a", "group-a", "line-3", "group-a"]


def test_a_few_odd_conversations_are_left_out(tmp_path: Path) -> None:
    """Up to 5 %, counted, and noted with line and reason; of more each is named by the error."""
    good = [turns(f"question {n}", f"answer {n}") for n in range(57)]
    greeted = turns("Hi", "Hello", "a", "b")
    greeted["messages"] = [{"role": "assistant", "content": "Welcome!"}, *greeted["messages"]]  # type: ignore[misc]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}
    called = {"messages": [{"role": "user", "content": "a"}, call]}
    collected = collect(tmp_path, [greeted, *good, called, greeted])
    assert len(collected.candidates) == 57
    assert collected.tally.left_out == {
        "no conversation in turns of user and assistant": {"messages": 3}
    }
    (note,) = collected.notes
    assert note.startswith("3 of 60 conversations (5.0%) are left out: turn 1 is assistant")
    assert "(line 1, 60); message 2 calls a tool" in note
    with pytest.raises(DataError, match=r"has 4 problem\(s\)(.|\n)*line 61: turn 1") as caught:
        collect(tmp_path, [greeted, *good, called, greeted, greeted])
    assert "up to 5% are left out" in str(caught.value.hint)


def test_a_text_in_the_place_of_a_role_is_not_repeated(tmp_path: Path) -> None:
    """It may be a page of somebody's words."""
    swapped = {"messages": [{"role": "private " * 500, "content": "user"}]}
    with pytest.raises(DataError, match=r"role 'private.*' is not one of system") as caught:
        collect(tmp_path, [swapped])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("weight", [0, False])
def test_answers_that_are_context_alone_are_not_learnt(tmp_path: Path, weight: int) -> None:
    """OpenAI's ``weight: 0`` marks a bad one; the command keeps the conversations without any."""
    good = [turns(f"question {n}", f"answer {n}") for n in range(39)]
    asked = {"role": "user", "content": "Open?", "weight": 0}  # only an answer is learnt
    answer = {"role": "assistant", "content": "Yes.", "weight": 1}
    good.insert(0, {"messages": [asked, answer], "weight": 0})
    bad = turns("Open?", "Go away.", "Please.", "Until six.")
    bad["messages"][1]["weight"] = weight  # type: ignore[index]
    collected = collect(tmp_path, [*good, bad])
    assert len(collected.candidates) == 40
    assert "message 2 has weight 0, but each answer is learnt (line 41)" in collected.notes[0]
    human, gpt = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": weight}
    greeted = {"messages": [{"role": "assistant", "content": "Hello!"}]}
    lines = [bad, {"conversations": [human, gpt]}, greeted, *good[:10]]
    with pytest.raises(DataError, match="line 1: message 2 has weight 0") as caught:
        collect(tmp_path, lines)
    command, _, kept = str(caught.value.hint).partition(" > ")
    assert command.startswith("jq -c 'select(all(.. | objects; ")
    assert command.endswith(f" {tmp_path}/chats.jsonl")
    assert kept == f"{tmp_path}/chats-learnt.jsonl"
    if shutil.which("jq"):  # it is not on every machine
        done = subprocess.run(shlex.split(command), check=True, capture_output=True)
        assert [json.loads(line) for line in done.stdout.splitlines()] == lines[2:]


def test_conversations_that_call_tools_are_told_with_what_takes_them_out(tmp_path: Path) -> None:
    """Where many do; the command knows the calls of both forms, and texts that tell of some."""
    plain = [turns("from: function_call?", "No."), turns("a", "b")]
    plain[1]["messages"][1]["tool_calls"] = []  # type: ignore[index]  # as exports write it
    call = {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}
    seen = {"from": "observation", "value": "{}"}
    human, gpt = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}
    calls = [{"function": {"name": "f"}}]
    lines = [
        {"conversations": [human, call, seen, gpt], "tools": "[]"},
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": calls},
            ]
        },
        *plain,
    ]
    with pytest.raises(
        DataError, match="line 2: message 2 calls f, which the line does not"
    ) as caught:
        collect(tmp_path, lines)
    command, _, kept = str(caught.value.hint).partition("call tools: ")[2].partition(" > ")
    assert kept == f"{tmp_path}/chats-no-tools.jsonl"
    assert command.startswith("jq -c 'select(all(.. | objects; ")
    if shutil.which("jq"):  # it is not on every machine
        done = subprocess.run(shlex.split(command), check=True, capture_output=True)
        assert [json.loads(line) for line in done.stdout.splitlines()] == plain


def test_conversations_out_of_turn_are_told_with_what_brings_them_in_turns(tmp_path: Path) -> None:
    """A bot's greeting, and what one says in two messages; calls and their results stay apart."""
    calls = [{"function": {"name": "f", "arguments": {}}}]
    offers = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    system, hello = {"role": "system", "content": "s"}, {"role": "assistant", "content": "Hello!"}
    a, b, c = ({"role": "user", "content": content} for content in "abc")
    d = {"role": "assistant", "content": "d"}
    call = {"role": "assistant", "content": "", "tool_calls": calls}
    seen = {"role": "tool", "content": "{}"}
    lines = [
        {"messages": [system, hello, hello, a, b, d, d, c]},
        {"conversations": [{"from": who, "value": who} for who in ("gpt", "human", "gpt", "gpt")]},
        {"messages": [a, call, seen, d], **offers},
    ]
    with pytest.raises(DataError, match="line 1: turn 1 is assistant, expected user") as caught:
        collect(tmp_path, lines)
    command, _, kept = str(caught.value.hint).partition("as one: ")[2].rpartition(" > ")
    assert kept == f"{tmp_path}/chats-in-turns.jsonl"
    assert command.startswith("jq -c 'def who: ")
    if shutil.which("jq"):  # it is not on every machine
        done = subprocess.run(shlex.split(command), check=True, capture_output=True)
        written = [json.loads(line) for line in done.stdout.splitlines()]
        assert written == [
            {
                "messages": [
                    system,
                    {"role": "user", "content": "a\n\nb"},
                    {"role": "assistant", "content": "d\n\nd"},
                    c,
                ]
            },
            {
                "conversations": [
                    {"from": "human", "value": "human"},
                    {"from": "gpt", "value": "gpt\n\ngpt"},
                ]
            },
            lines[2],
        ]
        assert len(collect(tmp_path, written).candidates) == 3


def test_media_beside_a_conversation_are_told_with_what_takes_them_out(tmp_path: Path) -> None:
    """The address of a video is no part of what is asked; a picture that a turn has is."""
    plain = [turns(f"question {n}", f"answer {n}") for n in range(3)]
    lines = [{**line, "video": "https://example.com/a"} for line in plain]
    with pytest.raises(DataError, match="line 1: has videos: only texts are learnt") as caught:
        collect(tmp_path, [*lines, plain[0]])
    command, _, kept = str(caught.value.hint).partition(": ")[2].partition(" > ")
    assert shlex.split(command) == ["jq", "-c", "del(.videos, .video)", f"{tmp_path}/chats.jsonl"]
    assert kept == f"{tmp_path}/chats-texts.jsonl"
    if shutil.which("jq"):  # it is not on every machine
        done = subprocess.run(shlex.split(command), check=True, capture_output=True)
        assert [json.loads(line) for line in done.stdout.splitlines()] == [*plain, plain[0]]
    shown = {"messages": [{"role": "user", "content": "a", "images": ["x"]}]}
    with pytest.raises(DataError, match="line 1: message 1 has images") as caught:
        collect(tmp_path, [shown])
    assert str(caught.value.hint).startswith("a line looks like")


def test_what_is_odd_otherwise_is_not_told_to_have_a_weight(tmp_path: Path) -> None:
    """One answer of weight 0 is not why a file is refused whose conversations begin oddly."""
    bad = turns("Open?", "Go away.")
    bad["messages"][1]["weight"] = 0  # type: ignore[index]
    greeted = {"messages": [{"role": "assistant", "content": "Hello!"}]}
    with pytest.raises(DataError, match="line 2: turn 1 is assistant") as caught:
        collect(tmp_path, [bad, greeted, greeted, turns("a", "b")])
    assert "weight" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("first", "system"),
    [
        ({"role": "developer", "content": "Be kind."}, "Be kind."),
        ({"role": "system", "content": [{"type": "text", "text": "Be kind."}]}, "Be kind."),
        ({"role": "system", "content": None}, "Answer."),
        ({"role": "system", "content": " "}, "Answer."),
    ],
)
def test_system_turns_of_chat_apis_are_understood(
    tmp_path: Path, first: dict[str, object], system: str
) -> None:
    """By either name, as a text or in parts; an empty one is none."""
    parts = {"role": "user", "content": [{"type": "text", "text": one} for one in ("a", "b")]}
    record = {"messages": [first, parts, {"role": "assistant", "content": "c"}]}
    (only,) = collect(tmp_path, [record]).candidates
    assert [turn.content for turn in only.example.messages] == [system, "a\nb", "c"]


def test_classified_dialogues_that_begin_alike_are_not_one_document(tmp_path: Path) -> None:
    """A greeting, or an instruction, is not what is scored; an early label is."""
    records = [turns("Hi", "Hello", f"text {n}", ("yes", "no")[n % 2]) for n in range(40)]
    parts = split(
        collect(tmp_path, records, CLASSIFY).candidates, Sizes(test=8, validation=4), seed=0
    )
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [28, 4, 8]
    labelled = [turns("p", "yes"), turns("p", "yes", "q", "no"), turns("q", "no")]
    groups = [one.example.group for one in collect(tmp_path, labelled, CLASSIFY).candidates]
    assert groups == ["line-1", "line-1", "line-3"]


def test_many_that_begin_alike_are_said(tmp_path: Path) -> None:
    """They are one document, which is never held out where it is too large."""
    records = [turns("Hi", f"answer {n}") for n in range(3)]
    records += [turns(f"question {n}", f"answer {n}") for n in range(20)]
    (note,) = collect(tmp_path, records).notes
    assert note.startswith("3 of 23 conversations begin with the same question")
    assert not collect(tmp_path, records[1:]).notes


def test_what_all_open_with_does_not_make_them_one_document(tmp_path: Path) -> None:
    """After "Hi", and a button's text, the first question of their own is what they share."""
    rows = [turns("Hi", "Hello!", "Order", "Which?", f"q {n}", f"a {n}") for n in range(60)]
    rows += [turns("Hi", "Hello!", "Other", "What?", f"q {n}", f"b {n}") for n in range(60)]
    rows += [turns("hi!", "Hey!", f"own {n}", f"c {n}", "so", "on") for n in range(60)]
    rows += [turns("hi!", "Hey!", "own 3", "c 3"), turns("Hi", "Hello!"), turns("hi", "Hey!")]
    collected = collect(tmp_path, rows)
    groups = [one.example.group for one in collected.candidates]
    assert len(set(groups)) == 181
    assert groups[180] == groups[123]
    assert groups[181] == groups[182]
    parts = split(collected.candidates, Sizes(test=20, validation=10), seed=0)
    assert [len(part) for part in parts.values()] == [153, 10, 20]


def test_logs_exported_turn_by_turn_are_one_document_each_however_few(tmp_path: Path) -> None:
    """They go on in one way, however large a share of the file begins alike."""
    logs = [[f"{kind}{n} of {log}" for n in range(12) for kind in "qa"] for log in range(3)]
    rows = [turns(*said[:end]) for said in logs for end in range(2, 25, 2)]
    collected = collect(tmp_path, rows)
    assert len({one.example.group for one in collected.candidates}) == 3


def test_open_conversations_are_said(tmp_path: Path) -> None:
    """A conversation that ends on the user waits for an answer; a classification cannot.

    The answers that it has are learnt, which the note must not deny.
    """
    (note,) = collect(tmp_path, [turns("a", "b", "c")]).notes
    assert note.startswith("1 conversation(s) end with the user's turn, or a tool's result: ")
    assert "the answers before it are learnt, one to it only where the teacher writes it" in note
    with pytest.raises(DataError, match="line 1: a classify task needs the label"):
        collect(tmp_path, [turns("a")], CLASSIFY)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, "not a list of messages"),
        ({"messages": []}, "not a list of messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "role 'robot'"),
        ({"messages": [{"role": "user", "content": None}]}, "not a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not a text"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            "message 1 is a tool's result, but of no",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "images": ["iVBORw0KGgo="]}]},
            "message 1 has images: only texts are learnt",
        ),
        (turns("<image>What is it?", "A lamp.") | {"images": ["a.png"]}, "has images"),
        (
            {
                "image": "cat.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat is this?"},
                    {"from": "gpt", "value": "A cat."},
                ],
            },
            "has images",
        ),
        (turns("What is said?", "Hi.") | {"audio": {"path": "a.wav"}}, "has sounds: only texts"),
        (
            {"messages": [{"role": "user", "content": "a", "video": "a.mp4"}]},
            "message 1 has videos",
        ),
        ({"messages": [{"role": "user", "content": " \x00"}]}, r"message 1 \(user\) is empty"),
        (turns("a", "b") | {"label": ["b"]}, "label is neither a text nor a number"),
        (turns("a", "b") | {"group": 1.5}, "group is neither a text nor a whole number"),
        (turns("a", "b") | {"group": ["x"]}, "group is neither a text nor a whole number"),
        (
            {"messages": [{"role": "user", "content": "a", "thinking": "hm"}]},
            "thinking has to be text, in an assistant message",
        ),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "turn 1 is assistant"),
        ({"messages": [{"role": "system", "content": "a"}]}, "only a system turn"),
        ([1], "a JSON object is expected"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, record: object, message: str) -> None:
    """Every kind of bad line is named by its number."""
    with pytest.raises(DataError, match=f"line 2: .*{message}"):
        collect(tmp_path, [turns("a", "b"), record])
