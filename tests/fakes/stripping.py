"""Tokenizers that strip spaces next to their special tokens, as Phi-3 and Phi-4 do."""

from __future__ import annotations

import json
from pathlib import Path

from fakes.architectures import build_checkpoint
from fakes.sentencepiece import SIZE, build_sentencepiece

PHI3_MARKS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
_PHI3_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def build_phi3(folder: Path, *, strips_all: bool = True) -> Path:
    """A random Phi-3: a line end follows each mark, and is stripped there.

    Args:
        folder: Where to; made if missing.
        strips_all: Of its special tokens those that a Phi-3 strips spaces behind; else one less.
    """
    size = SIZE + len(PHI3_MARKS) + 1
    build_checkpoint("phi3", folder, sizes={"vocab_size": size})
    build_sentencepiece(folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["post_processor"] = None
    known = document["added_tokens"][0]
    for number, mark in enumerate(("<|endoftext|>", *PHI3_MARKS)):
        document["added_tokens"].append({**known, "id": SIZE + number, "content": mark})
    for token in document["added_tokens"]:
        token["rstrip"] = token["content"] in (*PHI3_MARKS, "</s>")
    if not strips_all:
        document["added_tokens"][-1]["rstrip"] = False
    path.write_text(json.dumps(document))
    names = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(_PHI3_TEMPLATE)
    return folder


def build_phi4(folder: Path) -> Path:
    """A random model whose marks strip spaces on both sides; its chat template writes none."""
    build_checkpoint("llama", folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    for token in document["added_tokens"]:
        token["lstrip"] = token["rstrip"] = token["content"].startswith("<|im_")
    path.write_text(json.dumps(document))
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}<|endoftext|>"
        "{{ message['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|endoftext|>{% endif %}"
    )
    return folder
