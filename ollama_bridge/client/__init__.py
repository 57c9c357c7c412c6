"""Ask an Ollama daemon: the only code of the package that speaks HTTP to one."""

from ollama_bridge.client.address import Address, read_address
from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.blocking import Client
from ollama_bridge.client.exchange import Timeouts
from ollama_bridge.client.questions import ChatRequest, GenerateRequest
from ollama_bridge.client.retries import Retries
from ollama_bridge.client.values import (
    Cut,
    Done,
    Embeddings,
    ModelDetails,
    ModelSummary,
    NextToken,
    Pace,
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
    "ChatRequest",
    "Client",
    "Cut",
    "Done",
    "Embeddings",
    "GenerateRequest",
    "ModelDetails",
    "ModelSummary",
    "NextToken",
    "Pace",
    "Reply",
    "Retries",
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
