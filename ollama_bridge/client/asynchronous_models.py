"""The half of the client for asyncio that asks nothing: a daemon's models and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ollama_bridge.client import calls
from ollama_bridge.client.answers.demands import Known
from ollama_bridge.client.options import Options
from ollama_bridge.client.readers import read_details, read_models, read_running, read_version
from ollama_bridge.client.requests import KeepAlive
from ollama_bridge.client.values import ModelDetails, ModelSummary, RunningModel
from ollama_bridge.client.wire.exchange import Call, check_status
from ollama_bridge.client.wire.lines import parse_line
from ollama_bridge.client.wire.statuses import StatusReader
from ollama_bridge.client.wire.transport import AsyncTransport
from ollama_bridge.client.wire.uploads import ProgressCallback, read_pieces_async, size_of
from ollama_bridge.closing import AsyncClosing


class AsyncModelStore(AsyncClosing):
    """The models that a daemon has, and what is done with them.

    Args:
        transport: Closed with it.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._known = Known()

    @property
    def host(self) -> str:
        """The daemon's base URL."""
        return self._transport.address.url

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def version(self) -> str:
        """The daemon's version."""
        return read_version(await self._transport.json(calls.VERSION))

    async def list(self) -> Sequence[ModelSummary]:
        """The models that the daemon has."""
        return read_models(await self._transport.json(calls.LIST))

    async def ps(self) -> Sequence[RunningModel]:
        """The models that are loaded."""
        return read_running(await self._transport.json(calls.PS))

    async def show(self, model: str, *, verbose: bool = False) -> ModelDetails:
        """What the daemon knows of a model; ``verbose``: long lists too, such as its tokens."""
        return read_details(await self._transport.json(calls.show(model, verbose=verbose)))

    async def copy(self, source: str, destination: str) -> None:
        """Give a model a second name; an old model of that name is replaced."""
        await self._done(calls.copy(source, destination))
        self._known.clear()

    async def delete(self, model: str) -> None:
        """Remove a name, and what no other name needs."""
        await self._done(calls.delete(model))
        self._known.clear()

    async def load(
        self, model: str, *, options: Options | None = None, keep_alive: KeepAlive = None
    ) -> None:
        """As :meth:`ModelStore.load`."""
        await self._done(calls.load(model, options=options, keep_alive=keep_alive))

    async def unload(self, model: str) -> None:
        """Take a model out of memory."""
        await self._done(calls.unload(model))

    async def has_blob(self, digest: str) -> bool:
        """Whether the daemon holds a file (``sha256:<hex>``)."""
        call = calls.has_blob(digest)
        return calls.blob_present(await self._transport.request(call), call)

    async def upload_blob(
        self, path: Path, digest: str, *, on_progress: ProgressCallback | None = None
    ) -> None:
        """As :meth:`ModelStore.upload_blob`."""
        size_bytes = size_of(path)
        pieces = read_pieces_async(path, size_bytes, on_progress)
        await self._done(calls.upload(digest, size_bytes, pieces))

    async def create(
        self, request: Mapping[str, Any], *, on_status: Callable[[str], None] | None = None
    ) -> None:
        """As :meth:`ModelStore.create`."""
        await self._follow(calls.create(request), on_status, None)
        self._known.clear()

    async def pull(
        self,
        model: str,
        *,
        insecure: bool = False,
        on_status: Callable[[str], None] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """As :meth:`ModelStore.pull`."""
        await self._follow(calls.pull(model, insecure=insecure), on_status, on_progress)
        self._known.clear()

    async def push(
        self,
        model: str,
        *,
        insecure: bool = False,
        on_status: Callable[[str], None] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """As :meth:`ModelStore.push`."""
        await self._follow(calls.push(model, insecure=insecure), on_status, on_progress)

    async def _follow(
        self,
        call: Call,
        on_status: Callable[[str], None] | None,
        on_progress: ProgressCallback | None,
    ) -> None:
        reader = StatusReader(str(call.model), call.path, on_status, on_progress)
        async with self._transport.lines(call) as lines:
            async for line in lines:
                reader.take(parse_line(line, model=call.model))
        reader.finish()

    async def _done(self, call: Call) -> None:
        check_status(await self._transport.request(call), call)
