"""What is said before a run starts, and what is chosen so that it fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes.memory import OUT_OF_MEMORY, hold_until_seen
from fakes.models import build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.errors import DiskFullError, TrainingError
from ollama_bridge.recipe.config import OptimizerSection
from ollama_bridge.train import fit
from ollama_bridge.train.fit import Forecast, check_disk, forecast
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.shards import Weights
from ollama_bridge.train.trials import MicroStep, SideWork

# What a token of the made-up step holds in memory: far above the noise of an interpreter.
_TOKEN_BYTES = 200_000


@pytest.fixture(scope="module")
def batches() -> Batches:
    split = encode_split(
        sentiment_examples(30, name="train"), build_tiny_tokenizer(), max_length=512, name="train"
    )
    return Batches(split.examples, batch_tokens=400, pad_id=0)


def hold(tokens: float) -> None:
    """Hold the memory of so many tokens for long enough to be seen."""
    hold_until_seen(int(tokens * _TOKEN_BYTES))


class Step:
    """Holds memory for its tokens, a tenth of it where activations are computed twice.

    Args:
        batches: What it computes.
        heavy: How many times as much a phase needs; 1 where nothing is said.
    """

    def __init__(self, batches: Batches, *, heavy: Mapping[int, float] | None = None) -> None:
        self.batches = batches
        self.heavy = heavy or {}
        self.asked: list[tuple[int, int, Plan]] = []

    def __call__(self, phase: int, members: Sequence[int], plan: Plan) -> None:
        tokens = self.batches.padded_tokens(members)
        self.asked.append((phase, tokens, plan))
        share = 0.1 if plan.activation_checkpointing else 1.0
        hold(tokens * share * self.heavy.get(phase, 1.0))


def run(
    step: MicroStep,
    batches: Batches,
    *,
    settings: OptimizerSection | None = None,
    phase_steps: Sequence[int] = (100,),
    weights: int = 10,
    side_work: Sequence[SideWork] = (),
    kind: type[Weights] = Weights,
    ranks: Ranks | None = None,
) -> Forecast:
    return forecast(
        step,
        batches,
        settings or OptimizerSection(batch_tokens=400),
        phase_steps=phase_steps,
        weights=kind({"weight": torch.nn.Parameter(torch.zeros(weights))}, Ranks()),
        model_weights=weights,
        device=torch.device("cpu"),
        ranks=ranks,
        side_work=side_work,
    )


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how many tokens there is room for."""

    def set_free(tokens: float) -> None:
        monkeypatch.setattr(fit, "free_bytes", lambda device: int(tokens * _TOKEN_BYTES))

    return set_free


def test_enough_memory_needs_three_micro_steps(batches: Batches) -> None:
    """The longest example, a few, then the heaviest batch, which is what the peak is."""
    step = Step(batches)
    found = run(step, batches)
    longest, few, heaviest = (tokens for _, tokens, _ in step.asked)
    assert longest == batches.longest < few < heaviest
    assert heaviest == batches.padded_tokens(batches.heaviest(400))
    assert found.plan == Plan()
    assert found.peak_bytes > 0.9 * heaviest * _TOKEN_BYTES
    assert found.training_s > 0
    assert "GB of memory" in found.sentence
    assert "at once" not in found.sentence
    assert " 120 minutes of steps" in replace(found, training_s=7212).sentence


def test_every_phase_is_tried(batches: Batches) -> None:
    """A phase that loads a teacher needs more than the one behind it."""
    step = Step(batches)
    run(step, batches, phase_steps=(10, 10))
    assert [phase for phase, _, _ in step.asked] == [0, 0, 0, 1]


def test_smaller_parts_are_chosen_where_the_batch_does_not_fit(
    batches: Batches, free: Callable[[float], None]
) -> None:
    """Half or a quarter at once, chosen before the batch that would not fit is tried."""
    free(300)
    step = Step(batches)
    found = run(step, batches)
    assert found.plan == Plan(micro_batch_tokens=200)
    assert max(tokens for _, tokens, _ in step.asked) <= 200
    assert "200 of 400 tokens at once" in found.sentence


@pytest.mark.usefixtures("group_of_one")
def test_a_share_of_a_batch_is_held_to_its_size(batches: Batches) -> None:
    """What was tried is a half, and of three examples the first of two processes has two."""
    plan = run(Step(batches), batches, ranks=Ranks(0, 2)).plan
    assert plan == Plan(micro_batch_tokens=200)
    shares = [Ranks(0, 2).share(members) for members in batches.sorted()]
    share = max(shares, key=batches.padded_tokens)
    assert batches.padded_tokens(share) > 200
    assert all(batches.padded_tokens(part) <= 200 for part in batches.split(share, 200))


def test_activations_are_computed_twice_before_giving_up(
    batches: Batches, free: Callable[[float], None]
) -> None:
    """Where one example does not fit; where even that is too much, the error says what to do."""
    free(0.5 * batches.longest)
    found = run(Step(batches), batches)
    assert found.plan.activation_checkpointing
    off = OptimizerSection(batch_tokens=400, activation_checkpointing=False)
    with pytest.raises(TrainingError, match=r"an example of \d+ tokens would need") as caught:
        run(Step(batches), batches, settings=off)
    assert caught.value.hint is not None
    assert "max_length" in caught.value.hint


