"""LoRA adapter -> GGUF adapter, as a stage: for llama.cpp, and for daemons that take an ADAPTER.

A GGUF adapter says one alpha for all of its matrices, and llama.cpp scales each by alpha / rank.
What PEFT scales otherwise (rsLoRA, alphas by pattern) is written into B. What is no product of two
matrices has no place in the format and is refused by name; merged, all of it can be had.

Format: ``llama-adapter.cpp`` of llama.cpp.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType

from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.conversion.writer import write_gguf
from ollama_bridge.digests import canonical_json, digest_file, digest_text
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.entries import real, text
from ollama_bridge.models.architectures.layout import EMBEDDING, OUTPUT, TensorRule, permute
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.settings.general import derived_model_entries, general_of
from ollama_bridge.models.sources.origin import described
from ollama_bridge.models.weights.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ollama_bridge.models.weights.floats import Float32Array, to_float32
from ollama_bridge.models.weights.lora import Adapter, Change
from ollama_bridge.models.weights.stored import open_weights
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, Timed
from ollama_bridge.storage.artifacts import AdapterFile, Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft

_STAGE = "convert adapter"
_VERSION = 4  # raised when an adapter gives other bytes


def convert_adapter(
    adapter: Path, base: Checkpoint, *, out_dir: Path, reporter: Reporter | None = None
) -> AdapterFile:
    """Write a PEFT adapter as a GGUF adapter, in F32.

    Raises:
        ModelError: the adapter is damaged, or does not fit the base.
        ConversionError: it does what a GGUF adapter cannot say.
        DiskFullError: there is no room.
    """
    reporter = reporter or NullReporter()
    digests = {name: digest_file(adapter / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
    work = Work(
        kind=AdapterFile.kind,
        stage=_STAGE,
        version=_VERSION,
        inputs={"adapter": digest_text(canonical_json(digests)), "base": base.digest},
    )
    with Timed(reporter, _STAGE) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return AdapterFile(out_dir, draft.finished)
        config = check_folder(base.path)
        architecture = ARCHITECTURES[read_architecture(base.path, config)]
        loaded = Adapter(adapter)
        loaded.check_fit(open_weights(base.path, config).infos)
        _refuse_inexpressible(loaded, tied=architecture.tied(config))
        source = general_of(config) or described(base)
        rules = {rule.source: rule for rule in architecture.rules(config)}
        alpha = _common_alpha(loaded)
        plans = [
            plan
            for name, change in loaded.changes.items()
            for plan in _plans(loaded, change, rules[name], alpha)
        ]
        write_gguf(
            draft.path / "adapter.gguf",
            architecture=architecture.name,
            entries=[
                text("general.type", "adapter"),
                text("general.name", f"{source.get('name', 'model')} adapter"),
                text("adapter.type", "lora"),
                real("adapter.lora.alpha", alpha),
                *derived_model_entries(source),
            ],
            plans=plans,
            types={plan.name: GGMLQuantizationType.F32 for plan in plans},
            on_tensor=lambda done: reporter.emit(Progress(_STAGE, done, len(plans), "tensors")),
        )
        note = "Ollama from 0.34.1 on accepts no adapter: for it convert without --adapter (merged)"
        reporter.emit(Note(_STAGE, "info", note))
        facts = {
            "architecture": architecture.name,
            "matrices": len(loaded.changes),
            "alpha": alpha,
            "size_bytes": (draft.path / "adapter.gguf").stat().st_size,
        }
        manifest = draft.commit(facts)
        timer.finish(out_dir, facts)
        return AdapterFile(out_dir, manifest)


def _refuse_inexpressible(adapter: Adapter, *, tied: bool) -> None:
    """Raise for what is no product of two matrices on a matrix that the GGUF has.

    Raises:
        ConversionError: naming PEFT's setting.
    """
    for name, change in adapter.changes.items():
        reasons = {
            "DoRA scales rows": change.magnitude is not None,
            "lora_bias adds a bias": change.added is not None,
            "trainable_token_indices replaces rows": change.rows is not None,
            "it is replaced (modules_to_save, bias or a grown vocabulary)": (
                change.whole is not None and not _repeats_base(change)
            ),
            "the base ties it to the matrix at the other end": (
                tied and name in (EMBEDDING, OUTPUT)
            ),
        }
        for reason, applies in reasons.items():
            if applies:
                raise ConversionError(
                    f"{adapter.folder}: a GGUF adapter cannot express the change of {name!r}: "
                    f"{reason}",
                    hint="leave --adapter out: the adapter is then merged into its base",
                )


def _repeats_base(change: Change) -> bool:
    """PEFT saves an adapted embedding's base beside its factors, unchanged."""
    return change.down is not None and change.whole is not None and "base_layer" in change.whole


def _common_alpha(adapter: Adapter) -> float:
    """The alpha under which as few as possible B must be scaled."""
    alphas = [change.scale * _rank(adapter, change) for change in adapter.changes.values()]
    alpha = statistics.mode(round(value, 6) for value in alphas)
    return alpha or 1.0  # llama.cpp takes 0 for "no scaling"


def _rank(adapter: Adapter, change: Change) -> int:
    return adapter.factors.infos[str(change.down)].shape[0]


def _plans(adapter: Adapter, change: Change, rule: TensorRule, alpha: float) -> list[TensorPlan]:
    infos = adapter.factors.infos
    down, up = str(change.down), str(change.up)
    scale = change.scale * _rank(adapter, change) / alpha
    shape = infos[down].shape
    return [
        TensorPlan(
            f"{rule.target}.lora_a",
            shape[::-1] if change.embedding else shape,
            partial(_down, adapter, down, transposed=change.embedding),
        ),
        TensorPlan(
            f"{rule.target}.lora_b",
            infos[up].shape,
            partial(_up, adapter, up, heads=rule.heads, scale=scale),
        ),
    ]


def _down(adapter: Adapter, name: str, *, transposed: bool) -> Float32Array:
    values = to_float32(adapter.factors.array(name))
    return np.ascontiguousarray(values.T) if transposed else values


def _up(adapter: Adapter, name: str, *, heads: int | None, scale: float) -> Float32Array:
    values = to_float32(adapter.factors.array(name))
    if heads is not None:  # rows of B are rows of the matrix
        values = permute(values, heads)
    return values if abs(scale - 1) < 1e-6 else values * np.float32(scale)
