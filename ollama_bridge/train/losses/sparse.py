"""Losses against a part of the teacher's distribution: what a soft-label store keeps.

Letters: N positions, V vocabulary, k tokens kept of the teacher. As in ``vocabulary``: one value a
position, in nats, computed in float32 (float64 stays float64); gradients flow into the student's
argument only.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import NO_MASS_LOGPROB, SampledTargets, has_no_mass
from ollama_bridge.train.losses.loss_terms import check_matrix, check_same, wide
from ollama_bridge.train.losses.vocabulary import kl_forward, kl_reverse


class Divergence(Protocol):
    """A loss between two distributions."""

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, /, *, temperature: float
    ) -> torch.Tensor:
        """Its value on each of N positions, from (N, C) logits."""


def over_classes(
    divergence: Divergence,
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    has_rest: bool,
    temperature: float = 1.0,
) -> torch.Tensor:
    """A divergence over the classes of soft labels, where some may be without mass.

    The classes are the tokens that were kept, and all others as one, the rest (``split_logits``):

    - ``P_c = sum_{v in c} p_v`` at temperature 1, and Q of q alike;
    - ``P'_c = P_c^(1/T) / sum_j P_j^(1/T)``, and Q' of Q alike;
    - the value is that of ``divergence`` on P' and Q', T^2 (or T) included; of the forward KL
      ``T^2 * sum_c P'_c * (log P'_c - log Q'_c)``.

    So the student is told how much mass the rest has, but not how to share it out; nothing is
    renormalised away. At T = 1 this is a lower bound of the full divergence (summing classes loses
    information, never adds it). At T != 1 the rest is tempered as one class, which is not what
    tempering each of its tokens would give: that is unknown from a store; the value is still 0 if
    the student equals the teacher, and still >= 0.

    A token without mass in a store only fills up a list (of a trimmed vocabulary, of a daemon that
    names fewer): nothing was said of it alone, so it belongs to the rest, on both sides.

    A label that is certain is no distribution of the teacher's that could be tempered, but a hard
    label: there the value is that at T = 1, of the forward KL the cross-entropy. Times T^2 against
    a tempered student it would pull harder than hard labels do, and go on where these have been
    learnt.

    Source: that of the divergence; the bound of the KL is the log sum inequality, Cover and Thomas
    2006, "Elements of Information Theory", theorem 2.7.1.

    Args:
        divergence: Of ``vocabulary``; finite where the teacher excludes a class.
        student: (N, C) logits.
        teacher: (N, C) log-probabilities at temperature 1.
        has_rest: Whether the last class is all other tokens.
        temperature: T > 0.

    Returns:
        (N,) divergences >= 0.

    Raises:
        TrainingError: shapes differ, or T is not positive.
    """
    check_same(student, teacher, "student", "teacher")
    empty = has_no_mass(teacher)
    if not empty.any():
        return divergence(student, teacher, temperature=temperature)
    certain = empty.sum(-1) == teacher.shape[1] - 1
    values = wide(student).new_empty(len(student))
    values[certain] = divergence(student[certain], teacher[certain], temperature=1.0)
    q, p = _without_fillers(student[~certain], teacher[~certain], has_rest=has_rest)
    values[~certain] = divergence(q, p, temperature=temperature)
    return values


def kl_reverse_classes(
    student: torch.Tensor, teacher: torch.Tensor, *, has_rest: bool, temperature: float = 1.0
) -> torch.Tensor:
    """Reverse KL divergence over the classes of soft labels, finite also where one has no mass.

    ``T^2 * sum_c Q'_c * (log Q'_c - log P'_c)``, P' and Q' as in :func:`over_classes`.

    :func:`~ollama_bridge.train.losses.vocabulary.kl_reverse` is infinite there. But a token without
    mass only fills up a list, as in :func:`over_classes`, and belongs to the rest. Where the rest
    has no mass either, the reverse KL is infinite for every student: there the value is the forward
    one, of a label that is certain the cross-entropy.

    Source: Gu et al. 2023 (MiniLLM), arXiv 2306.08543, equation 1.

    Args:
        student: (N, C) logits.
        teacher: (N, C) log-probabilities at temperature 1.
        has_rest: Whether the last class is all other tokens.
        temperature: T > 0.

    Returns:
        (N,) divergences >= 0.

    Raises:
        TrainingError: shapes differ, or T is not positive.
    """
    check_same(student, teacher, "student", "teacher")
    empty = has_no_mass(teacher)
    if not empty.any():
        return kl_reverse(student, teacher, temperature=temperature)
    closed = empty[:, -1] if has_rest else empty.any(-1)
    values = wide(student).new_empty(len(student))
    values[closed] = over_classes(
        kl_forward, student[closed], teacher[closed], has_rest=has_rest, temperature=temperature
    )
    q, p = _without_fillers(student[~closed], teacher[~closed], has_rest=has_rest)
    values[~closed] = kl_reverse(q, p, temperature=temperature)
    return values


def _without_fillers(
    student: torch.Tensor, teacher: torch.Tensor, *, has_rest: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teacher's classes, those without mass summed into the rest."""
    if not has_rest:
        return student, teacher
    empty = has_no_mass(teacher)
    empty[:, -1] = False
    return _into_the_rest(student, empty), teacher.masked_fill(empty, NO_MASS_LOGPROB)


