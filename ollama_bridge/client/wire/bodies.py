"""The body of a reply, as it comes over the network: whole, or line by line, within the limits."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

import httpx

from ollama_bridge.client.wire.clock import HTTPX_ERRORS, Clock
from ollama_bridge.client.wire.lines import Body, LineSplitter, check_ended
from ollama_bridge.client.wire.refusals import CHECK_ADDRESS
from ollama_bridge.errors import ReplyInvalidError


def read_whole(response: httpx.Response, clock: Clock) -> bytes:
    """A whole reply.

    Raises:
        DaemonError: a limit, a broken connection; or it is too long, or compressed.
    """
    body = Body()
    try:
        for piece in _pieces(response):
            clock.check(has_lines=False)
            body.add(piece)
    except HTTPX_ERRORS as exc:
        raise clock.translate(exc) from exc
    return body.whole()


async def read_whole_async(response: httpx.Response, clock: Clock) -> bytes:
    """As :func:`read_whole`."""
    body = Body()
    try:
        async for piece in _pieces_async(response):
            clock.check(has_lines=False)
            body.add(piece)
    except HTTPX_ERRORS as exc:
        raise clock.translate(exc) from exc
    return body.whole()


def read_lines(response: httpx.Response, clock: Clock) -> Iterator[bytes]:
    """The lines of a reply as they come, without empty ones.

    Raises:
        DaemonError: as for :func:`read_whole`; or it ends in the middle of a line.
    """
    splitter = LineSplitter()
    try:
        for piece in _pieces(response):
            lines = splitter.feed(piece)
            clock.check(has_lines=bool(lines))
            yield from lines
    except HTTPX_ERRORS as exc:
        raise clock.translate(exc) from exc
    yield from check_ended(splitter.finish())


async def read_lines_async(response: httpx.Response, clock: Clock) -> AsyncIterator[bytes]:
    """As :func:`read_lines`."""
    splitter = LineSplitter()
    try:
        async for piece in _pieces_async(response):
            lines = splitter.feed(piece)
            clock.check(has_lines=bool(lines))
            for line in lines:
                yield line
    except HTTPX_ERRORS as exc:
        raise clock.translate(exc) from exc
    for line in check_ended(splitter.finish()):
        yield line


def _pieces(response: httpx.Response) -> Iterable[bytes]:
    """The body as it comes; httpx's way costs more a piece, and unpacks."""
    stream = _stream(response)
    return stream if isinstance(stream, httpx.SyncByteStream) else response.iter_raw()


def _pieces_async(response: httpx.Response) -> AsyncIterable[bytes]:
    stream = _stream(response)
    return stream if isinstance(stream, httpx.AsyncByteStream) else response.aiter_raw()


def _stream(response: httpx.Response) -> httpx.SyncByteStream | httpx.AsyncByteStream:
    """What was asked for as it is; 400 bytes may unpack to all memory.

    Raises:
        ReplyInvalidError: it is compressed all the same.
    """
    if _is_plain(response):
        return response.stream
    if response.is_success:
        raise ReplyInvalidError(
            "the answer is compressed, though it was asked for uncompressed: does a proxy do that?",
            hint=CHECK_ADDRESS,
        )
    return httpx.ByteStream(b"")  # its status says enough


def _is_plain(response: httpx.Response) -> bool:
    return all(
        value.lower() == b"identity"
        for name, value in response.headers.raw
        if name.lower() == b"content-encoding"
    )
