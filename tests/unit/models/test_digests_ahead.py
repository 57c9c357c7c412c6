"""Digests that are begun early are those of the files as they are when they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_bridge.digests import digest_file
from ollama_bridge.models import digests_ahead
from ollama_bridge.models.digests_ahead import begin_digests, digests_of
from ollama_bridge.models.weight_files import INDEX_NAME, WEIGHTS_NAME


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three files, and the index that names them."""
    paths = [tmp_path / f"model-{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    names = ", ".join(f'"{number}": "{path.name}"' for number, path in enumerate(paths))
    (tmp_path / INDEX_NAME).write_text(f'{{"weight_map": {{{names}}}}}')
    return paths


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed, as often as they are."""
    found: list[Path] = []

    def digest(path: Path) -> str:
        found.append(path)
        return digest_file(path)

    for name in ("digest_file", "_digest_beside"):
        monkeypatch.setattr(digests_ahead, name, digest)
    return found


def test_a_file_is_hashed_once(shards: list[Path], hashed: list[Path]) -> None:
    """Whoever comes to it first, the digest is asked for once and given once."""
    begin_digests(str(shards[0].parent))
    assert digests_of(shards) == [digest_file(path) for path in shards]
    assert sorted(hashed) == shards


def test_what_changed_meanwhile_is_hashed_again(shards: list[Path], hashed: list[Path]) -> None:
    """A file that was replaced behind its digest has another one."""
    begin_digests(str(shards[0].parent))
    for path in shards:
        digests_ahead._begun[path].digest.result(timeout=30)
    assert hashed == shards
    shards[1].write_bytes(b"another length")
    assert digests_of(shards) == [digest_file(path) for path in shards]
    assert hashed == [*shards, shards[1]]


def test_what_has_gone_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    """An early digest tells of nothing: the file is not there when it is needed."""
    weights = tmp_path / WEIGHTS_NAME
    weights.write_bytes(b"weights")
    begin_digests(str(tmp_path))
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        digests_of([weights])


def test_no_room_for_an_early_digest_is_no_failure(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a thread that came to nothing: the file is hashed again."""

    def full(path: Path) -> str:
        raise MemoryError(path)

    monkeypatch.setattr(digests_ahead, "_digest_beside", full)
    begin_digests(str(shards[0].parent))
    for path in shards:
        begun = digests_ahead._begun[path].digest
        assert isinstance(begun.exception(timeout=30), MemoryError)
    assert digests_of(shards) == [digest_file(path) for path in shards]


@pytest.mark.parametrize("reference", ["ollama:m", "hf:org/name", "./nowhere", "a b:c", ""])
def test_other_references_are_left_alone(reference: str, hashed: list[Path]) -> None:
    """What is no folder with weights is for others to tell."""
    begin_digests(reference)
    assert hashed == []
