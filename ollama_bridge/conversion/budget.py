"""A type for each matrix, so that a file keeps a quality budget or a size.

How much each matrix costs in each type is measured (``sensitivity``), a knapsack is packed
(``quantization.tradeoff``), and the whole plan is measured as the file will be. Divergences add up
only roughly, so the estimate that was asked for is corrected by what came out, until the smallest
plan within the budget is found: within it on the texts that matrices were measured on, and on as
many that they were not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType

from ollama_bridge.conversion.budget_model import Model
from ollama_bridge.conversion.budget_search import Target, check_size, search
from ollama_bridge.conversion.budget_texts import (
    BudgetTexts,
    corpus_texts,
    own_texts,
    probe_texts,
    prompts_of,
)
from ollama_bridge.conversion.round_trip import RoundTrip
from ollama_bridge.conversion.sensitivity import measure_options
from ollama_bridge.digests import JSONValue, canonical_json, digest_text
from ollama_bridge.models.compute.memory import check_room
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.reference.rounding import rounded
from ollama_bridge.models.reference.scored_texts import ScoredTexts, Text
from ollama_bridge.quantization.mixes import TypePlan
from ollama_bridge.quantization.tradeoff import Option, TradeOff, file_type_of
from ollama_bridge.reference import Noise
from ollama_bridge.reporting import Progress, Reporter
from ollama_bridge.storage.artifacts import Corpus
from ollama_bridge.storage.atomic_files import write_text_atomic

_STAGE = "budget"
_PRESETS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")
_CURVE_POINTS = 120
_LAYER = re.compile(r"blk\.\d+\.")


@dataclass(frozen=True)
class Point:
    """A file in the trade-off, with its mean divergence on texts that no matrix was measured on."""

    name: str
    size_bytes: int
    kl_nats: float


@dataclass(frozen=True)
class Chosen:
    """A plan, and what was measured of it.

    Attributes:
        types: Of every tensor.
        file_type: What the file is said to be.
        point: Size and divergence.
        chosen_on_kl_nats: Divergence on the texts that matrices were measured on.
        noise: What the file's arithmetic does at the places that a daemon is asked for.
        texts: What was measured on, for people.
        positions: Predictions that were compared for ``point``.
        groups: A row for each part of a layer and type: matrices, bytes, share of the divergence.
        presets: llama.cpp's mixes, on the same texts.
        curve: Size and estimated divergence of all other plans.
    """

    types: TypePlan
    file_type: str
    point: Point
    chosen_on_kl_nats: float
    noise: Noise
    texts: str
    positions: int
    groups: list[dict[str, JSONValue]]
    presets: list[Point]
    curve: list[tuple[int, float]]

    def facts(self) -> dict[str, JSONValue]:
        """For the manifest."""
        return {
            "kl_nats": self.point.kl_nats,
            "chosen_on_kl_nats": self.chosen_on_kl_nats,
            "texts": self.texts,
            "positions": self.positions,
            "groups": self.groups,
            "presets": [asdict(preset) for preset in self.presets],
        }


def choose_types(
    model: Model,
    target: Target,
    *,
    corpus: Corpus | None,
    overhead_bytes: int,
    scratch: Path,
    reporter: Reporter,
) -> Chosen:
    """Choose the type of every tensor.

    Args:
        model: The model.
        target: A budget or a size.
        corpus: Its validation split is measured on; None: the model's own answers.
        overhead_bytes: Of the file, beside tensors.
        scratch: File of measurements, which an interrupted run finds again.
        reporter: Hears of progress.

    Raises:
        ModelError: the checkpoint cannot be loaded, or memory is short.
        DataError: the corpus has too few texts.
        ConversionError: neither budget nor size can be kept; it names what can.
    """
    coarse = target.size_bytes is not None
    fixed_bytes = overhead_bytes + model.unchosen_bytes()
    check_size(target, fixed_bytes + model.smallest_bytes(coarse=coarse))
    check_room(model.folder, purpose="choosing the types of its matrices")
    loaded = load_model(model.folder, dtype=torch.float32)
    tokenizer = load_tokenizer(model.folder)
    if corpus is not None:
        texts = corpus_texts(corpus, tokenizer, positions=target.positions)
    else:
        prompts = prompts_of(model.folder, tokenizer)
        texts = own_texts(loaded, tokenizer, prompts, positions=target.positions)
    probes = probe_texts(model.folder, tokenizer) or texts.reported_on
    with RoundTrip.opened(loaded, model.matrices, model.weights, model.importance) as trip:
        bench = _Bench(trip, texts, probes, _Measurements(scratch), reporter)
        trade_off = TradeOff(bench.options(coarse=coarse))
        plan = search(trade_off, target, fixed_bytes=fixed_bytes, measure=bench.on_both)
        chosen_types = {name: option.type for name, option in plan.items()}
        types = {**model.plan("f16"), **chosen_types}
        kl_nats = bench.reported_on(chosen_types)
        noise = bench.noise(chosen_types, model.by_source(chosen_types))
        estimate = sum(option.kl_nats for option in plan.values())
        factor = kl_nats / estimate if estimate > 0 else 1.0
        size_bytes = fixed_bytes + sum(option.size_bytes for option in plan.values())
        return Chosen(
            types=types,
            file_type=file_type_of(plan),
            point=Point(f"within {target}", size_bytes, kl_nats),
            chosen_on_kl_nats=bench.chosen_on(chosen_types),
            noise=noise,
            texts=texts.source,
            positions=sum(text.keep for text in texts.reported_on),
            groups=_groups(plan),
            presets=[
                Point(
                    name,
                    overhead_bytes + model.size_bytes(model.plan(name)),
                    bench.reported_on(model.of_matrices(model.plan(name))),
                )
                for name in _PRESETS
            ],
            curve=[
                (fixed_bytes + size, kl * factor) for size, kl in trade_off.curve(_CURVE_POINTS)
            ],
        )


class _Measurements:
    """What was measured already, in a file: a run that was interrupted goes on from there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or cut off
            self._values = {}

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: JSONValue) -> None:
        self._values[key] = value
        write_text_atomic(self._path, canonical_json(self._values))


