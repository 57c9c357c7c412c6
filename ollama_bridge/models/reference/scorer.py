"""What a model makes of prompts and answers, token by token, and how far rounding moves that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ollama_bridge.models.compute.cache import as_argument, cache_of
from ollama_bridge.models.reference.rounding import rounded
from ollama_bridge.models.reference.scored_texts import ScoredTexts, Text
from ollama_bridge.quantization.mixes import TypePlan
from ollama_bridge.reference import SERVED_TOP, Noise, TokenScore

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

GREEDY_TOKENS = 48


class Scorer:
    """Log-probabilities of a float32 model on the CPU."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._texts: dict[int, str | None] = {}
        self._compared = ScoredTexts()  # where a daemon is asked
        self._anchor = tokenizer("a", add_special_tokens=False).input_ids
        self._anchor_text = self._decode(self._anchor)

    def last_tops(self, prompts: Sequence[Sequence[int]]) -> list[tuple[TokenScore, ...]]:
        """The likeliest tokens after each prompt."""
        return [self.top(self._logprobs(prompt, keep=1)[0]) for prompt in prompts]

    def answer_logprobs(self, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
        """(len(answer) + 1, V) log-probabilities at every token of an answer and after it."""
        return self._logprobs((*prompt, *answer), keep=len(answer) + 1)

    def compare(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        logprobs: torch.Tensor,
        *,
        places: Sequence[int],
    ) -> None:
        """Count some places of an answer to what a daemon is compared at, for :meth:`noise`."""
        if places:
            end = places[-1]
            text = Text((*prompt, *answer[:end]), keep=end + 1)
            self._compared.add(text, logprobs[: end + 1], rows=places)

    def noise(self, plans: Mapping[str, TypePlan]) -> dict[str, Noise]:
        """How far rounding to each file type moves what a daemon is compared at.

        Args:
            plans: By file type: the type of each weight.
        """
        found = {}
        for name, types in plans.items():
            with rounded(self.model, types):
                moved = self._compared.noise(self.model)
            found[name] = Noise(
                max_difference=round(moved.max_difference, 5),
                mean_kl_nats=round(moved.mean_kl_nats, 7),
            )
        return found

    @torch.inference_mode()
    def greedy(
        self, prompt: Sequence[int], ends: Sequence[int], *, guess: Sequence[int] = ()
    ) -> tuple[list[int], bool]:
        """The likeliest token again and again, until an end token or the limit.

        Args:
            prompt: Token ids.
            ends: Tokens that end an answer.
            guess: How the answer may begin, or be: as far as it is right, one pass writes it.

        Returns:
            The answer, and whether an end token follows it.
        """
        answer, ended = self._agreed(prompt, ends, guess) if guess else ([], False)
        if ended:
            return answer, True
        ids, cache = torch.tensor([[*prompt, *answer]]), None
        for _ in range(GREEDY_TOKENS - len(answer)):
            output = self.model(input_ids=ids, use_cache=True, **as_argument(cache))
            token = int(output.logits[0, -1].argmax())
            if token in ends:
                return answer, True
            answer.append(token)
            ids, cache = torch.tensor([[token]]), cache_of(output)
        return answer, False

    def _agreed(
        self, prompt: Sequence[int], ends: Sequence[int], guess: Sequence[int]
    ) -> tuple[list[int], bool]:
        """As much of a guess as is the likeliest at each place, and whether an end token is next.

        Where the guess goes wrong, the likeliest token is known as well.
        """
        guess = guess[: GREEDY_TOKENS - 1]
        answer: list[int] = []
        likeliest = self.answer_logprobs(prompt, guess).argmax(dim=-1).tolist()
        for token, guessed in zip(likeliest, [*guess, None], strict=True):
            if token in ends:
                return answer, True
            answer.append(token)
            if token != guessed:
                break
        return answer, False

    def top(self, logprobs: torch.Tensor) -> tuple[TokenScore, ...]:
        """The likeliest of one position's (V,) log-probabilities.

        Rows that no token uses are among them: a daemon lists those too, without a text.
        """
        values, ids = logprobs.topk(min(SERVED_TOP, len(logprobs)))
        return tuple(
            TokenScore(token, self._text(token), round(min(value, 0.0), 5))
            for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        )

    def is_special(self, token: int) -> bool:
        """Whether a token is a mark and not text."""
        added = self.tokenizer.added_tokens_decoder.get(token)
        return added is not None and bool(added.special)

    def special_texts(self) -> tuple[str, ...]:
        """Names of the special tokens among the likeliest: old daemons print them as texts."""
        ids = sorted(token for token in self._texts if self.is_special(token))
        return tuple(self.tokenizer.convert_ids_to_tokens(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer; undecodable bytes show as U+FFFD."""
        return self._decode([*self._anchor, *ids])[len(self._anchor_text) :]

    @torch.inference_mode()
    def _logprobs(self, ids: Sequence[int], *, keep: int) -> torch.Tensor:
        """(keep, V) at the last positions: the vocabulary is wide, the rest is not built."""
        logits = self.model(
            input_ids=torch.tensor([list(ids)]), use_cache=False, logits_to_keep=keep
        ).logits
        return torch.log_softmax(logits[0].float(), dim=-1)

    def _text(self, token: int) -> str | None:
        if token not in self._texts:
            text = self.decode([token]).partition("\ufffd")[0]
            self._texts[token] = None if self.is_special(token) or not text else text
        return self._texts[token]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
