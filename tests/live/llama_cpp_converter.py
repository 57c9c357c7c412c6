"""Runs converters of llama.cpp on checkpoints with made-up tokenizers.

They name a pre-tokenizer by a hash over token ids, which a vocabulary of our own cannot have, and
read some tokenizers from a file of SentencePiece only: they are told the name, and to read
``tokenizer.json`` where there is no such file. What they ask SentencePiece about one, which is what
it lists, is answered without that library. All the rest is their own code.

Usage: llama_cpp_converter.py LLAMA_CPP SCRIPT ARGUMENTS...
       llama_cpp_converter.py LLAMA_CPP

Without a script it is a server: a JSON list [SCRIPT, ARGUMENTS...] a line on stdin, the exit code
of each on stdout. Each runs in a fork, so that none sees what another left, and what takes most of
the time with tiny models, the imports, is done once.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


class Pieces:
    """A ``SentencePieceProcessor`` that only tells what its file lists."""

    def __init__(self) -> None:
        self._pieces: Any = None

    def LoadFromFile(self, path: str) -> None:  # noqa: N802  theirs
        from transformers.utils.sentencepiece_model_pb2_new import ModelProto

        self._pieces = ModelProto.FromString(Path(path).read_bytes()).pieces

    def vocab_size(self) -> int:
        return len(self._pieces)

    def IdToPiece(self, id_: int) -> str:  # noqa: N802  theirs
        return str(self._pieces[id_].piece)

    def GetScore(self, id_: int) -> float:  # noqa: N802  theirs
        return float(self._pieces[id_].score)

    def __getattr__(self, name: str) -> Callable[[int], bool]:
        """IsUnknown, IsControl, IsUnused, IsByte."""
        return lambda id_: self._pieces[id_].type == self._pieces[id_].Type.Value(name[2:].upper())


def change_converters() -> None:
    """Change what is named above."""
    from conversion.base import TextModel
    from conversion.gemma import Gemma2Model
    from conversion.granite import GraniteModel
    from conversion.phi import Phi3MiniModel

    by_hash = TextModel.get_vocab_base_pre

    def told(self: Any, tokenizer: object) -> Any:
        try:
            return by_hash(self, tokenizer)
        except NotImplementedError:
            return "refact" if isinstance(self, GraniteModel) else "smollm"

    TextModel.get_vocab_base_pre = told
    sentencepiece: Any = ModuleType("sentencepiece")
    sentencepiece.SentencePieceProcessor = Pieces
    sys.modules["sentencepiece"] = sentencepiece
    for model in (Gemma2Model, Phi3MiniModel):
        model.set_vocab = or_json(model.set_vocab)


def or_json(set_vocab: Callable[[Any], None]) -> Callable[[Any], None]:
    """Reads ``tokenizer.json`` where there is no file of SentencePiece."""

    def read(self: Any) -> None:
        listed = (self.dir_model / "tokenizer.model").is_file()
        set_vocab(self) if listed else self._set_vocab_gpt2()

    return read


def run(script: Path, arguments: list[str]) -> None:
    """Run a script as if it had been started with these arguments."""
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def serve(source: Path) -> None:
    """Run what is asked for until stdin ends."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401  what they import when needed

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            script, *arguments = json.loads(line)
            run(source / script, arguments)
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def main() -> None:
    """One script, or a server of them."""
    source = Path(sys.argv[1])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    change_converters()
    if len(sys.argv) > 2:
        run(source / sys.argv[2], sys.argv[3:])
    else:
        serve(source)


if __name__ == "__main__":
    main()
