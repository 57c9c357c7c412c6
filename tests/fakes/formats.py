"""Chat templates in the formats that model cards document, written for these tests.

None is a copy of a published file; each does what makes its format hard to serve.
"""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fakes.architectures import build_checkpoint

from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.template.jinja import ChatTemplate

_FOLDER = Path(__file__).parent / "chat_templates"


@dataclass(frozen=True)
class Case:
    """Special tokens of a format, and what a tag of it can do."""

    bos: str = ""
    eos: str = "<|im_end|>"
    adds_bos: bool = False
    tools: bool = False
    thinking: bool = False


CASES: Mapping[str, Case] = {
    # default system prompt, tools in the system turn, results grouped in a user turn
    "qwen2.5": Case(tools=True),
    # thinking kept behind the last user message only, switched off by a pre-filled block
    "qwen3": Case(tools=True, thinking=True),
    # a system turn with a date and the state of thinking, always; tools as Python prints them, no
    # calls
    "smollm3": Case(tools=True, thinking=True),
    # thinking cut out of past answers, and opened by the prompt
    "deepseek-r1": Case(
        bos="<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        eos="<\uff5cend\u2581of\u2581sentence\uff5c>",
        adds_bos=True,
        thinking=True,
    ),
    # a date, trimmed contents, tools in the first user message, results quoted
    "llama3.2": Case("<|begin_of_text|>", "<|eot_id|>", adds_bos=True, tools=True),
    # tools and system prompt at the last user message, tools with their own texts between quotes as
    # they are, calls with ids, no generation prompt
    "mistral": Case("<s>", "</s>", adds_bos=True, tools=True),
    # no system role, the assistant is called model, contents trimmed
    "gemma2": Case("<bos>", "<end_of_turn>", adds_bos=True),
    # the system prompt inside the first user turn
    "gemma3": Case("<bos>", "<end_of_turn>", adds_bos=True),
    "phi3": Case("<s>", "<|endoftext|>"),
    # tools only where there is a system prompt
    "phi4-mini": Case(eos="<|endoftext|>", tools=True),
    "phi4": Case(),
    # a date in the default system prompt, tools in a turn of their own, calls before contents;
    # thinking by a sentence to ask for it
    "granite": Case(eos="<|end_of_text|>"),
    # BOS in the text although the tokenizer adds none
    "olmo2": Case("<|endoftext|>", "<|endoftext|>"),
    # arguments of calls one by one, thinking switched off behind the user's message
    "glm4": Case(eos="<|endoftext|>", tools=True, thinking=True),
    # line ends of the Jinja file itself
    "zephyr": Case("<s>", "</s>", adds_bos=True),
}


def source_of(name: str) -> str:
    """The text of one of the templates."""
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def chat_template(name: str) -> ChatTemplate:
    """One of the templates, with its special tokens."""
    case = CASES[name]
    special = {"bos_token": case.bos, "eos_token": case.eos}
    return ChatTemplate(source_of(name), special=special, adds_bos=case.adds_bos)


@functools.cache
def published() -> Mapping[str, str]:
    """The chat templates that Ollama's Go module knows, if it is in the module cache."""
    try:
        done = subprocess.run(
            ["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    found = Path(done.stdout.strip()) / "github.com/ollama/ollama@v0.34.4/template/index.json"
    if not found.is_file():
        return {}
    entries = json.loads(found.read_text(encoding="utf-8"))
    return {f"{entry['name']}-{number}": entry["template"] for number, entry in enumerate(entries)}


def folder_with(chat_template: str, folder: Path) -> Path:
    """A tiny random checkpoint of a chat format, as a Hugging Face folder."""
    source = build_checkpoint("llama", folder)
    (source / "chat_template.jinja").write_text(chat_template, encoding="utf-8", newline="")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 4096  # tools take a thousand of this tokenizer's tokens
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return source


def checkpoint_with(chat_template: str, folder: Path) -> Checkpoint:
    """A tiny random checkpoint of a chat format, with reference values."""
    source = folder_with(chat_template, folder / "source")
    return with_reference_values(
        resolve_model(str(source), cache_dir=folder / "cache"),
        system=None,
        out_dir=folder / "checkpoint",
    )
