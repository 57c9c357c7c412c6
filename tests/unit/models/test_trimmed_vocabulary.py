"""A vocabulary cut down to a corpus: the same tokens there, and no text lost elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.architectures import build_checkpoint
from fakes.json_files import change_json
from fakes.models import build_tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ollama_bridge.conversion import convert
from ollama_bridge.encoding.encode import tokenizer_digest
from ollama_bridge.errors import ConfigError
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.pruning.tokens import keep_tokens, token_ids_of
from ollama_bridge.models.pruning.vocabulary import Vocabulary, trim_tokenizer
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model

CORPUS = (
    "<|im_start|>system\nAnswer with one word.<|im_end|>\n",
    "The food was great, but the service was not.",
    "negative neutral positive",
    "Größe 12",
)
SOURCE = build_tiny_tokenizer(vocab_size=460)
TRIMMED = trim_tokenizer(SOURCE, CORPUS)


def sentencepiece() -> PreTrainedTokenizerFast:
    """Pieces with bytes to fall back to, every way to merge a piece in the order of the pieces."""
    words = ["\u2581the", "\u2581food", "the", "food", "\u2581th", "fo", "od", "oo", "th", "he"]
    chars = ["\u2581", *"thefodé"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [*reversed(words), *chars]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    merges = [
        (word[:cut], word[cut:])
        for word in reversed(words)
        for cut in range(1, len(word))
        if word[:cut] in vocab and word[cut:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


PIECES = sentencepiece()
TRIMMED_PIECES = trim_tokenizer(PIECES, ["the food", "the hood"])


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def tokens_of(tokenizer: Any, text: str) -> list[str]:
    tokens: list[str] = tokenizer.convert_ids_to_tokens(ids_of(tokenizer, text))
    return tokens


def decoded(tokenizer: Any, text: str) -> str:
    result: str = tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=False)
    return result


@given(st.text(max_size=40))
@settings(deadline=None)
def test_no_text_is_lost(text: str) -> None:
    """Whatever the corpus was: what is decoded is what was encoded."""
    assert decoded(TRIMMED.tokenizer, text) == text
    assert decoded(TRIMMED_PIECES.tokenizer, text) == decoded(PIECES, text)


@given(st.lists(st.sampled_from(" the great food service.<|im_end|>\nnegativ 12é"), min_size=1))
@settings(deadline=None)
def test_a_corpus_keeps_its_tokens(letters: list[str]) -> None:
    """A tokenizer trimmed for a text splits it, and every word of it, as before."""
    text = "".join(letters)
    for source in (SOURCE, PIECES):
        vocabulary = trim_tokenizer(source, [text])
        assert tokens_of(vocabulary.tokenizer, text) == tokens_of(source, text)


def test_only_what_is_needed_stays() -> None:
    """Bytes, added tokens, the corpus's tokens and what these are merged from; in their order."""
    source = SOURCE.get_vocab()
    kept = TRIMMED.tokenizer.get_vocab()
    assert len(kept) < len(source) - 40
    assert sorted(kept.values()) == list(range(len(kept)))
    assert sorted(kept, key=kept.__getitem__) == sorted(kept, key=source.__getitem__)
    assert TRIMMED.source_ids.tolist() == sorted(source[token] for token in kept)
    assert {"Ġgreat", "<|im_end|>"} <= set(kept)
    assert "Ġneg" not in source or "Ġneg" in kept
    for token in (set(source) - set(kept)) & {"print", "def"}:
        assert token not in tokens_of(SOURCE, "\n".join(CORPUS))
    assert TRIMMED.source_digest == tokenizer_digest(SOURCE)
    assert tokenizer_digest(TRIMMED.tokenizer) != TRIMMED.source_digest
    new = TRIMMED.new_ids(500)
    assert new[TRIMMED.source_ids].tolist() == list(range(len(kept)))
    assert (new >= 0).sum() == len(kept)


def test_everything_else_of_the_tokenizer_stays() -> None:
    """Chat template, roles of tokens, length limit, splitting."""
    trimmed = TRIMMED.tokenizer
    assert trimmed.chat_template == SOURCE.chat_template
    for role in ("bos_token", "eos_token", "pad_token", "unk_token", "model_max_length"):
        assert getattr(trimmed, role) == getattr(SOURCE, role)
    documents = [json.loads(each.backend_tokenizer.to_str()) for each in (SOURCE, trimmed)]
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        assert documents[0][key] == documents[1][key]


def test_what_the_tokenizer_adds_has_its_new_id() -> None:
    """A BOS that a post-processor adds."""
    trimmed = TRIMMED_PIECES.tokenizer
    assert trimmed("the")["input_ids"][0] == trimmed.bos_token_id
    assert trimmed.convert_ids_to_tokens(trimmed("the")["input_ids"]) == ["<s>", "▁the"]


