"""Whether a daemon can print the tags that thoughts end with."""

from __future__ import annotations

import pytest
from fakes.serving import small_reference

from ollama_bridge.errors import ParityError
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.reference import ReferenceValues, ServedTemplate
from ollama_bridge.verify.certificate import Certificate
from ollama_bridge.verify.thinking import check_thinking_tags

GO = (
    "{{ range .Messages }}{{ if .Thinking }}<think>\n{{ .Thinking }}\n</think>{{ end }}"
    "{{ .Content }}<|im_end|>{{ end }}"
)
TAG = Modelfile("m.gguf", template=GO)
TOKENS = ["<unk>", "<|im_start|>", "<|im_end|>", "a", "<think>", "</think>"]


def thinker(*capabilities: str) -> ReferenceValues:
    """Of a tag with a TEMPLATE that shows thoughts."""
    template = ServedTemplate(
        authority="template", go=GO, reason="a test", capabilities=capabilities, conversations=1
    )
    return small_reference().model_copy(update={"template": template})


def metadata(*types: int) -> dict[str, object]:
    """Of a GGUF with a type for each tag."""
    return {
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [2, 3, 3, 1, *types],
    }


@pytest.mark.parametrize(
    ("types", "unprinted"),
    [((4, 4), ""), ((1, 1), ""), ((4, 3), "'</think>'"), ((3, 3), "'<think>' and '</think>'")],
)
def test_a_special_tag_is_named(types: tuple[int, int], unprinted: str) -> None:
    """Ollama would take a whole answer for thoughts."""
    check = check_thinking_tags("0.34.4", thinker("thinking"), TAG, metadata(*types))
    assert check.passed == (not unprinted)
    certificate = Certificate(
        tag="t:latest", type="f16", daemon_version="0.34.4", blob_digest="sha256:0", checks=(check,)
    )
    if not unprinted:
        certificate.raise_if_failed()
        return
    with pytest.raises(ParityError, match=f"the GGUF has {unprinted} as special") as caught:
        certificate.raise_if_failed()
    # The tokenizer says the same: an earlier version, or another converter, wrote it as it is.
    assert "ollama-bridge package CHECKPOINT TAG" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("version", "reference", "modelfile", "more"),
    [
        ("0.24.0", thinker("thinking"), TAG, {}),
        ("0.34.4", thinker("tools"), TAG, {}),
        ("0.34.4", small_reference(), TAG, {}),
        ("0.34.4", thinker("thinking"), Modelfile("m.gguf", parser="qwen3"), {}),
        ("0.34.4", thinker("thinking"), TAG, {"tokenizer.chat_template": "{{ messages }}"}),
    ],
    ids=["an old daemon", "lists no thinking", "shows no thoughts", "a parser", "a Jinja"],
)
def test_where_the_tags_are_printed_or_not_looked_for_no_type_is_wrong(
    version: str, reference: ReferenceValues, modelfile: Modelfile, more: dict[str, object]
) -> None:
    """Special tokens are no difference there."""
    checked = check_thinking_tags(version, reference, modelfile, metadata(3, 3) | more)
    assert checked.passed
