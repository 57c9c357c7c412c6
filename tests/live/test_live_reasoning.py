"""A model that was really taught to think, served in DeepSeek-R1's format, teaches the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes.distributions import stored_kl
from fakes.exports import modelfile_of
from fakes.private_daemon import PrivateDaemon
from fakes.reasoning import build_reasoner
from fakes.trainable import LABELS, SYSTEM, commit, tiny_corpus

from ollama_bridge.answer_text import with_thought
from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.encoding.encode import encode
from ollama_bridge.evaluation.run import evaluate
from ollama_bridge.evaluation.served import evaluate_served
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.label_store.info import row_key
from ollama_bridge.label_store.labels import SoftTargets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import SoftLabelsSection, TeacherSection, TuneSection
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.registration import register
from ollama_bridge.rendering import render
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.daemon_labels import label_by_daemon
from ollama_bridge.teacher.local import label
from ollama_bridge.teacher.respondent import in_daemons
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune
from ollama_bridge.verification import verify_tag

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


def teach(folder: Path, *, special_tags: bool) -> Checkpoint:
    """A random qwen2 with R1's template that knows its five dialogues by heart."""
    sizes = {"vocab_size": 400, "initializer_range": 0.05}
    start = commit(
        Checkpoint,
        folder / "start",
        lambda path: build_reasoner(path, sizes=sizes, special_tags=special_tags),
    )
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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """One that was taught to think."""
    return teach(tmp_path_factory.mktemp("reasoner"), special_tags=False)


def test_thoughts_between_special_tokens_come_apart(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama prints no special token: of a file that has the tags as such, answers are empty."""
    taught = teach(tmp_path, special_tags=True)
    gguf = convert(taught, type="f16", out_dir=tmp_path / "gguf")
    tag = "live-special-reasoner"
    model = register(gguf, modelfile_of(gguf), tag, client=client, out_dir=tmp_path / "tag")
    assert model.facts["passed"]
    for asked, (thought, answer) in TAUGHT.items():
        reply = client.chat(tag, asked, options={"temperature": 0, "num_predict": 120})
        assert (reply.thinking, reply.text, reply.done_reason) == (thought, answer, "stop")
    client.delete(tag)

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceValues, "thinking_tags", ())
        as_special = convert(taught, type="f16", out_dir=tmp_path / "as special")
    modelfile = modelfile_of(as_special)
    request = modelfile.to_request(tag, blob_digest=as_special.blob_digest)
    client.upload_blob(as_special.gguf_path, as_special.blob_digest)
    client.create(request)
    asked = next(iter(TAUGHT))
    assert not client.chat(tag, asked, options={"temperature": 0, "num_predict": 120}).text
    certificate = verify_tag(tag, client=client, against=taught)
    assert [check.name for check in certificate.checks if not check.passed] == ["thinking tags"]
    client.delete(tag)


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
            respondent=in_daemons(TAG, [daemon.host]),
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
    hold_thoughts_against_torch(corpus, checkpoint, daemon, tmp_path)
    client.delete(TAG)


def hold_thoughts_against_torch(
    corpus: Corpus, checkpoint: Checkpoint, daemon: PrivateDaemon, folder: Path
) -> None:
    """Thoughts come with distributions, their marks are asked about: all are the weights' own."""
    settings = TeacherSection(
        model=f"ollama:{TAG}",
        answers="daemon",
        answer_tokens=60,
        rewrite=True,
        thinking="keep",
        soft_labels="daemon",
        score="both",
    )
    respondent = in_daemons(TAG, [daemon.host])
    answered = write_answers(corpus, settings, respondent=respondent, out_dir=folder / "thoughts")
    labels = label_by_daemon(
        answered,
        checkpoint,
        SoftLabelsSection(),
        settings,
        respondent=respondent,
        max_length=256,
        out_dir=folder / "labels",
    )
    origins = labels.facts["tokens_by_origin"]["train"]
    assert origins["generated"] > 40
    assert origins["scored"] >= 3 * 3  # </think>, a line end, the end of each
    assert labels.facts["hard_share"] < 0.05
    model = load_model(checkpoint.path).float().eval()
    tokenizer = load_tokenizer(checkpoint.path)
    store = LabelReader(labels.path)
    for example in read_examples(answered.split_path("train")):
        encoded = encode(example, tokenizer)
        ids = torch.from_numpy(encoded.input_ids).long()[None]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0][encoded.targets - 1].float()
        soft = store.read([row_key(encoded.input_ids, encoded.supervised)])
        assert isinstance(soft, SoftTargets)
        kl = stored_kl(logits, soft)
        assert kl[soft.residual > -torch.inf].max() < 1e-3


def test_a_student_of_the_big_recipe_is_served(client: Client, tmp_path: Path) -> None:
    """deepseek-r1-7b, made small: labels of a wider teacher, a trimmed vocabulary, its template."""
    recipe = load_recipe("deepseek-r1-7b", overrides=["distill.dtype=float32", "distill.lr=4e-3"])
    task = recipe.task.model_copy(update={"system": SYSTEM, "labels": LABELS})
    teacher, start = (
        commit(
            Checkpoint,
            tmp_path / str(rows),
            lambda path, rows=rows: build_reasoner(path, sizes={"vocab_size": rows}),
        )
        for rows in (448, 416)
    )
    corpus = tiny_corpus(tmp_path / "corpus")
    labels = label(
        teacher,
        corpus,
        recipe.soft_labels,
        student=start,
        max_length=512,
        dtype="float32",
        out_dir=tmp_path / "labels",
    )
    # A random teacher has nothing to teach, and a random start everything to learn.
    taught = {"epochs": 80.0, "batch_tokens": 256, "kd_weight": 0.05, "train_embeddings": True}
    student = distill(
        start,
        corpus,
        labels,
        recipe.distill.model_copy(update=taught),
        student=recipe.student,
        system=SYSTEM,
        task_labels=LABELS,
        out_dir=tmp_path / "student",
    )
    gguf = convert(student, type="q8_0", out_dir=tmp_path / "gguf")
    modelfile = render(gguf, settings=recipe.modelfile, system=SYSTEM)
    tag = "live-trimmed-reasoner"
    model = register(gguf, modelfile, tag, client=client, out_dir=tmp_path / "tag")
    assert model.facts["passed"]
    inside = evaluate({"student": student}, corpus, recipe.evaluate, task, out_dir=tmp_path / "in")
    served = evaluate_served(
        {"student": tag}, corpus, recipe.evaluate, task, client=client, out_dir=tmp_path / "served"
    )
    entries = [
        json.loads(one.report_path.read_text())["models"]["student"] for one in (inside, served)
    ]
    assert entries[1]["one_word"] == 1
    assert entries[0]["accuracy"]["value"] == entries[1]["accuracy"]["value"]
    client.delete(tag)
