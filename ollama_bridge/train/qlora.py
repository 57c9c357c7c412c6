"""A base model in 4 bits, for adapters on a model that would not fit otherwise.

The one module that knows bitsandbytes. Such a model is trained beside, never merged into: the
adapter goes onto the weights that were not quantized (``lora.Adapter.onto``).

Source: Dettmers et al. 2023, QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ollama_bridge.errors import ConfigError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.forward import CausalModel
from ollama_bridge.models.load import quiet_transformers
from ollama_bridge.models.precision import Precision
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.stored import open_weights


def load_quantized(folder: Path, precision: Precision) -> CausalModel:
    """Load a model with its linear layers in NF4, frozen.

    Args:
        folder: A checkpoint; a GGUF is decoded first.
        precision: Device, and type of the products.

    Raises:
        ConfigError: bitsandbytes is missing.
        ModelError: the checkpoint is unsafe, unsupported or damaged.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "method qlora needs bitsandbytes, which is not installed",
            hint="pip install bitsandbytes (for CUDA; where it has no kernels, --set "
            "teacher.tune.method=lora trains beside float32 weights)",
        )
    import transformers

    config = check_folder(folder)
    architecture = ARCHITECTURES[read_architecture(folder, config)]
    weights = open_weights(folder, config)
    model_class: Any = getattr(transformers, architecture.hf_class)
    settings_class: Any = transformers.BitsAndBytesConfig
    quantization = settings_class(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.dtype,
    )
    with quiet_transformers():
        model = model_class.from_pretrained(
            None,
            config=model_class.config_class.from_pretrained(folder, local_files_only=True),
            # In bfloat16 on the way: half the memory, and far finer than what becomes of it.
            state_dict={name: weights.tensor(name).to(torch.bfloat16) for name in weights.infos},
            quantization_config=quantization,
            dtype=torch.float32,
            device_map={"": precision.device},
            attn_implementation=architecture.attention,
        )
    return model.eval().requires_grad_(False)
