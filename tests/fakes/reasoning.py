"""A model in DeepSeek-R1's chat format: it thinks, and forgets what it thought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.architectures import build_checkpoint
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"

# Written from the documented format: the system prompt comes bare, thoughts of past turns are
# dropped, and an answer begins with a thought.
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}{{ '" + USER + "' + message.content }}"
    "{% elif message.role == 'assistant' %}"
    "{{ '" + ASSISTANT + "' + message.content.split('</think>')[-1] + eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "<think>\\n' }}{% endif %}"
)


def build_reasoner(
    folder: Path, *, sizes: dict[str, Any] | None = None, special_tags: bool = False
) -> Path:
    """A random qwen2 with the tokens and the template of a DeepSeek-R1 distill.

    Args:
        folder: Where to; made if missing.
        sizes: See :func:`fakes.architectures.build_checkpoint`.
        special_tags: Whether the tags around thoughts are special tokens, as
            ``add_special_tokens`` makes them.

    Returns:
        The folder.
    """
    build_checkpoint("qwen2", folder, sizes=sizes)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    renamed = tokenizer.backend_tokenizer.to_str()
    for old, new in (("<|im_start|>", BOS), ("<|im_end|>", EOS)):
        renamed = renamed.replace(old, new)
    (folder / "tokenizer.json").write_text(renamed, encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.add_tokens([USER, ASSISTANT])
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special_tags)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[BOS, "$A"], special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder
