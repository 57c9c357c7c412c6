"""Which files of a folder hold its weights; nothing is loaded to say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from ollama_bridge.errors import ModelError
from ollama_bridge.models.paths import dangling, is_file

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MODULES_NAME = "modules.json"  # of sentence-transformers: what it does with a model's vectors

# FSDP, as accelerate saves it; the folder beside it holds the optimizer in the same format.
_OPTIMIZER = "optimizer"
_GATHER_ZERO = "zero_to_fp32.py"  # DeepSpeed puts it beside each of its checkpoints
_SHARDS = "model-*-of-*.safetensors"


def weights_files(folder: Path) -> list[Path]:
    """``model.safetensors``, or the shards that its index names; what else lies there is no weight.

    Raises:
        ModelError: there are none, or a shard is missing.
    """
    single = folder / WEIGHTS_NAME
    if single.is_file():
        return [single]
    index = folder / INDEX_NAME
    if not index.is_file():
        linked = dangling(single) or dangling(index)
        raise linked or pieces_of_training(folder) or _without_index(folder) or _no_weights(folder)
    return _shards(index)


def pieces_of_training(folder: Path) -> ModelError | None:
    """Why the weights of a training in parallel cannot be read, where a folder holds its pieces."""
    return _of_fsdp(folder) or _of_deepspeed(folder)


def _of_fsdp(folder: Path) -> ModelError | None:
    pieces = next(_distributed(folder), None)
    if pieces is None:
        return None
    hint = (
        "gather them where you trust them: accelerate merge-weights "
        f"{quote(str(pieces))} {quote(str(folder))}"
    )
    if not (folder / "config.json").is_file():
        hint += "; then copy config.json and the tokenizer of the model that it began with there"
    return ModelError(
        f"{folder} holds its weights in the pieces of a training in parallel (FSDP: {pieces.name})",
        hint=hint,
    )


def _distributed(folder: Path) -> Iterator[Path]:
    """Folders of torch.distributed's checkpoints in it."""
    for path in sorted(folder.glob("*/.metadata")):
        if not path.parent.name.startswith(_OPTIMIZER):
            yield path.parent


def _of_deepspeed(folder: Path) -> ModelError | None:
    if not (folder / _GATHER_ZERO).is_file():
        return None
    script, place = quote(str(folder / _GATHER_ZERO)), quote(str(folder))
    return ModelError(
        f"{folder} holds its weights in the pieces of a training in parallel (DeepSpeed)",
        hint=f"gather them where you trust them: python {script} {place} {place} "
        "--safe_serialization",
    )


def _without_index(folder: Path) -> ModelError | None:
    shards = sorted(path.name for path in folder.glob(_SHARDS))
    if not shards:
        return None
    return ModelError(
        f"{folder} holds {shards[0]}, and no {INDEX_NAME}, which names all of them",
        hint="get the checkpoint again, with that file",
    )


def _no_weights(folder: Path) -> ModelError:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    hint = "save the model with model.save_pretrained(folder)"
    if others:
        hint = (
            f"there is {', '.join(others[:3])}: if that is the model as transformers saves it, "
            f"call it {WEIGHTS_NAME}; else load it with what wrote it, and " + hint
        )
    return ModelError(f"{folder} has no {WEIGHTS_NAME}", hint=hint)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelError(
            f"{index} cannot be read: {exc!r}", hint="get the checkpoint again, with that file"
        ) from exc
    if not names:
        raise ModelError(f"{index} names no file", hint="get the checkpoint again")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index} names the file {name!r}, which lies outside the folder")
    missing = [name for name in names if not is_file(index.parent / name)]
    if missing:
        if error := dangling(index.parent / missing[0]):
            raise error
        told = ", ".join(map(repr, missing[:3]))
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        is_missing = "is missing" if len(missing) == 1 else "are missing"
        raise ModelError(
            f"{index} names {len(names)} files, of which {told}{more} {is_missing}",
            hint="get what is missing: a download that was stopped goes on where it is run again",
        )
    return [index.parent / name for name in names]
