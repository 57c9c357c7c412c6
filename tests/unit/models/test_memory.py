"""Memory that is free, and what a piece of work takes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from fakes.memory import OUT_OF_MEMORY, hold_until_seen

from ollama_bridge import machine
from ollama_bridge.errors import ModelError, TrainingError
from ollama_bridge.machine import ContainerMemory, container_memory
from ollama_bridge.models.compute.memory import (
    PeakMemory,
    free_bytes,
    memory_is_enough,
    release_unused,
)

CPU = torch.device("cpu")


def test_peak_is_seen_after_it_is_over() -> None:
    """Memory that is held for a moment inside the block counts."""
    with PeakMemory(CPU) as peak:
        before = peak.peak_bytes
        hold_until_seen(50_000_000)
    assert peak.peak_bytes - before > 45_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_what_was_freed_is_given_back() -> None:
    """The heap keeps it below whatever was allocated last, and it counts as used."""
    release_unused(CPU)  # blocks in holes of the heap would take no more memory
    blocks = [bytes([1]) * 100_000 for _ in range(1000)]
    kept = blocks.pop()
    blocks.clear()
    with PeakMemory(CPU) as held:
        pass
    release_unused(CPU)
    with PeakMemory(CPU) as released:
        pass
    assert kept
    assert held.peak_bytes - released.peak_bytes > 90_000_000


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("8000000000", ContainerMemory(8_000_000_000, 8_000_000_000 - 3_000_000_000 + 500_000_000)),
        ("max", None),
    ],
)
def test_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: ContainerMemory | None
) -> None:
    """Less than the machine has is free where a container may take less; caches do not count."""
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("3000000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000000\n")
    assert container_memory(tmp_path) == expected
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "none")
    unlimited = free_bytes(CPU)
    assert 0 < unlimited < sys.maxsize
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000000001\n")
    (tmp_path / "memory.stat").write_text("inactive_file 0\n")
    assert free_bytes(CPU) == 1


def test_a_full_device_says_what_takes_less() -> None:
    """In the words of a GPU and, asked for more than there is, of the CPU; other errors stay."""
    with (
        pytest.raises(TrainingError, match="out of memory: tried to") as caught,
        memory_is_enough("less"),
    ):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB\nand more")
    assert caught.value.hint == "less"
    with pytest.raises(TrainingError, match="allocate memory"), memory_is_enough("less"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shapes"), memory_is_enough("less"):
        raise RuntimeError("shapes")


@pytest.mark.parametrize("said", OUT_OF_MEMORY, ids=str)
def test_every_devices_words_are_known(said: RuntimeError) -> None:
    """Most are of no class of their own."""
    with (
        pytest.raises(ModelError, match="out of memory: "),
        memory_is_enough("less", refusal=ModelError),
    ):
        raise said
