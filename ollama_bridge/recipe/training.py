"""The sections of a recipe that say how weights are trained, and from what."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from pydantic import Field, model_validator

from ollama_bridge.recipe.losses import (
    KLReverseLoss,
    LayerLoss,
    Loss,
    RolloutLoss,
    VocabularyLoss,
    short_form,
)
from ollama_bridge.recipe.sections import Fraction, Section, Seed

# Of the distill section, in place of a list of losses.
_SHORT_FORM = frozenset({"kd_weight", "temperature", "hidden_weight"})


class EarlyStoppingSection(Section):
    """When to stop before the last epoch, and which weights to keep."""

    metric: Literal["exact", "macro_f1", "token_accuracy", "ce"] | None = Field(
        default=None,
        description="Score on the validation split. exact: share of greedy answers that are "
        "right to the last token; macro_f1: over labels, each of which counts the same however "
        "rare it is; token_accuracy: for free text; ce: the loss, which misleads about all of "
        "these. null: exact where the answers are labels, else token_accuracy; between equal "
        "scores the lower loss decides.",
    )
    patience: int = Field(
        default=3,
        ge=1,
        description="Training stops after this many evaluations without a better score.",
    )
    interval_epochs: float = Field(default=0.25, gt=0, description="Epochs between evaluations.")


class OptimizerSection(Section):
    """How weights are trained; shared by fine-tuning and distillation."""

    epochs: float = Field(default=1.0, gt=0, description="Passes over the training split.")
    min_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps at the least: of a small file `epochs` are as many whole "
        "passes as make them, unless max_examples chose so few. null: `epochs` alone; so where "
        "--set gives these and not this.",
    )
    batch_tokens: int = Field(
        default=1024, ge=64, description="Padded tokens per batch (batches are sorted by length)."
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        ge=16,
        description="Padded tokens that are computed at once; the gradients of a batch's parts "
        "add up to its own. null: the whole batch, or as much of it as fits into memory. A run "
        "that was stopped can be resumed with another number or `activation_checkpointing`.",
    )
    activation_checkpointing: bool | None = Field(
        default=None,
        description="Compute layers twice and keep their inputs only: less memory, a third more "
        "time. null: only where not even one example fits otherwise.",
    )
    early_stopping: EarlyStoppingSection | None = Field(
        default=None,
        description="Keep the best weights instead of the last. null: every epoch is trained.",
    )
    lr: float = Field(default=2e-4, gt=0, le=1.0, description="Peak learning rate.")
    warmup: Fraction = Field(
        default=0.05, description="Share of the steps in which the learning rate rises."
    )
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=1.0, gt=0, description="Gradient norm limit.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Compute type; master weights are float32 always. auto: bfloat16 where a "
        "probe finds it faster.",
    )
    checkpoint_interval_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds of work that are lost at most when the run is killed. Does not change "
        "results.",
    )
    shard_layers: bool = Field(
        default=False,
        description="With several processes (torchrun), each keeps a part of every layer's "
        "weights, gradients and moments (FSDP2) instead of all of them. Does not change "
        "results.",
    )
    max_length: int = Field(
        default=512, ge=16, description="Limit in tokens; longer examples are left out."
    )
    seed: Seed = 0

    def passes(self, batches: int) -> float:
        """Epochs in effect over a training split of so many batches."""
        return self._lengthened(batches)

    def _lengthened(self, batches: int, *, before: float = 0.0) -> float:
        """``epochs``, or more where with those before them they are below ``min_steps``."""
        least = self.min_steps or 0
        if round((before + self.epochs) * batches) >= least:
            return self.epochs
        return max(self.epochs, math.ceil(least / batches) - before)


class LoraSection(Section):
    """An adapter on linear layers (PEFT), merged into float32 weights afterwards."""

    r: int = Field(default=32, gt=0, description="Rank of the two matrices.")
    alpha: int = Field(default=64, gt=0, description="Their product is scaled by alpha / r.")
    dropout: Fraction = 0.0
    variant: Literal["lora", "rslora", "dora", "pissa"] = Field(
        default="lora",
        description="rslora: scaled by alpha / sqrt(r), for high ranks; dora: the length of each "
        "row is trained on its own; pissa: begins with the largest singular vectors of the "
        "weights instead of noise and zeros.",
    )
    targets: tuple[str, ...] | None = Field(
        default=None,
        description="Names of the layers to adapt, such as q_proj. null: every linear layer but "
        "the vocabulary projection.",
    )


class TuneSection(OptimizerSection):
    """Tuning the teacher on the task before it teaches."""

    method: Literal["lora", "qlora", "full"] = Field(
        default="lora",
        description="lora: adapters beside frozen weights; qlora: beside weights in 4 bits (needs "
        "bitsandbytes); full: all weights (give it a tenth of the learning rate of adapters).",
    )
    lora: LoraSection = LoraSection()
    max_examples: int | None = Field(
        default=None, gt=0, description="Tune on this many examples of the training split."
    )

    @model_validator(mode="after")
    def _method_has_its_settings(self) -> TuneSection:
        if self.method == "full" and "lora" in self.model_fields_set:
            raise ValueError(
                "lora: method full has no adapter; leave lora out, or set method: lora"
            )
        if self.method != "full" and self.shard_layers:
            raise ValueError("shard_layers: only with method: full; adapters leave little to share")
        if self.method == "qlora" and self.lora.variant == "pissa":
            raise ValueError(
                "lora.variant: pissa starts from weights that are not quantized; set it to "
                "lora, rslora or dora"
            )
        return self

    def trained(self) -> dict[str, Any]:
        """What is trained, in the key: of a plain LoRA no more than before there were others."""
        said: dict[str, Any] = {} if self.method == "lora" else {"method": self.method}
        if self.method != "full":
            later = {"variant", "targets"}
            said["lora"] = self.lora.model_dump(mode="json", exclude=later)
            said["lora"] |= self.lora.model_dump(mode="json", include=later, exclude_defaults=True)
        return said


class SoftLabelsSection(Section):
    """What is kept of the teacher's distributions."""

    method: Literal["top_k", "sampled"] = Field(
        default="top_k",
        description="top_k: the likeliest tokens, and the mass of the rest; sampled: tokens drawn "
        "at random, unbiased (random sampling KD): less than half the space, at T = 1 only.",
    )
    top_k: int = Field(
        default=20,
        ge=1,
        le=1024,
        description="top_k: how many tokens are kept; the rest is one bucket.",
    )
    draws: int = Field(
        default=30,
        ge=1,
        le=255,
        description="sampled: draws per position. A token that is drawn twice is kept "
        "once: 30 draws leave about 12 tokens in dialogues, fewer where the teacher is "
        "surer.",
    )
    seed: Seed = Field(default=0, description="sampled: seed of the draws.")

    def effective(self) -> dict[str, Any]:
        """What decides the labels: the settings of the other method do not."""
        used = {"top_k": {"method", "top_k"}, "sampled": {"method", "draws", "seed"}}
        return self.model_dump(mode="json", include=used[self.method])


