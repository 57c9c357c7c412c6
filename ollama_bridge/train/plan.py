"""How much of a batch is computed at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollama_bridge.models.compute.precision import way_to_the_cpu
from ollama_bridge.recipe.config import OptimizerSection, TuneSection

# Of the section: no part of a batch can be asked to be smaller.
_LEAST_TOKENS = 16


@dataclass(frozen=True)
class Plan:
    """How a batch is computed; changes results by rounding only.

    Attributes:
        micro_batch_tokens: Padded tokens at once; None: the whole batch, where one process computes
            it.
        activation_checkpointing: Whether layers are computed again for the gradient.
    """

    micro_batch_tokens: int | None = None
    activation_checkpointing: bool = False

    def has_to_grow(self, settings: OptimizerSection, asked: int | None) -> bool:
        """Whether a run that goes on is asked for larger parts: whether they fit is to be tried.

        Args:
            settings: Of the run as it goes on.
            asked: Their ``micro_batch_tokens`` when this plan was decided. The same number again
                asks for nothing: what of it fits was found then.
        """
        limit, own = settings.micro_batch_tokens, self.micro_batch_tokens
        return limit is not None and own is not None and own < limit and limit != asked

    def changed_by(self, settings: OptimizerSection) -> Plan:
        """The plan of a run that goes on with other settings than those that it began with.

        What they leave open, and parts that are smaller already, stay as they were decided.
        """
        plan, limit = self, settings.micro_batch_tokens
        if limit is not None and limit < (self.micro_batch_tokens or settings.batch_tokens):
            plan = replace(plan, micro_batch_tokens=limit)
        if settings.activation_checkpointing is not None:
            plan = replace(plan, activation_checkpointing=settings.activation_checkpointing)
        return plan

    def sentence(self, settings: OptimizerSection) -> str:
        """What a run that goes on says of it, for people."""
        limit, whole = settings.micro_batch_tokens, settings.batch_tokens
        own = self.micro_batch_tokens or whole
        if limit is None:
            why = "as it was before"
        elif own < min(limit, whole):
            why = f"as was found to fit (micro_batch_tokens allows {limit})"
        else:
            why = "as micro_batch_tokens says"
        twice = "; activations computed twice" if self.activation_checkpointing else ""
        return f"resumes with {own} of {whole} tokens at once, {why}{twice}"


def less_memory(
    settings: OptimizerSection, plan: Plan | None = None, *, longest: int = _LEAST_TOKENS
) -> str:
    """What to do where a device is out of memory.

    Args:
        settings: What the recipe asks for.
        plan: How batches are computed; None: as the settings ask.
        longest: Tokens of the longest example, which no part can be smaller than.
    """
    plan = plan or Plan(settings.micro_batch_tokens, bool(settings.activation_checkpointing))
    section = "teacher.tune" if isinstance(settings, TuneSection) else "distill"
    used = plan.micro_batch_tokens or settings.batch_tokens
    ways = []
    if (
        isinstance(settings, TuneSection)
        and settings.method == "lora"
        and settings.lora.variant != "pissa"  # it decomposes weights that are not quantized
    ):
        four_bits = "whose base takes 4 bits a weight (pip install bitsandbytes)"
        ways.append(f"--set {section}.method=qlora, {four_bits}")
    if used > max(longest, _LEAST_TOKENS):
        smaller = max(used // 2, _LEAST_TOKENS)
        ways.append(f"--set {section}.micro_batch_tokens={smaller} ({used} now)")
    else:
        ways.append(f"leave out the longest examples (--set {section}.max_length, below {longest})")
    if not plan.activation_checkpointing:
        ways.append(f"--set {section}.activation_checkpointing=true")
    if on_cpu := way_to_the_cpu():
        ways.append(on_cpu)
    return ", or ".join(filter(None, [", ".join(ways[:-1]), ways[-1]]))
