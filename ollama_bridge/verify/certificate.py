"""The certificate: what was checked of a tag, with the numbers, and how it ended.

Does not check anything itself; see ``verify.parity``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ollama_bridge.errors import ArtifactError, ParityError

# In the order in which a difference of one explains differences of the next.
LAYERS = ("template", "tokenizer", "tensor", "rounding", "stop", "sampling", "provenance")
Layer = Literal["template", "tokenizer", "tensor", "rounding", "stop", "sampling", "provenance"]
Numbers = dict[str, float | int | str]
# The checks that compare them.
LOG_PROBABILITIES, PARAMETERS = "log-probabilities", "parameters"
MESSAGES, ADAPTER = "MESSAGE", "ADAPTER"
THINKING_TAGS, TOKEN_COUNT = "thinking tags", "token counts"
CONTEXT_LENGTH, TENSOR_TYPES = "context length", "types of tensors"
WINDOW = "attention window"
METADATA, TENSORS = "metadata", "tensors"
# How prompts were compared: as the daemon shows them, or without that.
RENDERED_TEXT, TOKEN_COUNTS = "rendered text", "token counts"
# Keys of the numbers of a check: parameters that the tag does not set, those that it sets otherwise
# than its checkpoint, capabilities that its TEMPLATE does without, and those that nothing proves;
# why its file was not compared; and whether it carries the values of another model.
LEFT_TO_DAEMON, SET_OTHERWISE = "left_to_daemon", "set_otherwise"
GIVEN_UP, OFFERED = "given_up", "offered_unproven"
NOT_COMPARED, CARRIES_OTHERS = "file_not_compared", "carries_others"
COMPARED_KEYS = "compared_keys"  # how many numbers of the metadata were

# By the check, where it has one of its own, or by its layer.
_HINTS: dict[str, str] = {
    MESSAGES: "verify the tag that it was made FROM: there are no reference values for prompts "
    "with these MESSAGEs",
    ADAPTER: "verify the tag that it was made FROM, or hold this one against what both are "
    "together: ollama-bridge verify TAG --against ADAPTER --base BASE",
    THINKING_TAGS: "make the tag again from its checkpoint: ollama-bridge package CHECKPOINT TAG "
    "writes these tokens as user-defined, which Ollama prints",
    CONTEXT_LENGTH: "convert the checkpoint again; the number is max_position_embeddings of its "
    "config.json",
    TENSOR_TYPES: "convert the checkpoint again to the type that you want: ollama-bridge package "
    "CHECKPOINT TAG --type TYPE",
    WINDOW: "update Ollama to 0.30 or later, which keeps to the window",
    "template": "leave it to the checkpoint's chat template (--set modelfile.template=auto in a "
    "build, --template auto in package), or check TEMPLATE and SYSTEM of the one that you chose",
    "tokenizer": "convert the checkpoint again; its tokenizer.json and the GGUF disagree",
    **dict.fromkeys(
        (METADATA, TENSORS), "convert the checkpoint again: ollama-bridge package CHECKPOINT TAG"
    ),
    "tensor": "convert the checkpoint again; a difference this large usually is a wrong "
    "permutation of the rows of q_proj and k_proj, a lost norm or bias, or wrong RoPE metadata",
    "rounding": "use a finer type: --type f16; if that is refused too, the weights are as good as "
    "random: train them first, or register them unproven: --force",
    "stop": "the Modelfile needs a PARAMETER stop for every end token of the checkpoint, and none "
    "that occurs in its answers: such a stop belongs in requests (options.stop)",
    "sampling": "write the parameter into the recipe: modelfile.parameters",
    "provenance": "publish it again, which replaces them; a model that is made FROM another "
    "inherits its layers",
}

_BROKEN = {
    "rounding": "cannot be proven to serve its checkpoint",
    "provenance": "is not what it says of itself",
}


class Check(BaseModel):
    """One comparison of reference and daemon.

    Attributes:
        name: What was compared.
        layer: Where a difference lies.
        passed: Whether it is within its bounds.
        numbers: Counts, measured values and the bounds they were held against; ``proof`` says how
            prompts were compared (``verify.prompts``), ``left_to_daemon`` which parameters the
            tag does not set, ``set_otherwise`` which a tag sets otherwise than its checkpoint,
            ``given_up`` what the TEMPLATE of a tag of ours does without, ``offered_unproven`` what
            a TEMPLATE offers that the checkpoint has not (``verify.settings``),
            ``file_not_compared`` why the file was not held against a checkpoint that was given,
            ``carries_others`` that the tag's own values are another model's than that checkpoint's.
        difference: The first difference, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    layer: Layer
    passed: bool
    numbers: Numbers = Field(default_factory=dict)
    difference: str | None = None

    @classmethod
    def of(
        cls, name: str, layer: Layer, difference: str | None, numbers: Numbers | None = None
    ) -> Check:
        """One that passed if there is no difference."""
        passed = difference is None
        return cls(
            name=name, layer=layer, passed=passed, numbers=numbers or {}, difference=difference
        )

    @classmethod
    def of_file(cls, name: str, problems: Sequence[str], numbers: Numbers) -> Check:
        """One of a file's contents, that passed if there is no problem; the first is shown."""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return cls.of(name, "tensor", f"{problems[0]}{more}" if problems else None, numbers)


