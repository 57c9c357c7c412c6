"""What a model has to say: answers, their ends, and thoughts that a chat template hides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.reasoning import ASSISTANT, BOS, EOS, USER, build_reasoner

from ollama_bridge.encoding.encode import encode
from ollama_bridge.encoding.turn_texts import rendered_texts
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.load import load_tokenizer

ASKED = (Message("system", "Be brief."), Message("user", "Good?"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """In DeepSeek-R1's format: the generation prompt opens a thought, past thoughts are dropped."""
    return load_tokenizer(build_reasoner(tmp_path_factory.mktemp("reasoner") / "model"))


@pytest.fixture
def template(tokenizer: Any) -> Any:
    """The same, to be given another template for a while."""
    before = tokenizer.chat_template
    yield tokenizer
    tokenizer.chat_template = before


def learnt(tokenizer: Any, *messages: Message) -> tuple[str, str]:
    """What is read only, and what is learnt."""
    encoded = encode(Example("x", messages, "x"), tokenizer)
    assert encoded.turns == encoded.ended_turns
    ids = encoded.input_ids
    return tokenizer.decode(ids[~encoded.supervised]), tokenizer.decode(ids[encoded.supervised])


def test_an_answer_without_a_thought_closes_the_one_that_the_prompt_opened(tokenizer: Any) -> None:
    """The model is asked behind <think>: so it has to learn to say nothing and end it."""
    read, said = learnt(tokenizer, *ASKED, Message("assistant", "positive"))
    assert read == f"{BOS}Be brief.{USER}Good?{ASSISTANT}<think>\n"
    assert said == f"\n</think>\n\npositive{EOS}"


@pytest.mark.parametrize("content", ["<think>\nTasty.\n</think>\n\nyes", "Tasty.</think>yes"])
def test_a_thought_is_learnt_though_the_template_drops_it(tokenizer: Any, content: str) -> None:
    """However it was written down."""
    read, said = learnt(tokenizer, *ASKED, Message("assistant", content))
    assert read.endswith("<think>\n")
    assert said == f"Tasty.\n</think>\n\nyes{EOS}"


def test_of_several_answers_the_last_is_learnt(tokenizer: Any) -> None:
    """The others stand in the prompt as the template renders them, without their thoughts."""
    read, said = learnt(
        tokenizer,
        *ASKED,
        Message("assistant", "<think>\nTasty.\n</think>\n\nyes"),
        Message("user", "Sure?"),
        Message("assistant", "<think>\nVery.\n</think>\n\nquite"),
    )
    assert f"Good?{ASSISTANT}\n\nyes{EOS}{USER}Sure?{ASSISTANT}<think>\n" in read
    assert said == f"Very.\n</think>\n\nquite{EOS}"


def test_a_template_that_opens_no_thought_gets_a_whole_one(template: Any) -> None:
    """The model has to learn to open it itself."""
    template.chat_template = template.chat_template.replace("<think>\\n' }}", "' }}")
    read, said = learnt(template, *ASKED, Message("assistant", "<think>Tasty.</think>yes"))
    assert read.endswith(ASSISTANT)
    assert said == f"<think>\nTasty.\n</think>\n\nyes{EOS}"
    _, said = learnt(template, *ASKED, Message("assistant", "yes"))
    assert said == f"yes{EOS}"


def test_what_is_tokenized_is_told(tokenizer: Any) -> None:
    """The whole text, up to and through the answer, and the answer."""
    example = Example("x", (*ASKED, Message("assistant", "yes")), "x")
    whole, before, through, answer = rendered_texts(example, tokenizer)
    assert answer == f"\n</think>\n\nyes{EOS}"
    assert whole == through == before + answer


def test_an_answer_stands_behind_the_prompt_that_is_asked(tmp_path: Path) -> None:
    """Two line ends are one token of most models: the first is the prompt's all the same."""
    folder = build_reasoner(tmp_path / "model")
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["model"]["vocab"]["ĊĊ"] = len(document["model"]["vocab"]) + 100
    document["model"]["merges"].append(["Ċ", "Ċ"])
    file.write_text(json.dumps(document), encoding="utf-8")
    merging = load_tokenizer(folder)
    assert len(merging("\n\n", add_special_tokens=False)["input_ids"]) == 1
    prompt = merging.apply_chat_template(
        [message.to_dict() for message in ASKED], tokenize=False, add_generation_prompt=True
    )
    asked = merging(prompt, add_special_tokens=False)["input_ids"]
    encoded = encode(Example("x", (*ASKED, Message("assistant", "yes")), "x"), merging)
    assert encoded.input_ids[: len(asked)].tolist() == asked
    assert encoded.targets[0] == len(asked)
    said = merging.decode(encoded.input_ids[encoded.supervised])
    assert said == f"\n</think>\n\nyes{EOS}"


def test_a_template_that_changes_answers_is_refused(template: Any) -> None:
    """What it renders is not its generation prompt and an answer."""
    template.chat_template = template.chat_template.replace(
        "{% if add_generation_prompt %}", "{% if add_generation_prompt %}Now:"
    )
    with pytest.raises(TrainingError, match="cannot be marked"):
        learnt(template, *ASKED, Message("assistant", "yes"))
