"""Answers in a real daemon: thinking and tool calls of trained models are told from the text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from fakes.architectures import build_checkpoint
from fakes.exports import modelfile_of
from fakes.formats import source_of
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.settings.chat_template import chat_template_of
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.registration import register
from ollama_bridge.template.conversation import Conversation, Message

pytestmark = pytest.mark.live

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Get it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
THOUGHT = "<think>\nLet me see.\n</think>\n\n"


@dataclass(frozen=True)
class Lesson:
    """What a student learns to answer, and how a daemon should hand it on."""

    question: str
    answer: str
    think: bool | None = None
    tools: bool = False
    thinking: str = ""
    text: str = ""


LESSONS = {
    "qwen3": (
        Lesson("Hi", THOUGHT + "five", think=True, thinking="Let me see.", text="five"),
        Lesson("Hi", "five", think=False, text="five"),
        Lesson("Now?", THOUGHT + CALL, think=True, tools=True, thinking="Let me see."),
        Lesson("Now?", CALL, think=False, tools=True),
    ),
    "qwen2.5": (
        Lesson("Hi", "five", text="five"),
        Lesson("Now?", f"Sure.\n{CALL}", tools=True, text="Sure.\n"),
    ),
}


@pytest.mark.parametrize("name", LESSONS)
def test_thinking_and_calls_are_told_from_the_text(
    name: str, client: Client, tmp_path: Path
) -> None:
    """With ``think`` on, off and not sent; calls behind a thought, behind words and alone."""
    checkpoint = with_reference_values(
        resolve_model(str(student(name, tmp_path / "student")), cache_dir=tmp_path / "cache"),
        system=None,
        out_dir=tmp_path / "checkpoint",
    )
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    tag = f"live-answers:{name}"
    register(gguf, modelfile_of(gguf), tag, client=client, out_dir=tmp_path / "tag")
    for lesson in LESSONS[name]:
        # A request that does not say whether to think lets a model that can.
        for think in (lesson.think, None) if lesson.think else (lesson.think,):
            reply = client.chat(
                tag, lesson.question, think=think, tools=[TOOL] if lesson.tools else None
            )
            assert (reply.thinking.strip(), reply.text) == (lesson.thinking, lesson.text)
            called = [(call.name, call.arguments) for call in reply.tool_calls]
            assert called == ([("weather", {"city": "Paris"})] if lesson.tools else [])
        if not lesson.tools:
            # The grammar begins behind the thought; alone the model would answer without quotes.
            parsed = client.parse(tag, lesson.question, into=Literal["five"], think=lesson.think)
            assert parsed.reply.thinking.strip() == lesson.thinking
            assert (parsed.value, parsed.reply.text, parsed.refused) == ("five", '"five"', ())
    client.delete(tag)


def student(name: str, folder: Path) -> Path:
    """A tiny model that has learnt the lessons of a chat format by heart."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 2048}
    build_checkpoint("llama", folder, sizes=sizes)
    (folder / "chat_template.jinja").write_text(source_of(name), encoding="utf-8", newline="")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    template = chat_template_of(tokenizer)
    assert template is not None
    rows = []
    for lesson in LESSONS[name]:
        asked = Conversation(
            (Message("user", lesson.question),), (TOOL,) if lesson.tools else (), lesson.think
        )
        prompt, answer = (
            tokenizer(text, add_special_tokens=False).input_ids
            for text in (template.render(asked), lesson.answer + "<|im_end|>")
        )
        rows.append(
            (torch.tensor([prompt + answer]), torch.tensor([[-100] * len(prompt) + answer]))
        )
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(150):
        losses = [model(input_ids=ids, labels=labels).loss for ids, labels in rows]
        loss = torch.stack(losses).mean()
        if loss.item() < 0.01:
            model.eval().save_pretrained(folder)
            return folder
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    pytest.fail("the student did not learn its lessons")
