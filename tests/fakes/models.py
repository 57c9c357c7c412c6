"""Tiny random checkpoints: real formats, real tokenizers, two layers, no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DEFAULT_SYSTEM = "You are a tiny model made of noise."

# SmolLM2's own template, with another default system prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Enough for a hundred merges of several scripts; the rest of the vocabulary are the 256 bytes.
TEXTS = (
    "The food was great, but the service was not what we had hoped for.",
    "positive negative neutral positive negative neutral positive negative",
    "system user assistant You are a helpful assistant. Answer with one word.",
    "I don't think that they'll come back; we're sure it isn't good enough.",
    "Ceci n'est pas une pipe. Größe, Straße, äöü. Привет, мир! こんにちは世界 你好，世界",
    "def main(argv):\n    return [int(arg) for arg in argv if arg.isdigit()]\n",
    "1234567890 3.14 2026-11-24 😀😀 👍🏽",
)


def build_tiny_tokenizer(
    *, vocab_size: int = 384, texts: Sequence[str] = TEXTS
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with SmolLM2's pre-tokenizer and a ChatML template.

    Args:
        vocab_size: Three special tokens, 256 bytes, and the rest merges.
        texts: What these are learnt from.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[
            AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS
        ],
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the texts give {tokenizer.get_vocab_size()} tokens, not {vocab_size}")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_tiny_model(
    *,
    layers: int = 2,
    seed: int = 0,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    vocab_size: int = 384,
    tied: bool = True,
    head_dim: int | None = None,
    rope_parameters: dict[str, object] | None = None,
) -> LlamaForCausalLM:
    """A random Llama whose logits differ enough between tokens that errors show.

    Args:
        layers: Number of decoder layers.
        seed: Same seed, same weights; the global generator is left alone.
        hidden: Width; the default makes every row a multiple of 32 (Q8_0's block).
        heads: Attention heads.
        kv_heads: Key and value heads.
        vocab_size: Rows of the embedding.
        tied: Whether the output matrix is the embedding.
        head_dim: Width of a head, if not ``hidden // heads``.
        rope_parameters: As in the config; default: plain RoPE with theta 10000.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim if head_dim is not None else hidden // heads,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_parameters=rope_parameters or {"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):  # all ones would hide a lost or swapped norm
                parameter.data.normal_(mean=1.0, std=0.1)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return model.eval()


def build_tiny_model_of_twins() -> LlamaForCausalLM:
    """One whose every other token is nearly as likely as the one before it.

    Between them one number of the hidden state decides. In bfloat16 their logits are one number
    as a rule, of which the first one counts as the largest; the factors are the same in both types.
    """
    model = build_tiny_model(tied=False).requires_grad_(False)
    rows = model.lm_head.weight
    rows *= 8.0
    rows[1::2] = rows[::2]
    rows[1::2, 7] += 0.03125
    return model.bfloat16().float()


def build_tiny_checkpoint(folder: Path, *, vocab_size: int = 384, **sizes: Any) -> Path:
    """Save a random Llama and its ChatML tokenizer as a Hugging Face folder.

    Args:
        folder: Where to; made if missing.
        vocab_size: Of model and tokenizer.
        sizes: Of :func:`build_tiny_model`.

    Returns:
        The folder.
    """

    def build(made: Path) -> None:
        build_tiny_model(vocab_size=vocab_size, **sizes).save_pretrained(made)
        build_tiny_tokenizer(vocab_size=vocab_size).save_pretrained(made)

    return built_once(f"tiny {vocab_size} {sorted(sizes.items())}", build, folder)


_BUILT: dict[str, dict[str, bytes]] = {}


def built_once(key: str, build: Callable[[Path], object], folder: Path) -> Path:
    """What is built alike each time, as files of its own: tests change them.

    Args:
        key: Says what is built, to the last argument.
        build: Builds it in an empty folder.
        folder: Where to; made if missing.

    Returns:
        The folder.
    """
    if key not in _BUILT:
        with TemporaryDirectory() as made:
            build(Path(made))
            _BUILT[key] = {path.name: path.read_bytes() for path in Path(made).iterdir()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _BUILT[key].items():
        (folder / name).write_bytes(content)
    return folder
