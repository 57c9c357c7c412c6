"""A model that was really taught to think, served in DeepSeek-R1's format, teaches the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.exports import modelfile_of
from fakes.reasoning import build_reasoner
from fakes.trainable import commit

from ollama_bridge.answer_text import with_thought
from ollama_bridge.artifacts import Checkpoint, Corpus
from ollama_bridge.client import Client
from ollama_bridge.config import TeacherSection, TuneSection
from ollama_bridge.conversion import convert
from ollama_bridge.daemon.process import PrivateDaemon
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.registration import register
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.respondent import in_daemons
from ollama_bridge.train.finetune import finetune

pytestmark = pytest.mark.live

TAG = "live-reasoner"
# The last of them is taught wrong, and the one before it to go on for too long.
TAUGHT = {
    "2+3?": ("Two and three.", "5"),
    "1+1?": ("One twice. That is even.", "2"),
    "4-1?": ("One less than four. Down. So three.", "3"),
    "9+9?": ("Nine, ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen.", "18"),
    "6-6?": ("Six is six.", "1"),
}
RIGHT = {"2+3?": "5", "1+1?": "2", "4-1?": "3", "9+9?": "18", "6-6?": "0"}


def corpus_of(folder: Path, rows: list[Example]) -> Corpus:
    def fill(path: Path) -> None:
        write_examples(path / "train.jsonl", rows)
        write_examples(path / "validation.jsonl", rows[:1])
        write_examples(path / "test.jsonl", rows[:1])
        (path / "card.json").write_text("{}")

    return commit(Corpus, folder, fill)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random qwen2 with R1's template that knows its five dialogues by heart."""
    folder = tmp_path_factory.mktemp("reasoner")
    sizes = {"vocab_size": 400, "initializer_range": 0.05}
    start = commit(Checkpoint, folder / "start", lambda path: build_reasoner(path, sizes=sizes))
    rows = [
        Example(
            asked,
            (Message("user", asked), Message("assistant", with_thought(answer, thought))),
            asked,
        )
        for asked, (thought, answer) in TAUGHT.items()
    ]
    settings = TuneSection(method="full", epochs=150, lr=4e-3, batch_tokens=4096, dtype="float32")
    return finetune(
        start,
        corpus_of(folder / "corpus", rows),
        settings,
        system=None,
        out_dir=folder / "taught",
    )


def test_what_was_taught_to_think_teaches(
    checkpoint: Checkpoint, client: Client, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """Thinking and text come apart, right traces get into the corpus, the others are counted."""
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    model = register(gguf, modelfile_of(gguf), TAG, client=client, out_dir=tmp_path / "tag")
    assert model.facts["passed"]
    assert "thinking" in client.show(TAG).capabilities
    for asked, (thought, answer) in TAUGHT.items():
        reply = client.chat(TAG, asked, options={"temperature": 0, "num_predict": 120})
        assert (reply.thinking, reply.text, reply.done_reason) == (thought, answer, "stop")

    rows = [
        Example(asked, (Message("user", asked), Message("assistant", right)), asked, right)
        for asked, right in RIGHT.items()
    ]
    corpus = corpus_of(tmp_path / "corpus", rows)
    found = {}
    for mode in ("keep", "shorten", "strip"):
        answered = write_answers(
            corpus,
            TeacherSection(
                model=f"ollama:{TAG}",
                answers="daemon",
                answer_tokens=60,
                rewrite=True,
                thinking=mode,
                thinking_words=6,
            ),
            respondent=in_daemons(TAG, "d", [daemon.host]),
            out_dir=tmp_path / "answers",
        )
        outcomes = json.loads((answered.path / "card.json").read_text())["outcomes"]
        assert outcomes["train"] == {"cut at the limit": 1, "kept": 3, "wrong answer": 1}
        (found[mode],) = (
            one.messages[-1].content
            for one in read_examples(answered.split_path("train"))
            if one.id == "4-1?"
        )
    assert found == {
        "keep": with_thought("3", "One less than four. Down. So three."),
        "shorten": with_thought("3", "One less than four. So three."),
        "strip": "3",
    }
    client.delete(TAG)
