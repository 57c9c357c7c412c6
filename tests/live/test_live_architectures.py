"""Every architecture in a real daemon: it serves what torch computes, in F16 and Q8_0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.architectures import CASES, build_checkpoint
from fakes.exports import modelfile_of
from fakes.sentencepiece import CHAT_TEMPLATE, FORMS, RUN, SIZE, build_sentencepiece
from fakes.stripping import build_phi3, build_phi4
from safetensors.torch import load_file, save_file

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.models.gguf.pretokenizers import PRE_TOKENIZERS
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.registration import register

pytestmark = pytest.mark.live


@pytest.mark.parametrize("case", CASES)
def test_the_daemon_computes_what_torch_computes(case: str, client: Client, tmp_path: Path) -> None:
    """Prompts, tokens and teacher-forced log-probabilities agree; both tags answer."""
    source = build_checkpoint(case, tmp_path / "source")
    proofs = proofs_of(source, f"live-{case}", ("f16", "q8_0"), client, tmp_path)
    assert proofs == {"f16": True, "q8_0": True}


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
    assert proofs_of(source, f"live-pre-{name}", ("f16",), client, tmp_path) == {"f16": True}


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
    assert proofs_of(source, f"live-spm-{form}", ("f16",), client, tmp_path) == {"f16": True}
    answers = ReferenceValues.read(tmp_path / "checkpoint" / "reference.json").answers
    assert any(answer.certain_text.startswith("    ") for answer in answers) == (form == "gemma")


@pytest.mark.parametrize("build", [build_phi3, build_phi4])
def test_the_daemon_strips_what_the_tokenizer_strips(
    build: Callable[[Path], Path], client: Client, tmp_path: Path
) -> None:
    """Behind the marks of a Phi-3, by the name in the file; elsewhere none, and that is said."""
    source = build(tmp_path / "source")
    assert proofs_of(source, f"live-{build.__name__}", ("f16",), client, tmp_path) == {"f16": True}


def make_likeliest(folder: Path, token: int) -> None:
    """Let a token follow everything: all embeddings have a dimension, and it has most of it."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    embedding = weights["model.embed_tokens.weight"]
    embedding[:, 0] = 1.0
    embedding[token, 0] = 8.0
    save_file(weights, path, metadata={"format": "pt"})


def proofs_of(
    source: Path, name: str, types: tuple[str, ...], client: Client, folder: Path
) -> dict[str, bool]:
    """Convert, register, ask and remove; whether each type's certificate says that it passed."""
    passed = {}
    checkpoint = with_reference_values(
        resolve_model(str(source), cache_dir=folder / "cache"),
        system="Be brief.",
        out_dir=folder / "checkpoint",
    )
    for type_ in types:
        gguf = convert(checkpoint, type=type_, out_dir=folder / type_)
        model = register(
            gguf,
            modelfile_of(gguf, "Be brief."),
            f"{name}:{type_}",
            client=client,
            out_dir=folder / f"tag-{type_}",
        )
        passed[type_] = bool(model.facts["passed"])
        assert client.generate(model.tag, "Hello", options={"num_predict": 2}).generated_tokens
        client.delete(model.tag)
    return passed
