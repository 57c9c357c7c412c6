"""One run in two processes: the same losses, and a worker that is killed costs time only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from fakes.models import build_tiny_model
from fakes.processes import words_of
from fakes.trainable import LABELS, SYSTEM, log_of, weights_of

from ollama_bridge.errors import ConfigError, ModelError
from ollama_bridge.models.compute import memory
from ollama_bridge.models.compute.precision import Precision, choose_precision
from ollama_bridge.models.safety import read_config
from ollama_bridge.models.weights.stored import count_parameters
from ollama_bridge.recipe.config import DistillSection, StudentSection, TuneSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.train import ranks
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.state import STATE_NAME, load_position

TRAINING = Path(__file__).parents[3] / "training"
SETTINGS = {
    "batch_tokens": 200,
    "lr": 1e-3,
    "dtype": "float32",
    "epochs": 6,
    "hidden_epochs": 1,
    "hidden_weight": 0.5,
    "checkpoint_interval_s": 1e-3,
}
# So few that processes have different numbers of parts to compute.
MICRO_BATCH_TOKENS = 60
RECIPE = {
    "name": "tiny",
    "description": "tiny",
    "task": {"kind": "classify", "system": SYSTEM, "labels": list(LABELS)},
    "data": {"source": "vader"},
    "teacher": {"model": "ollama:none"},
    "student": {"layers": 2},
    "distill": SETTINGS,
    "export": {"tag": "tiny"},
}


TUNE = {
    "epochs": 1,
    "batch_tokens": 400,
    "lr": 1e-3,
    "dtype": "float32",
}
# Adapters beside weights that PiSSA changed in each process, and all weights, a share in each.
TUNED_WAYS = {
    "pissa": {"lora": {"r": 4, "alpha": 8, "variant": "pissa"}},
    "full-sharded": {"method": "full", "shard_layers": True},
}
WHOLE = {"epochs": 2}
# A worker of this one is killed: its state has to be put together, what is whole is read likewise.
KILLED = {"shard_layers": True, "micro_batch_tokens": MICRO_BATCH_TOKENS}
# Scripts that two processes run, and what of the recipe is other than above.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "killed": ("distill", {"distill": {**SETTINGS, **KILLED}}),
    "whole": ("distill", {"distill": {**SETTINGS, **WHOLE}}),
    **{
        way: ("finetune", {"teacher": {"model": "ollama:none", "tune": {**TUNE, **settings}}})
        for way, settings in TUNED_WAYS.items()
    },
}


@pytest.fixture(scope="module", autouse=True)
def logs_of_torchrun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Its folders of logs, which it leaves, are pytest's to keep and to remove."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TMPDIR", str(tmp_path_factory.mktemp("torchrun")))
        yield


def torchrun(script: Path, *arguments: str, restarts: int = 0) -> list[str]:
    """The command of two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", str(restarts), "--", str(script)]
    return [*command, *arguments]


def alone(
    base: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels,
    settings: dict[str, Any],
    out_dir: Path,
) -> Checkpoint:
    return distill(
        base,
        corpus,
        labels,
        DistillSection(**settings),
        student=StudentSection(layers=2),
        teacher=base,
        system=SYSTEM,
        task_labels=LABELS,
        out_dir=out_dir,
    )


def assert_close_weights(one: Checkpoint, other: Checkpoint) -> None:
    ours, theirs = weights_of(one), weights_of(other)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