class Certificate(BaseModel):
    """The proof that a tag serves its checkpoint, or the record of where it does not.

    Attributes:
        tag: The tag in Ollama.
        type: GGUF type of the weights.
        daemon_version: Version of the daemon that was checked.
        blob_digest: Digest of the GGUF.
        tag_digest: Digest of the tag's manifest in the daemon, which fixes all its parts.
        forced: Registered although a check failed, because it was asked for.
        rendering: Who renders the prompts, and why.
        limits: What the checkpoint's chat template does and no Ollama template can.
        checks: All comparisons.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    tag: str
    type: str
    daemon_version: str
    blob_digest: str
    tag_digest: str = ""
    forced: bool = False
    rendering: str = ""
    limits: tuple[str, ...] = ()
    checks: tuple[Check, ...] = Field(min_length=1)

    @property
    def passed(self) -> bool:
        """Whether every check is within its bounds."""
        return all(check.passed for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        """The failed check whose layer comes first."""
        failed = [check for check in self.checks if not check.passed]
        return min(failed, key=lambda check: LAYERS.index(check.layer), default=None)

    @property
    def verdict(self) -> str:
        """One line for people, without a word of a prompt: it goes into events."""
        failure = self.first_failure
        if failure is not None:
            forced = "; registered by force" if self.forced else ""
            if failure.layer == "provenance":
                return f"equal to its checkpoint, but NOT what it says of itself ({failure.name})"
            known = "NOT proven" if failure.layer == "rounding" else "NOT"
            return f"{known} equal to its checkpoint ({failure.layer}: {failure.name}){forced}"
        numbers = {key: value for check in self.checks for key, value in check.numbers.items()}
        counted = " (by token counts)" if numbers.get("proof") == TOKEN_COUNTS else ""
        left, given_up = numbers.get(LEFT_TO_DAEMON), numbers.get(GIVEN_UP)
        offered = numbers.get(OFFERED)
        set_otherwise, unread = numbers.get(SET_OTHERWISE), numbers.get(NOT_COMPARED)
        parts = "tensors were" if COMPARED_KEYS in numbers else "tensors and metadata were"
        return (
            f"proven equal to its checkpoint on Ollama {self.daemon_version}: "
            f"{numbers.get('prompts', 0)} prompts{counted}, {numbers.get('tokens', 0)} tokens, "
            f"{numbers.get('positions', 0)} positions "
            f"(max difference {numbers.get('max_difference', 0):.3f}, "
            f"mean KL {numbers.get('mean_kl_nats', 0):.5f} nats)"
            + (f"; its TEMPLATE gives up {given_up}" if given_up else "")
            + (f"; it offers {offered}, of which nothing is proven" if offered else "")
            + (f"; it leaves to Ollama's defaults: {left}" if left else "")
            + (f"; it sets {set_otherwise}" if set_otherwise else "")
            + (f"; its {parts} not compared: {unread}" if unread else "")
            + (f"; {numbers[CARRIES_OTHERS]}" if CARRIES_OTHERS in numbers else "")
        )

    def with_checks(self, *checks: Check, before: str | None = None) -> Certificate:
        """The same with more checks: at the end, or in front of the one whose failure they explain.

        What is wrong with the file comes before what a version makes of the window that it names.
        """
        names = [one.name for one in self.checks]
        first = len(names)
        if before is not None:
            first = names.index(
                WINDOW if before == LOG_PROBABILITIES and WINDOW in names else before
            )
        every = (*self.checks[:first], *checks, *self.checks[first:])
        return self.model_copy(update={"checks": every})

    def with_number(self, check: str, key: str, said: str) -> Certificate:
        """The same with one more number of a check."""
        checks = tuple(
            one.model_copy(update={"numbers": {**one.numbers, key: said}})
            if one.name == check
            else one
            for one in self.checks
        )
        return self.model_copy(update={"checks": checks})

    def raise_if_failed(self) -> None:
        """Raise for the first failed layer.

        Raises:
            ParityError: naming the layer, with the first difference.
        """
        failure = self.first_failure
        if failure is not None:
            broken = _BROKEN.get(failure.layer, "does not serve its checkpoint")
            raise ParityError(
                f"{self.tag} {broken}: {failure.layer}: {failure.difference}",
                layer=failure.layer,
                hint=_HINTS.get(failure.name, _HINTS[failure.layer]),
            )

    def to_json(self) -> str:
        """The text of ``certificate.json``: everything, with the verdict at its head."""
        head = {"verdict": self.verdict, "passed": self.passed}
        return json.dumps({**head, **self.model_dump(mode="json")}, indent=1, ensure_ascii=False)

    @classmethod
    def read(cls, path: Path) -> Certificate:
        """Read ``certificate.json``.

        Raises:
            ArtifactError: missing or not a certificate.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise ArtifactError(f"{path} is not a certificate: {exc}") from exc
