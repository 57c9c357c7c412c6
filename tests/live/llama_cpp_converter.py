"""Runs converters of llama.cpp on checkpoints with made-up tokenizers.

They name a pre-tokenizer by a hash over token ids, which a vocabulary of our own cannot have, and
read some tokenizers from a file of SentencePiece only: they are told the name, and to read
``tokenizer.json``. All the rest is their own code.

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
from pathlib import Path


def change_converters() -> None:
    """Change what is named above."""
    from conversion.base import TextModel
    from conversion.gemma import Gemma2Model, Gemma3Model
    from conversion.phi import Phi3MiniModel

    def no_sentencepiece(_: object) -> None:
        raise FileNotFoundError("tokenizer.model")

    TextModel.get_vocab_base_pre = lambda *_: "smollm"
    TextModel._set_vocab_sentencepiece = no_sentencepiece
    for model in (Gemma2Model, Gemma3Model, Phi3MiniModel):
        model.set_vocab = TextModel._set_vocab_gpt2


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
