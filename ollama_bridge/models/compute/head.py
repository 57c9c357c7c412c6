"""From hidden states to logits, as each architecture does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.weak import WeakTensorKeyDictionary

from ollama_bridge.models.compute.precision import product_dtype

# Of the logits of a position so many are computed again where they were rounded: more than are
# rounded to one number at the top.
_LARGEST = 8

# Of parameters that are not trained: (address, version, type), and the cast. A student's matrix may
# also be its teacher's.
_CASTS = WeakTensorKeyDictionary()


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

    def cast(self, name: str, *, dtype: torch.dtype) -> torch.Tensor:
        """A parameter without gradient in another type; of one that is not trained kept for later.

        A step needs the cast where it holds most anyway, so keeping it makes no peak higher.
        """
        parameter = self.get_parameter(name)
        if parameter.requires_grad or parameter.dtype == dtype:
            return parameter.detach().to(dtype)
        now = (parameter.data_ptr(), parameter._version, dtype)
        if parameter not in _CASTS or _CASTS[parameter][0] != now:
            _CASTS[parameter] = (now, parameter.detach().to(dtype))
        kept: torch.Tensor = _CASTS[parameter][1]
        return kept

    @torch.no_grad()
    def frozen_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of hidden states (N, D) by kept casts, where nothing is trained."""
        dtype = product_dtype(hidden)
        casts = {name: self.cast(name, dtype=dtype) for name, _ in self.named_parameters()}
        logits: torch.Tensor = functional_call(self, casts, (hidden,))
        return logits

    def logits_of(self, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, k) of some tokens alone, of the same factors, but in float32.

        In bfloat16 logits from 16 to 32 are 0.125 apart: of two tokens that are nearly as likely
        nobody can tell which one is likelier.

        Args:
            tokens: (k,) ids.
            hidden: (N, D) hidden states.
        """
        dtype = product_dtype(hidden)
        parts = [hidden, self.projection.weight[tokens]]
        if self.projection.bias is not None:
            parts.append(self.projection.bias[tokens])
        with torch.autocast(hidden.device.type, enabled=False):
            logits = nn.functional.linear(*(part.to(dtype).float() for part in parts))
            return self._bent(logits)

    def largest(
        self, hidden: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens (N, k) by their ids, which rise, and their logits in float32.

        Args:
            hidden: (N, D) hidden states.
            logits: (N, V) of these, rounded to the type of the product.
        """
        ids = logits.topk(min(_LARGEST, logits.shape[-1])).indices.sort(-1).values
        dtype = product_dtype(hidden)
        # A projection with an adapter has no row of its own for a token.
        if dtype == torch.float32 or not isinstance(self.projection, nn.Linear):
            return ids, logits.gather(-1, ids).float()
        rows, states = self.projection.weight[ids], hidden[:, :, None]
        with torch.autocast(hidden.device.type, enabled=False):
            found = (rows.to(dtype).float() @ states.to(dtype).float())[:, :, 0]
            if self.projection.bias is not None:
                found = found + self.projection.bias[ids].to(dtype).float()
            return ids, self._bent(found)

    def likeliest(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Ids (N,) of the likeliest tokens: of equal rounded logits the lower id would always win.

        Args:
            hidden: (N, D) hidden states.
            logits: (N, V) of these, rounded to the type of the product.
        """
        if product_dtype(hidden) == torch.float32:
            return logits.argmax(-1)
        ids, found = self.largest(hidden, logits)
        return ids.gather(-1, found.argmax(-1, keepdim=True))[:, 0]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of hidden states (N, D), in the type of the product."""
        return self._bent(self.projection(hidden))

    def _bent(self, logits: torch.Tensor) -> torch.Tensor:
        """Divided, or bent, as the architecture does it."""
        if self._divisor is not None:
            logits = logits / self._divisor
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits
