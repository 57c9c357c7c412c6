"""The KL over common tokens and ULD over the rest, against sums written out and TRL's values."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from fakes.distributions import gradient, logit_pairs, naive_kl, softmax, temperatures
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses.hybrid import MatchedTokens, hybrid_universal
from ollama_bridge.train.losses.vocabulary import kl_forward, universal

Pair = tuple[torch.Tensor, torch.Tensor]
Classes = tuple[list[int], list[int]]

weights = st.sampled_from([0.0, 0.5, 1.0, 3.0])


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[Pair, Classes]:
    """Logits of two vocabularies, float64, and the class of each token of either."""
    count = draw(st.integers(0, 4))
    any_class = st.integers(-1, count - 1)
    # One of each side has to be in a class; the others are where they may be.
    ours, theirs = (
        draw(st.permutations([*range(count), *draw(st.lists(any_class, max_size=6))]))
        for _ in range(2)
    )
    rows = draw(st.integers(1, 4))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    student, teacher = (
        scale * torch.randn(rows, max(1, len(side)), generator=generator, dtype=torch.float64)
        for side in (ours, theirs)
    )
    return (student, teacher), (list(ours) or [-1], list(theirs) or [-1])


def matched(classes: Classes) -> MatchedTokens:
    return MatchedTokens.of(*(torch.tensor(side) for side in classes))


def naive(
    student: list[float], teacher: list[float], classes: Classes, temperature: float, weight: float
) -> float:
    """The definition for one position, written out with Python floats."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    terms = []
    for number in range(max(classes[0]) + 1):
        ours, theirs = (
            math.fsum(share for share, one in zip(shares, side, strict=True) if one == number)
            for shares, side in ((q, classes[0]), (p, classes[1]))
        )
        if theirs > 0:
            terms.append(temperature**2 * theirs * math.log(theirs / ours))
        terms.append(temperature**2 * (ours - theirs))
    rest = (
        sorted((share for share, one in zip(shares, side, strict=True) if one < 0), reverse=True)
        for shares, side in ((q, classes[0]), (p, classes[1]))
    )
    pairs = itertools.zip_longest(*rest, fillvalue=0.0)
    terms += [weight * temperature * abs(mine - other) for mine, other in pairs]
    return math.fsum(terms)


def plain(student: torch.Tensor, teacher: torch.Tensor, classes: Classes) -> torch.Tensor:
    """The definition at T = 1 and w = 1 in the operations of autograd."""
    q, p = torch.softmax(student, -1), torch.softmax(teacher.detach(), -1)
    ours, theirs = (torch.tensor(side) for side in classes)
    total = q.new_zeros(len(q))
    for number in range(int(ours.max()) + 1):
        mine, other = q[:, ours == number].sum(-1), p[:, theirs == number].sum(-1)
        total = total + other * (other.log() - mine.log()) - other + mine
    q, p = (one[:, side < 0].sort(descending=True).values for one, side in ((q, ours), (p, theirs)))
    common = min(q.shape[1], p.shape[1])
    moved = (q[:, :common] - p[:, :common]).abs().sum(-1)
    return total + moved + q[:, common:].sum(-1) + p[:, common:].sum(-1)


@settings(max_examples=80, deadline=None)
@given(drawn=vocabularies(), temperature=temperatures, weight=weights)
def test_value_is_that_of_the_definition(
    drawn: tuple[Pair, Classes], temperature: float, weight: float
) -> None:
    """Whatever belongs together, and whatever is left; never negative."""
    (student, teacher), classes = drawn
    found = hybrid_universal(
        student, teacher, matched(classes), temperature=temperature, unmatched_weight=weight
    )
    expected = [
        naive(*rows, classes, temperature, weight)
        for rows in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (found >= -1e-12).all()


@settings(max_examples=60, deadline=None)
@given(drawn=vocabularies())
def test_gradient_is_that_of_autograd(drawn: tuple[Pair, Classes]) -> None:
    """Of the same sums; the written one has no tensors of its own between."""
    (student, teacher), classes = drawn
    tokens = matched(classes)
    found = gradient(lambda s: hybrid_universal(s, teacher, tokens), student)
    expected = gradient(lambda s: plain(s, teacher, classes), student)
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures, weight=weights, order=st.randoms())
def test_with_every_token_matched_it_is_the_forward_kl(
    pair: Pair, temperature: float, weight: float, order: object
) -> None:
    """Under other ids too, value and gradient; nothing is left for ULD."""
    student, teacher = pair
    width = student.shape[1]
    shuffled = list(range(width))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    tokens = matched((list(range(width)), shuffled))
    renamed = teacher[:, shuffled]
    options = {"temperature": temperature, "unmatched_weight": weight}
    found = hybrid_universal(student, renamed, tokens, **options)
    assert found.tolist() == pytest.approx(naive_kl(student, teacher, temperature), abs=1e-9)
    slope = gradient(lambda s: hybrid_universal(s, renamed, tokens, **options), student)
    exact = gradient(lambda s: kl_forward(s, teacher, temperature=temperature), student)
    assert torch.allclose(slope, exact, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures, cut=st.integers(0, 1))
