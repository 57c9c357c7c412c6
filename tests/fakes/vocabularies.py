"""Checkpoints whose vocabulary was changed, as people do before they distil."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ollama_bridge.models.load import load_model


def trim_vocabulary(folder: Path) -> Path:
    """Drop the second half of the merges and the tokens that only they make.

    Args:
        folder: A checkpoint of :mod:`fakes.architectures`; it is changed.
    """
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = document["model"]
    model["merges"] = model["merges"][: len(model["merges"]) // 2]
    made = {"".join(merge) for merge in model["merges"]}
    known = sorted(model["vocab"].items(), key=lambda pair: pair[1])
    names = [token for token, id_ in known if id_ < 3 + 256 or token in made]
    model["vocab"] = {token: id_ for id_, token in enumerate(names)}
    return _resized(folder, document, len(names))


def extend_vocabulary(folder: Path) -> Path:
    """Add a special token and one that is text.

    Args:
        folder: A checkpoint of :mod:`fakes.architectures`; it is changed.
    """
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    size = len(document["model"]["vocab"])
    for index, text in enumerate(("<|tool|>", "<mark>")):
        known = document["added_tokens"][0]
        changes = {"id": size + index, "content": text, "special": index == 0}
        document["added_tokens"].append({**known, **changes})
    return _resized(folder, document, size + 2)


def _resized(folder: Path, document: dict[str, object], size: int) -> Path:
    model = load_model(folder)
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(size, mean_resizing=False)
    model.save_pretrained(folder)
    text = json.dumps(document, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder
