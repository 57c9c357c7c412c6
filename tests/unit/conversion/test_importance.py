"""Importance matrices: measured, written, read, and of use."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.models import build_tiny_checkpoint
from fakes.trainable import tiny_corpus
from gguf import GGUFReader

from ollama_bridge.conversion import convert
from ollama_bridge.conversion.budget_search import Target
from ollama_bridge.conversion.imatrix import Measured, read_importance, write_importance
from ollama_bridge.conversion.importance import importance
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.encoding.spread import spread_out
from ollama_bridge.errors import ConversionError, ModelError
from ollama_bridge.examples import read_examples
from ollama_bridge.models.compute import memory
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.storage.artifacts import Checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny model with rows of whole blocks."""
    folder = tmp_path_factory.mktemp("wide")
    source = build_tiny_checkpoint(folder / "source", hidden=256)
    return resolve_model(str(source), cache_dir=folder / "cache")


def legacy(entries: dict[str, list[float]]) -> bytes:
    """A file of llama.cpp's older format."""
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries.items():
        parts += [struct.pack("<i", len(name)), name.encode()]
        parts += [struct.pack("<ii", 2, len(values)), struct.pack(f"<{len(values)}f", *values)]
    return b"".join(parts) + struct.pack("<i", 1)


def test_what_is_written_is_read_by_us_and_by_others(tmp_path: Path) -> None:
    """The GGUF format gives mean squares to our reader and to libgguf's."""
    path = tmp_path / "imatrix.gguf"
    sums = np.array([2, 4, 6], dtype=np.float32)
    measured = {"blk.0.attn_q.weight": Measured(sums, 4), "blk.1.attn_q.weight": Measured(sums, 2)}
    write_importance(path, measured, dataset="a corpus", chunk_tokens=2)
    found = read_importance(path)
    assert {name: values.tolist() for name, values in found.items()} == {
        "blk.0.attn_q.weight": [0.5, 1.0, 1.5],
        "blk.1.attn_q.weight": [1.0, 2.0, 3.0],
    }
    other = pytest.importorskip("libgguf").load_imatrix(path)
    assert {name: values.tolist() for name, values in other.items()} == {
        name: values.tolist() for name, values in found.items()
    }


def test_the_older_format_is_read(tmp_path: Path) -> None:
    """Sums are divided by the number of calls, as llama.cpp does."""
    path = tmp_path / "imatrix.dat"
    path.write_bytes(legacy({"output.weight": [2.0, 8.0]}))
    assert read_importance(path)["output.weight"].tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"\xff" * 40,
        struct.pack("<i", 3),
        legacy({"a": [1.0, 2.0]})[:20],
        legacy({"a": [float("nan")]}),
        legacy({"a": [-1.0]}),
    ],
)
def test_damaged_files_are_one_error(tmp_path: Path, content: bytes) -> None:
    """Whatever is in the file, the error names it and says how to get a good one."""
    path = tmp_path / "bad.dat"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"bad\.dat") as caught:
        read_importance(path)
    assert "ollama-bridge importance" in str(caught.value.hint)
    with pytest.raises(ConversionError, match="missing"):
        read_importance(tmp_path / "missing")


def test_measures_what_the_matrices_are_multiplied_with(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """The first layer's projections get its normed embeddings: squared and averaged."""
    corpus = tiny_corpus(tmp_path / "corpus")
    made = importance(checkpoint, corpus, out_dir=tmp_path / "importance")
    found = read_importance(made.imatrix_path)
    model = load_model(checkpoint.path)
    split = encode_split(
        list(read_examples(corpus.split_path("train"))),
        load_tokenizer(checkpoint.path),
        max_length=1024,
        name="train",
    )
    ids = torch.from_numpy(np.concatenate([example.input_ids for example in split.examples]))
    assert made.facts["tokens"] == len(ids)
    with torch.no_grad():
        normed = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids.long()))
    expected = normed.square().mean(dim=0).numpy()
    for part in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found[f"blk.0.{part}.weight"], expected, rtol=1e-4)
    assert len(found) == 7 * 2  # every matrix of both layers, and not the output
    assert found["blk.1.ffn_down.weight"].shape == (model.config.intermediate_size,)
    few = importance(checkpoint, corpus, max_tokens=1, out_dir=tmp_path / "few")
    assert few.facts["tokens"] == len(spread_out(split.examples)[0].input_ids)


def test_a_model_that_memory_does_not_hold_is_not_loaded(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system would kill the process without a word, for a matrix and for a target alike."""
    corpus = tiny_corpus(tmp_path / "corpus")
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(ModelError, match="not enough memory for measuring an importance matrix"):
        importance(checkpoint, corpus, out_dir=tmp_path / "importance")
    with pytest.raises(ModelError, match="not enough memory for choosing the types"):
        convert(checkpoint, target=Target(kl_nats=0.1), corpus=corpus, out_dir=tmp_path / "file")


def test_a_file_made_with_importance_is_closer_on_such_texts(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Same type, same size, smaller divergence; and the file says which matrix shaped it."""
    corpus = tiny_corpus(tmp_path / "corpus")
    imatrix = importance(checkpoint, corpus, out_dir=tmp_path / "importance").imatrix_path
    tokenizer = load_tokenizer(checkpoint.path)
    split = encode_split(
        list(read_examples(corpus.split_path("train"))), tokenizer, max_length=1024, name="train"
    )
    divergences, sizes = [], []
    for name, matrix in (("plain", None), ("weighted", imatrix)):
        gguf = convert(checkpoint, type="q3_k_s", imatrix=matrix, out_dir=tmp_path / name)
        import_gguf(gguf.gguf_path, tmp_path / f"back-{name}")
        exact, rounded = load_model(checkpoint.path), load_model(tmp_path / f"back-{name}")
        total = 0.0
        with torch.inference_mode():
            for example in split.examples:
                ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
                left = exact(ids).logits.log_softmax(-1)
                right = rounded(ids).logits.log_softmax(-1)
                total += float((left.exp() * (left - right)).sum(-1).mean())
        divergences.append(total)
        sizes.append(sum(tensor.n_bytes for tensor in GGUFReader(gguf.gguf_path).tensors))
        keys = GGUFReader(gguf.gguf_path).fields
        assert ("ollama_bridge.imatrix.sha256" in keys) == (matrix is not None)
        assert ("imatrix" in gguf.manifest.work.inputs) == (matrix is not None)
    assert sizes[0] == sizes[1]
    assert divergences[1] < divergences[0]


def test_a_matrix_of_another_model_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Of other widths, or of other tensors: an error, and no file."""
    path = tmp_path / "other.dat"
    for entries, message in (
        ({"blk.0.attn_q.weight": [1.0] * 32}, "32 columns"),
        ({"blk.99.attn_q.weight": [1.0] * 256}, "no tensor of this checkpoint"),
    ):
        path.write_bytes(legacy(entries))
        with pytest.raises(ConversionError, match=message):
            convert(checkpoint, type="q4_k_m", imatrix=path, out_dir=tmp_path / "out")
        assert not (tmp_path / "out").exists()