def test_a_later_phase_is_made_to_fit(batches: Batches, free: Callable[[float], None]) -> None:
    """One that loads a teacher may need a multiple: parts are halved until it has been seen to fit.

    Where not even one example does, activations are computed twice; where that may not be, no run
    is begun that would be ended by the system.
    """
    free(1.5 * 400)  # with the reserve, room for 428 tokens
    step = Step(batches, heavy={1: 4.0})
    found = run(step, batches, phase_steps=(10, 10))
    assert found.plan == Plan(micro_batch_tokens=100)
    assert [plan.micro_batch_tokens for phase, _, plan in step.asked if phase] == [400, 200, 100]

    heavy = {1: 1.2 * 428 / batches.longest}
    automatic = OptimizerSection(batch_tokens=400, micro_batch_tokens=100)
    found = run(Step(batches, heavy=heavy), batches, settings=automatic, phase_steps=(10, 10))
    assert found.plan.activation_checkpointing
    off = automatic.model_copy(update={"activation_checkpointing": False})
    with pytest.raises(TrainingError, match=r"an example of \d+ tokens in phase 2 would need"):
        run(Step(batches, heavy=heavy), batches, settings=off, phase_steps=(10, 10))


def test_side_work_is_tried_counted_and_made_to_fit(
    batches: Batches, free: Callable[[float], None]
) -> None:
    """Its seconds are told beside the steps'; its memory makes parts smaller, or is refused."""

    def dancing(tokens: Callable[[int], float]) -> SideWork:
        def attempt(plan: Plan) -> float:
            hold(tokens(plan.micro_batch_tokens or 400))
            return 90.0

        return SideWork("dancing", attempt)

    def more(limit: int) -> float:
        return 1.25 * limit

    found = run(Step(batches), batches, side_work=[dancing(more)])
    assert ", 1.5 minutes of dancing, " in found.sentence
    assert found.plan == Plan()
    assert found.peak_bytes > 0.9 * 500 * _TOKEN_BYTES
    free(1.5 * 400)  # with the reserve, room for 428 tokens
    assert run(Step(batches), batches).plan == Plan()
    shrunk = run(Step(batches), batches, side_work=[dancing(more)])
    assert shrunk.plan == Plan(micro_batch_tokens=200)
    shrunk = run(Step(batches), batches, side_work=[dancing(lambda limit: 4.0 * limit)])
    assert shrunk.plan == Plan(micro_batch_tokens=100)
    with pytest.raises(TrainingError, match="dancing would need"):
        run(Step(batches), batches, side_work=[dancing(lambda limit: 450.0)])
    remedied = replace(dancing(more), remedy="dance less")
    with pytest.raises(TrainingError, match="dancing would need") as caught:
        run(Step(batches), batches, side_work=[remedied])
    assert caught.value.hint == "dance less"


def test_optimizer_that_cannot_fit_is_refused_before_any_step(
    batches: Batches, free: Callable[[float], None]
) -> None:
    """Gradients and moments are known without trying."""
    free(1)
    step = Step(batches)
    with pytest.raises(TrainingError, match="gradients and optimizer would need"):
        run(step, batches, weights=100_000)
    assert not step.asked


@pytest.mark.parametrize("said", OUT_OF_MEMORY, ids=str)
def test_device_that_is_out_of_memory_counts_as_not_fitting(
    batches: Batches, said: RuntimeError
) -> None:
    """A GPU says so by an error, which must not end the run."""

    def step(phase: int, members: Sequence[int], plan: Plan) -> None:
        if batches.padded_tokens(members) > 100:
            raise said

    assert run(step, batches).plan.micro_batch_tokens == 100


def test_other_errors_of_a_trial_end_the_run(batches: Batches) -> None:
    """Smaller parts would not mend them."""

    def step(phase: int, members: Sequence[int], plan: Plan) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        run(step, batches)


def test_one_process_of_several_in_step_does_not_try_less_alone(batches: Batches) -> None:
    """Where layers are spread, the others wait for it in the middle of one."""

    class InStep(Weights):
        in_step = True

    def step(phase: int, members: Sequence[int], plan: Plan) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        run(step, batches, kind=InStep)


def test_disk_without_room_is_refused(tmp_path: Path) -> None:
    """Before training, not when the weights are written."""
    check_disk(tmp_path, 1000)
    with pytest.raises(DiskFullError):
        check_disk(tmp_path, 10**18)


@pytest.mark.parametrize(
    ("plan", "changes", "expected"),
    [
        (Plan(), {}, Plan()),
        (Plan(), {"micro_batch_tokens": 100}, Plan(100)),
        (Plan(), {"micro_batch_tokens": 800}, Plan()),
        (Plan(200), {"micro_batch_tokens": 100}, Plan(100)),
        (Plan(100), {"micro_batch_tokens": 200}, Plan(100)),
        (Plan(200), {"activation_checkpointing": True}, Plan(200, True)),
        (Plan(200, True), {}, Plan(200, True)),
        (Plan(200, True), {"activation_checkpointing": False}, Plan(200)),
    ],
)
def test_a_plan_is_kept_unless_settings_say_less(
    plan: Plan, changes: dict[str, int], expected: Plan
) -> None:
    """Parts never grow in the middle of a run, in which the larger ones may not have fit."""
    assert plan.changed_by(OptimizerSection(batch_tokens=400, **changes)) == expected
