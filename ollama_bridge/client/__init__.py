"""Ask an Ollama daemon: the only code of the package that speaks HTTP to one."""

from ollama_bridge.client.address import Address, read_address
from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.blocking import Client
from ollama_bridge.client.exchange import Timeouts
from ollama_bridge.client.values import (
    Done,
    ModelDetails,
    ModelSummary,
    NextToken,
    Reply,
    RunningModel,
    StreamEvent,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)

__all__ = [
    "Address",
    "AsyncClient",
    "Client",
    "Done",
    "ModelDetails",
    "ModelSummary",
    "NextToken",
    "Reply",
    "RunningModel",
    "StreamEvent",
    "Text",
    "Thinking",
    "Timeouts",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "TopLogprob",
    "read_address",
]
