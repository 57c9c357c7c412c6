"""Answers that are nearly as likely, where torch computes in bfloat16."""

from __future__ import annotations

import pytest
import torch
from fakes.models import build_tiny_model_of_twins, build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.evaluation import classify
from ollama_bridge.evaluation.classify import score_labels
from ollama_bridge.evaluation.reply import write_greedily
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.reporting import NullReporter

BFLOAT16 = Precision(torch.device("cpu"), torch.bfloat16, 1)


def unrounded(model: CausalModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of the factors that bfloat16 has, and no fewer digits."""
    with torch.autocast("cpu", enabled=False):
        logits: torch.Tensor = VocabularyHead(model)(hidden.bfloat16().float())
    return logits


@pytest.mark.parametrize("labels", [("a", "b"), ("good", "good food", "awful")])
def test_labels_have_the_probabilities_of_unrounded_logits(
    labels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several tokens, too: each is a share of a sum, and no sum is the other labels'."""
    model, tokenizer = build_tiny_model_of_twins(), build_tiny_tokenizer()
    examples = sentiment_examples(12, name="t")

    def scored() -> classify.LabelScores:
        return score_labels(
            model,
            tokenizer,
            examples,
            labels,
            precision=BFLOAT16,
            stage="s",
            reporter=NullReporter(),
        )

    found = scored()
    monkeypatch.setattr(classify, "vocabulary_logits", unrounded)
    exact = scored()
    assert (found.log_probs <= 0).all()
    assert found.log_probs == pytest.approx(exact.log_probs, abs=0.02)
    assert found.says_label == exact.says_label


def test_greedy_answers_begin_with_the_likelier_token() -> None:
    """The first of two equal logits is no maximum."""
    model, tokenizer = build_tiny_model_of_twins(), build_tiny_tokenizer()
    examples = sentiment_examples(40, name="t")
    answers = write_greedily(
        model,
        tokenizer,
        examples,
        max_tokens=1,
        precision=BFLOAT16,
        stage="s",
        reporter=NullReporter(),
    )
    likelier = 0
    for example, answer in zip(examples, answers, strict=True):
        turns = [turn.to_dict() for turn in example.prompt]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        with torch.no_grad(), BFLOAT16.autocast():
            last = model.base_model(torch.tensor([ids])).last_hidden_state[0, -1:]
        token = int(unrounded(model, last).argmax())
        likelier += answer.text == tokenizer.decode([token]).strip()
    assert likelier >= 38  # padding rounds hidden states otherwise
