"""The tokenizer section: structures that are known, and those that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.sentencepiece import CHAT_TEMPLATE, RUN, SIZE, build_sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ollama_bridge.conversion.tokenizer import TokenizerSection
from ollama_bridge.errors import ConversionError, ModelError
from ollama_bridge.models.gguf.pretokenizers import PRE_TOKENIZERS
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.reference.texts import TextSide
from ollama_bridge.models.settings.gguf_tokenizer import GGUFTokenizer

CONFIG = {"vocab_size": 384, "eos_token_id": 2}


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint's tokenizer, to be changed."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny_checkpoint / name, tmp_path)
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Rewrite tokenizer.json."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return folder


def written(
    folder: Path, config: Mapping[str, Any] = CONFIG, *, printed: Sequence[str] = ()
) -> dict[str, Any]:
    """The keys that would be written."""
    section = TokenizerSection(folder, config, printed=printed)
    return {entry.key: entry.value for entry in section.entries(chat_template=False)}


@pytest.mark.parametrize("entry", PRE_TOKENIZERS, ids=lambda entry: entry.name)
def test_every_splitting_of_the_table_is_found_by_its_structure(folder: Path, entry: Any) -> None:
    """Each pre-tokenizer is recognised whatever the vocabulary."""

    def edit(document: dict[str, Any]) -> None:
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(entry.steps)}
        document["model"]["ignore_merges"] = entry.ignore_merges

    assert written(change(folder, edit))["tokenizer.ggml.pre"] == entry.name


def test_keeping_matches_is_isolating_them_where_they_cover_all(folder: Path) -> None:
    """The way in which converted tiktoken vocabularies write the same splitting."""

    def edit(document: dict[str, Any]) -> None:
        entry = next(entry for entry in PRE_TOKENIZERS if entry.name == "gpt-4o")
        split = {**entry.steps[0], "behavior": "Removed", "invert": True}
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, entry.steps[1]]}

    assert written(change(folder, edit))["tokenizer.ggml.pre"] == "gpt-4o"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tekken", ["Hello", "World", "\u0120don", "'t", "\u0120", "1", "2", "3", "4"]),
        ("gpt-4o", ["Hello", "World", "\u0120don't", "\u0120", "123", "4"]),
        ("qwen2", ["HelloWorld", "\u0120don", "'t", "\u0120", "1", "2", "3", "4"]),
        ("deepseek-coder", ["HelloWorld", "\u0120don", "'", "t", "\u0120", "1", "2", "3", "4"]),
    ],
)
def test_splittings_are_told_apart_by_a_text(name: str, expected: list[str]) -> None:
    """Some split words where lower case turns to upper, or at every sign."""
    entry = next(entry for entry in PRE_TOKENIZERS if entry.name == name)
    tokenizer = Tokenizer(models.BPE())
    document = json.loads(tokenizer.to_str())
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(entry.steps)}
    splitter = Tokenizer.from_str(json.dumps(document)).pre_tokenizer
    assert splitter is not None
    pieces = splitter.pre_tokenize_str("HelloWorld don't 1234")
    assert [piece for piece, _ in pieces] == expected


def test_gemmas_split_at_spaces_changes_nothing(folder: Path) -> None:
    """Its normalizer leaves no space to split at."""
    tokenizer = Tokenizer(
        models.BPE({"<unk>": 0, "\u2581a": 1, "a": 2}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").write_text("{}")
    keys = written(folder, {"vocab_size": 3, "eos_token_id": 0})
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is False


@pytest.mark.parametrize("length", [None, 8], ids=["batches", "a length"])
def test_bos_is_seen_through_the_padding_of_a_training(folder: Path, length: int | None) -> None:
    """A tokenizer that still pads and cuts adds what it adds."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.enable_padding(pad_id=2, length=length, pad_to_multiple_of=8)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(path))
    keys = written(folder)
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_eos_token"] is False


@pytest.mark.parametrize("id_", [-1, 384])
def test_a_pad_token_that_is_none_is_left_out(folder: Path, id_: int) -> None:
    """Meta's own configs say -1, and others a token that was never added: nobody pads here."""
    (folder / "tokenizer_config.json").write_text("{}")
    keys = written(folder, {**CONFIG, "pad_token_id": id_})
    assert "tokenizer.ggml.padding_token_id" not in keys
    with pytest.raises(ConversionError, match="bos token id"):
        written(folder, {**CONFIG, "bos_token_id": id_})