def _into_the_rest(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Sum chosen classes into the last one."""
    rest = logits[:, :-1].masked_fill(~chosen[:, :-1], float("-inf"))
    rest = torch.cat([rest, logits[:, -1:]], dim=-1).logsumexp(-1, keepdim=True)
    # Nothing is left, but a number: mixtures of two distributions have no gradient at -inf.
    others = logits[:, :-1].masked_fill(chosen[:, :-1], NO_MASS_LOGPROB)
    return torch.cat([others, rest], dim=-1)


def kl_sampled(
    student_logits: torch.Tensor, drawn: SampledTargets, *, temperature: float = 1.0
) -> torch.Tensor:
    """Forward KL divergence, estimated from tokens that were drawn of the teacher's distribution.

    ``-sum_v w_v * log q_v - H(p)``: the cross-entropy against the drawn weights, minus the entropy
    of the teacher's *whole* distribution, which was stored beside them. As ``E[w_v] = p_v``, value
    and gradient are unbiased: their mean over draws is that of
    :func:`~ollama_bridge.train.losses.vocabulary.kl_forward` at T = 1, and so the mean over many
    positions is comparable with it. The value of a single position scatters around it and may be
    negative; with the student equal to the teacher it is 0 on the mean only. Subtracting the drawn
    weights' own entropy instead would make every value >= 0, and all of them too large.

    Only at T = 1: of a distribution that was drawn at T = 1, no unbiased estimate of the tempered
    one is to be had.

    Source: Anshumann et al. 2025, "Sparse Logit Sampling" (ACL 2025), section 3.

    Args:
        student_logits: (N, V), unnormalised.
        drawn: Of N positions.
        temperature: 1.

    Returns:
        (N,) estimates.

    Raises:
        TrainingError: shapes do not fit, or T is not 1.
    """
    check_matrix(student_logits, "student_logits")
    if len(drawn) != len(student_logits):
        raise TrainingError(
            f"soft labels of {len(drawn)} positions, logits of {len(student_logits)}"
        )
    if temperature != 1.0:
        raise TrainingError(
            f"sampled soft labels were drawn at temperature 1, not {temperature}",
            hint="--set distill.temperature=1, or --set soft_labels.method=top_k",
        )
    logits = wide(student_logits)
    weighted = (drawn.weights.to(logits.dtype) * logits.gather(-1, drawn.ids)).sum(-1)
    # All of a position's weights together are 1, so that log Z counts once.
    return logits.logsumexp(-1) - weighted - drawn.entropy.to(logits.dtype)