def test_words_that_are_looked_up_whole_stay_whole() -> None:
    """With ignore_merges a token need not be reachable by merges."""
    document = json.loads(SOURCE.backend_tokenizer.to_str())
    document["model"]["ignore_merges"] = True
    document["model"]["vocab"]["zebra"] = 460
    source = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(document)))
    trimmed = trim_tokenizer(source, ["zebra great"]).tokenizer
    assert tokens_of(trimmed, "zebra great") == ["zebra", "Ġgreat"]
    assert decoded(trimmed, "zebras graze") == "zebras graze"


def changed(edit: Any) -> PreTrainedTokenizerFast:
    document = json.loads(SOURCE.backend_tokenizer.to_str())
    edit(document)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(document)))


def test_a_tokenizer_without_bytes_is_refused() -> None:
    """Characters of no token would be lost."""

    def words_only(document: dict[str, Any]) -> None:
        document["pre_tokenizer"] = {"type": "Whitespace"}

    with pytest.raises(ConfigError, match="does not go down to bytes"):
        trim_tokenizer(changed(words_only), CORPUS)


def test_pieces_without_all_bytes_are_refused() -> None:
    """Falling back to bytes needs all of them."""
    document = json.loads(PIECES.backend_tokenizer.to_str())
    del document["model"]["vocab"]["<0xFF>"]
    source = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(document)))
    with pytest.raises(ConfigError, match="<0xFF>"):
        trim_tokenizer(source, CORPUS)


def test_a_unigram_is_refused() -> None:
    """It could not be exported either."""
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(ConfigError, match="Unigram"):
        trim_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), ["a"])


def trimmed_checkpoint(case: str, folder: Path) -> tuple[Any, Any, Vocabulary]:
    """A model, the same with fewer tokens, and which they are."""
    source = build_checkpoint(case, folder / "source", sizes={"vocab_size": 400})
    model, tokenizer = load_model(source), load_tokenizer(source)
    vocabulary = trim_tokenizer(tokenizer, CORPUS[1:3], also=token_ids_of(model.config.to_dict()))
    student = keep_tokens(model, vocabulary)
    student.save_pretrained(folder / "student")
    vocabulary.tokenizer.save_pretrained(folder / "student")
    return model, student, vocabulary


@pytest.mark.parametrize("case", ["llama", "qwen2-yarn", "gemma2", "phi3"])
def test_a_trimmed_student_says_what_its_teacher_says(case: str, tmp_path: Path) -> None:
    """Logits of the kept tokens are the teacher's, in torch and after GGUF; roles are kept."""
    model, student, vocabulary = trimmed_checkpoint(case, tmp_path)
    with torch.inference_mode():
        for text in CORPUS[1:3]:
            new, old = (
                torch.tensor([ids_of(each, text)])
                for each in (vocabulary.tokenizer, load_tokenizer(tmp_path / "source"))
            )
            expected = model(old).logits[..., vocabulary.source_ids]
            torch.testing.assert_close(student(new).logits, expected)
    for config in (student.config, student.generation_config):
        assert config.eos_token_id == vocabulary.tokenizer.eos_token_id
    shutil.copytree(tmp_path / "student", tmp_path / "copy")
    checkpoint = resolve_model(str(tmp_path / "copy"), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="f32", out_dir=tmp_path / "gguf")
    import_gguf(gguf.gguf_path, tmp_path / "back")
    with torch.inference_mode():
        back = load_model(tmp_path / "back")(new).logits
        torch.testing.assert_close(back, student(new).logits, rtol=1e-4, atol=1e-4)
    text = "Other words: Größe 3.14 😀 def main(argv)"
    served = load_tokenizer(tmp_path / "back")
    assert tokens_of(served, text) == tokens_of(vocabulary.tokenizer, text)


def test_roles_that_cannot_be_renumbered_are_refused(tmp_path: Path) -> None:
    """A list of forbidden tokens would forbid other tokens."""
    source = build_checkpoint("llama", tmp_path / "source")
    model = load_model(source)
    model.generation_config.suppress_tokens = [5]
    vocabulary = trim_tokenizer(load_tokenizer(source), CORPUS[1:2])
    with pytest.raises(ConfigError, match="suppress_tokens"):
        keep_tokens(model, vocabulary)


def test_sampling_that_is_not_in_use_does_not_keep_a_student_from_being_saved(
    tmp_path: Path,
) -> None:
    """As in Vicuna's: transformers saves it only as long as it is unchanged."""
    source = build_checkpoint("llama", tmp_path / "source")
    change_json(source / "generation_config.json", temperature=0.9, top_p=0.6)
    vocabulary = trim_tokenizer(load_tokenizer(source), CORPUS[1:2])
    keep_tokens(load_model(source), vocabulary).save_pretrained(tmp_path / "student")
    kept = (tmp_path / "student" / "generation_config.json").read_text(encoding="utf-8")
    assert "temperature" not in kept
