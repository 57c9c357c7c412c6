"""Every architecture in real daemons, of every contract: they serve what torch computes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.architectures import CASES, build_checkpoint
from fakes.exports import Exports, modelfile_of
from fakes.private_daemon import PrivateDaemon
from fakes.sentencepiece import CHAT_TEMPLATE, FORMS, RUN, SIZE, build_sentencepiece
from fakes.stripping import build_phi3, build_phi4
from safetensors.torch import load_file, save_file

from ollama_bridge.client import Client
from ollama_bridge.daemon.era import WIDER_WINDOW, has_limit
from ollama_bridge.daemon.layout import RELEASES, VERSION
from ollama_bridge.errors import ParityError
from ollama_bridge.models.gguf.pretokenizers import PRE_TOKENIZERS
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.registration import register

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exports]:
    """An architecture's checkpoint and its conversions, made once for all daemons."""
    return functools.cache(
        lambda case: exports_of(
            build_checkpoint(case, tmp_path_factory.mktemp(case)), tmp_path_factory.mktemp("made")
        )
    )


@pytest.fixture(scope="module", params=[version for version in RELEASES if version != VERSION])
def older(
    request: pytest.FixtureRequest,
    installed: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    """A client of a private daemon of each other version."""
    binary = installed(request.param)
    with (
        PrivateDaemon(tmp_path_factory.mktemp("older"), binary=binary) as running,
        running.client() as opened,
    ):
        yield opened


@pytest.mark.parametrize("case", CASES)
def test_the_daemon_computes_what_torch_computes(
    case: str, exported: Callable[[str], Exports], client: Client, tmp_path: Path
) -> None:
    """Prompts, tokens and teacher-forced log-probabilities agree; both tags answer."""
    for type_ in ("f16", "q8_0"):
        assert is_proven(exported(case), f"live-{case}:{type_}", client, tmp_path), type_


@pytest.mark.parametrize("case", CASES)
def test_an_older_version_computes_what_torch_computes(
    case: str, exported: Callable[[str], Exports], older: Client, tmp_path: Path
) -> None:
    """So it does, or what it has otherwise is named: a Gemma 3's window, which probes pass."""
    exports, tag, version = exported(case), f"older-{case}:f16", older.version()
    if case != "gemma3" or not has_limit(version, WIDER_WINDOW):
        assert is_proven(exports, tag, older, tmp_path)
        return
    said = f"longer than its window of 32 tokens, to which Ollama {version} adds one"
    with pytest.raises(ParityError, match=said) as caught:
        is_proven(exports, tag, older, tmp_path)
    assert "cannot be told" not in str(caught.value)  # texts within the window are as they should
    assert "update Ollama to 0.30" in (caught.value.hint or "")


@pytest.mark.parametrize("name", [entry.name for entry in PRE_TOKENIZERS])
def test_the_daemon_splits_as_the_tokenizer_does(name: str, client: Client, tmp_path: Path) -> None:
    """Every splitting of the table, on the probes' scripts, digits, emoji and spaces."""
    entry = next(entry for entry in PRE_TOKENIZERS if entry.name == name)
    source = build_checkpoint("qwen2", tmp_path / "source")
    path = source / "tokenizer.json"
    document = json.loads(path.read_text())
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(entry.steps)}
    document["model"]["ignore_merges"] = entry.ignore_merges
    path.write_text(json.dumps(document))
    assert is_proven(exports_of(source, tmp_path), f"live-pre-{name}:f16", client, tmp_path)


@pytest.mark.parametrize(
    ("form", "template"),
    [
        *((form, CHAT_TEMPLATE) for form in FORMS),
        ("llama", CHAT_TEMPLATE.removeprefix("{{ bos_token }}")),
    ],
    ids=[*FORMS, "no BOS"],
)
def test_the_daemon_splits_as_sentencepiece_does(
    form: str, template: str, client: Client, tmp_path: Path
) -> None:
    """Llama 2's, as it was and as transformers 5 saves it, and Gemma's: spaces, bytes, BOS.

    The Gemma answers with runs of spaces, which its daemon has to print.
    """
    case = "gemma2" if form == "gemma" else "mistral"
    source = build_checkpoint(case, tmp_path / "source", sizes={"vocab_size": SIZE})
    tokenizer = build_sentencepiece(source, form=form)
    (source / "chat_template.jinja").write_text(template)
    if form == "gemma":
        make_likeliest(source, tokenizer.token_to_id(RUN))
    exports = exports_of(source, tmp_path)
    assert is_proven(exports, f"live-spm-{form}:f16", client, tmp_path)
    answers = ReferenceValues.read(exports.checkpoint.path / "reference.json").answers
    assert any(answer.certain_text.startswith("    ") for answer in answers) == (form == "gemma")


@pytest.mark.parametrize("build", [build_phi3, build_phi4])
def test_the_daemon_strips_what_the_tokenizer_strips(
    build: Callable[[Path], Path], client: Client, tmp_path: Path
) -> None:
    """Behind the marks of a Phi-3, by the name in the file; elsewhere none, and that is said."""
    source = build(tmp_path / "source")
    assert is_proven(exports_of(source, tmp_path), f"live-{build.__name__}:f16", client, tmp_path)


def make_likeliest(folder: Path, token: int) -> None:
    """Let a token follow everything: all embeddings have a dimension, and it has most of it."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    embedding = weights["model.embed_tokens.weight"]
    embedding[:, 0] = 1.0
    embedding[token, 0] = 8.0
    save_file(weights, path, metadata={"format": "pt"})


def exports_of(source: Path, folder: Path) -> Exports:
    """A checkpoint with reference values, to be converted."""
    checkpoint = with_reference_values(
        resolve_model(str(source), cache_dir=folder / "cache"),
        system="Be brief.",
        out_dir=folder / "checkpoint",
    )
    return Exports(checkpoint, folder)


def is_proven(exports: Exports, tag: str, client: Client, folder: Path) -> bool:
    """Convert to the type that the tag names, register, ask and remove; what the proof says."""
    type_ = tag.partition(":")[2]
    gguf = exports.gguf(type_)
    modelfile = modelfile_of(gguf, "Be brief.")
    # Two threads of 0.24 wait by spinning beside other work.
    modelfile = replace(modelfile, parameters={**modelfile.parameters, "num_thread": 1})
    model = register(gguf, modelfile, tag, client=client, out_dir=folder / f"tag-{type_}")
    assert client.generate(model.tag, "Hello", options={"num_predict": 2}).generated_tokens
    client.delete(model.tag)
    return bool(model.facts["passed"])
