"""The loss between two vocabularies whose tokens are matched by their text: a pure function.

Letters: N positions, V tokens of the student and W of the teacher, C classes that both have; p is
the teacher's distribution and q the student's, both at temperature T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ollama_bridge.alignment.classes import NO_CLASS
from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses.loss_terms import (
    check_matrix,
    check_temperature,
    log_softmax,
    wide,
)


@dataclass(frozen=True)
class Members:
    """The tokens of one vocabulary by their classes.

    Attributes:
        classes: (width,) int64, the class of each token that is listed; C: none.
        firsts: (C,) int64, one token of each class.
        others: (E,) int64, all others that have a class.
        rest: (R,) int64, those that have none.
    """

    classes: torch.Tensor
    firsts: torch.Tensor
    others: torch.Tensor
    rest: torch.Tensor

    @classmethod
    def of(cls, classes: torch.Tensor) -> Members:
        """Read them from the class of each token, (width,) int64; ``NO_CLASS``: none."""
        rest = torch.nonzero(classes == NO_CLASS)[:, 0]
        known = torch.nonzero(classes != NO_CLASS)[:, 0]
        rising, order = classes[known].sort(stable=True)
        is_first = torch.ones_like(rising, dtype=torch.bool)
        is_first[1:] = rising[1:] != rising[:-1]
        tokens = known[order]
        firsts = tokens[is_first]
        listed = torch.where(classes == NO_CLASS, len(firsts), classes)
        return cls(listed, firsts, tokens[~is_first], rest)

    def to(self, device: torch.device) -> Members:
        """The same on another device."""
        places = (self.classes, self.firsts, self.others, self.rest)
        return Members(*(one.to(device) for one in places))

    def padded(self, width: int) -> Members:
        """Of a head of so many rows: those behind the tokens have no class."""
        rows = torch.arange(len(self.classes), width, device=self.rest.device)
        if not len(rows):
            return self
        classes = torch.cat([self.classes, torch.full_like(rows, len(self.firsts))])
        return Members(classes, self.firsts, self.others, torch.cat([self.rest, rows]))

    def masses(self, probabilities: torch.Tensor) -> torch.Tensor:
        """(N, C) the sum of each class."""
        found = probabilities.index_select(1, self.firsts)
        others = probabilities.index_select(1, self.others)
        return found.index_add_(1, self.classes[self.others], others)

    def log_masses(self, logprobs: torch.Tensor) -> torch.Tensor:
        """(N, C) the logarithm of each class's sum, also where float32 has no number for it."""
        found = logprobs.index_select(1, self.firsts)
        if not len(self.others):
            return found
        others = logprobs.index_select(1, self.others)
        classes = self.classes[self.others].expand_as(others)
        top = found.scatter_reduce(1, classes, others, "amax")
        top.clamp_min_(torch.finfo(top.dtype).min)  # -inf - -inf would be no number
        found.sub_(top).exp_().scatter_add_(1, classes, others.sub_(top.gather(1, classes)).exp_())
        return found.log_().add_(top)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(N, width) of each token that of its class, of (N, C); -inf of those without."""
        none = values.new_full((len(values), 1), float("-inf"))
        return torch.cat([values, none], dim=1).index_select(1, self.classes)


@dataclass(frozen=True)
class MatchedTokens:
    """Both vocabularies by the classes that they have in common."""

    student: Members
    teacher: Members

    @classmethod
    def of(cls, student: torch.Tensor, teacher: torch.Tensor) -> MatchedTokens:
        """Read them from the class of each token, int64; ``NO_CLASS``: none.

        Raises:
            TrainingError: a class has no token of one of the two.
        """
        found = cls(Members.of(student), Members.of(teacher))
        sets = [set(one.tolist()) - {NO_CLASS} for one in (student, teacher)]
        if not sets[0] == sets[1] == set(range(len(sets[0]))):
            raise TrainingError("classes of tokens need one of the student and of the teacher each")
        return found

    def to(self, device: torch.device) -> MatchedTokens:
        """The same on another device."""
        return MatchedTokens(self.student.to(device), self.teacher.to(device))


def hybrid_universal(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    tokens: MatchedTokens,
    *,
    temperature: float = 1.0,
    unmatched_weight: float = 1.0,
) -> torch.Tensor:
    """A KL divergence over the tokens that both have, and ULD over those that one has alone.

    ``T^2 * sum_c (P_c * (log P_c - log Q_c) - P_c + Q_c) + w * T * sum_i |p_(i) - q_(i)|``: P_c and
    Q_c are the sums of p and q over the tokens of class c, and the second sum is over tokens
    without a class, each side sorted from the likeliest down, the shorter one filled up with zeros.

    ``- P_c + Q_c`` makes it the divergence of masses that need not sum to 1: never negative, and 0
    for equal ones alone. Without it, as in TRL, the value may be below 0, and the student gains by
    taking mass from its tokens without a class where the teacher gives its own as much. Where every
    token has a class, both cancel: with classes of one token each this is
    :func:`~ollama_bridge.train.losses.vocabulary.kl_forward`, with none at all it is
    :func:`~ollama_bridge.train.losses.vocabulary.universal`.

    w is 1 by default: ULD is of masses as they are, so it counts by itself as much as there is mass
    that no class has, and the KL is never less than that of one vocabulary. (By the share of the
    teacher's tokens that are matched, TRL's default, the KL would be halved for a teacher with
    twice the student's tokens, whether these are ever said or not.)

    Source: Patino et al. 2025, "Unlocking On-Policy Distillation for Any Model Family" (GOLD): a
    class is a token that both have. That what only one has belongs to the class that it begins
    with: after Sreenivas et al. 2026 (X-Token), arXiv 2605.21699, where numbers that only the
    student had as tokens were unlearnt beside a teacher that writes them digit by digit. The
    divergence of masses: Csiszar 1991, "Why least squares and maximum entropy?".

    Args:
        student_logits: (N, V), unnormalised; V may be more than is listed in ``tokens``.
        teacher_logits: (N, W), unnormalised, at the positions that belong to the student's.
        tokens: The classes.
        temperature: T > 0.
        unmatched_weight: w >= 0.

    Returns:
        (N,) values >= 0.

    Raises:
        TrainingError: shapes do not fit, or T or w is out of its range.
    """
    check_matrix(student_logits, "student_logits")
    check_matrix(teacher_logits, "teacher_logits")
    check_temperature(temperature)
    if student_logits.shape[0] != teacher_logits.shape[0]:
        raise TrainingError(
            f"{student_logits.shape[0]} positions of the student, {teacher_logits.shape[0]} of the "
            "teacher"
        )
    for logits, members in ((student_logits, tokens.student), (teacher_logits, tokens.teacher)):
        if logits.shape[1] < len(members.classes):
            raise TrainingError(
                f"{len(members.classes)} tokens have classes, and there are {logits.shape[1]} "
                "logits"
            )
    if not unmatched_weight >= 0:
        raise TrainingError(f"unmatched_weight must be at least 0, not {unmatched_weight}")
    value: torch.Tensor = _Hybrid.apply(
        wide(student_logits), wide(teacher_logits.detach()), tokens, temperature, unmatched_weight
    )
    return value


class _Hybrid(torch.autograd.Function):
    """Its gradient by the formula: autograd would keep a dozen tensors of the vocabulary's size.

    With ``p_U`` and ``q_U`` the masses without a class, ``s_v`` the sign of q_v minus its partner
    of the teacher's, and ``S = T * (p_U - q_U) + w * sum_u q_u * s_u``: ``T * q_v * (1 - P_c / Q_c)
    - q_v * S`` for a token of class c, ``q_v * (w * s_v - S)`` for one without.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        tokens: MatchedTokens,
        temperature: float,
        unmatched_weight: float,
    ) -> torch.Tensor:
        ours, theirs = (
            members.padded(logits.shape[1])
            for members, logits in ((tokens.student, student), (tokens.teacher, teacher))
        )
        p = log_softmax(teacher, temperature).exp_()
        masses, p_rest = theirs.masses(p), p.index_select(1, theirs.rest)
        del p
        q = log_softmax(student, temperature)
        q_rest, log_masses = q.index_select(1, ours.rest).exp_(), ours.log_masses(q)
        difference = p_rest.sum(-1) - q_rest.sum(-1)  # what all classes have less
        ratios = torch.where(masses > 0, masses.log() - log_masses, float("-inf"))
        kl = torch.where(masses > 0, masses * ratios, 0.0).sum(-1) + difference
        apart, order = _sorted_difference(q_rest, p_rest)
        value = temperature**2 * kl + unmatched_weight * temperature * apart.abs().sum(-1)
        if ctx.needs_input_grad[0]:
            signs = unmatched_weight * apart[:, : q_rest.shape[1]].sign()
            signs = torch.zeros_like(q_rest).scatter_(1, order, signs)
            drift = temperature * difference + (q_rest * signs).sum(-1)
            pull = ours.spread(ratios).add_(q).exp_()  # P_c * q_v / Q_c
            slope = q.exp_().mul_((temperature - drift)[:, None])
            slope.sub_(pull, alpha=temperature)
            ctx.slope = slope.index_copy_(1, ours.rest, q_rest * (signs - drift[:, None]))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        # In place: nothing else knows this tensor, and a second pass would fail without it.
        slope, ctx.slope = ctx.slope, None
        return slope.mul_(scale.unsqueeze(-1)), None, None, None, None


def _sorted_difference(
    student: torch.Tensor, teacher: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the sorted probabilities are apart, (N, the wider one), and the student's order."""
    ours, order = student.sort(dim=-1, descending=True)
    theirs = teacher.sort(dim=-1, descending=True).values
    width = max(ours.shape[1], theirs.shape[1])
    pad = torch.nn.functional.pad
    return pad(ours, (0, width - ours.shape[1])).sub_(
        pad(theirs, (0, width - theirs.shape[1]))
    ), order
