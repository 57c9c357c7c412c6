"""Encodes in processes, for the encoders that search are busy in the interpreter.

What needs no search leaves numpy's loops rarely, which free the interpreter: threads do for it.

Numbers and blocks pass through memory that all of them map and that has no name, so nothing of it
can be left behind; only orders of a line each go through pipes. A worker ends when its pipe does:
when we close it, and when we are killed. It is started as a program of its own and not by
``multiprocessing``, which would run the caller's main module once more in each of them.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

import numpy as np
from gguf.constants import GGMLQuantizationType

from ollama_bridge.errors import ConversionError
from ollama_bridge.machine import cores
from ollama_bridge.quantization.encoders import Bytes, Float32Array, encode_rows

_WORKER = "ollama_bridge.quantization.worker_process"
_ORDERS_AHEAD = 2  # so that a worker need not wait for us
_PIECES_A_THREAD = 4  # handing over one takes a part of the time of encoding it
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Rows:
    """Rows of one tensor, to be encoded.

    Attributes:
        shape: (rows, columns).
        type: One of the block types.
        importance: (columns,) or None.
        fill: Writes the numbers into a float32 array of that shape; called once.
    """

    shape: tuple[int, int]
    type: GGMLQuantizationType
    importance: Float32Array | None
    fill: Callable[[Float32Array], None]


# What is to be searched, or how it is encoded without.
Piece = Rows | Callable[[], Bytes]


def encode_here(pieces: Iterable[Piece]) -> Iterator[Bytes]:
    """Encode one piece after another in this thread."""
    return map(_encode, pieces)


def encode_in_threads(pieces: Iterable[Piece]) -> Iterator[Bytes]:
    """Encode pieces, some of them ahead; the results come in the pieces' order.

    Yields:
        The bytes of each piece.
    """
    threads = cores()
    rest = iter(pieces)
    ahead: deque[Future[list[Bytes]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while batch := list(islice(rest, _PIECES_A_THREAD)):
                ahead.append(pool.submit(list, encode_here(batch)))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _encode(piece: Piece) -> Bytes:
    if not isinstance(piece, Rows):
        return piece()
    values = np.empty(piece.shape, dtype=np.float32)
    piece.fill(values)
    return encode_rows(values, piece.type, piece.importance)


@dataclass(frozen=True)
class Slot:
    """A part of the shared memory: numbers, their importance, and room for the blocks."""

    index: int
    values: Float32Array
    importance: Float32Array
    encoded: Bytes


@dataclass(frozen=True)
class Layout:
    """How the shared memory is divided.

    Attributes:
        slots: Pieces that it has room for.
        max_values: Numbers of the largest piece.
        max_columns: Its longest row.
    """

    slots: int
    max_values: int
    max_columns: int

    @property
    def size_bytes(self) -> int:
        """Of the whole memory."""
        return self.slots * self._slot_bytes

    @property
    def _slot_bytes(self) -> int:
        # No block type takes two bytes a number.
        needed = (self.max_values + self.max_columns) * _FLOAT_BYTES + 2 * self.max_values
        return -(-needed // mmap.PAGESIZE) * mmap.PAGESIZE

    def map(self, descriptor: int) -> list[Slot]:
        """The slots of a shared memory."""
        memory = mmap.mmap(descriptor, self.size_bytes)
        slots = []
        for index in range(self.slots):
            start = index * self._slot_bytes
            values = np.frombuffer(memory, np.float32, self.max_values, start)
            start += values.nbytes
            importance = np.frombuffer(memory, np.float32, self.max_columns, start)
            start += importance.nbytes
            encoded = np.frombuffer(memory, np.uint8, 2 * self.max_values, start)
            slots.append(Slot(index, values, importance, encoded))
        return slots


@dataclass
class _Pending:
    """A piece in the order of the file; it is done when ``result`` is there."""

    slot: Slot | None = None
    result: Bytes | None = None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    orders: dict[int, _Pending] = field(default_factory=dict)

    @property
    def input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout


class EncoderPool:
    """Worker processes and the memory shared with them; a context manager."""

    def __init__(self, processes: int, *, max_values: int, max_columns: int) -> None:
        self._processes = processes
        self._layout = Layout(
            slots=processes * _ORDERS_AHEAD + 1, max_values=max_values, max_columns=max_columns
        )
        self._free: deque[Slot] = deque()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        with _nameless_file(self._layout.size_bytes) as descriptor:
            self._free.extend(self._layout.map(descriptor))
            try:
                for _ in range(self._processes):
                    worker = _Worker(_start(self._layout, descriptor))
                    self._workers.append(worker)
                    self._selector.register(worker.output, selectors.EVENT_READ, worker)
            except BaseException:
                self._end(kill=True)
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(kill=kind is not None)

    def encode(self, pieces: Iterable[Piece]) -> Iterator[Bytes]:
        """Encode pieces, in parallel; the results come in the pieces' order.

        Pieces are taken when there is room; what needs no search is encoded here.

        Yields:
            The blocks of each piece, valid until the next is asked for.

        Raises:
            ConversionError: a worker failed or died.
        """
        pending: deque[_Pending] = deque()
        for piece in pieces:
            if isinstance(piece, Rows):
                while not self._free:
                    yield from self._first_result(pending)
                pending.append(self._order(piece))
            else:
                pending.append(_Pending(result=piece()))
            while pending and (pending[0].result is not None or len(pending) > self._layout.slots):
                yield from self._first_result(pending)
        while pending:
            yield from self._first_result(pending)

    def _first_result(self, pending: deque[_Pending]) -> Iterator[Bytes]:
        while pending[0].result is None:
            self._receive()
        first = pending.popleft()
        assert first.result is not None
        yield first.result
        if first.slot is not None:
            self._free.append(first.slot)

    def _order(self, piece: Rows) -> _Pending:
        """Give a piece to the worker with the least to do."""
        slot = self._free.popleft()
        rows, columns = piece.shape
        piece.fill(slot.values[: rows * columns].reshape(rows, columns))
        if piece.importance is not None:
            slot.importance[:columns] = piece.importance
        worker = min(self._workers, key=lambda candidate: len(candidate.orders))
        worker.orders[slot.index] = pending = _Pending(slot=slot)
        order = [slot.index, rows, columns, int(piece.type), piece.importance is not None]
        try:
            worker.input.write(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            for line in worker.output:  # an earlier answer may say why
                _answer(line)
            _raise_ended(worker.process)
        return pending

    def _receive(self) -> None:
        """Take at least one answer."""
        for key, _ in self._selector.select():
            worker: _Worker = key.data
            line = worker.output.readline()
            if not line.endswith(b"\n"):
                _raise_ended(worker.process)
            answer = _answer(line)
            pending = worker.orders.pop(answer["slot"])
            assert pending.slot is not None
            pending.result = pending.slot.encoded[: answer["size_bytes"]]

    def _end(self, *, kill: bool) -> None:
        for worker in self._workers:
            if kill:
                worker.process.kill()
            worker.input.close()
        for worker in self._workers:
            worker.process.wait()
            worker.output.close()
        self._selector.close()


def _answer(line: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        error = ConversionError(f"a tensor could not be encoded: {answer['error']}")
        error.add_note(answer.get("where", ""))
        raise error
    return answer


def _raise_ended(process: subprocess.Popen[bytes]) -> NoReturn:
    status = process.wait()
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    raise ConversionError(
        f"a process that encodes tensors ended {how}",
        hint="is there enough memory? Nothing is left behind; run the same command again",
    )


def serve(layout: Layout, descriptor: int, orders: IO[bytes], answers: IO[bytes]) -> None:
    """Carry out orders until there are no more: the other side of the pool."""
    slots = layout.map(descriptor)
    for line in orders:
        index, rows, columns, number, weighted = json.loads(line)
        slot = slots[index]
        importance = slot.importance[:columns] if weighted else None
        encoded = encode_rows(
            slot.values[: rows * columns].reshape(rows, columns),
            GGMLQuantizationType(number),
            importance,
        )
        slot.encoded[: encoded.size] = encoded.reshape(-1)
        answer = {"slot": index, "size_bytes": encoded.size}
        answers.write(json.dumps(answer).encode() + b"\n")


def _start(layout: Layout, descriptor: int) -> subprocess.Popen[bytes]:
    # The package may be on the path by other means than an installation.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _WORKER, str(descriptor), json.dumps(asdict(layout))],
        bufsize=0,  # a line is there as soon as it is written, and none hides in a buffer
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what goes wrong is answered
        pass_fds=(descriptor,),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        start_new_session=True,  # Ctrl-C is for us alone
    )


@contextlib.contextmanager
def _nameless_file(size_bytes: int) -> Iterator[int]:
    """A descriptor of memory that vanishes with the last process that maps it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("encoder")
        try:
            os.ftruncate(descriptor, size_bytes)
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryFile() as file:
            file.truncate(size_bytes)
            yield file.fileno()
