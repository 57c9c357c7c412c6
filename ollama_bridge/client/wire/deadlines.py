"""Limits of silence that have an end: no read or write goes on beyond the end of its call.

httpcore takes one limit for every read of an answer, so a server that sends a little again and
again, be it headers or interim replies, is waited for without end, and a silence at the end of a
call overruns it. Here a limit is a number that knows its end as well. It comes through httpcore as
it is, and the stream underneath waits for what is left. Only the stream knows when a request has
left the queue for a connection, so what is counted from there begins at its first wait.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Iterable
from typing import Any, Self

import httpcore
import httpx

_Http = httpx.Client | httpx.AsyncClient | httpx.BaseTransport | httpx.AsyncBaseTransport

_LEAST_S = 0.001  # 0 would mean not to wait at all


class LimitUntil(float):
    """A limit of silence in seconds, and when all waiting ends, by the monotonic clock.

    Attributes:
        ends_s: At the latest.
        within_s: How long all of it may take, from the first wait on.
    """

    ends_s: float
    within_s: float

    def __new__(cls, limit_s: float, ends_s: float, *, within_s: float = math.inf) -> Self:
        """Make one."""
        limit = super().__new__(cls, limit_s)
        limit.ends_s, limit.within_s = ends_s, within_s
        return limit

    def left_s(self) -> float:
        """How long may be waited now."""
        now_s = time.monotonic()
        self.ends_s, self.within_s = min(self.ends_s, now_s + self.within_s), math.inf
        return max(_LEAST_S, min(float(self), self.ends_s - now_s))


def _left_s(limit_s: float | None) -> float | None:
    return limit_s.left_s() if isinstance(limit_s, LimitUntil) else limit_s


def bound(http: _Http) -> None:
    """Let every connection that a client or transport opens from now on heed :class:`LimitUntil`.

    Args:
        http: What is not httpx's own, or connects over a Unix socket, is left as it is.
    """
    wires: Iterable[object] = [http]
    if isinstance(http, httpx.Client | httpx.AsyncClient):
        wires = [getattr(http, "_transport", None), *getattr(http, "_mounts", {}).values()]
    for wire in wires:
        # httpx has no way of its own to say by what its connections are made. A version that keeps
        # it elsewhere bounds each silence by itself, as httpx does.
        pool: Any = getattr(wire, "_pool", None)
        if not hasattr(pool, "_network_backend") or getattr(pool, "_uds", None):
            continue
        if isinstance(wire, httpx.HTTPTransport):
            pool._network_backend = _Backend(pool._network_backend)
        elif isinstance(wire, httpx.AsyncHTTPTransport):
            pool._network_backend = _AsyncBackend(pool._network_backend)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, _left_s(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, _left_s(timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _AsyncStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        given = (host, port, timeout, local_address, socket_options)
        return _Stream(self._backend.connect_tcp(*given))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        given = (host, port, timeout, local_address, socket_options)
        return _AsyncStream(await self._backend.connect_tcp(*given))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)
