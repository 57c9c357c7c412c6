"""Tokenizers that SentencePiece made, in the forms that transformers saves them in."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from fakes.json_files import change_json
from fakes.models import TEXTS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPACE = "▁"
RUN = SPACE * 2  # which Gemma has as added tokens that are not special, and merges make as well
# As Llama 2 has it, without its limits on roles; what follows BOS is text.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ '[' + message['role'] + '] ' + message['content'] + ' [/]' }}{% endif %}"
    "{% endfor %}"
)
SIZE = 384
_SPECIALS = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def _metaspace(scheme: str) -> dict[str, Any]:
    return {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": scheme,
        "split": False,
    }


# Normalizer and pre-tokenizer by form.
FORMS: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {
    "llama": ({"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}, None),
    "always": (None, _metaspace("always")),
    "first": (None, _metaspace("first")),
    "gemma": (
        _REPLACE,
        {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
    ),
}


@functools.cache
def _pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """Learnt pieces, the best first; and every merge of each, for SentencePiece takes any."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    size = SIZE - len(_SPECIALS) - len(_BYTES)
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=1, show_progress=False)
    learner.train_from_iterator([text for text in TEXTS if text.isascii()], trainer)
    vocabulary = learner.get_vocab()
    assert len(vocabulary) == size
    pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    return pieces, merges


def _with_run() -> tuple[list[str], list[tuple[str, str]]]:
    """The same with a run of spaces instead of the worst piece."""
    pieces, merges = _pieces()
    worst = pieces[-1]
    kept = [(left, right) for left, right in merges if worst not in (left, right, left + right)]
    return [*pieces[:-1], RUN], [*kept, (SPACE, SPACE)]


def build_sentencepiece(folder: Path, *, form: str = "llama") -> Tokenizer:
    """A Llama 2 style tokenizer: BPE with byte fallback, visible spaces, BOS in front.

    Args:
        folder: Where to; it has no other tokenizer afterwards.
        form: One of :data:`FORMS`.
    """
    pieces, merges = _with_run() if form == "gemma" else _pieces()
    tokens = {token: id_ for id_, token in enumerate([*_SPECIALS, *_BYTES, *pieces])}
    tokenizer = Tokenizer(
        models.BPE(tokens, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if form != "gemma" else []),
        ]
    )
    tokenizer.add_special_tokens(_SPECIALS)
    if form == "gemma":
        tokenizer.add_tokens([AddedToken(RUN, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    document = json.loads(tokenizer.to_str())
    document["normalizer"], document["pre_tokenizer"] = FORMS[form]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def publish(folder: Path) -> None:
    """Add what models are published with beside ``tokenizer.json``: pieces, and a chat template.

    Args:
        folder: Of :func:`build_sentencepiece`.
    """
    from transformers.utils.sentencepiece_model_pb2_new import ModelProto

    document = json.loads((folder / "tokenizer.json").read_text())
    made = ModelProto()
    first = len(_SPECIALS) + len(_BYTES)  # of the learnt ones
    for piece, id_ in document["model"]["vocab"].items():
        type_ = "UNKNOWN" if id_ == 0 else "CONTROL" if id_ < len(_SPECIALS) else "BYTE"
        score = 0.0
        if id_ >= first:
            type_, score = "NORMAL", float(first - id_)
        made.pieces.add(piece=piece, score=score, type=type_)
    (folder / "tokenizer.model").write_bytes(made.SerializeToString())
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        added_tokens_decoder={str(token.pop("id")): token for token in document["added_tokens"]},
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
