"""On which device and in which type a model computes, and how that is kept over a resume.

Weights are float32 always; bfloat16 is the type of the matrix products (autocast).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Literal

import torch
from torch import distributed

from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.storage.atomic_files import write_text_atomic

DTypeChoice = Literal["auto", "float32", "bfloat16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# bfloat16 costs digits and casts: it has to be clearly faster. Where the CPU has it, it is 2-4x;
# where not, it is emulated and several times slower.
_MIN_SPEEDUP = 1.3
# oneDNN keeps the kernels of the last 1,024 shapes, some 0.65 MB each, and every batch has other
# shapes: a run grew by 11 MB a step, and 1,024 would be 0.7 GB. A layer's forward or backward pass
# takes less than these, and a kernel is made in 0.4 ms.
_KEPT_KERNELS = 32
_KEPT_KERNELS_NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")


@dataclass(frozen=True)
class Precision:
    """Device, compute type and threads.

    Attributes:
        device: Where the model lies.
        dtype: Type of the matrix products.
        threads: CPU threads; another number adds up in another order, in the last bits.
    """

    device: torch.device
    dtype: torch.dtype
    threads: int

    @property
    def dtype_name(self) -> str:
        """The type as a recipe spells it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def frozen_bytes(self) -> int:
        """What a frozen number of a file in float32 takes of the CPU's memory beside the file.

        It is cast there, and moved then; what MPS holds is the CPU's memory as well.
        """
        if self.dtype == torch.float32 and self.device.type != "mps":
            return 0
        return self.dtype.itemsize

    def autocast(self, *, keeps_casts: bool = True) -> contextlib.AbstractContextManager[object]:
        """The context in which a forward pass computes in ``dtype``.

        Args:
            keeps_casts: Of trained weights, for further forward passes inside the context.
        """
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype, cache_enabled=keeps_casts)

    def no_autocast(self) -> contextlib.AbstractContextManager[object]:
        """Inside :meth:`autocast`: a part of it, such as a backward pass, that casts nothing."""
        return torch.autocast(self.device.type, enabled=False)


def choose_precision(choice: DTypeChoice = "auto") -> Precision:
    """CUDA or Apple's MPS where there is one, else the CPU; the type as asked, or the faster one.

    On a CPU a probe finds out; GPUs say whether they have bfloat16, and on MPS, which gains little
    from it, auto is float32.

    Raises:
        ConfigError: no such type.
    """
    if choice != "auto" and choice not in _DTYPES:
        raise ConfigError(
            f"dtype {choice!r} is not one of auto, {', '.join(_DTYPES)}", hint="use auto"
        )
    _keep_few_kernels()
    device = best_device()
    if choice == "auto":
        choice = "bfloat16" if _bfloat16_pays(device) else "float32"
    return Precision(device, _DTYPES[choice], torch.get_num_threads())


def product_dtype(values: torch.Tensor, otherwise: torch.dtype | None = None) -> torch.dtype:
    """In what products are computed here: the type of autocast where it is enabled.

    Args:
        values: That are multiplied.
        otherwise: The type without autocast; None: that of the values.
    """
    device = values.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return values.dtype if otherwise is None else otherwise


def _keep_few_kernels() -> None:
    """Tell oneDNN how many kernels to keep, unless the user has; it asks at its first product."""
    if not any(name in os.environ for name in _KEPT_KERNELS_NAMES):
        os.environ[_KEPT_KERNELS_NAMES[0]] = str(_KEPT_KERNELS)


def best_device() -> torch.device:
    """Where models are trained and scored on this machine."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    # gloo, by which processes of a Mac sum what they compute, does not reach into its GPU.
    alone = not (distributed.is_available() and distributed.is_initialized())
    return torch.device("mps" if alone and torch.backends.mps.is_available() else "cpu")


def way_to_the_cpu() -> str | None:
    """What has all computed on the CPU instead; None where its memory is what is used already."""
    if best_device().type != "cuda":
        return None
    return "compute on the CPU: set CUDA_VISIBLE_DEVICES= in front of the command"


def random_numbers_aside(device: torch.device) -> AbstractContextManager[None]:
    """Put aside the random numbers that a computation takes, the CPU's and those of its device.

    torch reads those of every GPU of the machine where it is not told which, and warns of it in
    each process. Nor is it left the kind of device: older versions that we allow take CUDA for it,
    also on an Apple GPU.
    """
    own = [] if device.type == "cpu" else [torch.accelerator.current_device_index()]
    return torch.random.fork_rng(devices=own, device_type=device.type)


def _bfloat16_pays(device: torch.device) -> bool:
    if device.type == "cuda":
        # Emulated, as before Ampere, it is slower than float32.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bfloat16_is_faster()


def pinned_precision(path: Path, choice: DTypeChoice = "auto", *, processes: int = 1) -> Precision:
    """Like :func:`choose_precision`, but what was chosen once for this work stays.

    A resumed run must compute as the interrupted one did, to the last bit: type and threads are
    read from ``path`` if it exists (and the threads are set), and written to it otherwise. Another
    number of processes adds up in another order in any case, and keeps the type alone; another
    kind of device keeps nothing, for what is fast on a GPU may be emulated on its CPU.

    Raises:
        ArtifactError: the file is damaged.
    """
    precision = choose_precision(choice)
    if path.exists():
        pinned, before, device = _read_pin(path, precision.device)
        if (before, device) == (processes, precision.device.type):
            if pinned.threads != torch.get_num_threads():
                torch.set_num_threads(pinned.threads)
            return pinned
        if device == precision.device.type:
            precision = replace(precision, dtype=pinned.dtype)
    pin = {
        "dtype": precision.dtype_name,
        "threads": precision.threads,
        "processes": processes,
        "device": precision.device.type,
    }
    write_text_atomic(path, json.dumps(pin))
    return precision


def _read_pin(path: Path, device: torch.device) -> tuple[Precision, int, str]:
    """What was chosen (on this device), and for how many processes and which kind of device."""
    try:
        pin = json.loads(path.read_text(encoding="utf-8"))
        pinned = Precision(device, _DTYPES[pin["dtype"]], int(pin["threads"]))
        return pinned, int(pin.get("processes", 1)), str(pin.get("device", device.type))
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ArtifactError(
            f"{path} is damaged: {exc!r}",
            hint=f"start this stage afresh: rm -r {quote(str(path.parent))}",
        ) from exc


@functools.cache
def bfloat16_is_faster() -> bool:
    """Whether this CPU multiplies clearly faster in bfloat16; measured once a process, in 50 ms."""
    return _product_s(torch.float32) > _MIN_SPEEDUP * _product_s(torch.bfloat16)


def _product_s(dtype: torch.dtype) -> float:
    left = torch.ones(512, 576, dtype=dtype)
    right = torch.ones(576, 1536, dtype=dtype)
    best_s = float("inf")
    for _ in range(5):  # the first ones warm up; the minimum is what a busy machine disturbs least
        start_s = time.perf_counter()
        torch.mm(left, right)
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s
