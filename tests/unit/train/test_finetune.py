"""The finetune stage."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.listening import KilledError, Listener
from fakes.trainable import LABELS, SYSTEM, log_of, scores_of, weights_of
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from ollama_bridge.errors import ConfigError, ModelError, TrainingError
from ollama_bridge.models.compute import memory
from ollama_bridge.models.compute.precision import DTypeChoice
from ollama_bridge.models.load import load_model
from ollama_bridge.models.reference.values import with_reference_values, write_reference_values
from ollama_bridge.models.safety import read_config
from ollama_bridge.models.weights.stored import count_parameters
from ollama_bridge.recipe.config import DistillSection, LoraSection, TuneSection
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.reporting import Event, Progress
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.train import finetune as stage
from ollama_bridge.train import loop, qlora
from ollama_bridge.train.finetune import check_tuning, finetune
from ollama_bridge.train.plan import Plan, less_memory

MAX_DIFFERENCE = "merge_max_logit_difference"
SETTINGS = TuneSection(
    epochs=2, batch_tokens=400, lr=1e-2, dtype="float32", lora=LoraSection(r=4, alpha=8)
)


def test_tuned_checkpoint_is_merged_and_complete(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """The result is a plain float32 checkpoint without adapters, with log and reference values."""
    tuned = finetune(
        base, corpus, SETTINGS, system=SYSTEM, labels=LABELS, out_dir=tmp_path / "tuned"
    )
    before, after = weights_of(base), weights_of(tuned)
    assert set(after) == set(before)
    assert all(value.dtype == torch.float32 for value in after.values())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    scores = scores_of(tuned, "ce")
    assert len(scores) == 2
    assert scores[1] < scores[0]
    values = ReferenceValues.read(tuned.reference_path)
    again = tmp_path / "again"
    shutil.copytree(tuned.path, again)
    write_reference_values(again, system=SYSTEM, labels=LABELS, noise_types=())
    read = ReferenceValues.read(again / "reference.json")
    assert values.model_copy(update={"noise": {}}) == read
    same = with_reference_values(tuned, system=SYSTEM, labels=LABELS, out_dir=tmp_path / "values")
    assert same is tuned  # so a build serves it as it is
    assert tuned.facts["datasets"] == ["some-texts"]
    assert 0 < tuned.facts["merge_mean_logit_difference"] <= tuned.facts[MAX_DIFFERENCE] < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_second_copy_is_held(
    base: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: DTypeChoice,
) -> None:
    """All that needs the whole model in float32 has the one that was looked for room for."""
    loads: list[object] = []
    looks: list[object] = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(*args: object, **kwargs: object) -> object:
        loads.append(args)
        return load(*args, **kwargs)

    def free(device: object) -> int:
        looks.append(device)
        return sys.maxsize

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    monkeypatch.setattr(memory, "free_bytes", free)
    settings = SETTINGS.model_copy(update={"epochs": 1, "dtype": dtype})
    finetune(base, corpus, settings, system=None, out_dir=tmp_path / "tuned")
    assert (len(looks), len(loads)) == (1, 1)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_what_does_not_fit_is_told_before_it_is_trained(
    base: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """Of 4 bits, too: what is merged in the end is whole."""
    numbers = count_parameters(base.path, read_config(base.path))
    monkeypatch.setattr(memory, "free_bytes", lambda _: 4 * numbers)
    monkeypatch.setattr(stage, "check_backend", lambda: None)
    settings = SETTINGS.model_copy(update={"method": method})
    with pytest.raises(
        ModelError, match=r"in float32 need .* GB of memory, .* GB are free"
    ) as caught:
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "tuned")
    assert ("merging" in caught.value.message) == (method == "qlora")
    assert "smaller model" in (caught.value.hint or "")
    assert not (tmp_path / "tuned").exists()


def test_four_bits_are_named_where_they_take_less() -> None:
    """Beside an adapter the base may be quantized; what PiSSA decomposes may not."""
    assert "qlora" in less_memory(TuneSection())
    for settings in (
        TuneSection(method="qlora"),
        TuneSection(method="full"),
        TuneSection(lora=LoraSection(variant="pissa")),
        DistillSection(),
    ):
        assert "qlora" not in less_memory(settings)


@pytest.mark.parametrize(
    ("plan", "longest", "says", "keeps_silent_about"),
    [
        (None, 100, "--set distill.micro_batch_tokens=512 (1024 now)", "max_length"),
        (Plan(300), 100, "--set distill.micro_batch_tokens=150 (300 now)", "max_length"),
        (Plan(100, True), 100, "max_length, below 100", "micro_batch_tokens"),
        (Plan(300, True), 100, "=150 (300 now)", "activation_checkpointing"),
    ],
)
def test_less_memory_is_less_than_is_in_use(
    plan: Plan | None, longest: int, says: str, keeps_silent_about: str
) -> None:
    """The number in use is named, and what is no way out is not."""
    hint = less_memory(DistillSection(), plan, longest=longest)
    assert says in hint
    assert keeps_silent_about not in hint


@pytest.mark.usefixtures("no_reference_values")
def test_part_of_the_examples_can_be_chosen(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """max_examples trains on that many, the same ones for the same seed."""
    settings = SETTINGS.model_copy(update={"max_examples": 5, "epochs": 1})
    runs = [
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / name)
        for name in ("a", "b")
    ]
    assert runs[0].facts["train_examples"] == 5
    assert runs[0].digest == runs[1].digest


@pytest.mark.usefixtures("no_reference_values")
def test_a_small_file_is_repeated(base: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    """As by as many epochs; of what was chosen to be few, as the epochs say."""

    def tuned(name: str, **changes: Any) -> Checkpoint:
        settings = SETTINGS.model_copy(update={"epochs": 1, **changes})
        return finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / name)

    an_epoch = log_of(tuned("asked"))[-1]["step"]
    more = tuned("more", min_steps=3 * an_epoch)
    assert more.facts["epochs"] == 3
    assert log_of(more)[-1]["step"] == 3 * an_epoch
    longer = weights_of(tuned("three", epochs=3))
    assert all(torch.equal(value, longer[name]) for name, value in weights_of(more).items())
    chosen = tuned("chosen", max_examples=5, min_steps=3 * an_epoch)
    assert log_of(chosen)[-1]["step"] < an_epoch


WAYS = {
    "rslora": {"lora": LoraSection(r=4, alpha=8, variant="rslora")},
    "dora": {"lora": LoraSection(r=4, alpha=8, variant="dora", dropout=0.1)},
    "pissa": {"lora": LoraSection(r=4, alpha=8, variant="pissa")},
    "full": {"method": "full"},
}


@dataclass(frozen=True)
class OutOfMemoryAt:
    """Stands for a device that has no memory left at a step."""

    step: int

    def emit(self, event: Event) -> None:
        if isinstance(event, Progress) and event.unit == "steps" and event.done == self.step:
            raise torch.OutOfMemoryError("no memory left")


@pytest.mark.usefixtures("no_reference_values")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_resumes_to_the_bit(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Killed in the middle and started again: the weights of an unbroken run, all learnt."""
    monkeypatch.setattr(loop, "_MAX_SAVING_SHARE", float("inf"))
    settings = SETTINGS.model_copy(update={"checkpoint_interval_s": 1e-9, **WAYS[way]})
    with pytest.raises(KilledError):
        finetune(
            base,
            corpus,
            settings,
            system=SYSTEM,
            out_dir=tmp_path / "killed",
            reporter=Listener(kill_at=4),
        )
    assert not (tmp_path / "killed").exists()
    runs = [
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / name)
        for name in ("killed", "whole")
    ]
    assert runs[0].digest == runs[1].digest
    scores = scores_of(runs[0], "ce")
    assert scores[1] < scores[0]
    before, after = weights_of(base), weights_of(runs[0])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if way == "full":
        assert changed == set(before)
        assert MAX_DIFFERENCE not in runs[0].facts
    else:
        assert changed == {name for name in before if "_proj" in name}
        assert runs[0].facts[MAX_DIFFERENCE] < 1e-3


