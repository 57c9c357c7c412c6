"""Memory that is held until it has been seen, and what a device says that has none left."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence

import pytest
import torch

from ollama_bridge.models.compute.memory import PeakMemory

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


# In torch's words for each device: a GPU's, MPS's of a full device and of a buffer that is too
# large, those of a GPU without room for its context or for cuBLAS, and the CPU's.
OUT_OF_MEMORY: Sequence[RuntimeError] = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 130.00 MiB. GPU 0 has a total"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 8.05 GB, other allocations: 1.02 GB, max "
        "allowed: 9.07 GB). Tried to allocate 256.00 MB on private pool."
    ),
    RuntimeError("Invalid buffer size: 15.26 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
)
