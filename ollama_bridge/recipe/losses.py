"""The losses that a recipe can name in ``distill.losses``, each with its own options.

The formulas are in ``train/losses/``. What a loss has to know of the teacher is said here, once:
checks of a recipe, the training stage and the documents read it from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ollama_bridge.recipe.sections import Section

# What of the teacher a loss reads:
#   nothing    hard labels only
#   known      its distributions, as far as they are known: stored soft labels will do
#   whole      its whole distributions: they have to be computed beside the student
#   weights    what its layers compute: it has to run beside the student
Needs = Literal["nothing", "known", "whole", "weights"]
LayerMap = Annotated[
    Mapping[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], Field(min_length=1)
]


class LossSection(Section):
    """Base of all losses."""

    needs: ClassVar[Needs] = "known"
    short_name: ClassVar[str]

    weight: float = Field(default=1.0, gt=0, description="Its share of the sum.")


class CrossEntropyLoss(LossSection):
    """Hard labels: the answers of the corpus."""

    needs: ClassVar[Needs] = "nothing"
    short_name: ClassVar[str] = "ce"

    loss: Literal["cross_entropy"] = "cross_entropy"


class TemperedLoss(LossSection):
    """Base of the losses between two distributions."""

    temperature: float = Field(
        default=1.0, gt=0, description="T of both distributions; the loss is scaled by T^2 or T."
    )


class KLForwardLoss(TemperedLoss):
    """The teacher's KL divergence to the student."""

    short_name: ClassVar[str] = "kl"

    loss: Literal["kl_forward"] = "kl_forward"


class KLReverseLoss(TemperedLoss):
    """The student's KL divergence to the teacher."""

    short_name: ClassVar[str] = "kl_reverse"

    loss: Literal["kl_reverse"] = "kl_reverse"


class KLSkewedLoss(TemperedLoss):
    """KL divergence to a mixture of both."""

    short_name: ClassVar[str] = "kl_skewed"

    loss: Literal["kl_skewed"] = "kl_skewed"
    direction: Literal["forward", "reverse"] = Field(
        default="forward", description="forward: from the teacher; reverse: from the student."
    )
    alpha: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the mixture that is the first one itself."
    )


class JensenShannonLoss(TemperedLoss):
    """Generalised Jensen-Shannon divergence."""

    short_name: ClassVar[str] = "js"

    loss: Literal["jensen_shannon"] = "jensen_shannon"
    beta: float = Field(default=0.5, gt=0, lt=1, description="The teacher's share of the mixture.")


class TotalVariationLoss(TemperedLoss):
    """Total variation distance."""

    short_name: ClassVar[str] = "tv"

    loss: Literal["total_variation"] = "total_variation"


class UniversalLoss(TemperedLoss):
    """Universal logit distillation: sorted probabilities, whatever the tokens are.

    Of whole vocabularies, which a live teacher alone gives. Beside hard labels its tokens may be
    others than the student's (see ``docs/teachers.md``).
    """

    needs: ClassVar[Needs] = "whole"
    short_name: ClassVar[str] = "uld"

    loss: Literal["universal"] = "universal"


class HybridUniversalLoss(TemperedLoss):
    """KL over the tokens that teacher and student both have, and ULD over the rest.

    For a live teacher of other tokens beside hard labels (see ``docs/teachers.md``): with the same
    ones it would be the forward KL.
    """

    needs: ClassVar[Needs] = "whole"
    short_name: ClassVar[str] = "hybrid_uld"

    loss: Literal["hybrid_universal"] = "hybrid_universal"
    unmatched_weight: float = Field(
        default=1.0, ge=0, description="Weight of ULD over the rest, beside 1 of the KL."
    )


class HiddenLoss(LossSection):
    """Hidden states of the layers."""

    needs: ClassVar[Needs] = "weights"
    short_name: ClassVar[str] = "hidden"

    loss: Literal["hidden"] = "hidden"
    distance: Literal["error", "angle"] = Field(
        default="error",
        description="error: squared distance, relative to the teacher's size; angle: 1 - cosine.",
    )
    layer_map: LayerMap | None = Field(
        default=None,
        description="Layer of the student -> layer of the teacher whose output it has to reach, "
        "counted from 0. null: each does the work of the teacher's layers up to the next one "
        "that was kept.",
    )


class AttentionLoss(LossSection):
    """Attention maps."""

    needs: ClassVar[Needs] = "weights"
    short_name: ClassVar[str] = "attention"

    loss: Literal["attention"] = "attention"
    distance: Literal["kl", "error"] = Field(
        default="kl", description="kl: KL from the teacher's; error: squared distance."
    )
    layer_map: LayerMap | None = Field(
        default=None,
        description="Layer of the student -> layer of the teacher, from 0. null: the last of each.",
    )


DistributionLoss = (
    KLForwardLoss
    | KLReverseLoss
    | KLSkewedLoss
    | JensenShannonLoss
    | TotalVariationLoss
    | UniversalLoss
)
VocabularyLoss = CrossEntropyLoss | DistributionLoss | HybridUniversalLoss
LayerLoss = HiddenLoss | AttentionLoss
Loss = Annotated[VocabularyLoss | LayerLoss, Field(discriminator="loss")]
# What can be learnt from an answer that nobody says is right: the teacher's opinion of it.
RolloutLoss = Annotated[DistributionLoss, Field(discriminator="loss")]


def loss_names(losses: Sequence[VocabularyLoss | LayerLoss]) -> tuple[str, ...]:
    """What each is called in the log: ce, kl, kl_2, ..."""
    seen: Counter[str] = Counter()
    names = []
    for loss in losses:
        seen[loss.short_name] += 1
        count = seen[loss.short_name]
        names.append(loss.short_name if count == 1 else f"{loss.short_name}_{count}")
    return tuple(names)


def short_form(
    *, kd_weight: float, temperature: float, hidden_weight: float
) -> tuple[VocabularyLoss | LayerLoss, ...]:
    """The terms that the short form of a recipe stands for; what weighs nothing is left out."""
    terms: list[VocabularyLoss | LayerLoss] = []
    if kd_weight < 1:
        terms.append(CrossEntropyLoss(weight=1 - kd_weight))
    if kd_weight > 0:
        terms.append(KLForwardLoss(weight=kd_weight, temperature=temperature))
    if hidden_weight > 0:
        terms.append(HiddenLoss(weight=hidden_weight))
    return tuple(terms)


def problem_of_sampled(
    losses: Sequence[VocabularyLoss | LayerLoss], *, are_listed: bool
) -> str | None:
    """Why losses cannot be had of soft labels drawn at random, with the key; None if they can.

    Args:
        losses: All that are minimised.
        are_listed: Whether the recipe names them in ``distill.losses``, and not by the short form.
    """
    for number, loss in enumerate(losses):
        if loss.needs != "known":
            continue
        section = f"distill.losses.{number}" if are_listed else "distill"
        if not isinstance(loss, KLForwardLoss):
            return (
                f"{section}: sampled soft labels allow kl_forward only, not {loss.loss}; "
                "set soft_labels.method to top_k, or distill.teacher to live"
            )
        if loss.temperature != 1.0:
            return f"{section}.temperature: sampled soft labels are drawn at 1; set it to 1"
    return None
