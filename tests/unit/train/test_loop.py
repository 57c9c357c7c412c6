"""The training loop: it learns, it resumes to the bit, and it stops on nonsense."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.listening import KilledError, Listener
from fakes.memory import hold_until_seen
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.stops import power_may_fail
from fakes.trainable import sentiment_examples
from safetensors import safe_open
from safetensors.torch import save_file

from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.errors import ArtifactError, DiskFullError, TrainingError
from ollama_bridge.label_store.labels import Targets
from ollama_bridge.models.compute.precision import Precision, random_numbers_aside
from ollama_bridge.recipe.config import EarlyStoppingSection, LoraSection, OptimizerSection
from ollama_bridge.reporting import Metric, Progress
from ollama_bridge.train import loop
from ollama_bridge.train.fit import Forecast
from ollama_bridge.train.loop import Validation, train
from ollama_bridge.train.lora import add_lora, merge_lora
from ollama_bridge.train.losses.objective import Losses, Objective
from ollama_bridge.train.optimizer import make_optimizer
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.result import TrainingResult
from ollama_bridge.train.shards import Weights
from ollama_bridge.train.state import STATE_NAME, Position, load_position, save_best
from ollama_bridge.train.validation import Validator


def batches(count: int = 10) -> Batches:
    examples = sentiment_examples(count, name="train")
    split = encode_split(examples, build_tiny_tokenizer(), max_length=512, name="train")
    return Batches(split.examples, batch_tokens=200, pad_id=0)


@dataclass
class Run:
    """A run of two phases on a tiny model, LoRA with dropout, so that generators matter."""

    folder: Path
    dtype: torch.dtype = torch.float32
    lr: float = 1e-2
    interval_s: float = 1e-9
    dropout: float = 0.1
    listener: Listener = field(default_factory=Listener)
    changes: dict[str, Any] = field(default_factory=dict)
    epochs: float = 1.5
    validate: Validation | None = None

    def __call__(self) -> tuple[dict[str, torch.Tensor], TrainingResult]:
        model = build_tiny_model()
        adapted = add_lora(model, LoraSection(r=4, alpha=8, dropout=self.dropout), seed=3)
        objective = Objective(model)
        settings = OptimizerSection(
            batch_tokens=200, seed=5, checkpoint_interval_s=self.interval_s, **self.changes
        )
        precision = Precision(torch.device("cpu"), self.dtype, torch.get_num_threads())
        data = batches()
        result = train(
            model,
            [
                Phase("one", 1.0, self.lr, objective),
                Phase("two", self.epochs, self.lr / 2, objective),
            ],
            data,
            settings,
            stage="test",
            precision=precision,
            state_dir=self.folder,
            reporter=self.listener,
            validate=self.validate or Validator(model, data, precision=precision),
        )
        return merge_lora(adapted).state_dict(), result


@pytest.fixture(autouse=True)
def saving_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every step, however long saving takes."""
    monkeypatch.setattr(loop, "_MAX_SAVING_SHARE", float("inf"))


def test_loss_falls_and_scores_are_logged(tmp_path: Path) -> None:
    """Training lowers the loss; every epoch's end has validation scores."""
    weights, result = Run(tmp_path, dropout=0.0)()
    ends = [entry for entry in result.log if "validation" in entry]
    steps = len(batches())
    assert [(entry["phase"], entry["step"]) for entry in ends] == [
        ("one", steps),
        ("two", steps),
        ("two", round(1.5 * steps)),
    ]
    assert set(result.validation) == {"ce", "token_accuracy", "exact"}
    scores = [entry["validation"]["ce"] for entry in ends]
    assert scores == sorted(scores, reverse=True)
    assert result.validation["ce"] == scores[-1]
    assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.filterwarnings("error:CUDA reports")
