"""Compares two lists of the likeliest next tokens: the reference's and a daemon's.

A daemon names tokens by text, twenty at most. Special tokens and parts of characters have no text
(version 0.34 prints '' or U+FFFD, and of a space with half a character only the space), so tokens
of one name are paired by rank. That can only make a difference look smaller among tokens that
cannot be told apart anyway.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ollama_bridge.reference import COMPARED_FLOOR, ReferenceValues, TokenScore


@dataclass(frozen=True)
class ServedScore:
    """A next token as the daemon names it."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Comparison:
    """One position, compared.

    Attributes:
        compared: Tokens above the floor that were compared.
        max_difference: Largest difference of their log-probabilities, in nats.
        token: Text of the token with that difference.
        kl_nats: KL(reference || daemon) over the shared tokens and one bucket for the rest:
            never more than the KL over the whole vocabulary.
    """

    compared: int
    max_difference: float
    token: str | None
    kl_nats: float


def compare_tops(
    reference: Sequence[TokenScore], served: Sequence[ServedScore], *, special: Iterable[str]
) -> Comparison:
    """Compare one position.

    Args:
        reference: The checkpoint's likeliest tokens, best first.
        served: The daemon's, best first.
        special: Texts that a daemon may print for tokens without a text of their own.
    """
    if not reference or not served:  # of nothing, nothing can be said
        return Comparison(0, math.inf, None, math.inf)
    special_texts = frozenset(special)
    wanted = _by_text(
        (_name(token.text or "", special_texts), token.logprob) for token in reference
    )
    found = _by_text((_name(token.text, special_texts), token.logprob) for token in served)
    # What is missing from a list is at most as likely as the last of it.
    wanted_end, found_end = reference[-1].logprob, served[-1].logprob
    compared, worst, worst_token = 0, 0.0, None
    pairs: list[tuple[float, float]] = []
    for text in wanted.keys() | found.keys():
        left, right = wanted.get(text, []), found.get(text, [])
        for rank in range(max(len(left), len(right))):
            if rank < len(left) and rank < len(right):
                pairs.append((left[rank], right[rank]))
                likelier = max(left[rank], right[rank])
                difference = abs(left[rank] - right[rank])
            elif rank < len(left):
                likelier, difference = left[rank], max(left[rank] - found_end, 0.0)
            else:
                likelier, difference = right[rank], max(right[rank] - wanted_end, 0.0)
            if likelier >= COMPARED_FLOOR:
                compared += 1
                if difference > worst:
                    worst, worst_token = difference, text
    return Comparison(compared, worst, worst_token, _kl(pairs))


def special_texts(reference: ReferenceValues) -> list[str]:
    """Texts that a daemon may print for tokens without a text of their own."""
    bos = [] if reference.bos is None else [reference.bos.text]
    ends = [token.text for token in reference.end_tokens]
    return [*ends, *bos, *reference.special_texts]


def _name(text: str, special: frozenset[str]) -> str | None:
    # Old daemons hand texts through C, where NUL ends them.
    return None if text in special else text.partition("\ufffd")[0].partition("\0")[0] or None


def _by_text(scores: Iterable[tuple[str | None, float]]) -> dict[str | None, list[float]]:
    grouped: dict[str | None, list[float]] = defaultdict(list)
    for text, logprob in scores:
        grouped[text].append(logprob)
    return {text: sorted(logprobs, reverse=True) for text, logprobs in grouped.items()}


def _kl(pairs: Sequence[tuple[float, float]]) -> float:
    kl = sum(math.exp(wanted) * (wanted - found) for wanted, found in pairs)
    rest = max(1.0 - sum(math.exp(wanted) for wanted, _ in pairs), 1e-9)
    served_rest = max(1.0 - sum(math.exp(found) for _, found in pairs), 1e-9)
    return max(kl + rest * math.log(rest / served_rest), 0.0)
