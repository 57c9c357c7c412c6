"""Writes the GGUF file, one tensor after another.

Memory is bounded by the largest tensor: sizes are known from the plans, so header and table are
written first, and each tensor is read, encoded and written before the next. The same input gives
the same bytes; no time and no path is in the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from gguf.gguf_writer import GGUFWriter

from ollama_bridge.artifacts import raise_if_disk_full
from ollama_bridge.conversion.encoding import FileType, encode, encoded_size, encoding_of
from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.errors import ConversionError, DiskFullError
from ollama_bridge.models.architectures.entries import Entry


def write_gguf(
    path: Path,
    *,
    architecture: str,
    entries: Sequence[Entry],
    plans: Sequence[TensorPlan],
    type_: FileType,
    on_tensor: Callable[[int], None],
) -> None:
    """Write one model.

    Args:
        path: Where to.
        architecture: ``general.architecture``.
        entries: All other metadata.
        plans: The tensors, in order.
        type_: Of the matrices.
        on_tensor: Told how many tensors are written.

    Raises:
        ConversionError: a key comes twice, or a tensor cannot be encoded.
        DiskFullError: there is no room.
    """
    keys = [entry.key for entry in entries]
    doubled = {key for key in keys if keys.count(key) > 1}
    if doubled:
        raise ConversionError(f"metadata keys come twice: {', '.join(sorted(doubled))}")
    writer = GGUFWriter(path, architecture)
    for entry in entries:
        writer.add_key_value(entry.key, entry.value, entry.type, entry.element_type)
    encodings = [encoding_of(plan.name, plan.shape, type_) for plan in plans]
    for plan, encoding in zip(plans, encodings, strict=True):
        # The logical shape goes with any type but uint8, which would mean a shape in bytes.
        size_bytes = encoded_size(plan.shape, encoding)
        writer.add_tensor_info(
            plan.name, plan.shape, np.dtype(np.float32), size_bytes, raw_dtype=encoding
        )
    try:
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for index, (plan, encoding) in enumerate(zip(plans, encodings, strict=True)):
                values = np.ascontiguousarray(plan.load().numpy())
                writer.write_tensor_data(encode(plan.name, values, encoding))
                on_tensor(index + 1)
            writer.flush()
        except BaseException:
            with contextlib.suppress(OSError):  # closing flushes again; the first error counts
                writer.close()
            raise
        writer.close()
    except OSError as exc:
        # numpy's tofile says "N requested and M written" and gives no errno
        if exc.errno is None:
            raise DiskFullError(path) from exc
        raise_if_disk_full(exc, path)
        raise
