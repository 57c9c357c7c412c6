"""How much memory a device has left, and how much of it a piece of work takes."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psutil
import torch

from ollama_bridge import machine
from ollama_bridge.errors import ModelError, OllamaBridgeError, TrainingError
from ollama_bridge.models.compute.precision import way_to_the_cpu
from ollama_bridge.models.safety import read_config
from ollama_bridge.models.weights.stored import count_parameters, is_mapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLE_S = 0.002
FLOAT32_BYTES = 4
# Of the weights: what the activations of a short text, and one matrix at a time in another type,
# take beside them at the least.
BESIDE_WEIGHTS = 1.1
_MORE_ROOM = (
    "stop what holds memory (ollama-bridge ps), take a smaller model, or do it on a machine with "
    "more: the tag can be published there and pulled here"
)
# What torch has no class for: the CPU's allocator, MPS's (of a full device, and of more than one
# buffer can hold), and a GPU without room for its context or for cuBLAS.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Invalid buffer size",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def used_bytes(device: torch.device) -> int:
    """What this process holds: on a CPU its resident memory, else what torch has on the device."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return int(psutil.Process().memory_info().rss)


def release_unused(device: torch.device) -> None:
    """Give back what was freed and is kept for later, where that can be asked for.

    It counts as used: what is measured next would seem to need as much as what was before.
    """
    if device.type == "cuda":
        return  # what is cached does not count there
    if device.type == "mps":
        torch.mps.empty_cache()
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def to_cpu(model: PreTrainedModel) -> None:
    """Move a model layer by layer, and give back what each leaves.

    Memory that a GPU shares with the CPU has no room for two copies, and MPS keeps what was freed.
    """
    device = model.device
    decoder: Any = model.base_model
    for layer in decoder.layers:
        layer.cpu()
        release_unused(device)
    model.cpu()
    release_unused(device)


def free_bytes(device: torch.device) -> int:
    """What this process could take in addition.

    On a CPU that is what the system calls available: free, or given up by caches when asked for.
    """
    if device.type == "cuda":
        unreserved_bytes, _ = torch.cuda.mem_get_info(device)
        unused_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(unreserved_bytes) + unused_bytes
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    available_bytes = int(psutil.virtual_memory().available)
    container = machine.container_memory(machine.CGROUP)
    return available_bytes if container is None else min(available_bytes, container.free_bytes)


def check_room(
    folder: Path,
    *,
    purpose: str,
    copies: int = 1,
    kept_bytes: float = FLOAT32_BYTES,
    hint: str = _MORE_ROOM,
) -> None:
    """Make sure that a model can be held on the CPU; the system kills who takes more, unasked.

    Args:
        folder: Of the checkpoint; no weights are read.
        purpose: What it is loaded for, such as "scoring a model".
        copies: Processes of this machine that load it at the same time.
        kept_bytes: What each makes of a number of it, where its file is of float32: such a file is
            mapped, not read, and given up where memory is short.
        hint: What to do instead.

    Raises:
        ModelError: it does not fit into what is free.
    """
    config = read_config(folder)
    parameters = count_parameters(folder, config)
    number_bytes = kept_bytes if is_mapped(folder, config) else FLOAT32_BYTES
    needed_bytes = int(copies * parameters * number_bytes * BESIDE_WEIGHTS)
    available_bytes = free_bytes(torch.device("cpu"))
    if needed_bytes > available_bytes:
        in_type = " in float32" if number_bytes == FLOAT32_BYTES else ""
        in_each = f" in each of {copies} processes" if copies > 1 else ""
        raise ModelError(
            f"not enough memory for {purpose}: {parameters / 1e9:.2g} billion parameters{in_type}"
            f"{in_each} need {needed_bytes / 1e9:.3g} GB of memory, only "
            f"{available_bytes / 1e9:.3g} GB are free",
            hint=hint,
        )


class PeakMemory:
    """The most that is held inside a ``with`` block, in ``peak_bytes``.

    Resident memory has no peak that can be reset on every system, so a thread looks at it; torch
    lets other threads run while it computes.

    Args:
        interval_s: Between two looks, where it takes a thread; each costs some 50 microseconds.
    """

    def __init__(self, device: torch.device, *, interval_s: float = _SAMPLE_S) -> None:
        self.peak_bytes = 0
        self._device = device
        self._interval_s = interval_s
        self._looks = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self.peak_bytes = used_bytes(self._device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop looking."""
        if self._device.type == "cuda":
            self._look()
            return
        self._ended.set()
        self._thread.join()

    def lap_bytes(self) -> int:
        """The most since the block began, or since this was asked last; begins anew."""
        with self._looks:
            self._look()
            lap_bytes, self.peak_bytes = self.peak_bytes, used_bytes(self._device)
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
        return lap_bytes

    def _look(self) -> None:
        held_bytes = used_bytes(self._device)
        if self._device.type == "cuda":
            held_bytes = torch.cuda.max_memory_allocated(self._device)
        self.peak_bytes = max(self.peak_bytes, held_bytes)

    def _watch(self) -> None:
        while not self._ended.wait(self._interval_s):
            with self._looks:
                self._look()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that a device has no room for what was asked of it."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(one in said for one in _OUT_OF_MEMORY)


@contextlib.contextmanager
def memory_is_enough(
    hint: str, *, refusal: type[OllamaBridgeError] = TrainingError
) -> Iterator[None]:
    """Inside the block a device that is out of memory is an error that says what to do.

    Raises:
        OllamaBridgeError: there was none left; a ``refusal``.
    """
    try:
        yield
    except RuntimeError as exc:
        if not is_out_of_memory(exc):
            raise
        first_line = str(exc).partition("\n")[0]
        raise refusal(f"out of memory: {first_line}", hint=hint) from exc


def less_for_a_model() -> str:
    """What to do where a model that is not trained does not fit its device."""
    on_cpu = way_to_the_cpu()
    return _MORE_ROOM if on_cpu is None else f"{on_cpu}; or {_MORE_ROOM}"
