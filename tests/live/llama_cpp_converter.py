"""Runs a converter of llama.cpp on a checkpoint with a made-up tokenizer.

It names a pre-tokenizer by a hash over token ids, which a vocabulary of our own cannot have, and
reads some tokenizers from a file of SentencePiece only: it is told the name, and to read
``tokenizer.json``. All the rest is its own code.

Usage: llama_cpp_converter.py LLAMA_CPP SCRIPT ARGUMENTS...
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Change what is named above, and run the script with the arguments that are left."""
    source = Path(sys.argv[1])
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion.base import TextModel
    from conversion.gemma import Gemma2Model, Gemma3Model
    from conversion.phi import Phi3MiniModel

    def no_sentencepiece(_: object) -> None:
        raise FileNotFoundError("tokenizer.model")

    TextModel.get_vocab_base_pre = lambda *_: "smollm"
    TextModel._set_vocab_sentencepiece = no_sentencepiece
    for model in (Gemma2Model, Gemma3Model, Phi3MiniModel):
        model.set_vocab = TextModel._set_vocab_gpt2
    script = source / sys.argv[2]
    sys.argv = [str(script), *sys.argv[3:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
