"""The student before training: which parts of its start it has."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ollama_bridge.digests import JSONValue
from ollama_bridge.errors import ArtifactError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.pruning.importance import (
    Texts,
    activity,
    block_influence,
    calibration_texts,
    loss_increase,
)
from ollama_bridge.models.pruning.layers import (
    best_layers,
    even_layers,
    first_layers,
    keep_layers,
)
from ollama_bridge.models.pruning.widths import Kept, most_active, narrow
from ollama_bridge.recipe.config import StudentSection
from ollama_bridge.reporting import Note, Progress, Reporter
from ollama_bridge.storage.atomic_files import write_text_atomic
from ollama_bridge.train.material import Material
from ollama_bridge.train.ranks import Ranks

_PARTS_NAME = "student.json"


@dataclass(frozen=True)
class Parts:
    """Which parts of its start a student has.

    Attributes:
        layers: Their numbers in the start, rising.
        layer_scores: Importances of all of the start's layers; None: not measured.
        kept: Of these layers; None: all of it.
        tokens: Old id of every token of a trimmed vocabulary; None: all are there.
    """

    layers: tuple[int, ...]
    layer_scores: tuple[float, ...] | None = None
    kept: Kept | None = None
    tokens: tuple[int, ...] | None = None

    def facts(self) -> dict[str, JSONValue]:
        """For the manifest; every number is in ``student.json``."""
        facts: dict[str, JSONValue] = {"layers": list(self.layers)}
        if self.layer_scores is not None:
            facts["layer_scores"] = [round(score, 6) for score in self.layer_scores]
        if self.kept is not None:
            facts["key_value_heads"] = len(self.kept.groups[0])
            facts["mlp_channels"] = len(self.kept.channels[0])
            facts["hidden_size"] = len(self.kept.hidden)
        if self.tokens is not None:
            facts["vocabulary_size"] = len(self.tokens)
        return facts

    def write(self, path: Path) -> None:
        """Write the file, at once or not at all."""
        write_text_atomic(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Parts:
        """Read the file.

        Raises:
            ArtifactError: damaged.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            kept = data["kept"]
            if kept is not None:
                kept = Kept(
                    groups=tuple(map(tuple, kept["groups"])),
                    channels=tuple(map(tuple, kept["channels"])),
                    hidden=tuple(kept["hidden"]),
                )
            scores, tokens = data["layer_scores"], data["tokens"]
            return cls(
                tuple(data["layers"]),
                None if scores is None else tuple(scores),
                kept,
                None if tokens is None else tuple(tokens),
            )
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as exc:
            raise ArtifactError(
                f"{path} is damaged: {exc!r}",
                hint=f"start this stage afresh: rm -r {quote(str(path.parent))}",
            ) from exc


def cut_student(
    model: CausalModel,
    student: StudentSection,
    material: Material,
    *,
    precision: Precision,
    state_dir: Path,
    stage: str,
    reporter: Reporter,
) -> tuple[CausalModel, Parts]:
    """Cut a student out of a model.

    What has to be measured is measured once, by the first process of several: a resumed run finds
    it in ``student.json``.

    Args:
        model: On the CPU, with the tokens of ``material``; it may be changed.
        student: What to keep.
        material: Importances are measured on its training texts.
        precision: Where and in which type that is computed.
        state_dir: Where ``student.json`` is written, if there is anything to say.
        stage: For events.
        reporter: Is told which layers.

    Returns:
        The student, on the CPU, and which parts it has.

    Raises:
        ConfigError: more than there is, or what cannot be exported.
        ArtifactError: ``student.json`` is damaged.
    """
    ranks = Ranks.current()
    total = len(model.base_model.layers)
    parts: Parts | None = None
    if ranks.first:
        path = state_dir / _PARTS_NAME
        if path.exists():
            parts = Parts.read(path)
            model = _cut(model, parts)
        else:
            model, parts = _first_cut(model, student, material, precision, stage, reporter)
            if student.is_measured or parts.tokens is not None:
                parts.write(path)
    parts = ranks.agree(parts)  # measured twice, scores that are nearly equal may change places
    assert parts is not None
    if not ranks.first:
        model = _cut(model, parts)
    names = ", ".join(map(str, parts.layers))
    message = f"the student has {len(parts.layers)} of {total} layers: {names}"
    reporter.emit(Note(stage, "info", message))
    return model, parts


def chosen_layers(
    student: StudentSection, total: int, scores: tuple[float, ...] | None = None
) -> tuple[int, ...]:
    """The layers of the start that the student keeps, ascending.

    Raises:
        ConfigError: more than there are.
    """
    if student.layers is None:
        return tuple(range(total))
    if not isinstance(student.layers, int):
        return student.layers
    if scores is not None:
        return best_layers(student.layers, scores)
    if student.layer_choice == "even":
        return even_layers(student.layers, total)
    return first_layers(student.layers, total)


def _first_cut(
    model: CausalModel,
    student: StudentSection,
    material: Material,
    precision: Precision,
    stage: str,
    reporter: Reporter,
) -> tuple[CausalModel, Parts]:
    """The student, cut as importances say; widths are measured on the layers that were kept."""
    texts = calibration_texts(material.training.examples, tokens=student.calibration_tokens)
    total = len(model.base_model.layers)
    scores = None
    if student.measures_layers:
        with _measuring(model, precision):
            scores = _layer_scores(model, student, texts, stage, reporter)
    parts = Parts(chosen_layers(student, total, scores), scores)
    model = _cut(model, parts)
    if student.is_narrow:
        with _measuring(model, precision):
            kept = _most_active(model, student, texts)
        parts = Parts(parts.layers, scores, kept)
        model = narrow(model, kept)
    if material.vocabulary is not None:
        tokens = tuple(material.vocabulary.source_ids.tolist())
        parts = Parts(parts.layers, scores, parts.kept, tokens)
    return model, parts


def _cut(model: CausalModel, parts: Parts) -> CausalModel:
    if parts.layers != tuple(range(len(model.base_model.layers))):
        model = keep_layers(model, parts.layers)
    return model if parts.kept is None else narrow(model, parts.kept)


@contextlib.contextmanager
def _measuring(model: CausalModel, precision: Precision) -> Iterator[None]:
    """Inside the block the model lies where it computes."""
    model.to(precision.device)
    with precision.autocast():
        yield
    model.cpu()


def _layer_scores(
    model: CausalModel, student: StudentSection, texts: Texts, stage: str, reporter: Reporter
) -> tuple[float, ...]:
    if student.layer_choice == "influence":
        return block_influence(model, texts)
    total = len(model.base_model.layers)

    def tell(done: int) -> None:
        reporter.emit(Progress(stage, done, total, "layers"))

    return loss_increase(model, texts, on_layer=tell)


def _most_active(model: CausalModel, student: StudentSection, texts: Texts) -> Kept:
    config = model.config.to_dict()
    dims = ARCHITECTURES[type(model).__name__].dimensions(config)
    return most_active(
        activity(model, texts),
        dims,
        heads=student.heads,
        mlp_channels=student.mlp_channels,
        hidden_size=student.hidden_size,
    )
