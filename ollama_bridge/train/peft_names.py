"""What is used of PEFT, imported without bitsandbytes.

Where that is installed, PEFT imports it for a helper that nobody here calls, and again for the
first layer that it adapts: a second or two, and 55 MB, of every run. Who asks for it is ``qlora``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from ollama_bridge.train.kept_out import kept_out

with kept_out("bitsandbytes"):
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available
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
    "quantized_only_where_asked",
    "set_peft_model_state_dict",
]


@contextlib.contextmanager
def quantized_only_where_asked() -> Iterator[None]:
    """Inside the block PEFT looks for quantized layers only if ``qlora`` has made some."""
    if "bitsandbytes" in sys.modules:
        yield
        return
    _ask_anew()
    try:
        with kept_out("bitsandbytes"):
            yield
    finally:
        _ask_anew()


def _ask_anew() -> None:
    # PEFT remembers what it was told for as long as the process lives.
    for is_available in (is_bnb_available, is_bnb_4bit_available):
        is_available.cache_clear()
