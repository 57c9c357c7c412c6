"""Reads a file in pieces while it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from ollama_bridge.errors import ArtifactError

ProgressCallback = Callable[[int, int], None]

_PIECE_BYTES = 1024 * 1024


def size_of(path: Path) -> int:
    """Size in bytes.

    Raises:
        ArtifactError: there is no such file, or it cannot be looked at.
    """
    try:
        return path.stat().st_size
    except OSError as exc:
        raise ArtifactError(f"cannot send {path}: {exc.strerror}", hint="check the path") from exc


def read_pieces(
    path: Path, size_bytes: int, on_progress: ProgressCallback | None
) -> Iterator[bytes]:
    """The file, piece by piece; tells ``on_progress`` how far it is.

    Raises:
        ArtifactError: it cannot be read, or its size is not ``size_bytes`` any more.
    """
    sent_bytes = 0
    try:
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                sent_bytes += len(piece)
                if sent_bytes > size_bytes:
                    break
                yield piece
                if on_progress is not None:
                    on_progress(sent_bytes, size_bytes)
    except OSError as exc:
        raise ArtifactError(f"cannot send {path}: {exc.strerror}", hint="check the path") from exc
    if sent_bytes != size_bytes:
        raise ArtifactError(
            f"{path} changed while it was sent: it had {size_bytes} bytes",
            hint="run it again when nothing writes to that file",
        )


async def read_pieces_async(
    path: Path, size_bytes: int, on_progress: ProgressCallback | None
) -> AsyncIterator[bytes]:
    """The same for asyncio. Reading a local file blocks for less than a piece takes to send."""
    for piece in read_pieces(path, size_bytes, on_progress):
        yield piece