class OnPolicySection(Section):
    """Steps on answers that the student writes itself (rollouts), scored by the live teacher.

    Generalised knowledge distillation, arXiv 2306.13649; kept answers as in DistiLLM, arXiv
    2402.03898, section 3.2.
    """

    share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the steps after `start` that learn from such answers; the others "
        "learn from the corpus. The seed decides which.",
    )
    start: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the steps before the first rollout: a student that cannot write yet "
        "has nothing to be scored.",
    )
    buffer: int = Field(
        default=32, ge=8, le=4096, description="Answers that are written together and kept."
    )
    reuse: int = Field(
        default=4, ge=1, description="How often each is learnt from before all are written again."
    )
    max_age: int = Field(
        default=64,
        ge=1,
        description="Steps after which they are written again even if they were not used as often: "
        "they are no longer what the student would say.",
    )
    max_new_tokens: int = Field(
        default=64,
        ge=2,
        description="Limit of an answer. Prompts with less room below max_length are left out.",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="Temperature of the draws. At 1 they follow the student's own distribution.",
    )
    losses: tuple[RolloutLoss, ...] = Field(
        default=(KLReverseLoss(),),
        min_length=1,
        description="Any weighted sum of losses between distributions, on the tokens that the "
        "student wrote.",
    )


class DistillSection(OptimizerSection):
    """Training the student."""

    kd_weight: Fraction = Field(
        default=0.8, description="Weight of the KL to the soft labels; hard labels get the rest."
    )
    temperature: float = Field(default=1.0, gt=0, description="T of the KL, scaled by T^2.")
    train_embeddings: bool = Field(
        default=False,
        description="Also train the embedding and output matrix: a third of a small student's "
        "weights, and most of its optimizer's work, for words the task never sees.",
    )
    hidden_weight: float = Field(
        default=0.0, ge=0, description="Weight of the hidden-state loss (loads the teacher)."
    )
    hidden_epochs: float = Field(
        default=0.0,
        ge=0,
        description="Epochs of hidden-state transfer alone, before the KL starts.",
    )
    teacher: Literal["stored", "live"] = Field(
        default="stored",
        description="Where the teacher's distributions come from. stored: soft labels of one pass "
        "before; live: the teacher runs beside the student, every token's probability is known.",
    )
    losses: tuple[Loss, ...] = Field(
        default=(),
        description="Any weighted sum, in place of kd_weight, temperature and hidden_weight: "
        "[{loss: kl_reverse, weight: 0.5, temperature: 2.0}, ...]; training/README.md has a table.",
    )
    on_policy: OnPolicySection | None = Field(
        default=None,
        description="Learn from the student's own answers too (loads the teacher). null: from the "
        "corpus alone.",
    )

    @property
    def loss_terms(self) -> tuple[VocabularyLoss | LayerLoss, ...]:
        """What is minimised: the list, or what the short form says in its terms."""
        if self.losses:
            return self.losses
        return short_form(
            kd_weight=self.kd_weight,
            temperature=self.temperature,
            hidden_weight=self.hidden_weight,
        )

    @property
    def idle_keys(self) -> frozenset[str]:
        """Keys that decide nothing here; who does not use what came later has the same work."""
        idle = _SHORT_FORM if self.losses else frozenset({"losses"})
        if self.teacher == "stored":
            idle |= {"teacher"}
        if self.on_policy is None:
            idle |= {"on_policy"}
        return idle

    def passes(self, batches: int) -> float:
        """Those that follow the transfer of hidden states, whose steps count as well."""
        return self._lengthened(batches, before=self.hidden_epochs)

    @property
    def reads_distributions(self) -> bool:
        """Whether the teacher's distributions are needed, stored or live."""
        return any(term.needs in ("known", "whole") for term in self.loss_terms)

    @property
    def reads_soft_labels(self) -> bool:
        """Whether stored distributions are needed."""
        return self.teacher == "stored" and self.reads_distributions

    @property
    def loads_teacher(self) -> bool:
        """Whether the teacher has to run beside the student."""
        layers = any(term.needs == "weights" for term in self.loss_terms)
        live = self.teacher == "live" and self.reads_distributions
        return layers or live or self.hidden_epochs > 0 or self.on_policy is not None

    @model_validator(mode="after")
    def _losses_can_be_computed(self) -> DistillSection:
        if self.losses:
            for name in sorted(_SHORT_FORM):
                default = type(self).model_fields[name].default
                if getattr(self, name) != default:
                    raise ValueError(
                        f"{name}: losses says it already; leave it out, or set it to "
                        f"{json.dumps(default)}"
                    )
        for number, term in enumerate(self.losses):
            if term.needs == "whole" and self.teacher == "stored":
                raise ValueError(
                    f"losses.{number}: {term.loss} needs every token's probability, and soft "
                    "labels keep only some; set distill.teacher to live"
                )
        if self.on_policy is not None and self.shard_layers:
            raise ValueError("shard_layers: answers are written with whole layers (on_policy)")
        if self.on_policy is not None and self.on_policy.max_new_tokens >= self.max_length:
            raise ValueError(
                "on_policy.max_new_tokens: leaves no room for a prompt below max_length "
                f"({self.max_length}); set it lower, or raise max_length"
            )
        if self.teacher == "live" and not self.reads_distributions:
            raise ValueError("teacher: no loss reads the teacher's distributions; set it to stored")
        return self
