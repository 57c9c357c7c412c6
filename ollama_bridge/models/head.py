"""From hidden states to logits, as each architecture does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class VocabularyHead(nn.Module):
    """The vocabulary projection and what follows it.

    Granite divides its logits (``logits_scaling``), Gemma 2 bends them
    (``final_logit_softcapping``; arXiv 2408.00118, section 2).

    Args:
        model: A transformers ``...ForCausalLM``; the projection is its own, not a copy.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.projection = model.get_output_embeddings()
        self._divisor = getattr(model.config, "logits_scaling", None)
        self._cap = getattr(model.config, "final_logit_softcapping", None)

    @property
    def vocabulary(self) -> int:
        """Tokens that it gives a logit."""
        return int(self.projection.weight.shape[0])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of hidden states (N, D), in the type of the product."""
        logits: torch.Tensor = self.projection(hidden)
        if self._divisor is not None:
            logits = logits / self._divisor
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits
