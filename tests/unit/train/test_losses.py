"""The algebra of the losses over a vocabulary, against naive float64 sums and torch's own KL."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from fakes.distributions import gradient, logit_pairs, naive_kl, softmax, temperatures
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses.vocabulary import (
    cross_entropy,
    jensen_shannon,
    kl_forward,
    kl_reverse,
    kl_skewed_forward,
    kl_skewed_reverse,
    total_variation,
    universal,
)

Pair = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[..., torch.Tensor]

DIVERGENCES = (
    kl_forward,
    kl_reverse,
    kl_skewed_forward,
    kl_skewed_reverse,
    jensen_shannon,
    total_variation,
)
shares = st.sampled_from([0.1, 0.5, 0.7])


def torch_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of probabilities by torch, one value a row."""
    return torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)


def probabilities(pair: Pair, temperature: float) -> Pair:
    """q of the student and p of the teacher."""
    return torch.softmax(pair[0] / temperature, -1), torch.softmax(pair[1] / temperature, -1)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures)
def test_kl_is_the_naive_sum(pair: Pair, temperature: float) -> None:
    """Value and gradient equal the definition: T^2 sum p log(p/q) and T (q - p)."""
    student, teacher = pair
    value = kl_forward(student, teacher, temperature=temperature)
    assert value.tolist() == pytest.approx(naive_kl(student, teacher, temperature), abs=1e-9)
    assert (value >= -1e-12).all()
    found = gradient(lambda s: kl_forward(s, teacher, temperature=temperature), student)
    q, p = (
        torch.tensor([softmax(row, temperature) for row in logits.tolist()], dtype=torch.float64)
        for logits in pair
    )
    assert torch.allclose(found, temperature * (q - p), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures, share=shares)
def test_values_are_those_of_the_definition(pair: Pair, temperature: float, share: float) -> None:
    """Every divergence equals T^2 times its formula with torch's kl_div on probabilities."""
    student, teacher = pair
    q, p = probabilities(pair, temperature)
    mixture = share * p + (1 - share) * q
    expected = {
        kl_forward: torch_kl(p, q),
        kl_reverse: torch_kl(q, p),
        kl_skewed_forward: torch_kl(p, mixture),
        kl_skewed_reverse: torch_kl(q, share * q + (1 - share) * p),
        jensen_shannon: share * torch_kl(p, mixture) + (1 - share) * torch_kl(q, mixture),
        total_variation: torch.maximum(p - q, torch.zeros_like(p)).sum(-1) / temperature,
    }
    options = {
        kl_skewed_forward: {"alpha": share},
        kl_skewed_reverse: {"alpha": share},
        jensen_shannon: {"beta": share},
    }
    for loss, value in expected.items():
        found = loss(student, teacher, temperature=temperature, **options.get(loss, {}))
        assert torch.allclose(found, temperature**2 * value, atol=1e-9), loss.__name__


# trl 1.16.0, float64: GKDTrainer.generalized_jsd_loss(student[None], teacher[None], beta=...,
# temperature=..., reduction="none").sum(-1)[0], where student = 3 sin(1.7 i) and
# teacher = 3 cos(0.9 i) for i = 0 .. 27, reshaped to (4, 7). By beta and temperature.
TRL = {
    (0.0, 1.0): [2.331077585431, 3.1665399, 3.488120817892, 3.653579805167],
    (0.0, 2.0): [0.8144544701914, 0.9738777845848, 1.076485359273, 1.14977480743],
    (0.1, 1.0): [0.1697199320187, 0.1959970607948, 0.1893831461526, 0.1982795182281],
    (0.1, 2.0): [0.06913921538812, 0.07918034356448, 0.08286816716869, 0.08980875717407],
    (0.5, 1.0): [0.3754877736747, 0.4185360008529, 0.4121126458696, 0.4082715013899],
    (0.5, 2.0): [0.1739634253748, 0.187612985665, 0.1884277460208, 0.2047439313009],
    (0.9, 1.0): [0.1453346626448, 0.1673131116102, 0.1737776531448, 0.1616924709058],
    (0.9, 2.0): [0.06475931404896, 0.06768711808787, 0.06812961670813, 0.0735497776098],
    (1.0, 1.0): [1.844950172132, 2.186134240871, 2.313032601844, 2.139113911805],
    (1.0, 2.0): [0.7470587908287, 0.772750344675, 0.7794579787933, 0.8430201689305],
}


@pytest.mark.parametrize(("beta", "temperature"), list(TRL))
def test_values_are_those_of_trl(beta: float, temperature: float) -> None:
    """TRL's generalised JSD, which has no T^2, and its two KL at the ends."""
    steps = torch.arange(28, dtype=torch.float64).reshape(4, 7)
    pair = 3 * torch.sin(1.7 * steps), 3 * torch.cos(0.9 * steps)
    if beta in (0.0, 1.0):
        found = (kl_forward if beta == 0 else kl_reverse)(*pair, temperature=temperature)
    else:
        found = jensen_shannon(*pair, beta=beta, temperature=temperature)
    expected = [temperature**2 * value for value in TRL[beta, temperature]]
    assert found.tolist() == pytest.approx(expected, rel=1e-11)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures)
@pytest.mark.parametrize("loss", DIVERGENCES)
def test_divergence_is_zero_for_equal_distributions_alone(
    loss: Loss, pair: Pair, temperature: float
) -> None:
    """Never negative; 0 with no gradient for the same distribution, above it for any other."""
    student, teacher = pair
    shares = [torch.softmax(logits / temperature, dim=-1) for logits in pair]
    # Two that are as good as certain of the same token can be as near as rounding.
    apart = (shares[0] - shares[1]).abs().amax(dim=-1) > 1e-7
    found = loss(student, teacher, temperature=temperature)
    assert (found[apart] > 0).all()
    assert (found > -1e-12).all()
    same = student + 3.0  # the same distribution: logits are known up to a constant
    assert loss(student, same, temperature=temperature).abs().max() < 1e-12
    slope = gradient(lambda s: loss(s, same, temperature=temperature), student)
    if loss is not total_variation:  # has a kink there
        assert slope.abs().max() < 1e-9


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures)
def test_jensen_shannon_is_symmetric_in_the_middle(pair: Pair, temperature: float) -> None:
    """Student and teacher change places at beta = 0.5, and beta for 1 - beta elsewhere."""
    student, teacher = pair
    for beta in (0.5, 0.2):
        there = jensen_shannon(student, teacher, beta=beta, temperature=temperature)
        back = jensen_shannon(teacher, student, beta=1 - beta, temperature=temperature)
        assert torch.allclose(there, back, atol=1e-12)
        entropy = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        assert (there <= temperature**2 * entropy + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs())
def test_jensen_shannon_has_the_two_kl_as_limits(pair: Pair) -> None:
    """Divided by beta it goes to the forward KL at 0, by 1 - beta to the reverse KL at 1."""
    student, teacher = (logits.clamp(-5, 5) for logits in pair)
    near = 1e-7
    forward = jensen_shannon(student, teacher, beta=near) / near
    reverse = jensen_shannon(student, teacher, beta=1 - near) / near
    assert torch.allclose(forward, kl_forward(student, teacher), rtol=1e-2, atol=1e-6)
    assert torch.allclose(reverse, kl_reverse(student, teacher), rtol=1e-2, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures, alpha=shares)
def test_skewed_kl_lies_between_nothing_and_the_kl(
    pair: Pair, temperature: float, alpha: float
) -> None:
    """alpha = 0 is the plain KL; above it the value is less, and at most -T^2 log(alpha)."""
    student, teacher = pair
    bound = -(temperature**2) * math.log(alpha) + 1e-12
    for skewed, plain in ((kl_skewed_forward, kl_forward), (kl_skewed_reverse, kl_reverse)):
        whole = plain(student, teacher, temperature=temperature)
        assert torch.equal(skewed(student, teacher, alpha=0.0, temperature=temperature), whole)
        value = skewed(student, teacher, alpha=alpha, temperature=temperature)
        # Convexity: the KL to a mixture is at most the mixture of both KL, of which one is 0.
        assert (value <= (1 - alpha) * whole + 1e-12).all()
        assert (value <= bound).all()


@settings(max_examples=40, deadline=None)
@given(first=logit_pairs(), temperature=temperatures)
def test_reverse_is_forward_with_places_changed(first: Pair, temperature: float) -> None:
    """KL(q || p) is the forward divergence of the teacher from the student."""
    student, teacher = first
    found = kl_reverse(student, teacher, temperature=temperature)
    assert torch.allclose(found, kl_forward(teacher, student, temperature=temperature), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs())
def test_total_variation_is_bounded_by_the_kl(pair: Pair) -> None:
    """Pinsker: TV <= sqrt(KL / 2), in both directions, and it is at most 1 and symmetric."""
    student, teacher = pair
    distance = total_variation(student, teacher)
    assert torch.allclose(distance, total_variation(teacher, student), atol=1e-12)
    assert (distance <= 1 + 1e-12).all()
    for divergence in (kl_forward, kl_reverse):
        assert (distance <= (divergence(student, teacher).clamp_min(0) / 2).sqrt() + 1e-9).all()


@pytest.mark.parametrize("loss", [*DIVERGENCES, universal])
def test_size_of_the_gradient_does_not_fall_with_the_temperature(loss: Loss) -> None:
    """Between T = 50 and T = 200 the gradient stays the same, within a few percent."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    sizes = [
        gradient(lambda s, t=temperature: loss(s, teacher, temperature=t), student).norm()
        for temperature in (50.0, 200.0)
    ]
    assert float(sizes[0] / sizes[1]) == pytest.approx(1.0, abs=0.05)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures, order=st.randoms(use_true_random=False))
def test_universal_loss_knows_no_tokens(pair: Pair, temperature: float, order: object) -> None:
    """Tokens in any order, and tokens without mass, change nothing; without either it is ULD."""
    student, teacher = pair
    value = universal(student, teacher, temperature=temperature)
    width = student.shape[1]
    shuffled = list(range(width))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    wider = torch.cat([teacher[:, shuffled], torch.full((len(teacher), 3), -math.inf)], -1)
    assert torch.allclose(value, universal(student, wider, temperature=temperature), atol=1e-12)
    narrow_student = universal(student[:, : width - 1], teacher, temperature=temperature)
    q, p = probabilities((student[:, : width - 1], teacher), temperature)
    for row in range(len(student)):
        sorted_q, sorted_p = (sorted(x[row].tolist(), reverse=True) for x in (q, p))
        pairs = itertools.zip_longest(sorted_q, sorted_p, fillvalue=0.0)
        expected = temperature * math.fsum(abs(a - b) for a, b in pairs)
        assert float(narrow_student[row]) == pytest.approx(expected, abs=1e-9)
    assert (value <= 2 * total_variation(student, teacher, temperature=temperature) + 1e-12).all()


def test_excluded_tokens_cost_the_reverse_kl_everything() -> None:
    """A token that the teacher excludes is infinite in reverse, and bounded when skewed."""
    student = torch.zeros(1, 3)
    teacher = torch.tensor([[0.0, 0.0, -math.inf]])
    assert math.isinf(float(kl_reverse(student, teacher)))
    for loss in (kl_forward, kl_skewed_forward, kl_skewed_reverse, jensen_shannon, total_variation):
        assert torch.isfinite(loss(student, teacher)).all()
        assert torch.isfinite(gradient(lambda s, f=loss: f(s, teacher), student)).all()


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs())
def test_cross_entropy_is_minus_the_log_probability(pair: Pair) -> None:
    """The hard loss is -log softmax at the target, and the KL to a one-hot teacher."""
    logits = pair[0]
    targets = pair[1].argmax(-1)
    expected = [
        -math.log(softmax(row, 1.0)[target])
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert cross_entropy(logits, targets).tolist() == pytest.approx(expected, abs=1e-9)
    one_hot = torch.full_like(logits, -math.inf).scatter(-1, targets[:, None], 0.0)
    assert torch.allclose(kl_forward(logits, one_hot), cross_entropy(logits, targets), atol=1e-9)


@pytest.mark.parametrize("loss", [*DIVERGENCES, universal])
def test_float32_is_within_a_hundred_thousandth_of_float64(loss: Loss) -> None:
    """Value and gradient in float32 are those of float64 to 1e-5 of their size."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 16, 500, generator=generator, dtype=torch.float64)
    exact = loss(student, teacher, temperature=2.0)
    found = loss(student.float(), teacher.float(), temperature=2.0)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), exact, rtol=1e-5)
    slopes = [
        gradient(lambda s, f=loss: f(s, teacher.to(s.dtype), temperature=2.0), logits)
        for logits in (student, student.float())
    ]
    assert float((slopes[1].double() - slopes[0]).norm() / slopes[0].norm()) < 1e-5


