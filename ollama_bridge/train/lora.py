"""Adapters through PEFT: small trainable matrices beside linear layers, merged afterwards."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from ollama_bridge.errors import TrainingError
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.precision import random_numbers_aside
from ollama_bridge.recipe.config import LoraSection
from ollama_bridge.train.peft_names import (
    BaseTunerLayer,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    quantized_only_where_asked,
    set_peft_model_state_dict,
)

Adapted: TypeAlias = PeftModel

# PiSSA by randomized SVD: 16 rounds of subspace iteration, seconds where an exact one takes hours.
_STARTS: Mapping[str, Any] = {"pissa": "pissa_niter_16"}


def add_lora(model: CausalModel, settings: LoraSection, *, seed: int) -> Adapted:
    """Put an adapter on linear layers; freeze all else.

    ``W x`` becomes ``W x + s B A x`` with ``s = alpha / r``. The layers of ``model`` itself are
    replaced: it may be used as before. At first nothing changes:

    lora    A is noise, B is 0
    rslora  the same, ``s = alpha / sqrt(r)``
    dora    the same, and each row of ``W + s B A`` has a length of its own, which is trained
    pissa   ``s B A`` is the best approximation of W of rank r, and W is what is left of it

    Sources: Hu et al. 2021, arXiv 2106.09685; all layers: "LoRA Without Regret"; rsLoRA:
    Kalajdzievski 2023, arXiv 2312.03732; DoRA: Liu et al. 2024, arXiv 2402.09353; PiSSA: Meng et
    al. 2024, arXiv 2404.02948.

    Args:
        model: float32, or quantized by ``train.qlora``.
        settings: Rank, scale, dropout, variant and layers.
        seed: Of A's initial values, and of PiSSA's randomized SVD.

    Raises:
        TrainingError: the model has no layer of a name, or none that PEFT can adapt, or it is an
            embedding and output matrix in one.
    """
    _check_targets(model, settings.targets or ())
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if settings.targets is None else list(settings.targets),
        use_rslora=settings.variant == "rslora",
        use_dora=settings.variant == "dora",
        init_lora_weights=_STARTS.get(settings.variant, True),
        bias="none",
    )
    if settings.variant == "pissa":
        for parameter in model.parameters():
            # Weights that were mapped from a file lie at odd addresses, and that decides the last
            # bits of the SVD: a resumed run would begin with another W.
            parameter.data = parameter.data.clone()
    try:
        device = model.get_input_embeddings().weight.device
        with random_numbers_aside(device), warnings.catch_warnings():
            # PEFT (0.21) asks the model for a property that transformers 5 has given another name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
            torch.manual_seed(seed)
            with quantized_only_where_asked():
                adapted = get_peft_model(model, config)
    except ValueError as exc:
        raise TrainingError(
            f"LoRA cannot be added to this model: {exc}", hint="correct lora.targets"
        ) from exc
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if is_tied and any(isinstance(end, BaseTunerLayer) for end in ends):
        raise TrainingError(
            "lora.targets names the embedding or the output matrix, which are one in this model: "
            "merged, what one of them has learnt would change the other",
            hint="leave embed_tokens and lm_head out of lora.targets",
        )
    return adapted


def _check_targets(model: CausalModel, targets: Sequence[str]) -> None:
    """Refuse names that no layer has: PEFT says nothing of them where another one is found."""
    names = [name for name, _ in model.named_modules()]
    missing = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        head = model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]: None
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
        raise TrainingError(
            f"LoRA cannot be added to this model: it has no layer {' or '.join(missing)}; its "
            f"linear layers are {', '.join(linear)}",
            hint="correct lora.targets, or adapt all of them: --set teacher.tune.lora.targets=null",
        )


def merge_lora(adapted: Adapted) -> CausalModel:
    """Add every product to its weight, in the weights' own type, and take the adapters off.

    Args:
        adapted: Not quantized: of a quantized one see :meth:`Adapter.onto`.

    Raises:
        TrainingError: a merged weight is not finite.
    """
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except ValueError as exc:
        raise TrainingError(
            f"merging the LoRA weights failed: {exc}", hint="lower the learning rate"
        ) from exc


@dataclass(frozen=True)
class Adapter:
    """An adapter without the model that it was trained on.

    Attributes:
        config: PEFT's.
        weights: By name, float32, on the CPU.
    """

    config: PeftConfig
    weights: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, adapted: Adapted) -> Adapter:
        """That of an adapted model, which is not held by it."""
        config = copy.copy(adapted.peft_config["default"])
        config.base_model_name_or_path = None  # PEFT warns of another model, which is meant here
        trained = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        return cls(config, {name: value.detach().float().cpu() for name, value in trained.items()})

    def onto(self, model: CausalModel) -> Adapted:
        """The same adapter on other weights: those that a quantized base was made from.

        Args:
            model: Of the same layers, float32; its layers are replaced.
        """
        moved = get_peft_model(model, self.config)
        report: Any = set_peft_model_state_dict(moved, dict(self.weights))
        if report.unexpected_keys:
            raise AssertionError(f"an adapter does not fit its own model: {report.unexpected_keys}")
        return moved
