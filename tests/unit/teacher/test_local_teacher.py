"""The label stage."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fakes.listening import Listener
from fakes.memory import OUT_OF_MEMORY
from fakes.trainable import tiny_base, tiny_corpus

from ollama_bridge.digests import digest_file
from ollama_bridge.encoding.batches import Batch
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.errors import DataError, ModelError
from ollama_bridge.examples import read_examples
from ollama_bridge.label_store.catalogue import list_stores
from ollama_bridge.label_store.info import INFO_NAME, read_info, row_key
from ollama_bridge.label_store.labels import SampledTargets, SoftTargets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.label_store.segments import DIGESTS_NAME, LABELS_NAME, ROWS_NAME
from ollama_bridge.models.compute import memory, precision
from ollama_bridge.models.compute.forward import States, run_decoder
from ollama_bridge.models.compute.precision import DTypeChoice
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import SoftLabelsSection
from ollama_bridge.reporting import Note, Progress, StageReused
from ollama_bridge.storage import drafts
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher import local
from ollama_bridge.teacher.local import label

TOP_K = SoftLabelsSection(top_k=5)
SAMPLED = SoftLabelsSection(method="sampled", draws=30, seed=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return tiny_base(tmp_path_factory.mktemp("teacher") / "teacher", layers=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, though the corpus is tiny."""
    monkeypatch.setattr(local, "_BATCH_TOKENS", 200)


def run(
    teacher: Checkpoint,
    corpus: Corpus,
    out_dir: Path,
    *,
    settings: SoftLabelsSection = TOP_K,
    store_dir: Path | None = None,
    dtype: DTypeChoice = "float32",
    max_length: int = 512,
    reporter: Listener | None = None,
) -> SoftLabels:
    return label(
        teacher,
        corpus,
        settings,
        max_length=max_length,
        dtype=dtype,
        out_dir=out_dir,
        store_dir=store_dir,
        reporter=reporter,
    )


def distributions(
    teacher: Checkpoint, corpus: Corpus, name: str
) -> Iterator[tuple[bytes, torch.Tensor]]:
    """Key and log-softmax of every example of a split, by the whole model on the whole example."""
    model, tokenizer = load_model(teacher.path), load_tokenizer(teacher.path)
    examples = list(read_examples(corpus.split_path(name)))
    for example in encode_split(examples, tokenizer, max_length=512, name=name).examples:
        ids = torch.from_numpy(example.input_ids).long()[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, example.targets - 1]
        yield row_key(example.input_ids, example.supervised), torch.log_softmax(logits, -1)


