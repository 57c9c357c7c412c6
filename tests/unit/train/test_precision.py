"""Compute type and threads, pinned over a resume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.models.compute import memory
from ollama_bridge.models.compute import precision as module
from ollama_bridge.models.compute.precision import choose_precision, pinned_precision
from ollama_bridge.recipe.config import OptimizerSection
from ollama_bridge.train.plan import less_memory


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "best_device", lambda: torch.device("cpu"))


@pytest.mark.parametrize(("fast", "name"), [(True, "bfloat16"), (False, "float32")])
def test_auto_follows_the_probe(monkeypatch: pytest.MonkeyPatch, fast: bool, name: str) -> None:
    """auto is bfloat16 exactly where the probe finds it faster."""
    on_the_cpu(monkeypatch)
    monkeypatch.setattr(module, "bfloat16_is_faster", lambda: fast)
    assert choose_precision("auto").dtype_name == name


def test_gpu_is_taken_before_mps_and_mps_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch says that there is one."""
    for cuda, mps, expected in (
        (True, True, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=mps: found)
        assert module.best_device().type == expected
        if expected == "mps":
            assert choose_precision("auto").dtype_name == "float32"


@pytest.mark.parametrize(("device", "helps"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_the_cpu_is_named_where_its_memory_is_another(
    monkeypatch: pytest.MonkeyPatch, device: str, helps: bool
) -> None:
    """Not to who computes there, and not on a Mac, where both have one memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: device == "mps")
    for hint in (memory.less_for_a_model(), less_memory(OptimizerSection())):
        assert ("CUDA_VISIBLE_DEVICES= " in hint) == helps
        assert hint.count(", or ") == 1


def test_probe_answers_once() -> None:
    """The probe gives one answer a process."""
    assert module.bfloat16_is_faster() is module.bfloat16_is_faster()


def test_explicit_types_are_obeyed_and_others_refused() -> None:
    """A named type needs no probe; an unknown one is an error."""
    assert choose_precision("float32").dtype == torch.float32
    with choose_precision("bfloat16").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="float16"):
        choose_precision("float16")  # type: ignore[arg-type]


def test_pinned_choice_outlives_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run computes as the interrupted one did, whatever the probe says now."""
    on_the_cpu(monkeypatch)
    path = tmp_path / "resume-precision.json"
    monkeypatch.setattr(module, "bfloat16_is_faster", lambda: True)
    first = pinned_precision(path)
    monkeypatch.setattr(module, "bfloat16_is_faster", lambda: False)
    assert pinned_precision(path) == first


def test_pinned_threads_are_set_again(tmp_path: Path) -> None:
    """The number of threads decides last bits, so it is restored too."""
    before = torch.get_num_threads()
    path = tmp_path / "resume-precision.json"
    path.write_text(f'{{"dtype": "float32", "threads": {before + 1}}}')
    try:
        assert pinned_precision(path).threads == torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_threads_are_pinned_for_a_number_of_processes(tmp_path: Path) -> None:
    """One that goes on alone has its own threads, and not the one that torchrun gave to each."""
    before = torch.get_num_threads()
    path = tmp_path / "resume-precision.json"
    torch.set_num_threads(before + 1)
    try:
        pinned_precision(path, "bfloat16", processes=2)
        torch.set_num_threads(before)
        alone = pinned_precision(path, "float32")
        assert (alone.dtype, alone.threads) == (torch.bfloat16, before)
        torch.set_num_threads(before + 1)
        assert pinned_precision(path).threads == torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("processes", [1, 2])
def test_another_kind_of_device_chooses_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """What a GPU has computed in may be emulated where the run goes on, and the other way round."""
    before = torch.get_num_threads()
    path = tmp_path / "resume-precision.json"
    monkeypatch.setattr(module, "_bfloat16_pays", lambda device: device.type == "cuda")
    for kind, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float32), ("cuda", torch.bfloat16)):
        device = torch.device(kind)
        monkeypatch.setattr(module, "best_device", lambda device=device: device)
        expected = module.Precision(device, dtype, before)
        assert pinned_precision(path, processes=processes) == expected
        assert pinned_precision(path, "float32", processes=processes) == expected


@pytest.mark.parametrize("text", ['{"dtype": "int4", "threads": 1}', "[]"])
def test_damaged_pin_is_an_error(tmp_path: Path, text: str) -> None:
    """A file that cannot be read is not silently probed anew."""
    path = tmp_path / "resume-precision.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match="damaged"):
        pinned_precision(path)


_PRODUCTS = """
import torch
from ollama_bridge.models.compute.precision import choose_precision
choose_precision("bfloat16")
weight = torch.ones(64, 64, dtype=torch.bfloat16)
for rows in [*range(100, 200), 100]:
    print("rows", rows, flush=True)
    torch.ones(rows, 64, dtype=torch.bfloat16) @ weight
"""


@pytest.mark.parametrize("given", [None, "1024"])
def test_kernels_of_past_shapes_are_not_kept_for_ever(given: str | None) -> None:
    """Of 100 other shapes: the first one's is made anew, unless the user keeps more."""
    named = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"}
    env = {key: value for key, value in os.environ.items() if key not in named}
    env["ONEDNN_VERBOSE"] = "profile_create"
    if given is not None:
        env["DNNL_PRIMITIVE_CACHE_CAPACITY"] = given
    done = subprocess.run(
        [sys.executable, "-c", _PRODUCTS], env=env, capture_output=True, text=True, check=True
    )
    last = done.stdout.rpartition("rows 100")[2]
    if "create:" not in last:
        pytest.skip("this machine multiplies bfloat16 without oneDNN")
    assert ("cache_miss" in last) == (given is None)
