"""Tiny artefacts to train on, and one thread to do it on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fakes.json_files import change_json
from fakes.models import build_tiny_checkpoint
from fakes.trainable import commit, tiny_base, tiny_corpus
from torch import distributed

from ollama_bridge.recipe.config import SoftLabelsSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher.local import label
from ollama_bridge.train import material


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file first that takes a minute: begun last, it would leave a process alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_ranks.py")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and on a busy machine lose a lot by them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few classification examples."""
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random model of four layers."""
    return tiny_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="session")
def labels(
    base: Checkpoint, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> SoftLabels:
    """What ``base`` says on ``corpus``."""
    out_dir = tmp_path_factory.mktemp("labels") / "labels"
    section = SoftLabelsSection(top_k=8)
    return label(base, corpus, section, max_length=512, dtype="float32", out_dir=out_dir)


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random model; a sixth of all tokens end its answers, so that they do end."""

    def build(path: Path) -> None:
        build_tiny_checkpoint(path, layers=3)
        change_json(path / "generation_config.json", eos_token_id=list(range(2, 384, 6)))

    return commit(Checkpoint, tmp_path_factory.mktemp("talker") / "talker", build)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """This process is a torch.distributed group, as one of torchrun's processes would be."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def no_reference_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the probes for the parity check, which take a second."""

    def write_nothing(
        folder: Path,
        *,
        system: str | None,
        labels: tuple[str, ...],
        noise_types: object,
        model: object,
        reporter: object,
    ) -> dict[str, str]:
        (folder / "reference.json").write_text("{}")
        return {}

    monkeypatch.setattr(material, "write_reference_values", write_nothing)
