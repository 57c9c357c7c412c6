"""A base model in 4 bits, for adapters on a model that would not fit otherwise.

The one module that knows bitsandbytes. Such a model is trained beside, never merged into: the
adapter goes onto the weights that were not quantized (``lora.Adapter.onto``).

Source: Dettmers et al. 2023, QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ollama_bridge.errors import ConfigError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import quiet_transformers
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.settings.hf_config import read_hf_config
from ollama_bridge.models.weights.stored import open_weights
from ollama_bridge.train.kept_out import kept_out

_OTHERWISE = "--set teacher.tune.method=lora trains beside float32 weights"


def check_backend() -> None:
    """Make sure that weights can be quantized here.

    Raises:
        ConfigError: bitsandbytes is missing, too old, or has nothing for the devices of this
            machine.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "method qlora needs bitsandbytes, which is not installed",
            hint=f"pip install bitsandbytes (for CUDA; where it has no kernels, {_OTHERWISE})",
        )
    from transformers.quantizers import quantizer_bnb_4bit

    quantizer_class: Any = quantizer_bnb_4bit.Bnb4BitHfQuantizer
    try:
        _import_bitsandbytes()
        quantizer_class(_quantization(torch.bfloat16)).validate_environment()
    except (ImportError, OSError, RuntimeError) as exc:
        raise _unusable(exc) from exc


def _import_bitsandbytes() -> None:
    """Import it with the kernels that it has itself.

    On a CPU that multiplies bfloat16 it asks the package ``kernels``, where that is installed, for
    a compiled one from the Hub: code from elsewhere, which nobody asked for. Where that is not
    installed, it says on every start that it should be.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with kept_out("kernels"):
            import bitsandbytes  # noqa: F401
    finally:
        logger.setLevel(level)


def _unusable(exc: Exception) -> ConfigError:
    return ConfigError(
        f"method qlora cannot be used here: {exc}",
        hint=f"pip install --upgrade bitsandbytes; where it has no kernels, {_OTHERWISE}",
    )


def _quantization(dtype: torch.dtype) -> Any:
    import transformers

    settings_class: Any = transformers.BitsAndBytesConfig
    return settings_class(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_quantized(folder: Path, precision: Precision) -> CausalModel:
    """Load a model with its linear layers in NF4, frozen.

    Args:
        folder: A checkpoint; a GGUF is decoded first.
        precision: Device, and type of the products.

    Raises:
        ConfigError: bitsandbytes is missing, or cannot be used here.
        ModelError: the checkpoint is unsafe, unsupported or damaged.
    """
    check_backend()
    import transformers

    config = check_folder(folder)
    architecture = ARCHITECTURES[read_architecture(folder, config)]
    weights = open_weights(folder, config)
    model_class: Any = getattr(transformers, architecture.hf_class)
    try:
        with quiet_transformers():
            model = model_class.from_pretrained(
                None,
                config=read_hf_config(model_class.config_class, folder),
                # In bfloat16 on the way: half the memory, and far finer than what becomes of it.
                state_dict={
                    name: weights.tensor(name).to(torch.bfloat16) for name in weights.infos
                },
                quantization_config=_quantization(precision.dtype),
                dtype=torch.float32,
                device_map={"": precision.device},
                attn_implementation=architecture.attention,
            )
    except (ImportError, NotImplementedError) as exc:  # an operation without a kernel here
        raise _unusable(exc) from exc
    return model.eval().requires_grad_(False)
