"""What people want to know of a model, of all that the daemon tells: as ``ollama show`` has it."""

from __future__ import annotations

from ollama_bridge.client import ModelDetails


def model_facts(details: ModelDetails) -> dict[str, object]:
    """What it is, by names in the order in which they are shown; without what is not told."""
    info = details.model_info
    kind = info.get("general.architecture")
    told = details.raw.get("details")
    more = told if isinstance(told, dict) else {}
    facts = {
        "architecture": kind or more.get("family") or "?",
        "size": more.get("parameter_size") or info.get("general.parameter_count"),
        "context length": info.get(f"{kind}.context_length"),
        "embedding length": info.get(f"{kind}.embedding_length"),
        "quantization": more.get("quantization_level"),
        "requires": details.raw.get("requires"),
        "capabilities": ", ".join(details.capabilities) or "?",
        "thinking levels": ", ".join(details.think_levels),
    }
    return {name: value for name, value in facts.items() if value}
