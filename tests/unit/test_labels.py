"""The soft-label store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import ArtifactError
from ollama_bridge.labels import (
    LabelStore,
    SoftTargets,
    StoreInfo,
    StoreWriter,
    read_info,
    top_k_with_residual,
)

INFO = StoreInfo(top_k=4, vocab_size=50, teacher="t", corpus="c", tokenizer="k", max_length=64)


def distributions(count: int, *, info: StoreInfo = INFO, seed: int = 0) -> SoftTargets:
    """The kept part of random distributions."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(count, info.vocab_size, generator=generator)
    return top_k_with_residual(logits, top_k=info.top_k)


def test_labels_come_back_as_written(tmp_path: Path) -> None:
    """Rows are found by number over shards, in any order, with float16 precision."""
    writer = StoreWriter(tmp_path, INFO)
    written = {row: distributions(row + 1, seed=row) for row in range(5)}
    writer.write_shard("train", 0, rows=[3, 1], targets=[written[3], written[1]])
    writer.write_shard("train", 1, rows=[0, 4], targets=[written[0], written[4]])
    writer.write_shard("validation", 0, rows=[2], targets=[written[2]])
    store = LabelStore(tmp_path, "train")
    assert len(store) == 4
    assert store.counts == {3: 4, 1: 2, 0: 1, 4: 5}
    read = store.read([4, 0, 3])
    whole = [written[row] for row in (4, 0, 3)]
    assert torch.equal(read.ids, torch.cat([target.ids for target in whole]))
    expected = torch.cat([target.logprobs for target in whole])
    assert torch.allclose(read.logprobs, expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(read.residual, torch.cat([target.residual for target in whole]))
    assert read_info(tmp_path) == INFO


@settings(max_examples=40, deadline=None)
@given(
    vocab_size=st.sampled_from([20, 2**16, 2**16 + 1, 151_936, 262_144]), seed=st.integers(0, 99)
)
def test_ids_of_any_vocabulary_survive(
    tmp_path_factory: pytest.TempPathFactory, vocab_size: int, seed: int
) -> None:
    """Two bytes below 65,536 tokens and three above hold every id."""
    folder = tmp_path_factory.mktemp("store")
    info = replace(INFO, vocab_size=vocab_size)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab_size, (3, 4), generator=generator)
    ids[0, 0] = vocab_size - 1
    target = SoftTargets(ids, torch.full((3, 4), -1.5), torch.full((3,), -2.0))
    StoreWriter(folder, info).write_shard("train", 0, rows=[0], targets=[target])
    assert torch.equal(LabelStore(folder, "train").read([0]).ids, ids)


@pytest.mark.parametrize(("vocab_size", "size"), [(49_152, 84), (151_936, 104)])
def test_a_position_takes_few_bytes(vocab_size: int, size: int) -> None:
    """Twenty tokens and the rest fit into 120 bytes."""
    assert replace(INFO, top_k=20, vocab_size=vocab_size).bytes_per_token == size <= 120


def test_kept_mass_and_residual_make_one() -> None:
    """Nothing of the distribution is lost, however small the rest is."""
    logits = torch.tensor([[30.0, 0.0, -5.0, -6.0], [1.0, 1.0, 1.0, 1.0]])
    kept = top_k_with_residual(logits, top_k=2)
    assert torch.allclose(kept.logprobs.exp().sum(-1) + kept.residual.exp(), torch.ones(2))
    exact = torch.log_softmax(logits.double(), -1)[0, 2:].logsumexp(-1)
    assert kept.residual[0].double() == pytest.approx(exact.item(), rel=1e-5)
    assert top_k_with_residual(logits, top_k=9).residual.tolist() == [float("-inf")] * 2


def test_shard_without_index_does_not_count(tmp_path: Path) -> None:
    """What a kill left half-written is neither read nor taken for done."""
    writer = StoreWriter(tmp_path, INFO)
    writer.write_shard("train", 0, rows=[0], targets=[distributions(2)])
    writer.write_shard("train", 1, rows=[1], targets=[distributions(2)])
    (tmp_path / "train-00001.index.npy").unlink()
    again = StoreWriter(tmp_path, INFO)
    assert [again.has_shard("train", number) for number in (0, 1)] == [True, False]
    assert len(LabelStore(tmp_path, "train")) == 1


def test_store_of_other_work_is_refused(tmp_path: Path) -> None:
    """A folder that was begun for another teacher is not continued."""
    StoreWriter(tmp_path, INFO)
    with pytest.raises(ArtifactError, match="another teacher"):
        StoreWriter(tmp_path, replace(INFO, teacher="other"))
    assert replace(INFO, teacher="other").content_key != INFO.content_key


def test_missing_row_is_named(tmp_path: Path) -> None:
    """Asking for a row that was never labelled names row and split."""
    StoreWriter(tmp_path, INFO).write_shard("train", 0, rows=[0], targets=[distributions(1)])
    with pytest.raises(ArtifactError, match="row 7 of the train split"):
        LabelStore(tmp_path, "train").read([0, 7])


@pytest.mark.parametrize("damage", ["truncated", "other", "pickle", "info", "format"])
def test_damage_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    """Truncated, foreign and pickled files are refused, not loaded."""
    import json
    import pickle

    import numpy as np

    StoreWriter(tmp_path, INFO).write_shard("train", 0, rows=[0], targets=[distributions(3)])
    records = tmp_path / "train-00000.npy"
    if damage == "truncated":
        records.write_bytes(records.read_bytes()[:-5])
    elif damage == "other":
        np.save(records, np.zeros(3))
    elif damage == "pickle":
        records.write_bytes(pickle.dumps({"a": 1}))
    elif damage == "info":
        (tmp_path / "labels.json").write_text("[]")
    else:
        data = json.loads((tmp_path / "labels.json").read_text())
        (tmp_path / "labels.json").write_text(json.dumps({**data, "format_version": 99}))
    with pytest.raises(ArtifactError):
        LabelStore(tmp_path, "train")