@pytest.mark.usefixtures("no_reference_values")
def test_less_memory_is_tried_where_the_run_was(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said where memory is out costs no step that was taken."""
    monkeypatch.setattr(loop, "_MAX_SAVING_SHARE", float("inf"))
    settings = SETTINGS.model_copy(update={"checkpoint_interval_s": 1e-9})
    full = OutOfMemoryAt(step=4)
    with pytest.raises(TrainingError, match="out of memory") as raised:
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "tuned", reporter=full)
    assert raised.value.hint is not None
    changes = {"micro_batch_tokens": 150, "activation_checkpointing": True}
    in_use = SETTINGS.batch_tokens
    smaller = f"--set teacher.tune.micro_batch_tokens={in_use // 2} ({in_use} now)"
    assert smaller in raised.value.hint
    assert all(name in raised.value.hint for name in changes)
    listener = Listener()
    tuned = finetune(
        base,
        corpus,
        settings.model_copy(update=changes),
        system=SYSTEM,
        out_dir=tmp_path / "tuned",
        reporter=listener,
    )
    assert max(listener.resumed_from) == 3
    assert json.loads((tuned.path / "training.json").read_text())["plan"] == changes
    again = finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "tuned")
    assert again.digest == tuned.digest


def test_settings_that_nobody_changed_are_the_work_that_they_were() -> None:
    """A plain LoRA has the key that it had before there were other ways."""
    assert TuneSection().trained() == {"lora": {"r": 32, "alpha": 64, "dropout": 0.0}}
    assert TuneSection(method="full").trained() == {"method": "full"}
    dora = TuneSection(method="qlora", lora=LoraSection(variant="dora")).trained()
    assert dora["method"] == "qlora"
    assert dora["lora"]["variant"] == "dora"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "full", "lora": {"r": 4}}, "no adapter"),
        ({"method": "lora", "shard_layers": True}, "only with method: full"),
        ({"method": "qlora", "lora": {"variant": "pissa"}}, "not quantized"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    values: dict[str, object], message: str
) -> None:
    """What would be ignored in silence is an error."""
    with pytest.raises(ValidationError, match=message):
        TuneSection.model_validate(values)


@pytest.mark.usefixtures("no_reference_values")
def test_qlora_without_its_backend_says_what_to_do(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message with both ways out; nothing half-made is left."""
    monkeypatch.setattr(qlora, "find_spec", lambda _: None)
    settings = SETTINGS.model_copy(update={"method": "qlora"})
    with pytest.raises(ConfigError, match="needs bitsandbytes") as caught:
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "tuned")
    assert "pip install bitsandbytes" in caught.value.hint
    assert "method=lora" in caught.value.hint
    assert not (tmp_path / "tuned").exists()


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="there is no bitsandbytes")
def test_bitsandbytes_is_imported_for_qlora_alone_and_without_code_from_the_hub(
    tmp_path: Path,
) -> None:
    """Where the package is there that would get such code; and nobody is told to install it.

    A model gets an adapter before: for that PEFT would import it, too.
    """
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*_, **__):\n    raise SystemExit('code from the Hub')\n"
    )
    script = (
        "import sys\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "import ollama_bridge.train.adapted_products\n"
        "from ollama_bridge.recipe.training import LoraSection\n"
        "from ollama_bridge.train.lora import add_lora\n"
        "sizes = {'vocab_size': 8, 'hidden_size': 8, 'intermediate_size': 8}\n"
        "config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=1)\n"
        "add_lora(LlamaForCausalLM(config), LoraSection(r=2), seed=0)\n"
        "assert 'bitsandbytes' not in sys.modules\n"
        "import kernels\n"
        "from ollama_bridge.train.qlora import check_backend\n"
        "check_backend()\n"
        "assert 'bitsandbytes' in sys.modules and sys.modules['kernels'] is kernels\n"
    )
    paths = filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "problem",
    [ImportError("requires bitsandbytes>=9"), RuntimeError("None of the devices are supported")],
)
def test_a_backend_that_cannot_be_used_is_told_before_anything_is_read(
    base: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: Exception,
) -> None:
    """What transformers would say behind encoding is no traceback; a tuned model needs none."""

    def refuse(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(qlora, "find_spec", lambda _: True)
    monkeypatch.setattr(qlora, "_import_bitsandbytes", lambda: None)
    monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda _: None)
    monkeypatch.setattr(Bnb4BitHfQuantizer, "validate_environment", refuse)
    monkeypatch.setattr(stage, "load_material", lambda *_, **__: pytest.fail("too late"))
    settings = SETTINGS.model_copy(update={"method": "qlora"})
    with pytest.raises(ConfigError, match=str(problem)) as caught:
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "tuned")
    assert "method=lora" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match=str(problem)):
        check_tuning(settings, tmp_path / "tuned")
    check_tuning(settings, base.path)
    for nothing_quantized in (SETTINGS, None):
        check_tuning(nothing_quantized, tmp_path / "tuned")


