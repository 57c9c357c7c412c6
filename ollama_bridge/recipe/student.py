"""The section of a recipe that says what the student is cut out of, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from ollama_bridge.recipe.sections import Section


class StudentSection(Section):
    """Where the student starts."""

    model: Literal["teacher"] | str = Field(  # noqa: PYI051  "teacher" is the documented default
        default="teacher",
        description="teacher: parts of the (tuned) teacher; else a model reference.",
    )
    layers: int | tuple[int, ...] | None = Field(
        default=None,
        description="How many layers to keep, or their numbers. null: all.",
    )
    layer_choice: Literal["first", "even", "influence", "loss"] = Field(
        default="first",
        description="Which layers are kept where `layers` is a number. first: the lowest "
        "ones, which stay closest to the teacher's distribution: by far the best for "
        "one-word answers. influence: those that turn the hidden states most, by far the "
        "best for free text (training/LOG.md). even: evenly spaced; loss: those without "
        "which the answers lose most (one pass over the calibration texts per layer).",
    )
    heads: int | None = Field(
        default=None,
        gt=0,
        description="Query heads to keep in every layer, the most active ones; heads that share a "
        "key-value head stay together. null: all.",
    )
    mlp_channels: int | None = Field(
        default=None, gt=0, description="MLP channels to keep in every layer, the most active ones."
    )
    hidden_size: int | None = Field(
        default=None,
        gt=0,
        description="Directions of the residual stream to keep, the most active ones. Needed with "
        "`heads` where Ollama wants heads to fill the width (qwen2, phi3, granite, olmo2).",
    )
    calibration_tokens: int = Field(
        default=8192,
        gt=0,
        description="Tokens of the training split, of all its labels, on which importance is "
        "measured.",
    )
    vocabulary: Literal["full", "corpus"] = Field(
        default="full",
        description="corpus: only the tokens that the training and validation texts use; other "
        "text becomes shorter tokens, down to bytes.",
    )

    @field_validator("layers")
    @classmethod
    def _layers_rise(cls, value: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if isinstance(value, int):
            if value < 1:
                raise ValueError("a student has at least one layer")
        elif value is not None and list(value) != sorted(set(value)):
            raise ValueError("name each layer once, in the order in which the teacher runs them")
        elif value == () or (value is not None and value[0] < 0):
            raise ValueError("name at least one layer; they count from 0")
        return value

    @property
    def is_narrow(self) -> bool:
        """Whether its layers are narrower than those of its start."""
        return any((self.heads, self.mlp_channels, self.hidden_size))

    @property
    def measures_layers(self) -> bool:
        """Whether its layers are chosen by what they do on training texts."""
        return isinstance(self.layers, int) and self.layer_choice in ("influence", "loss")

    @property
    def is_measured(self) -> bool:
        """Whether anything of it is chosen by what it does on training texts."""
        return self.measures_layers or self.is_narrow

    def effective(self) -> dict[str, Any]:
        """What decides which student it is; ``model`` does by what it stands for."""
        said = self.model_dump(
            mode="json", exclude={"model", "calibration_tokens"}, exclude_defaults=True
        )
        if self.is_measured:
            said["calibration_tokens"] = self.calibration_tokens
            said["calibration_texts"] = "of all labels"  # before: the first ones
        return {"layers": None, "layer_choice": self.layer_choice, **said}
