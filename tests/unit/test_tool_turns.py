"""Calls and results of tools as a chat template writes them, and what of them is learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.formats import source_of
from fakes.models import CHAT_TEMPLATE, build_tiny_tokenizer
from fakes.tool_chats import LIT, TOOLS, called, example

from ollama_bridge.encoding.encode import encode
from ollama_bridge.encoding.turn_texts import render_turns
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Call, Example, Message, read_examples, write_examples
from ollama_bridge.length_checks import _lengths

TOKENIZER = build_tiny_tokenizer()
CALL = '{"name": "set_lamp", "arguments": {"on": true, "room": "cellar"}}'


@pytest.fixture
def tokenizer() -> Any:
    yield TOKENIZER
    TOKENIZER.chat_template = CHAT_TEMPLATE


def learnt(example: Example, tokenizer: Any) -> list[str]:
    encoded = encode(example, tokenizer)
    return [tokenizer.decode(encoded.input_ids[stretch]) for stretch in encoded.stretches]


def test_calls_and_answers_are_learnt_and_results_are_not(tokenizer: Any) -> None:
    """Every turn of the assistant with its end; tools, questions and results are the prompt's."""
    tokenizer.chat_template = source_of("qwen2.5")
    assert learnt(LIT, tokenizer) == [
        f"<tool_call>\n{CALL}\n</tool_call><|im_end|>",
        "It is lit.<|im_end|>",
    ]
    whole = tokenizer.decode(encode(LIT, tokenizer).input_ids)
    assert all(json.dumps(tool) in whole for tool in TOOLS)
    assert whole == tokenizer.apply_chat_template(
        [message.to_jinja() for message in LIT.messages], tools=list(TOOLS), tokenize=False
    )
    assert whole.count('<tool_response>\n{"lit": true}') == 1


def test_where_past_thoughts_are_dropped_the_last_turn_is_learnt(tokenizer: Any) -> None:
    """Qwen3's template renders a call in another way once its result is there."""
    tokenizer.chat_template = source_of("qwen3")
    empty = "<think>\n\n</think>\n\n"
    assert learnt(LIT, tokenizer) == [f"{empty}It is lit.<|im_end|>"]
    asked = replace(LIT, messages=LIT.messages[:2])
    assert learnt(asked, tokenizer) == [f"{empty}<tool_call>\n{CALL}\n</tool_call><|im_end|>"]


def test_arguments_are_written_as_texts_where_a_template_wants_them_so(tokenizer: Any) -> None:
    """Of DeepSeek's templates, which put the arguments behind a text."""
    tokenizer.chat_template = source_of("qwen2.5").replace(
        "(call.function.arguments | tojson)", "call.function.arguments"
    )
    assert CALL in learnt(LIT, tokenizer)[0]


@pytest.mark.parametrize("id_", ["", "call_abcdefghijklmnop"])
def test_calls_have_ids_of_the_length_that_a_template_takes(id_: str, tokenizer: Any) -> None:
    """Mistral's; a result names the id of its own call, in whatever order results come."""
    tokenizer.chat_template = source_of("mistral").replace("eos_token", "'<|im_end|>'")
    (lamp,), clock = called(room="hall").calls, Call("clock", {}, id_ and f"{id_}2")
    calls = (replace(lamp, id=id_), clock)
    results = [Message("tool", call.name, name=call.name, call_id=call.id) for call in calls[::-1]]
    talk = example(LIT.messages[0], Message("assistant", "", calls), *results, LIT.messages[3])
    made, said = learnt(talk, tokenizer)
    ids = [call["id"] for call in json.loads(made.partition(" ")[2].removesuffix("<|im_end|>"))]
    assert [len(one) for one in ids] == [9, 9]
    assert ids[0] != ids[1]
    whole = tokenizer.decode(encode(talk, tokenizer).input_ids)
    for call, one in zip(calls, ids, strict=True):
        assert f'{{"content": {call.name}, "call_id": "{one}"}}' in whole
    assert said == " It is lit.<|im_end|>"


def test_a_template_of_the_first_call_is_refused(tokenizer: Any) -> None:
    """The others would be left out without a word, though they name the same tool."""
    first = source_of("qwen2.5").replace("in message.tool_calls", "in message.tool_calls[:1]")
    tokenizer.chat_template = first
    (one,) = called(room="cellar").calls
    two = replace(one, arguments={"room": "hall"})
    talk = example(LIT.messages[0], Message("assistant", "", (one, two)))
    with pytest.raises(TrainingError, match="writes 1 of 2 calls of set_lamp") as caught:
        encode(talk, tokenizer)
    assert "jq -c" in str(caught.value.hint)