def test_with_no_token_matched_it_is_the_universal_loss(
    pair: Pair, temperature: float, cut: int
) -> None:
    """Value and gradient; rows of a head that are no token have no class either."""
    student, teacher = pair[0][:, : pair[0].shape[1] - cut], pair[1]
    none = matched(([-1], [-1]))
    found = hybrid_universal(student, teacher, none, temperature=temperature)
    assert torch.allclose(found, universal(student, teacher, temperature=temperature), atol=1e-12)
    slope = gradient(lambda s: hybrid_universal(s, teacher, none, temperature=temperature), student)
    exact = gradient(lambda s: universal(s, teacher, temperature=temperature), student)
    assert torch.allclose(slope, exact, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(drawn=vocabularies(), temperature=temperatures)
def test_a_student_that_says_the_same_has_nothing_to_learn(
    drawn: tuple[Pair, Classes], temperature: float
) -> None:
    """However the mass of a class is shared out between its tokens: 0, and no pull on any."""
    (_, teacher), (_, theirs) = drawn
    # Each of the teacher's tokens twice over, at half its probability.
    ours = [*theirs, *(one for one in theirs if one >= 0)]
    doubled = torch.tensor([one >= 0 for one in theirs])
    student = torch.cat([teacher, teacher[:, doubled]], -1)
    student[:, : len(theirs)][:, doubled] -= temperature * math.log(2)
    student[:, len(theirs) :] -= temperature * math.log(2)
    tokens = matched((ours, theirs))
    found = hybrid_universal(student, teacher, tokens, temperature=temperature)
    assert found.abs().max() < 1e-12
    slope = gradient(
        lambda s: hybrid_universal(
            s, teacher, tokens, temperature=temperature, unmatched_weight=0.0
        ),
        student,
    )
    assert slope.abs().max() < 1e-12


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), data=st.data())
def test_a_coarser_match_never_says_more(pair: Pair, data: st.DataObject) -> None:
    """Tokens that are told apart no longer lose information: the KL falls."""
    student, teacher = pair
    width = student.shape[1]
    side = st.lists(st.integers(0, 1), min_size=width - 2, max_size=width - 2)
    merged = [0, 1, *data.draw(side)]
    found = hybrid_universal(student, teacher, matched((merged, merged)))
    assert (found <= kl_forward(student, teacher) + 1e-12).all()


# trl 1.16.0, float64, of one position after another of `of_trl`: ULDLoss's last_matched_loss and
# last_unmatched_loss behind _compute_hybrid_uld_loss of both softmax at T, at beta 0, with the
# tokens of one class as its mapping. By temperature.
TRL = {
    1.0: (
        [-0.1395292374566, 1.975006353461, 4.114273351868, 0.5376119511862],
        [0.3041871225698, 0.2714383693495, 0.4205521176734, 0.277459637639],
    ),
    2.0: (
        [-0.188748931421, 0.4537660091624, 1.357907612025, 0.2444428340578],
        [0.3399771054852, 0.2307894748352, 0.3305742811451, 0.2847060075745],
    ),
}


