"""Tiny checkpoints whose chat format ends turns in its own way, often not with eos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fakes.formats import source_of
from fakes.models import CHAT_TEMPLATE, build_tiny_model, build_tiny_tokenizer
from fakes.reasoning import ASSISTANT, BOS, EOS, USER


@dataclass(frozen=True)
class Manner:
    """How a family ends a turn.

    Attributes:
        template: Name of a chat template, or its text.
        eos: As the tokenizer has it.
        end: The token behind an answer.
        specials: What it has beside those of :mod:`fakes.models`.
    """

    template: str
    eos: str
    end: str
    specials: tuple[str, ...] = ()


# Home-made: eos where a whole conversation ends, and nowhere else.
_PLAIN = (
    "{% for message in messages %}### {{ message['role'] }}:\n{{ message['content'] }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% else %}{{ eos_token }}{% endif %}"
)

MANNERS = {
    "gemma": Manner(
        "gemma3",
        "<eos>",
        "<end_of_turn>",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    ),
    # A line end and eos follow the end of the last turn.
    "phi3": Manner(
        "phi3",
        "<|endoftext|>",
        "<|end|>",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "instruct": Manner(CHAT_TEMPLATE, "<|im_end|>", "<|im_end|>"),
    # A Qwen that was not taught to chat: its tokenizer ends texts, its template turns.
    "base": Manner(CHAT_TEMPLATE, "<|endoftext|>", "<|im_end|>"),
    "plain": Manner(_PLAIN, "<|endoftext|>", "<|endoftext|>"),
    # And behind every answer.
    "twice": Manner(
        _PLAIN.replace(
            "['content'] }}",
            "['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}",
        ),
        "<|endoftext|>",
        "<|endoftext|>",
    ),
    "base thinker": Manner(CHAT_TEMPLATE, "<|endoftext|>", "<|im_end|>", ("<think>", "</think>")),
    # Marks of thoughts are tokens, or have a line end more behind them.
    "thinker": Manner(CHAT_TEMPLATE, "<|im_end|>", "<|im_end|>", ("<think>", "</think>")),
    "spacious": Manner(
        CHAT_TEMPLATE.replace(
            "['content'] +", "['content'] | replace('</think>', '</think>\\n')) +"
        ).replace("+ message['content']", "+ (message['content']"),
        "<|im_end|>",
        "<|im_end|>",
    ),
    # These write a date into their prompts, the last one only where there is no system turn.
    "llama3.2": Manner(
        "llama3.2",
        "<|eot_id|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "smollm3": Manner("smollm3", "<|im_end|>", "<|im_end|>"),
    "granite": Manner(
        "granite",
        "<|end_of_text|>",
        "<|end_of_text|>",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    "reasoner": Manner("deepseek-r1", EOS, EOS, (BOS, EOS, USER, ASSISTANT)),
    # One whose answers are not the data's.
    "shouting": Manner(
        CHAT_TEMPLATE.replace(
            "message['content'] +",
            "(message['content'] | upper if message['role'] == 'assistant' "
            "else message['content']) +",
        ),
        "<|im_end|>",
        "<|im_end|>",
    ),
}


def build_speaker(
    manner: str, folder: Path, *, vocab_size: int = 384, width: int | None = None
) -> Path:
    """A random checkpoint that speaks so.

    Args:
        manner: Of :data:`MANNERS`.
        folder: Where to; made if missing.
        vocab_size: Without the manner's own special tokens.
        width: Rows of its matrices; None: as many as there are tokens.

    Returns:
        The folder.
    """
    found = MANNERS[manner]
    tokenizer = build_tiny_tokenizer(vocab_size=vocab_size)
    tokenizer.add_special_tokens({"additional_special_tokens": list(found.specials)})
    tokenizer.eos_token = found.eos
    template = found.template
    tokenizer.chat_template = template if "{" in template else source_of(template)
    model = build_tiny_model(vocab_size=width or len(tokenizer), seed=len(manner))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