def test_universal_loss_over_a_large_vocabulary_in_float32() -> None:
    """Of distributions that differ clearly; between alike ones |p - q| is at its kink."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 49_152, generator=generator, dtype=torch.float64)
    student *= 3
    values, slopes = [], []
    for logits in (student, student.float()):
        goal = teacher.to(logits.dtype)
        values.append(universal(logits, goal).double())
        slopes.append(gradient(lambda s, goal=goal: universal(s, goal), logits).double())
    assert torch.allclose(values[1], values[0], rtol=1e-5)
    assert float((slopes[1] - slopes[0]).norm() / slopes[0].norm()) < 1e-5


@pytest.mark.parametrize("loss", [*DIVERGENCES, universal])
def test_half_precision_is_computed_in_float32(loss: Loss) -> None:
    """bfloat16 logits are widened before any logarithm, and the teacher gets no gradient."""
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    teacher = logits.float().requires_grad_()
    value = loss(logits.clone().requires_grad_(), teacher)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert teacher.grad is None
    assert cross_entropy(logits, torch.zeros(3, dtype=torch.int64)).dtype == torch.float32


@pytest.mark.parametrize("loss", DIVERGENCES)
@pytest.mark.parametrize(
    ("student", "teacher", "temperature"),
    [((2, 3), (2, 4), 1.0), ((3,), (3,), 1.0), ((2, 3), (2, 3), 0.0), ((2, 3), (1, 3), 1.0)],
)
def test_wrong_arguments_are_refused(
    loss: Loss, student: tuple[int, ...], teacher: tuple[int, ...], temperature: float
) -> None:
    """Shapes that do not fit are named instead of broadcast; T is positive."""
    with pytest.raises(TrainingError):
        loss(torch.zeros(student), torch.zeros(teacher), temperature=temperature)


@pytest.mark.parametrize(
    "call",
    [
        lambda: cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
        lambda: universal(torch.zeros(2, 3), torch.zeros(3, 3)),
        lambda: universal(torch.zeros(2, 3), torch.zeros(2, 5), temperature=0.0),
        lambda: kl_skewed_forward(torch.zeros(2, 3), torch.zeros(2, 3), alpha=1.0),
        lambda: kl_skewed_reverse(torch.zeros(2, 3), torch.zeros(2, 3), alpha=-0.1),
        lambda: jensen_shannon(torch.zeros(2, 3), torch.zeros(2, 3), beta=0.0),
        lambda: jensen_shannon(torch.zeros(2, 3), torch.zeros(2, 3), beta=1.0),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], torch.Tensor]) -> None:
    """What has no meaning is an error, the degenerate ends of Jensen-Shannon among it."""
    with pytest.raises(TrainingError):
        call()