def test_a_last_call_that_is_not_written_is_refused(tokenizer: Any) -> None:
    """Also where the answers in front of it cannot be learnt, and it alone is."""
    tools = "{%- for tool in tools %}{{ tool | tojson }}{% endfor %}"
    forgets = CHAT_TEMPLATE.replace(
        "message['content'] +",
        "(message['content'] if loop.last or message['role'] == 'user' else '...') +",
    )
    tokenizer.chat_template = tools + forgets
    looked = Message("assistant", "", (Call("clock", {}),))
    talk = example(*LIT.messages[::3], LIT.messages[0], looked)
    with pytest.raises(TrainingError, match="does not write the call of clock"):
        encode(talk, tokenizer)


def test_a_special_token_that_opens_a_call_does_not_end_it(tokenizer: Any) -> None:
    """Mistral's is one; a template without an end behind answers is told as such."""
    marked = source_of("qwen2.5").replace("<tool_call>", "<|endoftext|>")
    tokenizer.chat_template = marked
    assert learnt(LIT, tokenizer)[0].endswith("</tool_call><|im_end|>")
    tokenizer.chat_template = marked.replace("<|im_end|>", "\\n")
    assert encode(LIT, tokenizer).ended_turns == 0


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHAT_TEMPLATE, "does not write the call of set_lamp in example line-1"),
        (source_of("smollm3"), "does not write the call of set_lamp"),
        (source_of("gemma2"), r"\(user, assistant with 1 call\(s\), tool, assistant\)"),
    ],
)
def test_a_template_without_calls_is_refused(tokenizer: Any, template: str, message: str) -> None:
    """It would teach to say nothing; the error says what has to be there."""
    tokenizer.chat_template = template
    with pytest.raises(TrainingError, match=message) as caught:
        encode(LIT, tokenizer)
    assert "chat_template.jinja" in str(caught.value.hint)


def test_a_template_without_tools_is_refused(tokenizer: Any) -> None:
    """Also where nothing is called: the prompt would not say what may be."""
    with pytest.raises(TrainingError, match="does not write the tool set_lamp of example line-1"):
        encode(example(Message("user", "Hi"), Message("assistant", "Hello.")), tokenizer)


def test_a_template_of_one_call_refuses_two(tokenizer: Any) -> None:
    """Llama 3's; the hint leaves such lines out."""
    refuses = (
        "{%- for message in messages if message.tool_calls | default([]) | length > 1 %}"
        "{{ raise_exception('one call at once') }}{%- endfor %}"
    )
    tokenizer.chat_template = refuses + source_of("qwen2.5")
    assert learnt(LIT, tokenizer)
    (one,) = called(room="cellar", on=True).calls
    two = replace(
        LIT, messages=(LIT.messages[0], Message("assistant", "", (one, one)), *LIT.messages[2:])
    )
    with pytest.raises(TrainingError, match=r"with 2 call\(s\).*one call at once") as caught:
        encode(two, tokenizer)
    assert "jq -c" in str(caught.value.hint)


def test_a_dated_template_has_tools(tokenizer: Any) -> None:
    """Whose rows have days of their own."""
    tokenizer.chat_template = source_of("llama3.2")
    arguments = '"parameters": {"on": true, "room": "cellar"}'
    assert arguments in learnt(LIT, tokenizer)[0]
    prompt = render_turns(LIT.messages[:1], tokenizer, generation_prompt=True, tools=TOOLS)
    assert "set_lamp" in prompt


def test_lengths_count_the_tools(tokenizer: Any) -> None:
    """What is too long is told before anything is trained."""
    tokenizer.chat_template = source_of("qwen2.5")
    asked = replace(LIT, messages=LIT.messages[:1])
    for given, answers_given in ((LIT, True), (asked, True)):
        with_tools = _lengths(tokenizer, [given], answers_given=answers_given)[0]
        assert with_tools > len(tokenizer(json.dumps(TOOLS))["input_ids"])


def test_a_corpus_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With tools; and without them a line is, byte for byte, what it was before there were any."""
    plain = Example("a", (Message("user", "Hi"), Message("assistant", "Ho")), "g", "Ho")
    path = tmp_path / "train.jsonl"
    write_examples(path, [LIT, plain])
    assert list(read_examples(path)) == [LIT, plain]
    assert path.read_text("utf-8").splitlines()[1] == (
        '{"id": "a", "group": "g", "label": "Ho", "messages": [{"role": "user", "content": "Hi"}, '
        '{"role": "assistant", "content": "Ho"}]}'
    )