@pytest.mark.usefixtures("no_reference_values")
def test_the_quantized_base_is_gone_when_the_whole_one_comes(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter alone is kept of the model that it was trained on; here that is not quantized."""
    quantized: list[weakref.ref[object]] = []

    def load_quantized(folder: Path, _: object) -> object:
        model = load_model(folder)
        quantized.append(weakref.ref(model))
        return model

    def load_whole(folder: Path) -> object:
        gc.collect()
        assert [model() for model in quantized] == [None]
        return load_model(folder)

    monkeypatch.setattr(stage, "check_backend", lambda: None)
    monkeypatch.setattr(stage, "load_quantized", load_quantized)
    ways = {}
    for method in ("lora", "qlora"):
        settings = SETTINGS.model_copy(update={"method": method})
        out_dir = tmp_path / method
        tuned = finetune(base, corpus, settings, system=SYSTEM, out_dir=out_dir)
        ways[method] = weights_of(tuned)
        monkeypatch.setattr(stage, "load_model", load_whole)
    assert len(quantized) == 1
    for name, value in ways["lora"].items():
        torch.testing.assert_close(ways["qlora"][name], value)


@pytest.mark.usefixtures("no_reference_values")
def test_qlora_is_merged_into_the_weights_that_were_not_quantized(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Frozen 4-bit weights beside, whole ones in the result."""
    settings = SETTINGS.model_copy(update={"method": "qlora"})
    runs = [
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / name)
        for name in ("a", "b")
    ]
    assert runs[0].digest == runs[1].digest
    before, after = weights_of(base), weights_of(runs[0])
    assert all(value.dtype == torch.float32 for value in after.values())
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4) <= 4
    # Rounding to 4 bits is what the merged model no longer has.
    assert runs[0].facts[MAX_DIFFERENCE] > 1e-2
