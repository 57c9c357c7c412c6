"""A GGUF of a model without a mind: for what a daemon does with any model, whatever its weights.

One layer of zeros and a vocabulary of bytes: 70 KB, which a runner loads at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

_WIDTH = 32
_CONTEXT_LENGTH = 1 << 16
_NAMED = ("<unk>", "<s>", "</s>")


def write_blank_gguf(path: Path) -> None:
    """Write the file."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("blank")
    writer.add_context_length(_CONTEXT_LENGTH)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH)
    tokens = [*_NAMED, *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(
        [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(value=False)
    square, row = (_WIDTH, _WIDTH), (_WIDTH,)
    shapes = {
        "token_embd": (len(tokens), _WIDTH),
        "output_norm": row,
        "blk.0.attn_norm": row,
        **{f"blk.0.attn_{name}": square for name in ("q", "k", "v", "output")},
        "blk.0.ffn_norm": row,
        **{f"blk.0.ffn_{name}": square for name in ("gate", "up", "down")},
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