@pytest.fixture(scope="module")
def together(
    base: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of what two processes made that were started once (``in_two_processes.py``)."""
    here = Path(__file__).parent
    folder = tmp_path_factory.mktemp("together")
    given = {
        "distill": distill_words(base, corpus, labels),
        "finetune": ["--base", str(base.path), "--corpus", str(corpus.path)],
    }
    scripts = {}
    for name, (verb, changes) in WAYS.items():
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({**RECIPE, **changes}))
        words = [str(TRAINING / f"{verb}.py"), str(recipe), *given[verb]]
        scripts[name] = [*words, "--out", str(folder / name)]
    (folder / "scripts.json").write_text(json.dumps(scripts))
    script = here / "in_two_processes.py"
    command = torchrun(script, str(base.path), str(corpus.path), str(folder), restarts=1)
    paths = filter(None, (str(here.parents[1]), os.environ.get("PYTHONPATH")))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OLLAMA_BRIDGE_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        killed = kill_one(process, script, folder / ".killed.draft" / STATE_NAME)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert killed
    return folder


def kill_one(process: subprocess.Popen[str], script: Path, state: Path) -> bool:
    """Kill the last worker amid the second phase of what keeps ``state``; whether it came to it."""
    while process.poll() is None:
        position = load_position(state) if state.exists() else None
        if position is not None and position.phase == 1 and position.step >= 4:
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in children if script.name in words_of(child)]
            assert len(workers) == 2
            workers[-1].kill()
            return True
        time.sleep(0.02)
    return False


def distill_words(base: Checkpoint, corpus: Corpus, labels: SoftLabels) -> list[str]:
    """What is behind the recipe."""
    words = ["--start", str(base.path), "--teacher", str(base.path)]
    return [*words, "--corpus", str(corpus.path), "--labels", str(labels.path)]


def made_by_both(together: Path, way: str) -> Checkpoint:
    """What a script made; of its two processes one spoke."""
    told = [(together / f"{way}-{rank}.txt").read_text().split() for rank in range(2)]
    assert told == [[str(together / way)], []]
    return Checkpoint.open(together / way, verify_digests=True)


@pytest.mark.usefixtures("no_reference_values")
def test_two_processes_give_the_losses_of_one(
    together: Path, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
) -> None:
    """torchrun: the student is the same.

    Gradients are summed in another order, so weights are equal up to rounding.
    """
    student = made_by_both(together, "whole")
    assert json.loads(student.reference_path.read_text())
    expected = alone(base, corpus, labels, {**SETTINGS, **WHOLE}, tmp_path / "alone")
    assert_same_training(student, expected)


@pytest.mark.usefixtures("no_reference_values")
def test_a_worker_that_is_killed_costs_time_only(
    together: Path, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
) -> None:
    """torchrun starts it again, and the student is the same."""
    student = made_by_both(together, "killed")
    assert json.loads(student.reference_path.read_text())
    expected = alone(base, corpus, labels, {**SETTINGS, **KILLED}, tmp_path / "alone")
    assert_same_training(student, expected)
    # Not trained from the start again: this process has seen fewer tokens than the whole run.
    seen = student.facts["tokens_per_s"] * student.facts["training_s"]
    whole = expected.facts["tokens_per_s"] * expected.facts["training_s"]
    assert seen < 0.95 * whole


def assert_same_training(student: Checkpoint, expected: Checkpoint) -> None:
    """The same work, step by step."""
    assert student.manifest.work.key == expected.manifest.work.key
    ours, theirs = log_of(student), log_of(expected)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        losses = {name: mine.pop(name) for name in ("loss", "ce", "kl", "hidden") if name in mine}
        # Sums in another order, and AdamW divides the difference by the root of small moments.
        assert losses == pytest.approx({name: other[name] for name in losses}, rel=3e-4)
        assert (mine["phase"], mine["step"]) == (other["phase"], other["step"])
    assert_close_weights(student, expected)


@pytest.mark.usefixtures("no_reference_values")
@pytest.mark.parametrize("way", TUNED_WAYS)
def test_two_processes_tune_as_one(
    together: Path, base: Checkpoint, corpus: Corpus, tmp_path: Path, way: str
) -> None:
    """Put together, and adapters merged, once into one model."""
    tuned = made_by_both(together, way)
    expected = finetune(
        base,
        corpus,
        TuneSection.model_validate({**TUNE, **TUNED_WAYS[way]}),
        system=SYSTEM,
        labels=LABELS,
        out_dir=tmp_path / "alone",
    )
    assert tuned.manifest.work.key == expected.manifest.work.key
    assert json.loads((tuned.path / "training.json").read_text())["processes"] == 2
    for ours, theirs in zip(log_of(tuned), log_of(expected), strict=True):
        assert ours["ce"] == pytest.approx(theirs["ce"], rel=1e-4)
    assert_close_weights(tuned, expected)
    if way == "pissa":
        assert tuned.facts["merge_max_logit_difference"] < 1e-3


def test_what_is_wrong_is_told_once_and_not_tried_again(tmp_path: Path) -> None:
    """torchrun starts all processes again, whatever ended them; its summary ends with the error."""
    command = torchrun(TRAINING / "distill.py", "chat", "--strat", "x", restarts=1)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("error: no such option: --strat") == 1
    assert done.stderr.count("fix:   ollama-bridge distill --help") == 1
    assert done.stderr.count("(exitcode: 2)") == 2  # by torchrun, an attempt each
    summary = done.stderr[done.stderr.index("Root Cause") :]
    assert "no such option: --strat" in summary
    assert "ollama-bridge distill --help" in summary


@pytest.fixture
def pair(together: Path) -> list[dict[str, Any]]:
    """What each of two processes has at the end, that began with other weights."""
    found: list[dict[str, Any]] = json.loads((together / "pair.json").read_text())
    assert len(found) == 2
    return found


def test_all_processes_train_the_student_of_the_first(pair: list[dict[str, Any]]) -> None:
    """The same parts of it, and the same weights, those that are not trained among them."""
    assert pair[0]["layers"] == pair[1]["layers"]
    assert pair[0]["weights"] == pair[1]["weights"]


def test_the_others_wait_as_long_as_the_first_has_work(pair: list[dict[str, Any]]) -> None:
    """Scoring a large model alone takes longer than the half hour of torch's default."""
    assert all(one["patience_s"] > 24 * 3600 for one in pair)


def test_idle_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torchrun gave each process one thread of many, with what to set."""
    monkeypatch.setattr(ranks.psutil, "cpu_count", lambda logical: 8)
    one, four = (Precision(torch.device("cpu"), torch.float32, count) for count in (1, 4))
    advice = Ranks(0, 2, 2).advice_on_threads(one)
    assert advice is not None
    assert "OMP_NUM_THREADS=4" in advice
    assert Ranks(0, 2, 2).advice_on_threads(four) is None
    assert Ranks().advice_on_threads(one) is None
    gpu = Precision(torch.device("cuda"), torch.float32, 1)
    assert Ranks(0, 2, 2).advice_on_threads(gpu) is None


@pytest.mark.usefixtures("group_of_one")
def test_several_processes_of_a_mac_compute_on_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """gloo sums nothing that lies on its GPU; it is told, for one process alone would take it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    precision = choose_precision("float32")
    assert precision.device.type == "cpu"
    assert "without torchrun" in (Ranks(0, 2, 2).advice_on_device(precision) or "")
    assert Ranks().advice_on_device(precision) is None
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert Ranks(0, 2, 2).advice_on_device(precision) is None


_TWO_ON_ONE_GPU = """
import torch
torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 1)
from ollama_bridge.cli.launch import launch
launch("distill")
"""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_more_processes_than_gpus_are_one_message(rank: str) -> None:
    """With what to start instead, before any of them waits for another."""
    here = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    done = subprocess.run(
        [sys.executable, "-c", _TWO_ON_ONE_GPU, "--json"],
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ConfigError.exit_code, done.stderr
    first, second = done.stderr.splitlines()
    assert "2 processes on this machine, and 1 GPU(s)" in first
    assert "--nproc-per-node 1, " in second
    assert ('"ConfigError"' in done.stdout) == (rank == "0")


def test_alone_nothing_is_asked_and_nothing_changes(tmp_path: Path) -> None:
    """Without torchrun there is one process that is the first, and no process group."""
    ranks = Ranks.current()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.agree("x") == "x"
    assert ranks.largest(2.5) == 2.5
    assert ranks.share((3, 4, 5)) == (3, 4, 5)
    parameter = torch.nn.Parameter(torch.ones(2))
    ranks.sum_gradients([parameter])
    assert parameter.grad is None
    with ranks.in_turn():
        ranks.wait()


def test_every_process_of_a_machine_has_to_hold_the_model(
    base: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One says so, for all of them; a model that is there once would fit."""
    numbers = count_parameters(base.path, read_config(base.path))
    monkeypatch.setattr(memory, "free_bytes", lambda _: 6 * numbers)
    monkeypatch.setattr(Ranks, "wait", lambda _: None)
    monkeypatch.setattr(Ranks, "largest", lambda _, value: value)
    bfloat16, gpu = (Precision(torch.device(name), torch.bfloat16, 1) for name in ("cpu", "cuda"))
    Ranks().check_room(base.path, bfloat16, purpose="holding it")
    Ranks(1, 4, on_this_machine=2).check_room(base.path, bfloat16, purpose="holding it")
    for rank in (0, 2):
        two = Ranks(rank, 4, on_this_machine=2)
        with pytest.raises(ModelError, match="parameters in float32 in each of 2 processes"):
            two.check_room(base.path, bfloat16, purpose="holding it")
        # Of a file that is mapped, halves of it, or one copy that goes back to be saved.
        for precision in (bfloat16, gpu):
            two.check_room(base.path, precision, purpose="holding it", frozen=True)
        two.check_room(base.path, gpu, purpose="holding it", all_take_back=False)
        with pytest.raises(ModelError, match="parameters in float32 in each of 2 processes"):
            two.check_room(base.path, gpu, purpose="holding it")
        four = Ranks(0, 4, on_this_machine=4)
        with pytest.raises(ModelError, match="parameters in each of 4 processes"):
            four.check_room(base.path, gpu, purpose="holding it", frozen=True)
    monkeypatch.setattr(Ranks, "largest", lambda *_: 1.0)
    with pytest.raises(ModelError, match="see the other process's error"):
        Ranks(1, 4, on_this_machine=2).check_room(base.path, bfloat16, purpose="holding it")


def test_shares_are_whole_and_of_like_lengths() -> None:
    """Every example is in one share; a batch of fewer examples than processes leaves some empty."""
    shares = [Ranks(rank, 3).share(range(8)) for rank in range(3)]
    assert shares == [(0, 3, 6), (1, 4, 7), (2, 5)]
    assert [Ranks(rank, 3).share([7]) for rank in range(3)] == [(7,), (), ()]


def test_nobody_has_to_be_told_what_losses_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """All know the objective, those with an empty share as well: one sum a step, and no message."""

    def all_reduce(sums: torch.Tensor) -> None:
        sums += torch.tensor([3.0, 1.0])  # of the other process

    def told(*_: object, **__: object) -> None:
        raise AssertionError("a message")

    monkeypatch.setattr(ranks.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(ranks.distributed, "broadcast_object_list", told)
    names = Objective(build_tiny_model()).names
    assert names == ("loss", "ce")
    own = {"ce": torch.tensor(0.5), "loss": torch.tensor(2.0)}
    for parts, expected in ((own, [5.0, 1.5]), ({}, [3.0, 1.0])):
        found = Ranks(1, 2).sum_losses(parts, names)
        assert list(found) == ["loss", "ce"]
        assert [float(value) for value in found.values()] == expected


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_what_is_made_of_shares_comes_back_in_order(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gathered, the shares of all processes are the whole again, also where some are empty."""
    whole = list(range(count))

    def all_gather(shares: list[Any], values: list[int]) -> None:
        assert values == list(Ranks(1, 3).share(whole))
        shares[:] = [list(Ranks(rank, 3).share(whole)) for rank in range(3)]

    monkeypatch.setattr(ranks.distributed, "all_gather_object", all_gather)
    assert Ranks(1, 3).gather(Ranks(1, 3).share(whole)) == whole
    assert Ranks().gather(whole) == whole
