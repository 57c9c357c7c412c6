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
        self._casts: dict[str, tuple[tuple[int, int, torch.dtype], torch.Tensor]] = {}

    @property
    def vocabulary(self) -> int:
        """Tokens that it gives a logit."""
        return int(self.projection.weight.shape[0])

    def cast(self, name: str, *, dtype: torch.dtype) -> torch.Tensor:
        """A parameter without gradient in another type; of one that is not trained kept for later.

        A step needs the cast where it holds most anyway, so keeping it makes no peak higher.

        Args:
            name: Of the parameter.
            dtype: The type.
        """
        parameter = self.get_parameter(name)
        if parameter.requires_grad or parameter.dtype == dtype:
            return parameter.detach().to(dtype)
        now = (parameter.data_ptr(), parameter._version, dtype)
        if name not in self._casts or self._casts[name][0] != now:
            self._casts[name] = (now, parameter.detach().to(dtype))
        return self._casts[name][1]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of hidden states (N, D), in the type of the product."""
        logits: torch.Tensor = self.projection(hidden)
        if self._divisor is not None:
            logits = logits / self._divisor
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits
