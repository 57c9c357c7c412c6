"""Checkpoints whose answers end, and where: noise alone would go on for ever."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from fakes.json_files import change_json
from transformers import PreTrainedTokenizerFast

from ollama_bridge.models.load import load_model


def rename_tokens(folder: Path, names: dict[str, str]) -> None:
    """Give special tokens texts that no runtime knows by heart, wherever they are named."""
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / file).read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        (folder / file).write_text(text)


def set_ends(folder: Path, *, eos: str, generation: int | list[int]) -> None:
    """What a folder says of its ends; config.json says it too."""
    for name, key, value in (
        ("tokenizer_config.json", "eos_token", eos),
        ("generation_config.json", "eos_token_id", generation),
        ("config.json", "eos_token_id", generation),
    ):
        change_json(folder / name, **{key: value})


def answer_and_end(folder: Path, words: str, end: str) -> None:
    """Make a checkpoint say the same few words to everything, and end with a token.

    Its layers add nothing, so the next token depends on the last one alone, and the output matrix
    says which. No token of the words may come twice, or be the prompt's last but before them.

    Args:
        folder: A checkpoint whose output matrix is its own.
        words: The answer.
        end: The token behind it.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = load_model(folder)
    turn = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    last = tokenizer(prompt, add_special_tokens=False).input_ids[-1]
    ids = [last, *tokenizer(words, add_special_tokens=False).input_ids]
    ids.append(tokenizer.convert_tokens_to_ids(end))
    assert len(set(ids)) == len(ids), "a token comes twice"
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        embedding = model.model.embed_tokens.weight
        for before, after in itertools.pairwise(ids):
            model.lm_head.weight[after] = 3.0 * torch.nn.functional.normalize(
                embedding[before], dim=0
            )
    model.save_pretrained(folder)