def test_labels_are_the_teachers_distributions(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Every stored position equals the log-softmax of the whole model on the whole example."""
    labels = run(teacher, corpus, tmp_path / "labels")
    reader = LabelReader(labels.path)
    for name in ("train", "validation"):
        rows = list(distributions(teacher, corpus, name))
        assert len(rows) == labels.facts[f"{name}_examples"]
        for key, expected in rows[:6]:
            found = reader.read([key])
            assert isinstance(found, SoftTargets)
            assert torch.equal(found.ids[:, 0], expected.argmax(-1))
            gathered = expected.gather(-1, found.ids)
            assert torch.allclose(found.logprobs, gathered, rtol=2e-3, atol=2e-3)
            rest = 1 - gathered.exp().sum(-1)
            assert torch.allclose(found.residual.exp(), rest, atol=1e-4)
    info = read_info(labels.path)
    assert (info.teacher, info.dtype, info.top_k) == (teacher.digest, "float32", 5)
    assert labels.facts["content_key"] == info.content_key
    assert labels.facts["bytes_per_token"] < 120


def test_texts_that_get_no_labels_are_told_with_the_limit_that_labels_them(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Where none is short enough, in the error."""
    lengths = [
        len(one.input_ids)
        for one in encode_split(
            list(read_examples(corpus.split_path("train"))),
            load_tokenizer(teacher.path),
            max_length=512,
            name="train",
        ).examples
    ]
    short, longest = sorted(lengths)[len(lengths) // 2], max(lengths)
    told = Listener()
    run(teacher, corpus, tmp_path / "some", max_length=short, reporter=told)
    said = "\n".join(event.message for event in told.events if isinstance(event, Note))
    assert f"longer than {short} tokens and get no labels" in said
    assert f"--set distill.max_length={longest} " in said
    with pytest.raises(DataError, match=rf"the longest of {longest}\)") as caught:
        run(teacher, corpus, tmp_path / "none", max_length=16)
    assert f"--set distill.max_length={longest}," in (caught.value.hint or "")


def test_drawn_labels_scatter_around_the_teachers_distributions(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Weights within a draw of the probabilities, and the entropy of the whole distribution."""
    labels = run(teacher, corpus, tmp_path / "labels", settings=SAMPLED)
    reader = LabelReader(labels.path)
    for key, expected in list(distributions(teacher, corpus, "train"))[:6]:
        found = reader.read([key])
        assert isinstance(found, SampledTargets)
        weights = torch.zeros_like(expected).scatter_add_(1, found.ids, found.weights)
        assert ((weights - expected.exp()).abs() < 1 / 30 + 1e-4).all()
        entropy = -(expected.exp() * expected).sum(-1)
        assert torch.allclose(found.entropy, entropy, rtol=2e-3)
    assert read_info(labels.path).method == "sampled"


def test_a_corpus_that_overlaps_computes_its_new_rows_alone(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Another run finds what was labelled, adds what was not, and loads no model for nothing."""
    stores = tmp_path / "stores"
    first = run(teacher, corpus, tmp_path / "a", store_dir=stores)
    more = tiny_corpus(tmp_path / "more", train=34)
    listener = Listener()
    second = run(teacher, more, tmp_path / "b", store_dir=stores, reporter=listener)
    assert first.facts["labelled_rows"] == listener.resumed_from[-1]
    assert 0 < second.facts["labelled_rows"] <= 10
    for name in ("train", "validation"):
        reader = LabelReader(second.path)
        assert all(key in reader for key, _ in distributions(teacher, more, name))
    third = run(teacher, more, tmp_path / "c", store_dir=stores)
    assert third.facts["labelled_rows"] == 0
    assert third.digest == second.digest
    (store,) = list_stores(stores)
    assert set(store.used_by) == {tmp_path / name for name in "abc"}
    assert store.rows == first.facts["labelled_rows"] + second.facts["labelled_rows"]


def test_what_is_linked_is_not_hashed_again(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large store costs a small corpus nothing; what the manifest says of the files is true."""
    stores = tmp_path / "stores"
    first = run(teacher, corpus, tmp_path / "a", store_dir=stores)
    hashed: list[str] = []

    def watched(path: Path) -> str:
        hashed.append(path.name)
        return digest_file(path)

    monkeypatch.setattr(drafts, "digest_file", watched)
    second = run(teacher, corpus, tmp_path / "b", store_dir=stores)
    assert hashed == [INFO_NAME]
    assert SoftLabels.open(second.path, verify_digests=True).digest == first.digest
    (kept,) = stores.glob(f"*/*/{DIGESTS_NAME}")
    kept.write_text(kept.read_text().replace("a", "b"))  # of another segment: not believed
    third = run(teacher, corpus, tmp_path / "c", store_dir=stores)
    assert hashed == [INFO_NAME, LABELS_NAME, ROWS_NAME, INFO_NAME]
    assert third.digest == first.digest


def test_earlier_labels_decide_the_compute_type(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """A probe that came out otherwise must not label everything a second time."""
    for dtype in ("float32", "bfloat16"):
        stores = tmp_path / dtype
        run(teacher, corpus, tmp_path / f"{dtype}-first", store_dir=stores, dtype=dtype)
        again = run(teacher, corpus, tmp_path / f"{dtype}-again", store_dir=stores, dtype="auto")
        assert again.facts["dtype"] == dtype
        assert again.facts["labelled_rows"] == 0


def test_a_pass_without_labels_decides_no_compute_type(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU had no room for the first rows: the CPU chooses for itself."""
    with monkeypatch.context() as patch:
        patch.setattr(precision, "_bfloat16_pays", lambda _: True)
        patch.setattr(local, "run_decoder", lambda *_: torch.empty(2**60, dtype=torch.uint8))
        with pytest.raises(ModelError, match="out of memory"):
            run(teacher, corpus, tmp_path / "labels", store_dir=tmp_path / "s", dtype="auto")
    (pin,) = tmp_path.glob("*/resume-precision.json")
    pin.write_text(pin.read_text().replace('"cpu"', '"cuda"'))
    monkeypatch.setattr(precision, "_bfloat16_pays", lambda _: False)
    labels = run(teacher, corpus, tmp_path / "labels", store_dir=tmp_path / "s", dtype="auto")
    assert labels.facts["dtype"] == "float32"


def test_the_products_are_cast_once(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for every batch, beside the float32 ones; the labels are the same to the bit."""
    types: list[set[torch.dtype]] = []

    def watched(model: torch.nn.Module, batch: Batch) -> States:
        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        types.append({module.weight.dtype for module in linear})
        return run_decoder(model, batch)

    monkeypatch.setattr(local, "run_decoder", watched)
    found = run(teacher, corpus, tmp_path / "once", dtype="bfloat16")
    assert len(types) > 2
    assert types == [{torch.bfloat16}] * len(types)
    monkeypatch.setattr(local, "freeze_in", lambda model, dtype: None)
    expected = run(teacher, corpus, tmp_path / "always", dtype="bfloat16")
    assert types[-1] == {torch.float32}
    assert found.digest == expected.digest


def test_a_teacher_that_does_not_fit_is_told_before_it_is_loaded(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system would end the process without a word."""
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(ModelError, match="memory for labelling with the teacher: "):
        run(teacher, corpus, tmp_path / "labels", dtype="bfloat16")
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize("said", OUT_OF_MEMORY, ids=str)
def test_a_device_that_is_out_of_memory_says_what_to_do(
    teacher: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: RuntimeError,
) -> None:
    """Whatever it is called; what was labelled until then is kept."""
    batches = 0

    def full(model: torch.nn.Module, batch: Batch) -> States:
        nonlocal batches
        if batches == 2:
            raise said
        batches += 1
        return run_decoder(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(local, "run_decoder", full)
        with pytest.raises(ModelError, match="out of memory") as caught:
            run(teacher, corpus, tmp_path / "labels")
    assert "ollama-bridge ps" in (caught.value.hint or "")
    again = Listener()
    run(teacher, corpus, tmp_path / "labels", reporter=again)
    assert max(again.resumed_from) > 0


def test_second_call_reuses(teacher: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    """A finished pass is found, not repeated; settings that are not used are no other work."""
    first = run(teacher, corpus, tmp_path / "labels")
    listener = Listener()
    same = TOP_K.model_copy(update={"draws": 7, "seed": 3})
    again = run(teacher, corpus, tmp_path / "labels", settings=same, reporter=listener)
    assert any(isinstance(event, StageReused) for event in listener.events)
    assert again.digest == first.digest
    other = run(teacher, corpus, tmp_path / "labels", settings=SoftLabelsSection(top_k=3))
    assert read_info(other.path).top_k == 3


# Prints every batch, and waits behind the second one to be killed.
PROGRAM = """
import sys
from pathlib import Path
import torch
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.recipe.config import SoftLabelsSection
from ollama_bridge.models.compute.precision import DTypeChoice
from ollama_bridge.reporting import Progress
from ollama_bridge.teacher import local

torch.set_num_threads(1)
local._BATCH_TOKENS = 200

class Printer:
    lines = 0

    def emit(self, event):
        if isinstance(event, Progress):
            print(event.done, flush=True)
            self.lines += 1
            if self.lines == 2:
                sys.stdin.read()

teacher, corpus, out_dir, store_dir, settings = sys.argv[1:]
local.label(
    Checkpoint.open(teacher), Corpus.open(corpus),
    SoftLabelsSection.model_validate_json(settings), max_length=512, dtype="bfloat16",
    out_dir=Path(out_dir), store_dir=Path(store_dir), reporter=Printer(),
)
"""


def test_sigkill_costs_a_batch_and_no_bit(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """After SIGKILL in mid-labelling the same call goes on, and draws and bytes are the same."""
    arguments = [teacher.path, corpus.path, tmp_path / "labels", tmp_path / "stores"]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments), SAMPLED.model_dump_json()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        done = [int(process.stdout.readline()) for _ in range(2)][-1]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "labels").exists()

    where = {"settings": SAMPLED, "dtype": "bfloat16"}
    whole = run(teacher, corpus, tmp_path / "whole", store_dir=tmp_path / "others", **where)
    listener = Listener()
    resumed = run(
        teacher,
        corpus,
        tmp_path / "labels",
        store_dir=tmp_path / "stores",
        reporter=listener,
        **where,
    )
    assert done <= listener.resumed_from[-1] < whole.facts["labelled_rows"]
    assert resumed.digest == whole.digest
    assert SoftLabels.open(tmp_path / "labels", verify_digests=True).digest == whole.digest
    last = [event for event in listener.events if isinstance(event, Progress)][-1]
    assert last.done == last.total
    assert last.fields["tok_s"] > 0
