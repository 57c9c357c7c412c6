"""A checkpoint, opened to be written as a GGUF: its tensors, and what its file says of it.

All of this is the same whichever types the tensors get.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ollama_bridge.conversion.kept_vocabulary import as_it_came
from ollama_bridge.conversion.tensors import plan_tensors, source_notes
from ollama_bridge.conversion.tokenizer import TokenizerSection
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.entries import Entry, number, text
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.settings.general import (
    derived_model_entries,
    general_of,
    same_model_entries,
)
from ollama_bridge.models.settings.generation_defaults import default_entries
from ollama_bridge.models.settings.hf_config import keys_named
from ollama_bridge.models.settings.stripping import name_for_rule
from ollama_bridge.models.sources.origin import (
    card_of,
    maker_of,
    missing_entries,
    origin_of,
    owners_folder,
    repository_of,
)
from ollama_bridge.models.weights.gguf import GGUFWeights
from ollama_bridge.models.weights.stored import open_weights
from ollama_bridge.quantization.file_types import NUMBERS
from ollama_bridge.quantization.mixes import ModelShape
from ollama_bridge.storage.artifacts import Checkpoint

if TYPE_CHECKING:
    from ollama_bridge.reference import ReferenceValues

_QUANTIZATION_VERSION = 2  # of the block formats; the only one in use


class Source:
    """A checkpoint that can be written.

    Args:
        ends: Tokens that end its answers, where it has no reference values that say.

    Attributes:
        checkpoint: A merged model with its tokenizer.
        tokenizer: Its tokenizer's part of the file.
        weights: Its tensors, by their names in the checkpoint.
        plans: The file's tensors, in its order.
        shapes: Of them by name, rows first.
        shape: What mixes of types depend on.
        parameters: How many numbers the tensors have.

    Raises:
        ModelError: the folder cannot be used.
        ConversionError: something cannot be expressed in a GGUF.
    """

    def __init__(self, checkpoint: Checkpoint, *, ends: Sequence[int] = ()) -> None:
        self.checkpoint = checkpoint
        self.config = check_folder(checkpoint.path)
        self.architecture = ARCHITECTURES[read_architecture(checkpoint.path, self.config)]
        values = read_reference(checkpoint)
        self.tokenizer = TokenizerSection(
            checkpoint.path,
            self.config,
            ends=ends if values is None else [token.id for token in values.end_tokens],
            printed=() if values is None else values.thinking_tags,
        )
        self._maker = maker_of(checkpoint)
        self.weights = open_weights(checkpoint.path, self.config)
        with keys_named(owners_folder(checkpoint.path)):
            self._entries = self.architecture.entries(self.config)
            self.plans = plan_tensors(self.architecture, self.config, self.weights)
        self.shapes = {plan.name: plan.shape for plan in self.plans}
        dims = self.architecture.dimensions(self.config)
        self.shape = ModelShape(self.architecture.name, dims.layers, dims.heads, dims.kv_heads)
        self.parameters = sum(math.prod(plan.shape) for plan in self.plans)

    @property
    def notes(self) -> list[str]:
        """What the user should know of the file, whatever its types."""
        return [
            *self.architecture.notes(self.config),
            *self.tokenizer.notes,
            *source_notes(self.weights),
        ]

    def model_entries(self, file_type: str, *, name: str | None) -> list[Entry]:
        """What the model is, where it comes from, and how it computes.

        A name of None is made from the base model's name and the stage.
        """
        return [*self._general(file_type, name), *self._provenance(), *self._entries]

    def tokenizer_entries(self, *, chat_template: bool) -> list[Entry]:
        """All ``tokenizer.*`` keys; see :meth:`TokenizerSection.entries`."""
        entries = self.tokenizer.entries(chat_template=chat_template)
        return as_it_came(entries, self.checkpoint.path, self.tokenizer.merges)

    def reference_entries(self) -> list[Entry]:
        """What a daemon has to reproduce, inside the file: a tag can then be verified anywhere."""
        values = read_reference(self.checkpoint)
        if values is None:
            return []
        from ollama_bridge.reference import REFERENCE_KEY

        return [text(REFERENCE_KEY, values.to_json())]

    def facts(self) -> Mapping[str, Any]:
        """For the manifest."""
        return {
            "architecture": self.architecture.name,
            "parameters": self.parameters,
            "layers": self.config["num_hidden_layers"],
            "context_length": self.config["max_position_embeddings"],
            "end_tokens": list(self.tokenizer.end_tokens),
        }

    def _general(self, file_type: str, name: str | None) -> list[Entry]:
        facts = self.checkpoint.facts
        source = general_of(self.config) or origin_of(facts)
        size = _size_label(self.parameters)
        if isinstance(self.weights, GGUFWeights):  # an import as it is, and not what was made of it
            entries = same_model_entries(source, name=name)
        else:
            folder = self.checkpoint.path
            entries = derived_model_entries(source) or card_of(folder, facts)
            entries += missing_entries(folder, facts, entries)
        if name is None:
            source = source or repository_of(facts)
            origin = source.get("name", f"model {size}")
            name = origin if self._maker is None else f"{origin} {self._maker.stage}"
        own = [
            text("general.type", "model"),
            text("general.name", name),
            text("general.size_label", size),
            number("general.file_type", NUMBERS[file_type]),
            number("general.quantization_version", _QUANTIZATION_VERSION),
            *default_entries(self.checkpoint.path),
        ]
        said = {entry.key for entry in entries}
        whole = [*entries, *(entry for entry in own if entry.key not in said)]
        return [self._spelled(entry) if entry.key == "general.name" else entry for entry in whole]

    def _spelled(self, name: Entry) -> Entry:
        """The name, by which llama.cpp decides on how texts are split."""
        follows = self.tokenizer.follows_rule
        return text(name.key, name_for_rule(str(name.value), follows=follows))

    def _provenance(self) -> list[Entry]:
        work, maker = self.checkpoint.manifest.work, self._maker
        stage, recipe, inputs = work.stage, None, dict(work.inputs)
        if maker is not None:
            stage, recipe, inputs = maker.stage, maker.settings_sha256, {**maker.inputs, **inputs}
        return [
            *([] if recipe is None else [text("ollama_bridge.recipe.sha256", recipe)]),
            text("ollama_bridge.checkpoint.digest", self.checkpoint.digest),
            text("ollama_bridge.checkpoint.stage", stage),
            *(
                text(f"ollama_bridge.input.{role}", digest)
                for role, digest in sorted(inputs.items())
            ),
        ]


def read_reference(checkpoint: Checkpoint) -> ReferenceValues | None:
    """What a daemon has to reproduce; None: nobody computed it."""
    path = checkpoint.reference_path
    if not path.is_file():
        return None
    # Here, for its models take a while to build, and what was trained elsewhere has no values.
    from ollama_bridge.reference import ReferenceValues

    return ReferenceValues.read(path)


def _size_label(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            amount = parameters / size
            return f"{amount:.1f}{unit}" if amount < 10 else f"{amount:.0f}{unit}"
    return str(parameters)
