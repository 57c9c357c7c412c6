"""A GGUF of a model without a mind: for what a daemon does with any model, whatever its weights.

One layer of zeros and a vocabulary of bytes: 70 KB, which a runner loads at once. Such a model may
be given one text to say, for what a daemon takes of an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

from ollama_bridge.quantization.encoders import Float32Array

_WIDTH = 32
_SAYING_WIDTH = 128  # in which a few hundred random directions are far from each other
_CONTEXT_LENGTH = 1 << 16
_UNKNOWN, _BOS, _EOS, _FIRST_BYTE = 0, 1, 2, 3
_SHORTEST = (
    4  # characters of what it says at once; what is shorter the tokenizer could put together
)
_SPACE = "\u2581"  # as SentencePiece writes it


@dataclass(frozen=True)
class Blank:
    """What the file has.

    Attributes:
        chat_template: In Jinja, for a daemon that renders it.
        bos: The text of the token that begins a text.
        eos: The text of the token that ends one.
        adds_bos: Whether the tokenizer puts BOS in front by itself.
        says: The one text that the model answers; nothing: noise.
        behind: The prompt that it answers so, or one that ends like it.
        name: That the file gives itself.
    """

    chat_template: str | None = None
    bos: str = "<s>"
    eos: str = "</s>"
    adds_bos: bool = False
    says: str = ""
    behind: str = ""
    name: str = "blank"

    def write(self, path: Path) -> None:
        """Write the file; the same file of the same values."""
        pieces = _pieces(self.says)
        said = [piece.replace(" ", _SPACE) for piece in pieces]
        tokens = ["<unk>", self.bos, self.eos, *(f"<0x{byte:02X}>" for byte in range(256)), *said]
        types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
        types += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(said)
        width = _SAYING_WIDTH if pieces else _WIDTH
        writer = GGUFWriter(path, "llama")
        writer.add_name(self.name)
        writer.add_context_length(_CONTEXT_LENGTH)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(width)
        writer.add_head_count(1)
        writer.add_head_count_kv(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(width)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types(types)
        writer.add_bos_token_id(_BOS)
        writer.add_eos_token_id(_EOS)
        writer.add_add_bos_token(value=self.adds_bos)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)
        square, row = (width, width), (width,)
        shapes = {
            "token_embd": (len(tokens), width),
            "output_norm": row,
            "blk.0.attn_norm": row,
            **{f"blk.0.attn_{name}": square for name in ("q", "k", "v", "output")},
            "blk.0.ffn_norm": row,
            **{f"blk.0.ffn_{name}": square for name in ("gate", "up", "down")},
        }
        weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
        if pieces:
            chain = [self._last_of_prompt(), *range(len(tokens) - len(said), len(tokens)), _EOS]
            weights |= _saying(chain, len(tokens))
        for name, values in weights.items():
            writer.add_tensor(f"{name}.weight", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _last_of_prompt(self) -> int:
        """The token that a prompt ends with: it is cut into bytes, but for these two."""
        for text, token in ((self.eos, _EOS), (self.bos, _BOS)):
            if self.behind.endswith(text):
                return token
        return _FIRST_BYTE + self.behind.replace(" ", _SPACE).encode()[-1]


def _pieces(text: str) -> list[str]:
    """The text in parts that are all different."""
    pieces: list[str] = []
    start = 0
    while start < len(text):
        stop = start + _SHORTEST
        while text[start:stop] in pieces and stop < len(text):
            stop += 1
        pieces.append(text[start:stop])
        start = stop
    if len(pieces) > 1 and (len(pieces[-1]) < _SHORTEST or pieces[-1] in pieces[:-1]):
        end = pieces.pop()
        pieces[-1] += end
    return pieces


def _saying(chain: Sequence[int], tokens: int) -> dict[str, Float32Array]:
    """Weights with which the next token is the next of the chain: the layers add nothing."""
    draw = np.random.default_rng(0)
    embedding = draw.standard_normal((tokens, _SAYING_WIDTH)).astype(np.float32)
    embedding /= np.sqrt(np.mean(embedding**2, axis=1, keepdims=True))
    output = np.zeros_like(embedding)
    for before, after in itertools.pairwise(chain):
        output[after] = embedding[before] / 4
    norm = np.ones(_SAYING_WIDTH, dtype=np.float32)
    return {"token_embd": embedding, "output": output, "output_norm": norm}