def test_another_splitting_is_refused(folder: Path) -> None:
    """A pre-tokenizer that is not in the table is an error, never `default`."""

    def edit(document: dict[str, Any]) -> None:
        document["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False

    with pytest.raises(ConversionError, match="pre_tokenizer"):
        written(change(folder, edit))


def test_a_lossy_normalizer_is_noted_and_another_refused(folder: Path) -> None:
    """NFC is noted, for most text is NFC; lower-casing is refused."""

    def nfc(document: dict[str, Any]) -> None:
        document["normalizer"] = {"type": "NFC"}

    def lower(document: dict[str, Any]) -> None:
        document["normalizer"] = {"type": "Lowercase"}

    assert "NFC" in TokenizerSection(change(folder, nfc), CONFIG).notes[0]
    with pytest.raises(ConversionError, match="Lowercase"):
        TokenizerSection(change(folder, lower), CONFIG)


def test_a_bos_that_the_tokenizer_adds_is_written(folder: Path) -> None:
    """add_bos_token is what the tokenizer does, found by trying it."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save(str(path))
    keys = written(folder)
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_eos_token"] is False


def test_no_bos_is_added_where_the_chat_template_writes_none(tmp_path: Path) -> None:
    """Zephyr's and TinyLlama's formats, and ChatML on Llama: trained without it, as encoded."""
    template = CHAT_TEMPLATE.replace("{{ bos_token }}", "")
    assert written_of(tmp_path, "llama", CHAT_TEMPLATE)["tokenizer.ggml.add_bos_token"] is True
    assert written_of(tmp_path, "llama", template)["tokenizer.ggml.add_bos_token"] is False
    assert TextSide(load_tokenizer(tmp_path), tmp_path, system=None).adds_bos is False


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    """llama.cpp would end answers at a token of its own choice."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    (folder / "generation_config.json").unlink()
    with pytest.raises(ConversionError, match="no token is named that ends an answer"):
        written(folder, {"vocab_size": 384})


def test_other_surroundings_are_refused(folder: Path) -> None:
    """A post-processor that adds two tokens cannot be said in a GGUF."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> <|endoftext|> $A",
        special_tokens=[("<|im_start|>", 1), ("<|endoftext|>", 0)],
    )
    tokenizer.save(str(path))
    with pytest.raises(ConversionError, match="post-processor"):
        written(folder)


def test_a_padding_token_that_nobody_added(folder: Path) -> None:
    """Fits where transformers can add it to a row that is left over; a GGUF goes without it."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "<|pad|>"}))
    keys = written(folder, {**CONFIG, "vocab_size": 400})
    assert "tokenizer.ggml.padding_token_id" not in keys
    with pytest.raises(ConversionError, match="pad_token") as caught:
        written(folder)
    assert "that the model was trained with" in str(caught.value.hint)


def test_token_types_follow_the_added_tokens(folder: Path) -> None:
    """Special added tokens are CONTROL, others USER_DEFINED."""

    def edit(document: dict[str, Any]) -> None:
        document["added_tokens"][0]["special"] = False

    assert written(change(folder, edit))["tokenizer.ggml.token_type"][:3] == [4, 3, 3]


@pytest.mark.parametrize("content", ["<|im_end|>", ""])
def test_added_tokens_are_known_by_their_texts(folder: Path, content: str) -> None:
    """An id beside it that is another's, by hand or by a hole, is not what transformers takes."""

    def edit(document: dict[str, Any]) -> None:
        added = document["added_tokens"]
        added[:] = [*added, {**added[2], "id": 300, "content": content}]
        added[2]["id"] = 300

    types = written(change(folder, edit))["tokenizer.ggml.token_type"]
    assert (types[2], types[300]) == (3, 1)


@pytest.mark.parametrize("form", ["bytes", "pieces"])
def test_tags_of_thoughts_are_printed(folder: Path, tmp_path: Path, form: str) -> None:
    """A special token that is one is USER_DEFINED, texts have the tokens that they had."""
    if form == "pieces":
        build_sentencepiece(folder, form="llama")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tags = ["<think>", "</think>"]
    tokenizer.add_special_tokens(tags)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = [tokenizer.token_to_id(tag) for tag in tags]
    end = tokenizer.id_to_token(2)
    config = {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": 2}
    keys = written(folder, config, printed=[*tags, end])
    types = keys["tokenizer.ggml.token_type"]
    assert [types[id_] for id_ in (*ids, 2)] == [4, 4, 3]
    before = written(folder, config)
    assert [before["tokenizer.ggml.token_type"][id_] for id_ in ids] == [3, 3]
    assert {key for key in keys if keys[key] != before[key]} == {"tokenizer.ggml.token_type"}

    texts = ["a<think>\nb  c</think>\n\nd", "<think></think>", " <think> a </think> b", "no think>"]
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    for _ in range(2):  # into a checkpoint and back
        GGUFTokenizer(tmp_path / "x.gguf", keys).write(folder, max_length=128)
        again = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert [again.encode(text, add_special_tokens=False).ids for text in texts] == wanted
        keys = written(folder, config)
        assert keys["tokenizer.ggml.token_type"] == types


def test_runs_of_spaces_are_normal(tmp_path: Path) -> None:
    """Gemma's: llama.cpp prints added tokens that are user-defined to the letter, with U+2581."""
    tokenizer = build_sentencepiece(tmp_path, form="gemma")
    keys = written(tmp_path, {"vocab_size": SIZE, "eos_token_id": 2})
    id_ = tokenizer.token_to_id(RUN)
    assert keys["tokenizer.ggml.tokens"][id_] == RUN
    assert keys["tokenizer.ggml.token_type"][id_] == 1
    GGUFTokenizer(tmp_path / "x.gguf", keys).write(tmp_path, max_length=128)
    after = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("hello  world", "a   b", "    hello\n  b", "hello world"):
        assert after.encode(text).ids == tokenizer.encode(text).ids
    assert id_ in after.encode("    b").ids


def test_more_tokens_than_rows_are_refused(folder: Path) -> None:
    """A tokenizer that reaches beyond the embedding is an error."""
    with pytest.raises(ConversionError, match="rows"):
        written(folder, {**CONFIG, "vocab_size": 300})


def test_old_style_merges_are_read(folder: Path) -> None:
    """Merges written as "a b" are the same as pairs."""
    before = written(folder)["tokenizer.ggml.merges"]

    def edit(document: dict[str, Any]) -> None:
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]

    assert written(change(folder, edit))["tokenizer.ggml.merges"] == before


@pytest.mark.parametrize("kind", ["WordPiece", "WordLevel"])
def test_other_models_are_refused(folder: Path, kind: str) -> None:
    """Only BPE can be written."""
    model: dict[str, Any] = {"type": kind, "unk_token": "[UNK]", "vocab": {"a": 0, "[UNK]": 1}}
    if kind == "WordPiece":
        model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}

    def edit(document: dict[str, Any]) -> None:
        document["model"] = model
        document["added_tokens"] = []

    with pytest.raises(ConversionError, match=kind):
        TokenizerSection(change(folder, edit), CONFIG)


