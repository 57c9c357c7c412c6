"""The folder of a PEFT adapter: its files, its kind, and the base model that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ollama_bridge.errors import ModelError, UnsafeCheckpointError
from ollama_bridge.models.settings.json_files import read_json_object

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MLX_WEIGHTS = "adapters.safetensors"
MERGE_BY_PEFT = (
    "merge it with peft: AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload()"
    ".save_pretrained(folder), save the tokenizer there too: tokenizer.save_pretrained(folder), "
    "and give that folder"
)
# Adapters of peft that put vectors beside the text, and leave the weights as they are.
_NO_CHANGE_OF_WEIGHTS = (
    "ADAPTION_PROMPT",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
)
_CLASSIFIERS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # what peft calls their tasks
# What Unsloth's quantized copies are called, behind the name of the model in 16 bits.
_FOUR_BITS = ("-unsloth-bnb-4bit", "-bnb-4bit")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def is_adapter(folder: Path) -> bool:
    """Whether a folder is a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def refuse_other_kinds(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse what is no LoRA adapter of a model that answers.

    Args:
        settings: Its ``adapter_config.json``.

    Raises:
        ModelError: it is none.
    """
    kind = settings.get("peft_type")
    if kind is None and (folder / _MLX_WEIGHTS).is_file():
        raise ModelError(
            f"{folder} is an MLX adapter ({_MLX_WEIGHTS}), which cannot be read",
            hint="merge it with what trained it: mlx_lm.fuse --model BASE --adapter-path "
            f"{quote(str(folder))} --save-path MERGED --dequantize",
        )
    if settings.get("task_type") in _CLASSIFIERS:
        raise classifier(folder, str(settings["task_type"]))
    if kind in _NO_CHANGE_OF_WEIGHTS:
        raise ModelError(
            f"{folder}: an adapter of type {kind!r} changes no weights, but puts vectors beside "
            "the text, which no GGUF can hold",
            hint="train it as LoRA",
        )
    if kind != "LORA":
        raise ModelError(
            f"{folder}: adapter of type {kind!r}, only LORA can be merged", hint=MERGE_BY_PEFT
        )


def classifier(folder: Path, kind: str) -> ModelError:
    """Of a model that says classes and no texts: what it learnt is in a head that no GGUF has."""
    return ModelError(
        f"{folder} is a classifier ({kind}): it has a head for classes or scores, and answers no "
        "texts",
        hint="teach a model that does to answer with the label: ollama-bridge build sentiment "
        "--data FILE --text-col NAME --label-col NAME",
    )


def base_of(adapter: Path) -> tuple[str, str | None]:
    """The base model that an adapter names: a folder or a hub repository, and its revision.

    Raises:
        ModelError: it names none.
    """
    settings = read_json_object(adapter / ADAPTER_CONFIG)
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"{adapter / ADAPTER_CONFIG} names no base model", hint=naming_hint(adapter)
        )
    return name, revision if isinstance(revision, str) else None


def is_called_quantized(base: str) -> bool:
    """Whether a base's name says that it is a copy in 4 bits, as Unsloth's adapters name it."""
    return base.endswith(_FOUR_BITS)


def naming_hint(adapter: Path, *, named: str = "", quantized: bool = False) -> str:
    """How to say which base model is meant."""
    whole = named
    for end in _FOUR_BITS:
        whole = whole.removesuffix(end)
    if not _REPOSITORY.fullmatch(whole) or (quantized and whole == named):
        whole = "org/name"
    return (
        f"name the model that it was trained on: --base FOLDER or --base hf:{whole} (`package`, "
        f"`convert`, `verify`), or set base_model_name_or_path in {adapter / ADAPTER_CONFIG}"
    )


def weights_file(adapter: Path) -> Path:
    """The file with an adapter's tensors.

    Raises:
        UnsafeCheckpointError: it is a pickle.
        ModelError: there is none.
    """
    path = adapter / ADAPTER_WEIGHTS
    if path.is_file():
        return path
    if (adapter / "adapter_model.bin").is_file():
        raise UnsafeCheckpointError(
            f"{adapter} holds its weights only as pickle (adapter_model.bin); opening one runs "
            "whatever code is in it, so it is refused",
            hint="convert it where you trust it: load it with peft and call "
            "model.save_pretrained(folder)",
        )
    raise ModelError(
        f"{adapter} has no {ADAPTER_WEIGHTS}",
        hint="save the adapter with model.save_pretrained(folder)",
    )
