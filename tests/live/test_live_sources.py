"""Where models come from, and back: others' GGUF files, adapters, changed vocabularies."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fakes.adapters import build_adapter, change_settings
from fakes.architectures import WIDE, build_checkpoint
from fakes.exports import modelfile_of
from fakes.ggufs import decoded, metadata_of, rewrite
from fakes.reasoning import ASSISTANT, EOS, USER, build_reasoner
from fakes.vocabularies import extend_vocabulary, trim_vocabulary
from llama_converters import LlamaCpp

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert, convert_adapter
from ollama_bridge.digests import digest_file
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.resolve import resolve_base, resolve_model
from ollama_bridge.recipe.config import ModelfileSection
from ollama_bridge.registration import register
from ollama_bridge.rendering import render
from ollama_bridge.storage.artifacts import GGUFFile

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qwen2 in DeepSeek-R1's format as others would ship it: Q4_K with some Q6_K."""
    folder = tmp_path_factory.mktemp("reasoner")
    source = build_reasoner(folder / "source", sizes={**WIDE, "vocab_size": 388})
    plain = convert(
        resolve_model(str(source), cache_dir=folder / "cache"),
        type="f32",
        out_dir=folder / "plain",
        chat_template=True,
    )
    return rewrite(
        plain.gguf_path,
        folder / "r1.gguf",
        types=lambda name: "Q6_K" if "ffn_down" in name or "token_embd" in name else "Q4_K",
        noise_std=0.06,
    )


R1_MODELFILE = f'''FROM [[ from ]]
TEMPLATE """{{{{- range $i, $_ := .Messages }}}}
{{{{- if eq .Role "user" }}}}{USER}{{{{ .Content }}}}
{{{{- else if eq .Role "assistant" }}}}{ASSISTANT}{{{{ .Content }}}}
{{{{- if gt (len (slice $.Messages $i)) 1 }}}}{EOS}{{{{ end }}}}
{{{{- else }}}}{{{{ .Content }}}}{{{{ end }}}}
{{{{- if and (eq (len (slice $.Messages $i)) 1) (ne .Role "assistant") }}}}{ASSISTANT}<think>
{{{{ end }}}}
{{{{- end }}}}"""
[% for text in stop %]
PARAMETER stop """[[ text ]]"""
[% endfor %]
[% for name, value in parameters.items() %]
PARAMETER [[ name ]] [[ value ]]
[% endfor %]
'''


def test_a_quantized_tag_becomes_a_teacher_and_a_tag_again(
    reasoner: Path, client: Client, tmp_path: Path
) -> None:
    """A Q4_K tag of the daemon is imported, computes in torch, and is served as a new tag."""
    digest = f"sha256:{digest_file(reasoner)}"
    client.upload_blob(reasoner, digest)
    client.create({"model": "live-r1", "files": {"r1.gguf": digest}})
    teacher = resolve_model("ollama:live-r1", cache_dir=tmp_path / "cache", client=client)
    assert load_tokenizer(teacher.path).chat_template is not None
    (tmp_path / "r1.Modelfile.j2").write_text(R1_MODELFILE, encoding="utf-8")
    settings = ModelfileSection(template=str(tmp_path / "r1.Modelfile.j2"))
    checkpoint = with_reference_values(teacher, system=None, out_dir=tmp_path / "checkpoint")
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    model = register(
        gguf,
        render(gguf, settings=settings, system=None),
        "live-r1-again",
        client=client,
        out_dir=tmp_path / "tag",
    )
    assert model.facts["passed"]
    assert client.generate(model.tag, "Hello", options={"num_predict": 4}).text
    for tag in ("live-r1", model.tag):
        client.delete(tag)


@pytest.mark.parametrize("change", [trim_vocabulary, extend_vocabulary])
def test_changed_vocabularies_keep_their_splitting(
    change: Callable[[Path], Path], client: Client, tmp_path: Path
) -> None:
    """The name of the splitting is found though no hash knows the ids; the daemon agrees."""
    source = change(build_checkpoint("qwen2", tmp_path / "source"))
    gguf = proven(source, client, tmp_path, f"live-{change.__name__}")
    assert metadata_of(gguf.gguf_path)["tokenizer.ggml.pre"] == "smollm"