class _Bench:
    """Measures plans, each once."""

    def __init__(
        self,
        trip: RoundTrip,
        texts: BudgetTexts,
        probes: Sequence[Text],
        known: _Measurements,
        reporter: Reporter,
    ) -> None:
        self._trip = trip
        self._known = known
        self._reporter = reporter
        self._texts = texts.chosen_on
        self._chosen_on = ScoredTexts.of(trip.model, texts.chosen_on)
        self._reported_on = ScoredTexts.of(trip.model, texts.reported_on)
        self._probes = ScoredTexts.of(trip.model, probes)
        self._plans = 0

    def options(self, *, coarse: bool) -> dict[str, list[Option]]:
        """Every matrix in every type."""
        found = self._known.get("options")
        if found is None:
            total, done = len(self._trip.rules) + len(self._texts), 0

            def step() -> None:
                nonlocal done
                done += 1
                self._reporter.emit(Progress(_STAGE, done, total, "matrices and texts"))

            measured = measure_options(self._trip, self._texts, coarse=coarse, on_step=step)
            found = {
                name: [[option.type.name, option.size_bytes, option.kl_nats] for option in options]
                for name, options in measured.items()
            }
            self._known.put("options", found)
        return {
            name: [
                Option(GGMLQuantizationType[type_name], size_bytes, kl_nats)
                for type_name, size_bytes, kl_nats in options
            ]
            for name, options in found.items()
        }

    def on_both(self, types: TypePlan) -> float:
        """Mean divergence of a plan on the half of the texts on which it is larger."""
        return max(self.chosen_on(types), self.reported_on(types))

    def chosen_on(self, types: TypePlan) -> float:
        """Mean divergence of a plan on the texts that matrices are measured on."""
        return self._measure("chosen_on", types, self._chosen_on)

    def reported_on(self, types: TypePlan) -> float:
        """Mean divergence of a plan on the other texts."""
        return self._measure("reported_on", types, self._reported_on)

    def noise(self, types: TypePlan, by_source: TypePlan) -> Noise:
        """What a daemon's arithmetic does with a plan, whose weights have two names each."""
        self._trip.set(types)
        with rounded(self._trip.model, by_source, activations_only=True):
            return self._probes.noise(self._trip.model)

    def _measure(self, where: str, types: TypePlan, texts: ScoredTexts) -> float:
        named = {name: type_.name for name, type_ in sorted(types.items())}
        key = f"{where} {digest_text(canonical_json(named))}"
        self._plans += 1
        self._reporter.emit(Progress(_STAGE, self._plans, self._plans + 1, "plans"))
        self._trip.set(types)
        found = self._known.get(key)
        if found is None:
            found = texts.mean_kl(self._trip.model)
            self._known.put(key, found)
        return float(found)


def _groups(plan: Mapping[str, Option]) -> list[dict[str, JSONValue]]:
    """Parts of layers and their types, those with most of the divergence first."""
    total = sum(option.kl_nats for option in plan.values())
    members: dict[tuple[str, str], list[Option]] = {}
    for name, option in plan.items():
        part = _LAYER.sub("", name).removesuffix(".weight")
        members.setdefault((part, option.type.name), []).append(option)
    rows: list[dict[str, JSONValue]] = [
        {
            "group": part,
            "type": type_,
            "matrices": len(options),
            "size_bytes": sum(option.size_bytes for option in options),
            "kl_share": sum(option.kl_nats for option in options) / total if total > 0 else 0.0,
        }
        for (part, type_), options in members.items()
    ]
    return sorted(rows, key=lambda row: (-row["kl_share"], row["group"], row["type"]))