def test_gpus_that_nothing_computes_on_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is their state read, nor does anybody hear of their number."""

    def found(*, check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    Run(tmp_path)()


def test_generators_are_of_the_device_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With any torch: for an older one what is not told is CUDA's, which an Apple GPU has not."""
    fork = torch.random.fork_rng
    state = [torch.arange(8, dtype=torch.uint8)]

    def older(devices: Any = None, *, device_type: str = "cuda") -> Any:
        return fork(devices, device_type=device_type)

    monkeypatch.setattr(torch.random, "fork_rng", older)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda _: state[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda new, _: state.append(new))
    before = torch.get_rng_state()
    with random_numbers_aside(torch.device("mps")):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(state) == 2
    assert state[1] is state[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_killed_run_ends_on_the_same_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    """Killed in either phase and at its border, the rest gives bitwise the unbroken weights."""
    steps = len(batches())
    (tmp_path / "whole").mkdir()
    whole, result = Run(tmp_path / "whole", dtype=dtype)()
    for kill_at in (2, steps, steps + 1):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        with pytest.raises(KilledError):
            Run(folder, dtype=dtype, listener=Listener(kill_at=kill_at))()
        torch.manual_seed(kill_at)  # what others draw must not matter
        listener = Listener()
        resumed, again = Run(folder, dtype=dtype, listener=listener)()
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)
        assert again.log == result.log
        assert listener.resumed_from == [kill_at - 1]


def test_saving_changes_nothing(tmp_path: Path) -> None:
    """A run that saves at every step ends on the bits of one that never does."""
    (tmp_path / "often").mkdir()
    (tmp_path / "never").mkdir()
    often, _ = Run(tmp_path / "often")()
    never, _ = Run(tmp_path / "never", interval_s=1e9)()
    assert (tmp_path / "often" / STATE_NAME).exists()
    assert all(torch.equal(often[name], never[name]) for name in often)


@pytest.mark.parametrize("micro_batch_tokens", [100, 50])
def test_split_batches_change_rounding_only(tmp_path: Path, micro_batch_tokens: int) -> None:
    """Batches that are computed in two, three or four parts end on the same weights."""
    parts = [len(batches().split(members, micro_batch_tokens)) for members in batches().sorted()]
    assert min(parts) >= 2
    assert max(parts) == {100: 3, 50: 4}[micro_batch_tokens]
    results = []
    for number, size in enumerate((None, micro_batch_tokens)):
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(Run(folder, dropout=0.0, changes={"micro_batch_tokens": size})())
    (whole, log), (split, split_log) = results
    assert (log.plan, split_log.plan) == (Plan(), Plan(micro_batch_tokens))
    for ours, theirs in zip(log.log, split_log.log, strict=True):
        assert ours["ce"] == pytest.approx(theirs["ce"], rel=1e-4)
    assert all(torch.allclose(whole[name], split[name], atol=1e-4) for name in whole)


def test_forecast_changes_nothing_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The micro-steps before a run leave weights and generators alone; a resumed run has none."""
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    listener = Listener(kill_at=2)
    with pytest.raises(KilledError):
        Run(tmp_path / "with", listener=listener)()
    again = Listener()
    weights, _ = Run(tmp_path / "with", listener=again)()
    (note,) = listener.notes
    assert note.startswith("needs about")
    assert not again.notes
    unmeasured = Forecast(Plan(), 0, 0, 0.0, 0, 200)
    monkeypatch.setattr(loop, "forecast", lambda *_, **__: unmeasured)
    expected, _ = Run(tmp_path / "without")()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.mark.usefixtures("group_of_one")
def test_another_number_of_processes_is_planned_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits one of two processes is half of a batch; alone it has to compute all of it."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Ranks, "current", lambda: Ranks(0, 2))
        with pytest.raises(KilledError):
            Run(tmp_path, listener=Listener(kill_at=3))()
    position = load_position(tmp_path / STATE_NAME)
    assert position is not None
    assert (position.processes, position.plan.micro_batch_tokens) == (2, 100)
    listener = Listener()
    _, result = Run(tmp_path, listener=listener)()
    assert result.plan == Plan()
    (message,) = listener.notes
    assert message.startswith("needs about")


def change_position(state: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write another position into a saved state."""
    with safe_open(str(state), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["position"])
    change(header)
    save_file(tensors, str(state), metadata={"position": json.dumps(header)})


def test_another_kind_of_device_is_planned_anew(tmp_path: Path) -> None:
    """What a GPU had room for says nothing of the memory where the run goes on."""
    with pytest.raises(KilledError):
        Run(tmp_path, listener=Listener(kill_at=3))()
    state = tmp_path / STATE_NAME

    def move(header: dict[str, Any]) -> None:
        assert header["device"] == "cpu"
        header |= {"device": "cuda", "plan": {"micro_batch_tokens": 50}}

    change_position(state, move)
    listener = Listener(kill_at=5)
    with pytest.raises(KilledError):
        Run(tmp_path, listener=listener)()
    (message,) = listener.notes
    assert message.startswith("needs about")
    position = load_position(state)
    assert position is not None
    assert (position.device, position.plan) == ("cpu", Plan())