def proven(source: Path, client: Client, folder: Path, tag: str) -> GGUFFile:
    """Convert and register with its proof: prompts, token counts, log-probabilities."""
    checkpoint = with_reference_values(
        resolve_model(str(source), cache_dir=folder / "cache"),
        system="Be brief.",
        out_dir=folder / "checkpoint",
    )
    gguf = convert(checkpoint, type="f16", out_dir=folder / "gguf")
    model = register(
        gguf, modelfile_of(gguf, "Be brief."), tag, client=client, out_dir=folder / "tag"
    )
    assert model.facts["passed"]
    client.delete(model.tag)
    return gguf


def test_an_adapter_folder_is_served_merged(client: Client, tmp_path: Path) -> None:
    """DoRA, an adapted embedding and a trained output matrix on a tied base, proven."""
    base = build_checkpoint("llama", tmp_path / "base")
    adapter = build_adapter(
        base,
        tmp_path / "adapter",
        target_modules=["q_proj", "up_proj"],
        modules_to_save=["lm_head"],
        use_dora=True,
    )
    change_settings(adapter, base_model_name_or_path=str(base))
    gguf = proven(adapter, client, tmp_path, "live-merged")
    # Of a tied base, what was trained of the output matrix is a matrix of its own now.
    assert {"output.weight", "token_embd.weight"} <= set(decoded(gguf.gguf_path))


@pytest.mark.parametrize("case", ["llama", "phi3"])
def test_a_plain_adapter_is_llama_cpps(case: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    """Tensors and alpha are those of llama.cpp's own adapter converter."""
    base = build_checkpoint(case, tmp_path / "base")
    adapter = build_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    theirs = tmp_path / "theirs.gguf"
    llama_cpp.run("convert_lora_to_gguf.py", adapter, "--base", base, "--outfile", theirs)
    ours = as_adapter(adapter, base, tmp_path)
    before, after = decoded(theirs), decoded(ours)
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert np.array_equal(values, after[name]), name
    old, new = metadata_of(theirs), metadata_of(ours)
    for key in ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha"):
        assert old[key] == new[key], key


def as_adapter(adapter: Path, base: Path, folder: Path) -> Path:
    """The adapter as a GGUF adapter."""
    change_settings(adapter, base_model_name_or_path=str(base))
    found = resolve_base(adapter, cache_dir=folder / "cache")
    return convert_adapter(adapter, found, out_dir=folder / "ours").gguf_path


def test_llama_cpp_adds_what_peft_trained(ollama_binary: Path, tmp_path: Path) -> None:
    """rsLoRA with ranks and alphas by pattern, in the runner itself: torch's log-probabilities."""
    base = build_checkpoint("llama", tmp_path / "base")
    adapter = build_adapter(
        base,
        tmp_path / "adapter",
        use_rslora=True,
        rank_pattern={"q_proj": 2},
        alpha_pattern={"up_proj": 3},
    )
    ours = as_adapter(adapter, base, tmp_path)
    found = resolve_model(str(base), cache_dir=tmp_path / "cache")
    model = convert(found, type="f32", out_dir=tmp_path / "gguf").gguf_path
    ids = [1, *range(5, 30)]
    merged = load_model(resolve_model(str(adapter), cache_dir=tmp_path / "cache").path)
    with torch.no_grad():
        expected = torch.log_softmax(merged(torch.tensor([ids])).logits[0, -1], dim=-1)
        plain = torch.log_softmax(load_model(base)(torch.tensor([ids])).logits[0, -1], dim=-1)
    runner = ollama_binary.resolve().parent.parent / "lib" / "ollama" / "llama-server"
    top = next_token(runner, ids, "--model", str(model), "--lora", str(ours))
    assert len(top) == 20
    assert max(abs(logprob - float(expected[id_])) for id_, logprob in top.items()) < 0.02
    assert max(abs(logprob - float(plain[id_])) for id_, logprob in top.items()) > 0.2


def next_token(runner: Path, ids: list[int], *arguments: str) -> dict[int, float]:
    """The likeliest next tokens and their log-probabilities, of a runner of our own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(runner), *arguments, "--port", str(port), "--ctx-size", "512", "--no-warmup"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        request = {"prompt": ids, "n_predict": 1, "n_probs": 20, "temperature": 0}
        url = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=8)  # until it listens
        with httpx.Client(base_url=url, transport=transport, timeout=60) as client:
            while client.get("/health").status_code == 503:
                assert process.poll() is None
                time.sleep(0.1)
            reply = client.post("/completion", json=request).json()
    finally:
        process.terminate()
        process.wait(timeout=10)
    (position,) = reply["completion_probabilities"]
    return {entry["id"]: entry["logprob"] for entry in position["top_logprobs"]}
