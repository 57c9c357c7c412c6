"""Reads a LoRA adapter in PEFT's format: what it does to each parameter of its base.

Read are LoRA on linear layers and embeddings, ranks and alphas by pattern, rsLoRA, DoRA, biases,
parameters that were trained whole (``modules_to_save``, grown vocabularies) and rows of the
embedding (``trainable_token_indices``). Any other setting is refused by name, known to us or not,
for leaving it out would be another model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ollama_bridge.errors import ModelError
from ollama_bridge.models.architectures.layout import EMBEDDING, OUTPUT
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.weights.adapter_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MERGE_BY_PEFT,
    refuse_other_kinds,
    weights_file,
)
from ollama_bridge.models.weights.tensors import SafetensorsWeights, WeightInfo
from ollama_bridge.models.weights.text_part import is_of_eyes, text_name

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
# Settings that are read, or that decide nothing once the adapter is trained.
_UNDERSTOOD = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "trainable_token_indices",
        "use_dora",
        "use_rslora",
    }
)
# Initialisations that subtract from the base weights what the adapter starts with.
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")

_TOKEN_ROWS = "token_adapter.trainable_tokens_delta"
_DOWN = ("lora_A.weight", "lora_embedding_A")
# Ends of the names of an adapter's tensors, and of the parameter that they change; the longer one
# first where one ends with another.
_PARTS = {
    "lora_A.weight": "weight",
    "lora_B.weight": "weight",
    "lora_B.bias": "bias",
    "lora_embedding_A": "weight",
    "lora_embedding_B": "weight",
    "lora_magnitude_vector.weight": "weight",
    "lora_magnitude_vector": "weight",
    _TOKEN_ROWS: "weight",
    "token_adapter.base_layer.weight": "weight",
    "base_layer.weight": "weight",
    "base_layer.bias": "bias",
    "weight": "weight",
    "bias": "bias",
}
# Where a vocabulary has grown, PEFT writes the saved modules' insides too: what they were before
# they were trained, and what they are now, which is also there under the module's own name.
_INSIDES = (".original_module.weight", ".modules_to_save.weight")
_PARTNERS = {
    "lora_A.weight": "lora_B.weight",
    "lora_B.weight": "lora_A.weight",
    "lora_B.bias": "lora_A.weight",
    "lora_embedding_A": "lora_embedding_B",
    "lora_embedding_B": "lora_embedding_A",
}


@dataclass(frozen=True)
class Change:
    """What an adapter does to one parameter; names are those of its tensors.

    Attributes:
        whole: Takes the parameter's place, before anything else.
        down: LoRA's A, (rank, columns).
        up: LoRA's B, (rows, rank).
        scale: Of B A, or of what is added.
        embedding: A and B are of the transposed matrix.
        magnitude: DoRA's length of every row.
        added: A bias of B.
        rows: Takes the place of some rows.
        row_ids: Which.
    """

    whole: str | None = None
    down: str | None = None
    up: str | None = None
    scale: float = 1.0
    embedding: bool = False
    magnitude: str | None = None
    added: str | None = None
    rows: str | None = None
    row_ids: tuple[int, ...] = ()


class Adapter:
    """A PEFT adapter's folder, checked.

    Args:
        folder: It has adapter_config.json and adapter_model.safetensors.

    Attributes:
        folder: As given.
        changes: By the base's parameter.
        left_out: Tensors for what sees, in a model that also sees.
        factors: The adapter's tensors.

    Raises:
        UnsafeCheckpointError: its weights are a pickle.
        ModelError: damaged, or it does what cannot be merged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._settings = read_json_object(folder / ADAPTER_CONFIG)
        self._refuse_the_unknown()
        self.factors = SafetensorsWeights([weights_file(folder)])
        self.left_out: list[str] = []
        self.changes = self._read_changes()
        self._check_complete()

    def unties(self, *, tied: bool) -> bool:
        """Whether embedding and output matrix, one in the base, differ in the adapted model."""
        if not tied or self._settings.get("ensure_weight_tying"):
            return False
        embedding, output = self.changes.get(EMBEDDING), self.changes.get(OUTPUT)
        if output is not None:
            return not self._is_one_matrix(embedding, output)
        if embedding is None or embedding.rows is not None:
            return False  # rows are given to both
        return (embedding.whole or embedding.down) is not None

    def _is_one_matrix(self, embedding: Change | None, output: Change) -> bool:
        """Whether both are replaced by the same: a vocabulary that grew, and stayed tied."""
        if embedding is None or embedding.whole is None or output.whole is None:
            return False
        if embedding != Change(whole=embedding.whole) or output != Change(whole=output.whole):
            return False
        return np.array_equal(self.factors.array(embedding.whole), self.factors.array(output.whole))

    def check_fit(self, infos: Mapping[str, WeightInfo]) -> None:
        """Refuse a base that the adapter was not trained on.

        Raises:
            ModelError: naming the first parameter that does not fit.
        """
        for name, change in self.changes.items():
            base = infos.get(name)
            if base is None and name == OUTPUT:
                base = infos.get(EMBEDDING)
            if base is None:
                if change.added is not None:
                    raise self._error(f"lora_bias on {name!r}, where the base has no bias")
                raise self._misfit(f"{self.folder} adapts {name!r}, which the base does not have")
            shape = self.shape_of(name, base.shape)
            grows = name in (EMBEDDING, OUTPUT) and shape[1:] == base.shape[1:]
            if shape != base.shape and not grows:
                raise self._misfit(f"{self.folder}: {name!r} is {shape}, the base has {base.shape}")
            self._check_factors(name, change, shape)

    def shape_of(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a parameter in the adapted model; ``shape`` is that in the base."""
        change = self.changes.get(name)
        if change is None or change.whole is None:
            return shape
        return self.factors.infos[change.whole].shape

    def apply(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """A parameter of the adapted model, in float32; ``values`` are those in the base.

        Source: ``peft.tuners.lora.layer`` (``get_delta_weight``, ``merge``) and ``dora``.
        """
        change = self.changes[name]
        merged = (values if change.whole is None else self.factors.tensor(change.whole)).float()
        delta = self.delta(change)
        if delta is not None:
            merged = merged + delta
        if change.magnitude is not None:
            lengths = self.factors.tensor(change.magnitude).float()
            merged = merged * (lengths / merged.norm(dim=1))[:, None]
        if change.added is not None:
            merged = merged + self.factors.tensor(change.added).float() * change.scale
        if change.rows is not None:
            merged = merged.clone()
            merged[list(change.row_ids)] = self.factors.tensor(change.rows).float()
        return merged

    def delta(self, change: Change) -> torch.Tensor | None:
        """What LoRA adds to a parameter, in float32."""
        if change.down is None or change.up is None:
            return None
        down, up = self.factors.tensor(change.down).float(), self.factors.tensor(change.up).float()
        product = (up @ down) * change.scale
        return product.T if change.embedding else product

    def _refuse_the_unknown(self) -> None:
        settings = self._settings
        refuse_other_kinds(self.folder, settings)
        refused = sorted(name for name in settings if name not in _UNDERSTOOD and settings[name])
        start = str(settings.get("init_lora_weights")).lower()
        if start.startswith(_CHANGES_BASE):
            refused.append(f"init_lora_weights={start}")
        if refused:
            raise self._error(", ".join(refused))

    def _read_changes(self) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        names = self.factors.infos
        if not names:
            raise ModelError(f"{self.folder / ADAPTER_WEIGHTS} holds no tensors")
        for name in sorted(names):
            if self._is_repeated(name):
                continue
            if is_of_eyes(name.removeprefix(_PREFIX)):
                self.left_out.append(name.removeprefix(_PREFIX))
                continue
            module, part = self._parse(name)
            partner = _PARTNERS.get(part)
            if partner is not None and f"{_PREFIX}{module}.{partner}" not in names:
                raise ModelError(f"{self.folder}: {name} has no {module}.{partner}")
            parameter = text_name(f"{module}.{_PARTS[part]}")
            changes[parameter] = self._extend(changes.get(parameter, Change()), module, part, name)
        if not changes:
            raise ModelError(f"{self.folder} adapts nothing of the language model")
        return changes

    def _check_complete(self) -> None:
        """Refuse settings that the tensors do not bear out: something was not saved."""
        settings = self._settings
        adapted = [change for change in self.changes.values() if change.down is not None]
        if any(
            (change.magnitude is not None) != bool(settings.get("use_dora")) for change in adapted
        ):
            raise self._error("use_dora on some matrices only")
        if settings.get("lora_bias") and not any(c.added for c in self.changes.values()):
            raise self._error("lora_bias, whose biases are not in it")
        whole = [name for name, change in self.changes.items() if change.whole is not None]
        whole += self.left_out
        saved = settings.get("modules_to_save") or []
        if not isinstance(saved, list):
            raise self._error(f"modules_to_save {saved!r}")
        for module in saved:
            if not any(f".{module}." in f".{name}" for name in whole):
                raise self._error(f"modules_to_save {module}, which is not in it")
        if settings.get("trainable_token_indices") and not any(
            change.rows for change in self.changes.values()
        ):
            raise self._error("trainable_token_indices, whose rows are not in it")

    def _is_repeated(self, name: str) -> bool:
        """Whether PEFT wrote a tensor that says nothing which another does not say."""
        for inside in _INSIDES:
            module = name.removesuffix(inside)
            if module != name:
                return f"{module}.weight" in self.factors.infos
        # Rows of an output matrix that follows the embedding's; its own have indices of their own.
        ids = self._settings.get("trainable_token_indices")
        own = isinstance(ids, Mapping) and "lm_head" in ids
        return name.startswith(f"{_PREFIX}lm_head.token_adapter.") and not own

    def _parse(self, name: str) -> tuple[str, str]:
        """The module that a tensor belongs to, and its part in the adapter."""
        module = name.removeprefix(_PREFIX)
        if module != name:
            for part in _PARTS:
                if module.endswith(f".{part}"):
                    return module.removesuffix(f".{part}"), part
        raise self._error(f"the tensor {name}")

    def _extend(self, change: Change, module: str, part: str, name: str) -> Change:
        """What is known of a parameter's change, and one tensor more."""
        if part in _DOWN:
            return replace(
                change,
                down=name,
                scale=self._scale(module, name),
                embedding=part == "lora_embedding_A",
            )
        if part in ("lora_B.weight", "lora_embedding_B"):
            return replace(change, up=name)
        if part == "lora_B.bias":
            scale = self._scale(module, f"{_PREFIX}{module}.lora_A.weight")
            return replace(change, added=name, scale=scale)
        if part.startswith("lora_magnitude_vector"):
            if f"{_PREFIX}{module}.lora_A.weight" not in self.factors.infos:
                raise self._error(f"use_dora on {module}, which is not a linear layer")
            return replace(change, magnitude=name)
        if part == _TOKEN_ROWS:
            return replace(change, rows=name, row_ids=self._row_ids(module))
        return replace(change, whole=name)

    def _scale(self, module: str, down: str) -> float:
        shape = self.factors.infos[down].shape
        if len(shape) != 2 or not shape[0]:
            raise self._error(f"factors of shape {shape} ({down})")
        alpha = self._alpha(module)
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float)
            or not math.isfinite(alpha)
        ):
            raise self._error(f"lora_alpha {alpha!r} on {module}")
        return alpha / (math.sqrt(shape[0]) if self._settings.get("use_rslora") else shape[0])

    def _alpha(self, module: str) -> Any:
        """PEFT's rule: a pattern fits the name of a module, or its end after a dot."""
        patterns = self._settings.get("alpha_pattern") or {}
        try:
            for pattern, value in patterns.items():
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return value
        except (re.error, AttributeError) as exc:
            raise self._error(f"alpha_pattern {patterns!r} ({exc})") from exc
        return self._settings.get("lora_alpha")

    def _row_ids(self, module: str) -> tuple[int, ...]:
        ids = self._settings.get("trainable_token_indices")
        if isinstance(ids, Mapping):
            ids = next((ids[key] for key in ids if f".{module}".endswith(f".{key}")), None)
        if not isinstance(ids, list) or not all(type(id_) is int and id_ >= 0 for id_ in ids):
            raise self._error(f"trainable_token_indices {ids!r} on {module}")
        return tuple(ids)

    def _check_factors(self, name: str, change: Change, shape: tuple[int, ...]) -> None:
        infos = self.factors.infos
        if change.down is not None and change.up is not None:
            if len(shape) != 2:
                raise self._misfit(f"{self.folder} adapts {name!r}, which is not a matrix")
            rows, columns = shape[::-1] if change.embedding else shape
            down, up = infos[change.down].shape, infos[change.up].shape
            if down[1:] != (columns,) or up != (rows, down[0]):
                raise self._misfit(
                    f"{self.folder}: factors {up} x {down} do not fit {name!r} of {shape}"
                )
        for part in (change.magnitude, change.added):
            if part is not None and infos[part].shape != shape[:1]:
                raise self._misfit(f"{self.folder}: {part} does not fit {name!r} of {shape}")
        if change.rows is not None:
            fits = infos[change.rows].shape == (len(change.row_ids), *shape[1:])
            if not fits or max(change.row_ids) >= shape[0]:
                raise self._misfit(f"{self.folder}: {change.rows} does not fit {name!r} of {shape}")

    def _error(self, what: str) -> ModelError:
        return ModelError(f"{self.folder}: cannot merge an adapter with {what}", hint=MERGE_BY_PEFT)

    @staticmethod
    def _misfit(message: str) -> ModelError:
        return ModelError(message, hint="give the base model that the adapter was trained on")
