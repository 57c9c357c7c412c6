"""Loads and saves checkpoints, from local folders only and without running their code."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from ollama_bridge.errors import DiskFullError, MissingExtraError, ModelError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.safety import check_folder, check_has_tokenizer, read_architecture
from ollama_bridge.models.settings.generation_defaults import GENERATION_CONFIG
from ollama_bridge.models.settings.hf_config import read_hf_config
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.settings.tokenizer_settings import OTHER_TOKENIZER, no_default
from ollama_bridge.models.sources.origin import owners_folder
from ollama_bridge.models.template_trial import check_chat_template
from ollama_bridge.models.weights.stored import is_plain, open_weights
from ollama_bridge.models.weights.tensor_match import COMPUTED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a causal language model in evaluation mode, on the CPU.

    Attention is torch's ``scaled_dot_product_attention``, deterministic on a CPU, unless the
    architecture needs another.

    Args:
        dtype: Type of all weights; training keeps its master weights in float32.

    Raises:
        ModelError: unsafe, unsupported or damaged, or weights are missing or left over.
        MissingExtraError: transformers is not installed.
    """
    config = check_folder(folder)
    architecture = ARCHITECTURES[read_architecture(folder, config)]
    with quiet_transformers():
        import transformers

        known = read_hf_config(getattr(transformers, architecture.hf_class).config_class, folder)
        try:
            if is_plain(folder):
                loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    folder,
                    config=known,
                    dtype=dtype,
                    attn_implementation=architecture.attention,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    output_loading_info=True,
                )
            else:
                loaded = _load_decoded(folder, config, known, dtype)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as exc:
            raise ModelError(f"{folder} cannot be loaded: {exc}") from exc
    model: PreTrainedModel = loaded[0]
    report: Mapping[str, Collection[str]] = loaded[1]
    left_over = [name for name in report["unexpected_keys"] if not name.endswith(COMPUTED)]
    for problem, names in (("missing", report["missing_keys"]), ("left over", left_over)):
        if names:
            raise ModelError(
                f"{folder}: {len(names)} tensor(s) {problem}: {', '.join(sorted(names)[:3])}",
                hint="the config does not fit the weights: get the checkpoint again",
            )
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"{folder}: tensor {name!r} holds values that are not finite",
                hint="its training diverged, or the file is damaged: get the checkpoint again",
            )
    model.train(mode=False)
    return model


def _load_decoded(folder: Path, config: Mapping[str, Any], known: Any, dtype: torch.dtype) -> Any:
    """What from_pretrained gives, of weights that are decoded or merged on the way."""
    import transformers

    architecture = ARCHITECTURES[read_architecture(folder, config)]
    model_class: Any = getattr(transformers, architecture.hf_class)
    weights = open_weights(folder, config)
    loaded = model_class.from_pretrained(
        None,
        config=known,
        state_dict={name: weights.tensor(name).to(dtype) for name in weights.infos},
        dtype=dtype,
        attn_implementation=architecture.attention,
        output_loading_info=True,
    )
    if (folder / GENERATION_CONFIG).is_file():
        loaded[0].generation_config = transformers.GenerationConfig.from_pretrained(
            folder, local_files_only=True
        )
    return loaded


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer exactly as ``tokenizer.json`` has it.

    The model-specific classes of transformers build parts of it anew; the base class does not.

    Raises:
        ModelError: missing or damaged, or its chat template does not end.
        MissingExtraError: transformers is not installed.
    """
    check_has_tokenizer(folder)
    if (folder / "tokenizer_config.json").is_file():
        read_json_object(folder / "tokenizer_config.json")
    with quiet_transformers():
        from transformers import PreTrainedTokenizerFast

        try:
            tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as exc:  # tokenizers raises bare Exception for damaged files
            where = owners_folder(folder)
            raise ModelError(
                f"{where}: its tokenizer cannot be loaded: {exc}", hint=OTHER_TOKENIZER
            ) from exc
    # It would say of a long text, on the user's stderr, that indexing will fail: no model here has
    # a table of positions. This is the note by which it remembers that it has said so.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):  # by name; what is not asked for by its name is `default`
        template = template.get("default")
        if template is None:
            raise no_default(owners_folder(folder), tokenizer.chat_template)
    if isinstance(template, str):
        check_chat_template(template, where=str(owners_folder(folder)))
    return tokenizer


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Save model, generation config and tokenizer as a Hugging Face folder.

    Raises:
        DiskFullError: there is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except SafetensorError as exc:  # written by Rust: the errno is only in the text
            if "os error 28" in str(exc):
                raise DiskFullError(folder) from exc
            raise ModelError(f"{folder} cannot be written: {exc}") from exc


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars on the user's terminal."""
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError as exc:
        raise MissingExtraError("transformers", "train") from exc
    logging: Any = transformers_logging  # its functions have no annotations
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