@pytest.mark.parametrize("temperature", list(TRL))
def test_parts_are_those_of_trl(temperature: float) -> None:
    """GOLD's two parts; its KL leaves out what masses differ by, and may fall below 0."""
    student, teacher, classes = of_trl()
    shares = [torch.softmax(one / temperature, -1) for one in (student, teacher)]
    mine, other = (
        share[:, torch.tensor(side) >= 0].sum(-1)
        for share, side in zip(shares, classes, strict=True)
    )
    kl, uld = (torch.tensor(part, dtype=torch.float64) for part in TRL[temperature])
    for weight in (0.0, 0.5):
        found = hybrid_universal(
            student, teacher, matched(classes), temperature=temperature, unmatched_weight=weight
        )
        expected = temperature**2 * (kl + mine - other) + weight * temperature * uld
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def of_trl() -> tuple[torch.Tensor, torch.Tensor, Classes]:
    """Four positions of 7 and of 9 tokens, five of which are the same, in another order."""
    student = 3 * torch.sin(1.7 * torch.arange(28, dtype=torch.float64)).reshape(4, 7)
    teacher = 3 * torch.cos(0.9 * torch.arange(36, dtype=torch.float64)).reshape(4, 9)
    return student, teacher, ([0, 1, -1, 2, 3, 4, -1], [4, -1, 2, 0, -1, 3, -1, 1, -1])


def clearly_apart(rows: int, ours: int, theirs: int) -> Pair:
    """Logits in float64; between alike distributions |p - q| is at its kink."""
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(rows, ours, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, theirs, generator=generator, dtype=torch.float64)


def test_float32_over_large_vocabularies_is_within_a_hundred_thousandth_of_float64() -> None:
    """Value and gradient, with classes of many tokens and with none."""
    student, teacher = clearly_apart(4, 49_152, 60_000)
    ours, theirs = (torch.arange(one.shape[1]) % 40_000 for one in (student, teacher))
    ours[-5_000:], theirs[-5_000:] = -1, -1
    tokens = MatchedTokens.of(ours, theirs)
    values, slopes = [], []
    for logits in (student, student.float()):
        goal = teacher.to(logits.dtype)
        value = hybrid_universal(logits, goal, tokens, temperature=2.0)
        assert value.dtype == logits.dtype
        values.append(value.double())
        slopes.append(
            gradient(
                lambda s, goal=goal: hybrid_universal(s, goal, tokens, temperature=2.0), logits
            ).double()
        )
    assert torch.allclose(values[1], values[0], rtol=1e-5)
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-5


def test_a_student_that_is_sure_of_something_else_is_finite() -> None:
    """Where float32 has no number for the probability that a class has."""
    student = torch.tensor([[0.0, 300.0, -200.0, -201.0]])
    teacher = torch.tensor([[5.0, 0.0, 0.0]])
    tokens = matched(([0, 1, 2, 2], [2, 1, 0]))
    value = hybrid_universal(student, teacher, tokens)
    exact = hybrid_universal(student.double(), teacher.double(), tokens)
    assert value.double().tolist() == pytest.approx(exact.tolist(), rel=1e-5)
    slopes = [
        gradient(lambda s: hybrid_universal(s, teacher.to(s.dtype), tokens), logits).double()
        for logits in (student, student.double())
    ]
    # Of log-probabilities near -300 float32 has four digits behind the point.
    assert float((slopes[0] - slopes[1]).norm() / slopes[1].norm()) < 1e-4


def test_half_precision_is_computed_in_float32() -> None:
    """bfloat16 logits are widened before any logarithm, and the teacher gets no gradient."""
    student, teacher = (one.bfloat16() for one in clearly_apart(3, 7, 5))
    teacher = teacher.float().requires_grad_()
    tokens = matched(([0, 1, 2, -1, -1, 0, 1], [0, 1, 2, -1, -1]))
    value = hybrid_universal(student.requires_grad_(), teacher, tokens)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("student", "teacher", "options"),
    [
        ((2, 3), (3, 3), {}),
        ((3,), (2, 3), {}),
        ((2, 2), (2, 3), {}),
        ((2, 3), (2, 2), {}),
        ((2, 3), (2, 3), {"temperature": 0.0}),
        ((2, 3), (2, 3), {"unmatched_weight": -1.0}),
    ],
)
def test_wrong_arguments_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], options: dict[str, float]
) -> None:
    """Shapes that do not fit the classes, and numbers that have no meaning."""
    tokens = matched(([0, 1, -1], [1, 0, -1]))
    with pytest.raises(TrainingError):
        hybrid_universal(torch.zeros(student), torch.zeros(teacher), tokens, **options)


@pytest.mark.parametrize("classes", [([0, 1], [0]), ([0], [0, 1]), ([0, 2], [0, 2])])
def test_classes_that_one_side_lacks_are_refused(classes: Classes) -> None:
    """Nothing could be compared with them."""
    with pytest.raises(TrainingError, match="of the teacher each"):
        matched(classes)
