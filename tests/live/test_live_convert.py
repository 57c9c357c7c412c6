"""GGUF import and conversion against a real daemon: the same model comes out as went in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.exports import Exports
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.storage.artifacts import Checkpoint

pytestmark = pytest.mark.live

TAG = "convert-test"
TOKENS = 12
PROMPTS = (
    "The capital of France is",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n    ",
)
TEXTS = (
    "In 2024, 12345 people  paid 6.78 € ¾ Ⅻ ٣٤",
    "  two before\n\n\ttab\r\n   three   between\u00a0nbsp  ",
    "Größe café Привет こんにちは 你好 안녕 مرحبا हिन्दी",
    "😀👍🏽 👩‍👩‍👧 🇩🇪 e\u0301",
    "I don't think they'll say <|im_end|> it's what we've asked for.",
)


@pytest.fixture(scope="module")
def teacher(smollm: Exports) -> Checkpoint:
    """The teacher, imported from its GGUF."""
    return smollm.checkpoint


@pytest.fixture(scope="module")
def served(daemon: PrivateDaemon, smollm: Exports) -> PrivateDaemon:
    """The daemon with the teacher converted to F16 under ``TAG``."""
    gguf = smollm.gguf("f16")
    with daemon.client() as client:
        client.upload_blob(gguf.gguf_path, gguf.blob_digest)
        client.create({"model": TAG, "files": {"model.gguf": gguf.blob_digest}})
    return daemon


def test_greedy_answers_are_those_of_the_checkpoint(
    served: PrivateDaemon, teacher: Checkpoint
) -> None:
    """The F16 file answers raw prompts greedily as the float32 checkpoint does."""
    model, tokenizer = load_model(teacher.path), load_tokenizer(teacher.path)
    options = {"temperature": 0, "num_predict": TOKENS, "repeat_penalty": 1.0, "num_thread": 1}
    with served.client() as client:
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                output = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=TOKENS,
                    do_sample=False,
                )
            expected = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            reply = client.generate(TAG, prompt, raw=True, options=options)
            assert reply.text == expected
            assert reply.prompt_tokens == ids.shape[1]


def test_texts_of_all_kinds_have_as_many_tokens(served: PrivateDaemon, teacher: Checkpoint) -> None:
    """The daemon counts as many prompt tokens as the rebuilt tokenizer: digits, spaces, scripts."""
    tokenizer = load_tokenizer(teacher.path)
    options = {"temperature": 0, "num_predict": 1, "num_thread": 1}
    with served.client() as client:
        for text in TEXTS:
            reply = client.generate(TAG, text, raw=True, options=options)
            assert reply.prompt_tokens == len(tokenizer(text)["input_ids"]), text


def test_a_tag_becomes_a_checkpoint_again(
    served: PrivateDaemon, teacher: Checkpoint, tmp_path: Path
) -> None:
    """ollama:TAG resolves to the served file, with its tokenizer and chat template."""
    with served.client() as client:
        again = resolve_model(f"ollama:{TAG}", cache_dir=tmp_path, client=client)
    before, after = load_tokenizer(teacher.path), load_tokenizer(again.path)
    assert after.chat_template == before.chat_template
    assert all(after(text)["input_ids"] == before(text)["input_ids"] for text in TEXTS)
    # F16 matrices of an F16 file are kept, so they are the teacher's rounded once.
    expected = load_model(teacher.path).state_dict()
    for name, tensor in load_model(again.path).state_dict().items():
        rounded = expected[name].half().float() if tensor.dim() > 1 else expected[name]
        assert torch.equal(tensor, rounded), name


def test_the_daemon_shows_what_was_written(served: PrivateDaemon, teacher: Checkpoint) -> None:
    """`show` reads our keys: architecture, context length, and where the model comes from."""
    with served.client() as client:
        info = client.show(TAG).model_info
    assert info["general.architecture"] == "llama"
    assert info["llama.context_length"] == 8192
    assert info["ollama_bridge.checkpoint.digest"] == teacher.digest
