"""Memory that is held until it has been seen."""

from __future__ import annotations

import mmap
import threading

import pytest

from ollama_bridge.models.memory import PeakMemory

_SEEN_WITHIN_S = 10.0


def hold_until_seen(size_bytes: int) -> None:
    """Hold so much inside a block of :class:`PeakMemory`, for as long as it takes to look at it."""
    seen = threading.Event()
    look = PeakMemory._look

    def look_and_tell(self: PeakMemory) -> None:
        look(self)
        seen.set()

    # Given back at once, other than the heap's.
    with mmap.mmap(-1, size_bytes) as held, pytest.MonkeyPatch.context() as patch:
        held[:: mmap.PAGESIZE] = bytes(len(range(0, size_bytes, mmap.PAGESIZE)))
        patch.setattr(PeakMemory, "_look", look_and_tell)
        assert seen.wait(_SEEN_WITHIN_S)
