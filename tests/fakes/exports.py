"""Exported checkpoints, and what converters get wrong done to them on purpose."""

from __future__ import annotations

import fcntl
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fakes.ggufs import rewrite
from fakes.models import build_tiny_checkpoint

from ollama_bridge.conversion import convert
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.models.reference.values import write_reference_values
from ollama_bridge.recipe.config import ModelfileSection
from ollama_bridge.rendering import render
from ollama_bridge.storage.artifacts import Checkpoint, GGUFFile, Work
from ollama_bridge.storage.drafts import open_draft

# Of the real model in the live tier.
SYSTEM = "You are a terse assistant. Answer in one short sentence."


@dataclass(frozen=True)
class Exports:
    """One checkpoint in several GGUF types."""

    checkpoint: Checkpoint
    folder: Path

    def gguf(self, gguf_type: str) -> GGUFFile:
        """The checkpoint as a GGUF of one type, converted once."""
        with one_at_a_time(self.folder):
            return convert(self.checkpoint, type=gguf_type, out_dir=self.folder / gguf_type)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes that fill a folder in common do so one after the other."""
    with (folder / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tiny_exports(
    folder: Path,
    *,
    seed: int,
    system: str | None = None,
    layers: int = 2,
    kv_heads: int = 2,
    tied: bool = True,
    head_dim: int | None = None,
    chat_template: str | None = None,
) -> Exports:
    """A random checkpoint with reference values; a chat template of its own is not that of them."""
    work = Work("checkpoint", "test", 1, settings={"seed": seed, "system": system})
    with open_draft(folder / "checkpoint", work) as draft:
        build_tiny_checkpoint(
            draft.path,
            seed=seed,
            layers=layers,
            kv_heads=kv_heads,
            tied=tied,
            head_dim=head_dim,
        )
        write_reference_values(draft.path, system=system, labels=("positive", "negative"))
        if chat_template is not None:
            (draft.path / "chat_template.jinja").write_text(chat_template)
        return Exports(Checkpoint(folder / "checkpoint", draft.commit()), folder)


def modelfile_of(gguf: GGUFFile, system: str | None = None) -> Modelfile:
    """The Modelfile that a build would write."""
    return render(gguf, settings=ModelfileSection(), system=system)


def damaged(gguf: GGUFFile, folder: Path, damage: Callable[[Path], None]) -> GGUFFile:
    """A copy of an export, changed in its bytes, as an artefact whose digests are right."""
    with open_draft(folder, Work("gguf", "test", 1, settings={"damage": str(damage)})) as draft:
        for name in ("model.gguf", "reference.json"):
            shutil.copyfile(gguf.path / name, draft.path / name)
        damage(draft.path / "model.gguf")
        return GGUFFile(folder, draft.commit(gguf.facts))


def undo_permutation(path: Path) -> None:
    """Rows of q and k as Hugging Face has them: the classic mistake of converters."""
    contents = read_gguf(path)
    heads = {
        "attn_q": contents.metadata["llama.attention.head_count"],
        "attn_k": contents.metadata["llama.attention.head_count_kv"],
    }
    data = np.memmap(path, dtype=np.uint8, mode="r+")
    for info in contents.tensors.values():
        kind = info.name.split(".")[-2]
        if kind in heads:
            rows = data[info.offset : info.offset + info.size_bytes].reshape(info.shape[0], -1)
            halves = rows.reshape(heads[kind], info.shape[0] // heads[kind] // 2, 2, -1)
            rows[:] = halves.swapaxes(1, 2).reshape(rows.shape).copy()
    data.flush()


def lose_a_norm(path: Path) -> None:
    """One norm of the first layer is all ones."""
    info = read_gguf(path).tensors["blk.0.ffn_norm.weight"]
    data = np.memmap(path, dtype=np.uint8, mode="r+")
    data[info.offset : info.offset + info.size_bytes] = np.ones(info.shape, "<f4").view(np.uint8)
    data.flush()


def shift_a_norm(path: Path) -> None:
    """One norm of the first layer is one too large, as Gemma's are stored."""
    info = read_gguf(path).tensors["blk.0.attn_norm.weight"]
    data = np.memmap(path, dtype=np.uint8, mode="r+")
    data[info.offset : info.offset + info.size_bytes].view("<f4")[:] += 1
    data.flush()