def test_sentencepiece_survives_the_round_trip(tmp_path: Path) -> None:
    """A Llama 2 style tokenizer, written and rebuilt, gives the same ids."""
    before = build_sentencepiece(tmp_path)
    size = before.get_vocab_size()
    keys = written(tmp_path, {"vocab_size": size, "eos_token_id": 2})
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    out = tmp_path / "back"
    out.mkdir()
    GGUFTokenizer(tmp_path / "x.gguf", keys).write(out, max_length=128)
    after = Tokenizer.from_file(str(out / "tokenizer.json"))
    for text in ("hello world", "  hello", "", "heäd 😀", "world</s>hello", "hello  world"):
        assert after.encode(text).ids == before.encode(text).ids
        assert after.decode(after.encode(text).ids) == before.decode(before.encode(text).ids)


def test_metaspace_that_splits_is_refused(tmp_path: Path) -> None:
    """A SentencePiece-like tokenizer that splits before merging is not llama.cpp's."""
    tokenizer = build_sentencepiece(tmp_path)
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConversionError, match="Metaspace"):
        TokenizerSection(tmp_path, {"vocab_size": tokenizer.get_vocab_size()})


def ends(keys: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where llama.cpp will end, and where Ollama's own engine will."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id", "eos_token_ids")
    return tuple(keys.get(f"tokenizer.ggml.{name}") for name in names)


def test_every_end_gets_a_role(folder: Path) -> None:
    """llama.cpp ends at three tokens that a file can name, and reads no list."""
    path = folder / "generation_config.json"
    assert ends(written(folder)) == (2, 2, None, [2])
    path.write_text('{"eos_token_id": [2, 0]}')
    assert ends(written(folder)) == (2, 0, None, [2, 0])
    path.write_text('{"eos_token_id": [2, 0, 1]}')
    assert ends(written(folder)) == (2, 0, 1, [2, 0, 1])
    path.write_text('{"eos_token_id": [2, 0, 1, 300]}')
    section = TokenizerSection(folder, CONFIG)
    assert section.notes[-1].endswith("a GGUF has room for three ends")
    assert ends(written(folder)) == (2, 0, 1, [2, 0, 1, 300])


def test_the_end_of_a_turn_goes_before_other_ends(folder: Path) -> None:
    """What a chat template ends turns with is an end, and not the one that there is no room for."""
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 300, 301]}')
    section = TokenizerSection(folder, CONFIG, ends=[1])
    keys = {entry.key: entry.value for entry in section.entries(chat_template=False)}
    assert ends(keys) == (2, 1, 300, [2, 1, 300, 301])