def test_what_was_foretold_stands_beside_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory and time of the steps, in the facts and for people; of an early stop no time."""
    foretold = Forecast(Plan(), 3_000_000_000, 0, 90.0, 0, 200, {"rollouts": 60.0})
    monkeypatch.setattr(loop, "forecast", lambda *_, **__: foretold)
    (tmp_path / "whole").mkdir()
    listener = Listener()
    facts = Run(tmp_path / "whole", listener=listener)()[1].facts
    assert (facts["forecast_peak_memory_mb"], facts["forecast_steps_s"]) == (3000, 150)
    assert 0 < facts["steps_s"] <= facts["training_s"]
    peak_gb, minutes = facts["peak_memory_mb"] / 1e3, facts["steps_s"] / 60
    assert listener.notes[-1] == (
        f"took {peak_gb:.2g} GB of memory at its peak (3 forecast), "
        f"{minutes:.2g} minutes of steps (2.5 forecast)"
    )

    (tmp_path / "stopped").mkdir()
    listener = Listener()
    stopping = EarlyStoppingSection(metric="exact", interval_epochs=0.01, patience=1)
    run = Run(
        tmp_path / "stopped",
        listener=listener,
        changes={"early_stopping": stopping},
        validate=lambda: {"exact": 0.0},
    )
    assert "forecast_steps_s" not in run()[1].facts
    (taken,) = [note for note in listener.notes if note.startswith("took")]
    assert "minutes" not in taken


@pytest.mark.parametrize(
    ("asked", "expected", "why"),
    [
        (100, Plan(100), "100 of 200 tokens at once, as micro_batch_tokens says"),
        (800, Plan(), "200 of 200 tokens at once, as micro_batch_tokens says"),
    ],
)
def test_larger_parts_are_taken_where_they_fit(
    tmp_path: Path, asked: int, expected: Plan, why: str
) -> None:
    """A run that goes on obeys, and says with how many tokens at once and why."""
    with pytest.raises(KilledError):
        Run(tmp_path, changes={"micro_batch_tokens": 50}, listener=Listener(kill_at=3))()
    listener = Listener()
    changes = {"micro_batch_tokens": asked}
    _, result = Run(tmp_path, changes=changes, listener=listener)()
    assert result.plan == expected
    needs, goes_on = listener.notes
    assert needs.startswith("needs about")
    assert why in goes_on


@pytest.mark.parametrize(
    ("asked", "why"),
    [(100, "as was found to fit (micro_batch_tokens allows 100)"), (None, "as it was before")],
)
def test_parts_that_a_run_began_with_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None, why: str
) -> None:
    """What did not fit of the same settings is not tried again: bits would hang on free memory."""
    changes = {"micro_batch_tokens": asked}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "forecast", lambda *_, **__: Forecast(Plan(50), 0, 0, 0.0, 0, 200))
        with pytest.raises(KilledError):
            Run(tmp_path, changes=changes, listener=Listener(kill_at=3))()
    listener = Listener()
    _, result = Run(tmp_path, changes=changes, listener=listener)()
    assert result.plan == Plan(50)
    assert listener.notes == [f"resumes with 50 of 200 tokens at once, {why}"]


STOPPING = {
    "early_stopping": EarlyStoppingSection(metric="ce", patience=2, interval_epochs=0.5),
}


def test_best_weights_are_kept_and_training_stops(tmp_path: Path) -> None:
    """With a rate that spoils the model, it stops early, and what is left scores as the best."""
    run = Run(tmp_path, lr=0.3, epochs=8, changes=STOPPING)
    weights, result = run()
    scores = [
        entry["validation"]["ce"]
        for entry in result.log
        if "validation" in entry and entry["phase"] == "two"
    ]
    assert scores.index(min(scores)) == len(scores) - 3
    assert len(scores) < 16
    assert result.best is not None
    assert result.validation == result.best["validation"]
    assert result.validation["ce"] == min(scores)
    model = build_tiny_model()
    model.load_state_dict(weights)
    precision = Precision(torch.device("cpu"), torch.float32, torch.get_num_threads())
    found = Validator(model.eval(), batches(), precision=precision)()
    assert found["ce"] == pytest.approx(min(scores), rel=1e-4)


def test_a_power_cut_leaves_a_whole_state(tmp_path: Path) -> None:
    """The state, and the best weights, are on the disk before they take the old one's name."""
    with power_may_fail() as disk:
        Run(tmp_path, epochs=1, changes=STOPPING)()
    assert STATE_NAME in disk.renamed
    assert any(name.startswith("resume-best") for name in disk.renamed)