def repeat_the_embedding(path: Path, *, factor: float = 1.0) -> None:
    """The output matrix of a tied model is written too, which llama.cpp then takes."""
    embedding = read_gguf(path).tensor("token_embd.weight") * np.float32(factor)
    longer = rewrite(
        path, path.with_suffix(".twice"), extra={"output.weight": embedding.astype(np.float16)}
    )
    longer.replace(path)


def turn_the_output(path: Path) -> None:
    """An output matrix that is not the embedding, of a model that ties them."""
    repeat_the_embedding(path, factor=-1.0)


def halve_a_window_of_2048(path: Path) -> None:
    """A Gemma's layers see less of a long text; no probe is one."""
    key = b"gemma2.attention.sliding_window"
    assert read_gguf(path).metadata[key.decode()] == 2048
    _overwrite(path, key, struct.pack("<I", 1024))


def set_add_bos(path: Path) -> None:
    """The daemon puts a BOS in front that the tokenizer does not."""
    _overwrite(path, b"tokenizer.ggml.add_bos_token", b"\x01")


def set_pre_tokenizer(path: Path) -> None:
    """Texts are split as another model's."""
    name = b"gpt-4o"
    key = b"tokenizer.ggml.pre"
    assert read_gguf(path).metadata[key.decode()] == "smollm"
    _overwrite(path, key, struct.pack("<Q", len(name)) + name)


def set_eos(path: Path) -> None:
    """eos_token_id is <|endoftext|> instead of the token that ends a turn."""
    _overwrite(path, b"tokenizer.ggml.eos_token_id", struct.pack("<I", 0))


def _overwrite(path: Path, key: bytes, value: bytes) -> None:
    """The value of a metadata key, by one of the same length."""
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 4
    content[at : at + len(value)] = value
    path.write_bytes(content)


def swap_tokens(path: Path) -> None:
    """Two tokens of the same length have changed places."""
    content = path.read_bytes()
    first, second = (struct.pack("<Q", 1) + letter for letter in (b"I", b"A"))
    content = content.replace(first, b"\0" * 9, 1).replace(second, first, 1)
    path.write_bytes(content.replace(b"\0" * 9, second, 1))


def swap_rare_tokens(path: Path) -> None:
    """Two of which no probe has one have changed places."""

    def swap(keys: dict[str, Any]) -> None:
        tokens = keys["tokenizer.ggml.tokens"]
        tokens[-31], tokens[-30] = tokens[-30], tokens[-31]

    rewrite(path, path.with_suffix(".swapped"), metadata=swap).replace(path)


def lose_a_merge(path: Path) -> None:
    """The last one."""

    def lose(keys: dict[str, Any]) -> None:
        del keys["tokenizer.ggml.merges"][-1]

    rewrite(path, path.with_suffix(".lost"), metadata=lose).replace(path)


def say_f16(path: Path) -> None:
    """The file says that it is of a finer type than its tensors are."""
    _overwrite(path, b"general.file_type", struct.pack("<I", 1))


def halve_the_context(path: Path) -> None:
    """To what every probe fits into."""
    key = b"llama.context_length"
    length = read_gguf(path).metadata[key.decode()]
    _overwrite(path, key, struct.pack("<I", length // 2))


def lose_the_scores(path: Path) -> None:
    """SentencePiece's are all alike, as a runtime takes them where there are none."""
    change_metadata(path, lambda keys: keys.update({"tokenizer.ggml.scores": None}))


def forget_bytes(path: Path) -> None:
    """What stands for a byte is a text."""
    types = "tokenizer.ggml.token_type"
    change_metadata(
        path, lambda keys: keys.update({types: [1 if one == 6 else one for one in keys[types]]})
    )


def change_metadata(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a GGUF with other metadata."""
    rewrite(path, path.with_suffix(".changed"), metadata=change).replace(path)


def without_stop(modelfile: Modelfile) -> Modelfile:
    """The same without PARAMETER stop."""
    parameters = {name: value for name, value in modelfile.parameters.items() if name != "stop"}
    return replace(modelfile, parameters=parameters)
