"""What the copy of a checkpoint's settings goes without: it asks for what nobody needs to do."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.models.settings.json_files import added_tokens, read_json_object
from ollama_bridge.models.settings.tokenizer_settings import tokenizer_settings

_WHOLE_WEIGHTS = (
    "its config still asks for the 4 or 8 bits that it once had (quantization_config); "
    "the weights are whole, and served as they are"
)
_OWN_CODE = (
    "it names code of its own (auto_map); its architecture is one that transformers has, and that "
    "code is not run"
)
_LEFT_OVERS = (
    ("config.json", "quantization_config", _WHOLE_WEIGHTS),
    ("config.json", "auto_map", _OWN_CODE),
    ("tokenizer_config.json", "auto_map", _OWN_CODE),
)
# Not the one that pads: the line of every tutorial adds it, and what is served pads nothing.
_ROLES = ("bos_token", "eos_token", "unk_token")
TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Unseen:
    """Tokens that were added to a tokenizer, and that its model has no row for.

    Attributes:
        idle: Nobody needs them; published so: Gemma 3's 270M and 1B have the token that stands for
            an image in the larger ones.
        used: The chat template or a role of the tokenizer other than padding names them: their rows
            are missing.
    """

    idle: tuple[str, ...] = ()
    used: tuple[str, ...] = ()


def tokens_without_rows(folder: Path, config: Mapping[str, Any]) -> Unseen:
    """Tokens of a checkpoint's tokenizer that its model has never seen.

    Raises:
        ModelError: a file of it is damaged.
    """
    rows, path = config.get("vocab_size"), folder / "tokenizer.json"
    if not isinstance(rows, int) or not path.is_file():
        return Unseen()
    unseen = [
        token["content"] for token in added_tokens(read_json_object(path)) if token["id"] >= rows
    ]
    settings = tokenizer_settings(folder) if unseen else {}
    template = folder / "chat_template.jinja"
    named = json.dumps([settings.get(name) for name in ("chat_template", *_ROLES)])
    if template.is_file():
        named += json.dumps(template.read_text(encoding="utf-8", errors="replace"))
    used = tuple(token for token in unseen if json.dumps(token)[1:-1] in named)
    return Unseen(tuple(token for token in unseen if token not in used), used)


def drop_left_overs(folder: Path, *, tokens: Collection[str] = ()) -> list[str]:
    """Take settings that do not matter, and some tokens, out of a checked checkpoint's copy.

    Returns:
        What is to be said of it.
    """
    said = []
    for name, key, what in _LEFT_OVERS:
        path = folder / name
        settings = read_json_object(path) if path.is_file() else {}
        if settings.pop(key, None):
            path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
            said.append(what)
    if tokens:
        drop_tokens(folder, tokens)
        said.append(_without_rows(tokens))
    return list(dict.fromkeys(said))


def rows_not_saved(tokens: Collection[str]) -> str:
    """What is to be said of an adapter whose tokens were taken out: one may have been trained."""
    return (
        f"{_without_rows(tokens)} (if it was trained, its row was not saved: save the adapter "
        "again by model.save_pretrained(folder, save_embedding_layers=True))"
    )


def _without_rows(tokens: Collection[str]) -> str:
    are = "is" if len(tokens) == 1 else "are"
    return f"its model has no row for {', '.join(tokens)}, which {are} left out of the tokenizer"


def drop_tokens(folder: Path, tokens: Collection[str]) -> None:
    """Take added tokens out of a tokenizer's files."""
    if not tokens:
        return
    document = read_json_object(folder / "tokenizer.json")
    document["added_tokens"] = [
        token for token in added_tokens(document) if token["content"] not in tokens
    ]
    model = document.get("model")
    if isinstance(model, dict) and isinstance(model.get("vocab"), dict):
        model["vocab"] = {name: id_ for name, id_ in model["vocab"].items() if name not in tokens}
    changed = {"tokenizer.json": document}
    for name in TOKEN_FILES:
        if (folder / name).is_file():
            changed[name] = _without(read_json_object(folder / name), tokens)
    for name, value in changed.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _without(settings: Any, tokens: Collection[str]) -> Any:
    """Settings without entries that are one of the tokens, by its text or with its flags."""

    def stays(value: object) -> bool:
        content = value.get("content") if isinstance(value, Mapping) else value
        return not isinstance(content, str) or content not in tokens

    if isinstance(settings, dict):
        return {key: _without(value, tokens) for key, value in settings.items() if stays(value)}
    if isinstance(settings, list):
        return [_without(value, tokens) for value in settings if stays(value)]
    return settings