def test_run_that_stops_early_resumes_to_the_bit(tmp_path: Path) -> None:
    """Killed behind its best evaluation, it stops where the unbroken one does, with its weights."""
    (tmp_path / "whole").mkdir()
    whole, result = Run(tmp_path / "whole", lr=0.3, epochs=8, changes=STOPPING)()
    assert result.best is not None
    killer = Listener(kill_at=len(batches()) + result.best["step"] + 2)
    (tmp_path / "killed").mkdir()
    with pytest.raises(KilledError):
        Run(tmp_path / "killed", lr=0.3, epochs=8, changes=STOPPING, listener=killer)()
    resumed, again = Run(tmp_path / "killed", lr=0.3, epochs=8, changes=STOPPING)()
    assert again.log == result.log
    assert again.best == result.best
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_weights_of_the_best_step_are_kept_though_another_was_better_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind an evaluation that no state knew of, it comes out otherwise the next time."""
    every_step = EarlyStoppingSection(metric="exact", patience=9, interval_epochs=0.01)

    def run(folder: Path, scores: list[float]) -> tuple[dict[str, torch.Tensor], TrainingResult]:
        folder.mkdir(exist_ok=True)
        left = iter(scores)
        return Run(
            folder,
            changes={"early_stopping": every_step},
            validate=lambda: {"exact": next(left, 0.0)},
        )()

    def save_and_die(path: Path, weights: Weights) -> None:
        save_best(path, weights)
        if path.name == "resume-best-3.safetensors":
            raise KilledError

    # Of the first phase's end, and of the second's first steps.
    expected, result = run(tmp_path / "whole", [0.0, 0.5, 0.1, 0.2])
    assert result.best == {"step": 1, "validation": {"exact": 0.5}}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_best", save_and_die)
        with pytest.raises(KilledError):
            run(tmp_path / "killed", [0.0, 0.5, 0.1, 0.9])
    found, again = run(tmp_path / "killed", [0.2])
    assert again.best == result.best
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    kept = [path.name for path in (tmp_path / "killed").glob("resume-best*")]
    assert kept == ["resume-best-1.safetensors"]


def test_weights_that_nothing_chose_are_told(tmp_path: Path) -> None:
    """Where no answer was ever right as a whole, the first evaluation's weights are the best."""
    listener = Listener()
    _, result = Run(
        tmp_path,
        listener=listener,
        changes={"early_stopping": EarlyStoppingSection(metric="exact", interval_epochs=0.01)},
        validate=lambda: {"exact": 0.0},
    )()
    assert result.best == {"step": 1, "validation": {"exact": 0.0}}
    assert "leave out early_stopping.metric" in listener.warnings[-1]


