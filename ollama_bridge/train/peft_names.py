"""What is used of PEFT, imported without bitsandbytes.

Where that is installed, PEFT imports it for a helper that nobody here calls: a second or two, and
55 MB, of every run. Who asks for it is ``qlora``.
"""

from __future__ import annotations

from ollama_bridge.train.kept_out import kept_out

with kept_out("bitsandbytes"):
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
    from peft.tuners.lora import Linear as AdaptedLinear
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

__all__ = [
    "AdaptedLinear",
    "BaseTunerLayer",
    "LoraConfig",
    "PeftConfig",
    "PeftModel",
    "get_peft_model",
    "get_peft_model_state_dict",
    "set_peft_model_state_dict",
]
