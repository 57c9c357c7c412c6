"""What memory allows: the bandwidth of this machine, and what of a model is read for one token."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_BUFFER_BYTES = 256 * 1024**2
_LAPS = 4  # the first touches the target's pages

# Bytes and weights of a block of each type (llama.cpp, ggml-common.h).
_BLOCKS = {
    "F32": (4, 1),
    "F16": (2, 1),
    "BF16": (2, 1),
    "Q4_0": (18, 32),
    "Q4_1": (20, 32),
    "Q5_0": (22, 32),
    "Q5_1": (24, 32),
    "Q8_0": (34, 32),
    "Q2_K": (84, 256),
    "Q3_K": (110, 256),
    "Q4_K": (144, 256),
    "Q5_K": (176, 256),
    "Q6_K": (210, 256),
    "IQ4_NL": (18, 32),
    "IQ4_XS": (136, 256),
    "MXFP4": (17, 32),
}


def memory_bytes_per_s() -> float:
    """Bytes a second that this machine reads, in as many threads as there are processors, up to 16.

    The larger of two: a scan of memory for a byte that is not in it, and a copy, of which both
    sides go over the bus, as in STREAM (McCalpin, 1995).
    """
    threads = min(os.cpu_count() or 1, 16)
    source, target = (ctypes.create_string_buffer(_BUFFER_BYTES) for _ in range(2))
    ctypes.memset(source, 1, _BUFFER_BYTES)  # touched, so that its pages are there
    share_bytes = _BUFFER_BYTES // threads
    begins = [number * share_bytes for number in range(threads)]
    from_, to = ctypes.addressof(source), ctypes.addressof(target)
    bytes_per_s = 2 * _bytes_per_s(
        [(ctypes.memmove, to + at, from_ + at, share_bytes) for at in begins]
    )
    scan = getattr(ctypes.CDLL(None), "memchr", None) if os.name == "posix" else None
    if scan is not None:
        scan.restype, scan.argtypes = (
            ctypes.c_void_p,
            (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t),
        )
        bytes_per_s = max(
            bytes_per_s, _bytes_per_s([(scan, from_ + at, 2, share_bytes) for at in begins])
        )
    return bytes_per_s


def read_bytes(tensors: Sequence[Mapping[str, Any]], model_info: Mapping[str, Any]) -> int | None:
    """What of a model is read for one token.

    Not the table of embeddings, of which that is a row, unless it is the output's matrix too; and
    of experts only those that are used.

    Args:
        tensors: Name, type and shape of each, as the daemon shows them.
        model_info: The file's metadata.

    Returns:
        None where a type is not known, or nothing is.
    """
    names = {str(tensor.get("name")) for tensor in tensors}
    total = 0.0
    for tensor in tensors:
        name = str(tensor.get("name"))
        if name == "token_embd.weight" and "output.weight" in names:
            continue
        if str(tensor.get("type")) not in _BLOCKS:
            return None
        block_bytes, block = _BLOCKS[str(tensor["type"])]
        share = _used_experts(model_info) if "_exps." in name else 1.0
        total += share * math.prod(map(int, tensor.get("shape", ()))) * block_bytes / block
    return round(total) or None


def _bytes_per_s(calls: Sequence[tuple[Callable[..., object], int, int, int]]) -> float:
    """Bytes a second of calls that run at once; through ctypes the interpreter's lock is free."""
    best_s = math.inf
    for _ in range(_LAPS):
        workers = [threading.Thread(target=call, args=rest) for call, *rest in calls]
        begun_s = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best_s = min(best_s, time.perf_counter() - begun_s)
    return sum(size_bytes for *_, size_bytes in calls) / best_s


def _used_experts(model_info: Mapping[str, Any]) -> float:
    architecture = model_info.get("general.architecture")
    used = model_info.get(f"{architecture}.expert_used_count")
    count = model_info.get(f"{architecture}.expert_count")
    if isinstance(used, int) and isinstance(count, int) and 0 < used <= count:
        return used / count
    return 1.0
