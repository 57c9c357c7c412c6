"""Answers and soft labels of a daemon, and what is stored of one example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.daemon import FakeDaemon

from ollama_bridge.encoding.encode import Tokenizer, encode
from ollama_bridge.examples import read_examples
from ollama_bridge.label_store.info import row_key
from ollama_bridge.label_store.labels import SoftTargets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.recipe.config import SoftLabelsSection, TeacherSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.daemon_labels import label_by_daemon
from ollama_bridge.teacher.respondent import in_daemons

MAX_LENGTH = 256


def answer_and_label(
    corpus: Corpus, student: Checkpoint, daemon: FakeDaemon, folder: Path, **teacher: Any
) -> tuple[Corpus, SoftLabels]:
    """Have all answers written, then label them; the daemon remembers the questions of labels."""
    settings = TeacherSection(
        model="ollama:m", answers="daemon", soft_labels="daemon", in_flight=1, **teacher
    )
    respondent = in_daemons("m", [daemon.host])
    answered = write_answers(corpus, settings, respondent=respondent, out_dir=folder / "answers")
    daemon.asked.clear()
    labels = label_by_daemon(
        answered,
        student,
        SoftLabelsSection(top_k=2),
        settings,
        respondent=respondent,
        max_length=MAX_LENGTH,
        out_dir=folder / "labels",
    )
    return answered, labels


def learnt(
    answered: Corpus, labels: SoftLabels, tokenizer: Tokenizer
) -> tuple[list[int], SoftTargets]:
    """The supervised tokens of the one training example, and what was stored of them."""
    (example,) = read_examples(answered.split_path("train"))
    encoded = encode(example, tokenizer)
    found = LabelReader(labels.path).read([row_key(encoded.input_ids, encoded.supervised)])
    assert isinstance(found, SoftTargets)
    return encoded.input_ids[encoded.targets].tolist(), found
