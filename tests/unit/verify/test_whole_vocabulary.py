"""All of a vocabulary, held against what our converter would write."""

from __future__ import annotations

import pytest
from fakes.sentencepiece import RUN

from ollama_bridge.verify.whole_vocabulary import check_whole_vocabulary

TOKENS = ["<unk>", "<|im_start|>", "<|im_end|>", "a", "b", "Yes", "No"]
WHOLE = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [*TOKENS[:-1], "[PAD6]"],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 5],
    "tokenizer.ggml.merges": ["a b", "Y es", "N o"],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "<unused0>"]}, None),
        ({"tokenizer.ggml.token_type": [3, 3, 4, 1, 1, 6, 1]}, None),
        ({"tokenizer.ggml.token_type": []}, None),
        ({"tokenizer.ggml.tokens": [*TOKENS[:3], "b", "a", "Yes"]}, "token 3 is 'a' in the"),
        ({"tokenizer.ggml.tokens": TOKENS[:5]}, "token 5 is 'Yes' in the checkpoint, missing"),
        (
            {"tokenizer.ggml.token_type": [2, 3, 3, 1, 3, 1, 5]},
            "token 4 ('b') is special in the GGUF, ordinary in the checkpoint",
        ),
        (
            {"tokenizer.ggml.token_type": [2, 1, 3, 1, 1, 1, 5]},
            "token 1 ('<|im_start|>') is ordinary in the GGUF, special in the checkpoint",
        ),
        (
            {"tokenizer.ggml.token_type": [2, 3, 3, 1, 5, 1, 5]},
            "token 4 ('b') is unused in the GGUF: Ollama prints nothing of it",
        ),
        (
            {"tokenizer.ggml.model": "llama"},
            "tokenizer.ggml.model is 'llama' in the GGUF, 'gpt2' in the checkpoint",
        ),
        (
            {"tokenizer.ggml.merges": ["a b", "N o", "Y es"]},
            "merge 1 is 'Y es' in the checkpoint, 'N o' in the GGUF (of 3 in the checkpoint, 3 in",
        ),
        (
            {"tokenizer.ggml.merges": ["a b"]},
            "merges are lost or added at the end: of 3 in the checkpoint, 1 in the GGUF",
        ),
    ],
)
def test_all_of_a_vocabulary_is_compared(change: dict[str, object], message: str | None) -> None:
    """What no probe has, too; but what nobody uses may be called as anybody likes."""
    check = check_whole_vocabulary(WHOLE, WHOLE | change)
    assert check.layer == "tokenizer"
    assert check.passed == (message is None)
    assert message is None or message in str(check.difference)


@pytest.mark.parametrize("text", [RUN, RUN.replace("\u2581", " ")])
def test_spaces_of_sentencepiece_may_be_written_in_two_ways(text: str) -> None:
    """In added tokens, as converters of either kind do."""
    wanted = {"tokenizer.ggml.tokens": [RUN], "tokenizer.ggml.token_type": [1]}
    metadata = {
        "tokenizer.ggml.tokens": [text],
        "tokenizer.ggml.token_type": [4],
        "tokenizer.ggml.model": "llama",
    }
    assert check_whole_vocabulary(wanted, metadata).passed


PIECES = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [
        "<unk>",
        "</s>",
        "<0x41>",
        "a",
        "b",
        "ab",
        "ba",
        "aba",
        "\u2581\u2581",
    ],
    "tokenizer.ggml.token_type": [2, 3, 6, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.scores": [-1e9, -1e9, -1e9, -1e9, -1e9, 0.0, -1.0, -2.0, -3.0],
}
SAME_ORDER = [0.0, 0.0, 0.0, -9.0, -8.0, -259.0, -260.5, -260.5, -1000.0]
ANOTHER_ORDER = [0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -5.0, -4.0, -6.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.scores": SAME_ORDER}, None),
        (
            {
                "tokenizer.ggml.scores": [*SAME_ORDER[:-1], 0.0],
                "tokenizer.ggml.token_type": [2, 3, 6, 1, 1, 1, 1, 1, 4],
            },
            None,
        ),
        (
            {"tokenizer.ggml.scores": ANOTHER_ORDER},
            "token 7 ('aba') is put together before token 6 ('ba') by the scores in the GGUF",
        ),
        ({"tokenizer.ggml.scores": [0.0] * 9}, "tokenizer.ggml.scores are all 0: texts are split"),
        ({"tokenizer.ggml.scores": None}, "tokenizer.ggml.scores has 0 of 9 scores"),
        (
            {"tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1, 1, 1, 1]},
            "token 2 ('<0x41>') is a text in the GGUF, a byte in the checkpoint",
        ),
        (
            {"tokenizer.ggml.token_type": [2, 3, 6, 6, 1, 1, 1, 1, 1]},
            "token 3 ('a') is a byte in the GGUF, a text in the checkpoint",
        ),
        (
            {"tokenizer.ggml.token_type": None},
            "token 0 ('<unk>') is ordinary in the GGUF, special in the checkpoint",
        ),
    ],
    ids=[
        *("other numbers of one order", "a run that is found as a whole", "another order"),
        *("all alike", "lost", "a byte as a text", "a text as a byte", "no types"),
    ],
)
def test_pieces_of_sentencepiece_are_put_together_alike(
    change: dict[str, object], message: str | None
) -> None:
    """The order of the scores counts, not what they are; and what stands for a byte."""
    check = check_whole_vocabulary(PIECES, PIECES | change)
    assert check.layer == "tokenizer"
    assert check.passed == (message is None), check.difference
    assert message is None or message in str(check.difference)