@pytest.mark.parametrize("overruled", [True, False])
def test_roles_are_those_that_transformers_reads(folder: Path, *, overruled: bool) -> None:
    """An older special_tokens_map.json counts unless the tokenizer was saved by transformers 4."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if not overruled:
        settings["added_tokens_decoder"] = {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    older = {"eos_token": {"content": "<|endoftext|>"}, "bos_token": "<|im_start|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(older))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token == ("<|endoftext|>" if overruled else "<|im_end|>")
    section = TokenizerSection(folder, CONFIG)
    assert section.end_tokens[0] == tokenizer.eos_token
    said = [note for note in section.notes if "special_tokens_map.json" in note]
    assert [note.split()[:3] for note in said] == [["eos_token", "is", "<|endoftext|>"]] * overruled


def test_a_role_that_the_tokenizer_names_is_kept(folder: Path) -> None:
    """As an import of a GGUF leaves it."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eot_token": "<|im_start|>"}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 1, 0]}')
    assert ends(written(folder)) == (2, 1, 0, [2, 1, 0])


def written_of(folder: Path, form: str, template: str | None) -> dict[str, Any]:
    """What is written of a tokenizer in a form, with a chat template."""
    build_sentencepiece(folder, form=form)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return written(folder, {"vocab_size": SIZE, "eos_token_id": 2})


def test_a_chat_template_is_tried_before_it_is_rendered(tmp_path: Path) -> None:
    """`convert` of a folder loads no tokenizer of transformers, which would have it tried."""
    endless = "{% if messages|length == 1 %}{{ 'x' * 2000000 }}{% endif %}"
    with pytest.raises(ModelError, match=f"{tmp_path}.* more than 1000000 characters"):
        written_of(tmp_path, "first", endless)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ConversionError, match="not UTF-8"):
        written_of(tmp_path, "first", None)


@pytest.mark.parametrize(
    ("form", "template", "prefix"),
    [
        ("first", CHAT_TEMPLATE, False),
        ("first", None, True),
        ("always", CHAT_TEMPLATE, True),
        ("always", None, True),
        ("always", CHAT_TEMPLATE.replace("'['", "' ['"), False),
    ],
)
def test_metaspace_is_tried_on_what_prompts_look_like(
    tmp_path: Path, form: str, template: str | None, prefix: bool
) -> None:
    """transformers 5 saves Llama 2's and TinyLlama's tokenizers so; neither way is always right."""
    keys = written_of(tmp_path, form, template)
    assert keys["tokenizer.ggml.add_space_prefix"] is prefix
    out = tmp_path / "back"
    out.mkdir()
    GGUFTokenizer(tmp_path / "x.gguf", keys).write(out, max_length=128)
    before, after = (
        Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path, out)
    )
    prompt = "hello world"
    if template is not None:
        start = "<s> [" if prefix is False and form == "always" else "<s>["
        prompt = f"{start}user] hello world [/] hello</s>{start[3:]}user] hell [/]"
    assert after.encode(prompt).ids == before.encode(prompt).ids


def test_metaspace_that_no_way_splits_alike_is_refused(tmp_path: Path) -> None:
    """A space before the first word, none behind special tokens: a format without BOS."""
    template = CHAT_TEMPLATE.replace("{{ bos_token }}", "").replace("' ' + m", "m")
    with pytest.raises(ConversionError, match="Metaspace") as caught:
        written_of(tmp_path, "first", template)
    assert "legacy=True" in str(caught.value.hint)
