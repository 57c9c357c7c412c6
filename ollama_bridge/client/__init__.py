"""Ask an Ollama daemon: the only code of the package that speaks HTTP to one."""

from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.blocking import Client
from ollama_bridge.client.conversation import Conversation
from ollama_bridge.client.jobs.jobs import Answered, GivenUp
from ollama_bridge.client.questions import ChatRequest, GenerateRequest
from ollama_bridge.client.session import AsyncSession, Dropped, Session
from ollama_bridge.client.structured import Parsed
from ollama_bridge.client.tool_loop import ToolRun, ToolUse
from ollama_bridge.client.tools import Tool, tool_of
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
from ollama_bridge.client.wire.address import Address, read_address
from ollama_bridge.client.wire.exchange import Timeouts
from ollama_bridge.client.wire.retries import Retries

__all__ = [
    "Address",
    "Answered",
    "AsyncClient",
    "AsyncSession",
    "ChatRequest",
    "Client",
    "Conversation",
    "Cut",
    "Done",
    "Dropped",
    "Embeddings",
    "GenerateRequest",
    "GivenUp",
    "ModelDetails",
    "ModelSummary",
    "NextToken",
    "Pace",
    "Parsed",
    "Reply",
    "Retries",
    "RunningModel",
    "Session",
    "StreamEvent",
    "Text",
    "Thinking",
    "Timeouts",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolRun",
    "ToolUse",
    "TopLogprob",
    "read_address",
    "tool_of",
]
