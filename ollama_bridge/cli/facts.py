"""What people want to know of a model, of all that the daemon tells: as ``ollama show`` has it.

In a chat (``/show``) that is what the next question gets, so the chat's own settings are in it.
"""

from __future__ import annotations

from ollama_bridge.client import Conversation, ModelDetails
from ollama_bridge.client.options import DEFAULT_NUM_PREDICT
from ollama_bridge.errors import ConfigError


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


def chat_facts(what: str, said: Conversation, details: ModelDetails) -> str:
    """What ``/show`` prints in a chat.

    Raises:
        ConfigError: there is no such part.
    """
    match what:
        case "info":
            values = {
                "model": said.model,
                **model_facts(details),
                "turns": len(said.turns),
                "in the model": f"{len(details.messages)} messages",
                "left out": len(said.dropped),
            }
            return "\n".join(f"{name:<16}  {value}" for name, value in values.items())
        case "system":
            return said.system or details.system
        case "parameters":
            asked = {"num_predict": DEFAULT_NUM_PREDICT, **said.options}
            tags = (line for line in details.parameters.splitlines() if line.strip())
            kept = [line for line in tags if line.split(maxsplit=1)[0] not in asked]
            return "\n".join([*kept, *(f"{name:<30} {value}" for name, value in asked.items())])
        case "license":
            return str(details.raw.get("license") or "")
        case "modelfile":
            return details.modelfile
        case "template":
            return details.template
    raise ConfigError(
        f"/show {what}: not understood",
        hint="info, license, modelfile, parameters, system or template",
    )
