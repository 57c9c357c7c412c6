"""A real daemon teaches: what it says of tokens is what the same weights say in torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fakes.distributions import stored_kl
from fakes.exports import SYSTEM, Exports
from fakes.private_daemon import PrivateDaemon
from fakes.trainable import commit

from ollama_bridge.client import Client
from ollama_bridge.encoding.encode import encode
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.label_store.info import row_key
from ollama_bridge.label_store.labels import SoftTargets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import SoftLabelsSection, TeacherSection
from ollama_bridge.storage.artifacts import Corpus, SoftLabels
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.daemon_labels import label_by_daemon
from ollama_bridge.teacher.respondent import Respondent, behind_api, in_daemons

pytestmark = pytest.mark.live

TAG = "live-teacher:f16"
GIVEN = (
    ("What is the capital of France?", "Paris is the capital, and its largest city."),
    ("Grüß Gott! Was gibt's?", "Schöne Grüße 😀, 12 + 30 = 42."),
)
OPEN = ("Name a colour.", "Say hello to Ann.")


@pytest.fixture(scope="module")
def teacher(smollm: Exports, client: Client) -> Iterator[str]:
    """The real SmolLM2 in F16, so that only the way through the daemon can differ."""
    gguf = smollm.gguf("f16")
    if not client.has_blob(gguf.blob_digest):
        client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    client.create({"model": TAG, "files": {"model.gguf": gguf.blob_digest}})
    yield TAG
    client.delete(TAG)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    def fill(path: Path) -> None:
        given = [
            Example(
                f"g{number}",
                (Message("system", SYSTEM), Message("user", asked), Message("assistant", answer)),
                "g",
            )
            for number, (asked, answer) in enumerate(GIVEN)
        ]
        rest = [
            Example(f"o{number}", (Message("system", SYSTEM), Message("user", asked)), "g")
            for number, asked in enumerate(OPEN)
        ]
        write_examples(path / "train.jsonl", [*given, *rest])
        write_examples(path / "validation.jsonl", given[:1])
        write_examples(path / "test.jsonl", given[:1])
        (path / "card.json").write_text("{}")

    return commit(Corpus, tmp_path / "corpus", fill)


def settings(score: str) -> TeacherSection:
    return TeacherSection(
        model=f"ollama:{TAG}",
        answers="daemon",
        answer_tokens=60,
        soft_labels="daemon",
        score=score,
    )


def taught(
    corpus: Corpus, smollm: Exports, respondent: Respondent, score: str, folder: Path
) -> tuple[Corpus, SoftLabels]:
    answered = write_answers(
        corpus, settings(score), respondent=respondent, out_dir=folder / "answers"
    )
    labels = label_by_daemon(
        answered,
        smollm.checkpoint,
        SoftLabelsSection(),
        settings(score),
        respondent=respondent,
        max_length=512,
        out_dir=folder / "labels",
    )
    return answered, labels


@torch.inference_mode()
def divergences(answered: Corpus, labels: SoftLabels, smollm: Exports) -> torch.Tensor:
    """KL(daemon || torch) in nats at every position that got a distribution."""
    model = load_model(smollm.checkpoint.path).float().eval()
    tokenizer = load_tokenizer(smollm.checkpoint.path)
    store = LabelReader(labels.path)
    found = []
    for example in read_examples(answered.split_path("train")):
        encoded = encode(example, tokenizer)
        ids = torch.from_numpy(encoded.input_ids).long()[None]
        logits = model(input_ids=ids).logits[0][encoded.targets - 1].float()
        soft = store.read([row_key(encoded.input_ids, encoded.supervised)])
        assert isinstance(soft, SoftTargets)
        kl = stored_kl(logits, soft)
        found.append(kl[soft.residual > -torch.inf])
    return torch.cat(found)


def test_a_daemon_says_of_tokens_what_torch_says(
    teacher: str, daemon: PrivateDaemon, corpus: Corpus, smollm: Exports, tmp_path: Path
) -> None:
    """Of tokens that it wrote, and of given ones asked one by one, the end of answers included."""
    respondent = in_daemons(teacher, [daemon.host])
    answered, labels = taught(corpus, smollm, respondent, "both", tmp_path)
    kl = divergences(answered, labels, smollm)
    origins = labels.facts["tokens_by_origin"]["train"]
    assert origins["generated"] > 10
    assert origins["scored"] > 20
    # Half characters cannot be sent, and what is written in several tokens is not told apart.
    assert labels.facts["hard_share"] < 0.15
    assert kl.mean() < 1e-4  # seen: 1e-5, most 6e-5
    assert kl.max() < 1e-3


def test_an_openai_compatible_teacher_teaches_the_same(
    teacher: str, daemon: PrivateDaemon, corpus: Corpus, smollm: Exports, tmp_path: Path
) -> None:
    """The daemon's own ``/v1``: the same answers, and distributions of the same weights."""
    there = behind_api(teacher, f"{daemon.host}/v1")
    answered, labels = taught(corpus, smollm, there, "generated", tmp_path / "api")
    own = write_answers(
        corpus,
        settings("generated"),
        respondent=in_daemons(teacher, [daemon.host]),
        out_dir=tmp_path / "own",
    )
    texts = [
        [one.messages[-1].content for one in read_examples(corpus_.split_path("train"))]
        for corpus_ in (answered, own)
    ]
    assert texts[0] == texts[1]
    kl = divergences(answered, labels, smollm)
    assert len(kl) > 10
    assert kl.mean() < 1e-4


def test_thinking_is_learnt_where_it_led_to_the_label(
    teacher: str, daemon: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """A real model that is shown how to think: its trace is kept with the right answer only."""
    shown = (("1+1?", "add", "two"), ("2+1?", "add", "three"), ("5-1?", "subtract", "four"))
    prompt: list[Message] = []
    for asked, thought, answer in shown:
        text = f"<think>\n{thought}\n</think>\n\n{answer}"
        prompt += [Message("user", asked), Message("assistant", text)]
    prompt.append(Message("user", "3+2?"))
    reply = client.chat(
        teacher,
        [message.to_dict() for message in prompt],
        options={"temperature": 0, "num_predict": 60},
    )
    said = reply.text.strip()

    def fill(path: Path) -> None:
        right, wrong = (Example(label, tuple(prompt), "g", label) for label in (said, "banana"))
        gold = Example("gold", (*prompt, Message("assistant", "five")), "g", "five")
        write_examples(path / "train.jsonl", [right, wrong])
        write_examples(path / "validation.jsonl", [right])
        write_examples(path / "test.jsonl", [gold])
        (path / "card.json").write_text("{}")

    answered = write_answers(
        commit(Corpus, tmp_path / "corpus", fill),
        TeacherSection(
            model=f"ollama:{teacher}",
            answers="daemon",
            answer_tokens=60,
            rewrite=True,
            thinking="keep",
        ),
        respondent=in_daemons(teacher, [daemon.host]),
        out_dir=tmp_path / "answers",
    )
    assert answered.facts["answers"] == {"had an answer": 1, "kept": 2, "wrong answer": 1}
    (kept,) = read_examples(answered.split_path("train"))
    assert kept.messages[-1].content == f"<think>\n{reply.thinking}\n</think>\n\n{said}"
    assert reply.thinking