def test_training_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    """A library must not reseed its caller's random numbers."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Run(tmp_path, interval_s=1e9)()
    assert torch.equal(torch.rand(3), expected)


def test_events_tell_loss_speed_and_memory(tmp_path: Path) -> None:
    """Every step reports its loss parts, rate, tokens a second and memory."""
    listener = Listener()
    Run(tmp_path, listener=listener)()
    progress = [event for event in listener.events if isinstance(event, Progress)]
    total = len(batches()) + round(1.5 * len(batches()))
    assert [event.done for event in progress] == list(range(1, total + 1))
    assert set(progress[0].fields) == {"loss", "ce", "lr", "tok_s", "memory_mb"}
    metrics = [event for event in listener.events if isinstance(event, Metric)]
    assert "validation_exact" in metrics[-1].values


def test_peak_memory_is_that_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step holds for a moment is in the peak, in its own event and in no later one."""
    held_bytes = 200_000_000
    calls = 0
    loss = Objective.__call__

    def hungry(self: Objective, batch: Batch, soft: Targets | None) -> Losses:
        nonlocal calls
        calls += 1
        if calls == 1:
            hold_until_seen(held_bytes)
        return loss(self, batch, soft)

    monkeypatch.setattr(Objective, "__call__", hungry)
    monkeypatch.setattr(loop, "forecast", lambda *_, **__: Forecast(Plan(), 0, 0, 0.0, 0, 200))
    listener = Listener()
    _, result = Run(tmp_path, listener=listener)()
    told = [
        float(event.fields["memory_mb"]) for event in listener.events if isinstance(event, Progress)
    ]
    assert told[0] - told[-1] > 0.9 * held_bytes / 1e6
    assert result.facts["peak_memory_mb"] == pytest.approx(told[0], abs=0.1)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_gradients_are_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """What the optimizer steps by is never longer than the limit, and no other where it is not."""
    norms: list[float] = []

    def watched(
        parameters: dict[str, torch.nn.Parameter], settings: OptimizerSection
    ) -> torch.optim.Optimizer:
        def note(*_: object) -> None:
            gradients = [one.grad for one in parameters.values() if one.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

        optimizer = make_optimizer(parameters, settings)
        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", watched)
    found = []
    for limit in (1e9, None):
        norms = []
        folder = tmp_path / str(limit)
        folder.mkdir()
        Run(folder, changes={"clip_norm": limit or share * found[0][0]})()
        found.append(norms)
    free, clipped = found
    assert clipped[0] == pytest.approx(min(1.0, share) * free[0], rel=1e-4)
    assert max(clipped) <= share * free[0] * 1.001


def test_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    """A weight that is not finite is noticed at the first step, which is named."""
    model = build_tiny_model()
    model.model.norm.weight.data[0] = float("nan")
    precision = Precision(torch.device("cpu"), torch.float32, torch.get_num_threads())
    with pytest.raises(TrainingError, match="test: the loss is nan at step 1") as caught:
        train(
            model,
            [Phase("one", 1.0, 1e-3, Objective(model))],
            batches(4),
            OptimizerSection(batch_tokens=200),
            stage="test",
            precision=precision,
            state_dir=tmp_path,
            reporter=Listener(),
        )
    assert caught.value.hint is not None
    assert "lr" in caught.value.hint


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    """A truncated state is an error that says what to remove, not a fresh start."""
    with pytest.raises(KilledError):
        Run(tmp_path, listener=Listener(kill_at=3))()
    state = tmp_path / STATE_NAME
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be resumed"):
        Run(tmp_path)()


@pytest.mark.parametrize("part", [None, "plan", "rollouts"])
def test_a_state_of_another_version_is_refused(tmp_path: Path, part: str | None) -> None:
    """What it says and this one does not know is an error with a way out, in whichever part."""
    with pytest.raises(KilledError):
        Run(tmp_path, listener=Listener(kill_at=3))()

    def tell(header: dict[str, Any]) -> None:
        told = header if part is None else header[part] or {}
        told["of_the_future"] = 1
        if part is not None:
            header[part] = told

    change_position(tmp_path / STATE_NAME, tell)
    with pytest.raises(ArtifactError, match=r"another version .*of_the_future") as caught:
        Run(tmp_path)()
    assert caught.value.hint == f"start this stage afresh: rm -r {tmp_path}"


def test_full_disk_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a state does not fit, the one before it is still there and the error says so."""
    from safetensors import SafetensorError

    from ollama_bridge.train import state as module

    with pytest.raises(KilledError):
        Run(tmp_path, listener=Listener(kill_at=3))()
    before = (tmp_path / STATE_NAME).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(DiskFullError):
        Run(tmp_path)()
    assert (tmp_path / STATE_NAME).read_bytes() == before


def test_a_disk_that_is_full_behind_the_last_step_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is smaller than a state, and says itself that it has no room."""
    steps, save = round(1.5 * len(batches())), loop.save_state

    def full(path: Path, position: Position, **rest: Any) -> None:
        if (position.phase, position.step) == (1, steps):
            raise DiskFullError(path)
        save(path, position, **rest)

    monkeypatch.setattr(loop, "save_state", full)
    _, result = Run(tmp_path)()
    assert result.log[-1]["step"] == steps
    saved = load_position(tmp_path / STATE_NAME)
    assert saved is not None
    assert (saved.phase, saved.step) == (1, steps - 1)
