"""What the architectures share: one description of a decoder that is read in both directions.

An architecture is one class in one small module and one line in the registry. From a Hugging Face
config it says which tensors there are, what they are called on both sides and what is done to
them, and which metadata keys carry the rest; from a GGUF's metadata it says the config. The
converter reads the tensor rules forwards, the importer backwards, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ollama_bridge.errors import ConversionError, GGUFError
from ollama_bridge.models.architectures import rope
from ollama_bridge.models.architectures.config import Config, integer, real, require
from ollama_bridge.models.architectures.entries import Entry, number
from ollama_bridge.models.architectures.entries import real as real_entry
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import (
    EMBEDDING,
    LLAMA_AXES,
    LLAMA_BLOCK,
    OUTPUT,
    WIDTH_NORM,
    Axes,
    Dimensions,
    Float32Array,
    TensorRule,
)


class Architecture:
    """A Llama-like decoder; subclasses say where they differ.

    Attributes:
        hf_class: Class in transformers.
        model_type: ``model_type`` of its config.
        name: ``general.architecture``.
        block: Parts of a layer: name in the checkpoint to name in the GGUF.
        axes: What their rows and columns are; a part that is not listed is a norm of the width.
        biases: Parts that have a bias.
        optional_biases: Parts that may have one.
        permuted: llama.cpp rotates neighbours, so rows of q and k are reordered.
        norm_shift: See :class:`TensorRule`.
        activation: Key of the config and the only value that llama.cpp computes with.
        rope_types: Kinds of positions that its place in llama.cpp has.
        unread: Keys of a GGUF that are written and that no runtime computes with.
        eyes: What begins the names of tensors that see, which files of Ollama's hold beside it.
        attention: transformers' implementation that computes it right.
        fills_width: Its heads, each as wide as it is, have to add up to the hidden size.
        default_head_dim: Width of a head where the config is silent; None: width / heads.
        default_epsilon: Of the norms where a GGUF is silent; None: it must not be.
        epsilon: Of the norms where the config is silent, as its class in transformers has it.
        theta: Base of the rotary angles where the config is silent.
        scaled_embedding: The embedding is multiplied by the square root of the width.
        ties: The output matrix is the embedding where the config is silent.
    """

    hf_class: ClassVar[str]
    model_type: ClassVar[str]
    name: ClassVar[str]
    block: ClassVar[Mapping[str, str]] = LLAMA_BLOCK
    axes: ClassVar[Mapping[str, Axes]] = LLAMA_AXES
    biases: ClassVar[Sequence[str]] = ()
    optional_biases: ClassVar[Sequence[str]] = ()
    permuted: ClassVar[bool] = False
    norm_shift: ClassVar[float] = 0.0
    activation: ClassVar[tuple[str, str]] = ("hidden_act", "silu")
    rope_types: ClassVar[Sequence[str]] = ("default", "linear", "yarn")
    unread: ClassVar[Sequence[str]] = ()
    eyes: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[str] = "sdpa"
    fills_width: ClassVar[bool] = False
    default_head_dim: ClassVar[int | None] = None
    default_epsilon: ClassVar[float | None] = None
    epsilon: ClassVar[float] = 1e-6
    theta: ClassVar[float] = 10000.0
    scaled_embedding: ClassVar[bool] = False
    ties: ClassVar[bool] = False

    def check(self, config: Config) -> None:
        """Refuse what the GGUF cannot say.

        Raises:
            ConversionError: naming the key.
        """
        key, value = self.activation
        require(config, key, value, default=value)
        require(config, "is_causal", True, None)
        parameters, dims = self.rope_of(config), self.dimensions(config)
        rope.refuse_dynamic(parameters, context=dims.context)
        require(parameters, "rope_type", *self.rope_types)
        if self.fills_width and dims.queries != dims.hidden:
            raise ConversionError(
                f"config.json: {dims.heads} heads of {dims.head_dim} do not add up to "
                f"{dims.hidden}; a {self.name} is computed only where they do"
            )

    def rope_of(self, config: Config) -> dict[str, Any]:
        """The parameters of its rotary positions; of layers without a window, if others differ."""
        return rope.parameters_of(config, self.theta)

    def notes(self, config: Config) -> list[str]:
        """What Ollama computes a little differently, for the user to know."""
        return rope.notes(self.rope_of(config))

    def unstretched_context(self, config: Config) -> int | None:
        """Up to which num_ctx a daemon computes what the checkpoint does with short texts.

        None where it always does.
        """
        return None

    def dimensions(self, config: Config) -> Dimensions:
        """The sizes of a config.

        Raises:
            ConversionError: one is missing or wrong.
        """
        heads = integer(config, "num_attention_heads")
        hidden = integer(config, "hidden_size")
        return Dimensions(
            layers=integer(config, "num_hidden_layers"),
            hidden=hidden,
            inner=integer(config, "intermediate_size"),
            heads=heads,
            kv_heads=integer(config, "num_key_value_heads", heads),
            head_dim=integer(config, "head_dim", self.default_head_dim or hidden // heads),
            vocab=integer(config, "vocab_size"),
            context=integer(config, "max_position_embeddings"),
            epsilon=real(config, "rms_norm_eps", self.epsilon),
        )

    def tied(self, config: Config) -> bool:
        """Whether the output matrix is the embedding."""
        return bool(config.get("tie_word_embeddings", self.ties))

    def rules(self, config: Config) -> list[TensorRule]:
        """Every tensor that the checkpoint has, in the GGUF's order."""
        dims = self.dimensions(config)
        whole = (dims.vocab, dims.hidden)
        rules = [
            TensorRule(EMBEDDING, "token_embd.weight", whole),
            TensorRule(
                "model.norm.weight", "output_norm.weight", (dims.hidden,), shift=self.norm_shift
            ),
        ]
        if not self.tied(config):
            rules.append(TensorRule(OUTPUT, "output.weight", whole))
        shapes = self.shapes(dims)
        for layer in range(dims.layers):
            for part, target in self.block.items():
                rules += self._part(part, target, layer, shapes[part], dims)
        return rules

    def _part(
        self, part: str, target: str, layer: int, shape: tuple[int, ...], dims: Dimensions
    ) -> list[TensorRule]:
        source, goal = f"model.layers.{layer}.{part}", f"blk.{layer}.{target}"
        rows = {"attn_q": dims.heads, "attn_k": dims.kv_heads}
        heads = rows.get(target) if self.permuted else None
        shift = self.norm_shift if len(shape) == 1 else 0.0
        rules = [TensorRule(f"{source}.weight", f"{goal}.weight", shape, heads, shift)]
        if part in self.biases or part in self.optional_biases:
            optional = part not in self.biases
            bias = f"{source}.bias", f"{goal}.bias"
            rules.append(TensorRule(*bias, shape[:1], heads, optional=optional))
        return rules

    def shapes(self, dims: Dimensions) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of a layer."""
        return {part: self.axes.get(part, WIDTH_NORM).shape(dims) for part in self.block}

    def computed(self, config: Config) -> dict[str, Float32Array]:
        """Tensors of the GGUF that are made from the config alone."""
        dims = self.dimensions(config)
        return rope.tensors(self.rope_of(config), dims.head_dim)

    def entries(self, config: Config) -> list[Entry]:
        """All metadata keys of the architecture.

        Raises:
            ConversionError: something that the GGUF cannot say.
        """
        self.check(config)
        dims = self.dimensions(config)
        prefix = self.name
        return [
            number(f"{prefix}.block_count", dims.layers),
            number(f"{prefix}.context_length", dims.context),
            number(f"{prefix}.embedding_length", dims.hidden),
            number(f"{prefix}.feed_forward_length", dims.inner),
            number(f"{prefix}.attention.head_count", dims.heads),
            number(f"{prefix}.attention.head_count_kv", dims.kv_heads),
            number(f"{prefix}.attention.key_length", dims.head_dim),
            number(f"{prefix}.attention.value_length", dims.head_dim),
            real_entry(f"{prefix}.attention.layer_norm_rms_epsilon", dims.epsilon),
            number(f"{prefix}.vocab_size", dims.vocab),
            number(f"{prefix}.rope.dimension_count", dims.head_dim),
            *self.rope_entries(config),
            *self.own_entries(config),
        ]

    def rope_entries(self, config: Config) -> list[Entry]:
        """The keys of its rotary positions."""
        return rope.entries(self.rope_of(config), self.name)

    def own_entries(self, config: Config) -> list[Entry]:
        """Keys that only this architecture has."""
        return []

    def config(self, keys: Keys) -> dict[str, Any]:
        """The config of transformers that a GGUF stands for.

        Raises:
            GGUFError: a key is missing, wrong, or means what transformers cannot compute.
        """
        rope.refuse_no_base(keys)
        dims = self._dimensions_of(keys)
        tensors = keys.contents.tensors
        return {
            "architectures": [self.hf_class],
            "model_type": self.model_type,
            self.activation[0]: self.activation[1],
            "head_dim": dims.head_dim,
            "hidden_size": dims.hidden,
            "intermediate_size": dims.inner,
            "max_position_embeddings": dims.context,
            "num_attention_heads": dims.heads,
            "num_hidden_layers": dims.layers,
            "num_key_value_heads": dims.kv_heads,
            "rms_norm_eps": dims.epsilon,
            "rope_parameters": self.rope_parameters(keys, dims),
            "tie_word_embeddings": "output.weight" not in tensors,
            "vocab_size": dims.vocab,
            **self.own_config(keys, dims),
        }

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """Keys of the config that only this architecture has, or has otherwise."""
        return {}

    def rope_parameters(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """``rope_parameters`` of the config."""
        return rope.from_gguf(keys, head_dim=dims.head_dim)

    def has_bias(self, keys: Keys, parts: Sequence[str]) -> bool:
        """Whether these parts have a bias, in every layer.

        Raises:
            GGUFError: some have, some have not.
        """
        tensors = keys.contents.tensors
        targets = [self.block[part] for part in parts]
        layers = keys.integer("block_count")
        names = [f"blk.{layer}.{target}.bias" for layer in range(layers) for target in targets]
        present = sum(name in tensors for name in names)
        if present not in (0, len(names)):
            raise GGUFError(f"{keys.contents.path}: biases on some of {', '.join(targets)} only")
        return present > 0

    def _dimensions_of(self, keys: Keys) -> Dimensions:
        path, count = keys.contents.path, len(keys.contents.tensors)
        layers = keys.integer("block_count")
        if layers > count:  # before a list is made of them that no memory holds
            raise keys.error("block_count", layers, f"no more than its {count} tensors")
        heads = keys.integer("attention.head_count")
        hidden = keys.integer("embedding_length")
        head_dim = keys.integer("attention.key_length", hidden // heads)
        kv_heads = keys.integer("attention.head_count_kv", heads)
        if keys.integer("attention.value_length", head_dim) != head_dim:
            raise GGUFError(f"{path}: attention.value_length differs from attention.key_length")
        if heads % kv_heads or head_dim % 2:
            raise GGUFError(f"{path}: {heads} heads of {head_dim}, {kv_heads} for keys")
        self._check_rotated(keys, head_dim)
        embedding = keys.contents.tensors.get("token_embd.weight")
        if embedding is None:
            raise GGUFError(f"{path}: tensor 'token_embd.weight' is missing")
        return Dimensions(
            layers=layers,
            hidden=hidden,
            inner=keys.integer("feed_forward_length"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=embedding.shape[0],
            context=keys.integer("context_length"),
            epsilon=keys.real("attention.layer_norm_rms_epsilon", self.default_epsilon),
        )

    def _check_rotated(self, keys: Keys, head_dim: int) -> None:
        if keys.integer("rope.dimension_count", head_dim) != head_dim:
            raise GGUFError(
                f"{keys.contents.path}: rope.dimension_count is not the width of a head"
            )
