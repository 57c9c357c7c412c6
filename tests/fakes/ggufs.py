"""GGUF files as others write them: other metadata, and block types that are not encoded here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Everything that occurs in the wild and can be decoded.
BLOCK_TYPES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)
_LARGEST = 1e4


def random_blocks(type_name: str, shape: tuple[int, ...], *, seed: int) -> np.ndarray[Any, Any]:
    """Blocks of any content whose values are finite and not absurd.

    Args:
        type_name: Such as ``Q4_K``.
        shape: Of the values, rows first.
        seed: Same seed, same bytes.

    Returns:
        uint8, a row of bytes for a row of values.
    """
    type_ = GGMLQuantizationType[type_name]
    block, block_bytes = GGML_QUANT_SIZES[type_]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (int(np.prod(shape)) // block, block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        values = dequantize(blocks, type_)
        bad = ~(np.abs(values) < _LARGEST).all(axis=1)  # scales that are huge or no numbers
    blocks[bad] //= 8  # small bytes are small numbers in every type
    return blocks.reshape(shape[0], -1)


def noise_blocks(
    type_name: str, shape: tuple[int, ...], *, std: float, seed: int
) -> np.ndarray[Any, Any]:
    """Blocks of a K-quant whose values are spread evenly around zero, as a model's are.

    Args:
        type_name: ``Q4_K`` or ``Q6_K``.
        shape: Of the values, rows first.
        std: Of the values.
        seed: Same seed, same bytes.
    """
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (int(np.prod(shape)) // block, block_bytes), dtype=np.uint8)
    if type_name == "Q4_K":  # scale * 32 * (0..15) - 7.5 * scale * 32
        scale = std / (32 * 4.61)
        blocks[:, :4] = np.array([scale, 7.5 * scale], dtype="<f2").view(np.uint8)
        blocks[:, 4:16] = [0xA0] * 8 + [0] * 4
    elif type_name == "Q6_K":  # scale * 32 * (-32..31)
        blocks[:, 192:208] = 32
        blocks[:, 208:] = np.array([std / (32 * 18.47)], dtype="<f2").view(np.uint8)
    else:
        raise ValueError(type_name)
    return blocks.reshape(shape[0], -1)


def rewrite(
    source: Path,
    target: Path,
    *,
    metadata: Callable[[dict[str, Any]], None] = lambda keys: None,
    types: Callable[[str], str | None] = lambda name: None,
    noise_std: float | None = None,
    extra: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """Copy a GGUF with other metadata, tensor types or more tensors.

    Args:
        source: The file to copy.
        target: Where to.
        metadata: Changes the keys in place; a value of None drops one.
        types: The block type of a matrix, filled with random blocks; None keeps it as it is.
        noise_std: Of the values of those blocks (of K-quants); None: blocks of any content.
        extra: Tensors that the source has not, by name.

    Returns:
        ``target``.
    """
    reader = GGUFReader(source)
    fields = {
        name: (field.contents(), field.types)
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    keys: dict[str, Any] = {name: value for name, (value, _) in fields.items()}
    metadata(keys)
    writer = GGUFWriter(target, "placeholder")
    writer.kv_data[0].clear()
    for name, value in keys.items():
        if value is not None:
            known = fields[name][1] if name in fields else [GGUFValueType.get_type(value)]
            element = known[-1] if isinstance(value, list) and len(known) > 1 else None
            writer.add_key_value(name, value, known[0], element)
    for index, tensor in enumerate(reader.tensors):
        wanted = types(tensor.name) if len(tensor.shape) > 1 else None
        if wanted is None:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if noise_std is None:
            blocks = random_blocks(wanted, shape, seed=index)
        else:
            blocks = noise_blocks(wanted, shape, std=noise_std, seed=index)
        writer.add_tensor(tensor.name, blocks, raw_dtype=GGMLQuantizationType[wanted])
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def decoded(path: Path) -> Mapping[str, np.ndarray[Any, Any]]:
    """Every tensor of a GGUF as the gguf package decodes it, by name."""
    return {
        tensor.name: dequantize(tensor.data, tensor.tensor_type).reshape(
            tuple(int(size) for size in reversed(tensor.shape))
        )
        for tensor in GGUFReader(path).tensors
    }


def metadata_of(gguf: Path | GGUFReader) -> dict[str, Any]:
    """Every key of a GGUF; of a large vocabulary, reading is what takes long."""
    reader = gguf if isinstance(gguf, GGUFReader) else GGUFReader(gguf)
    return {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
