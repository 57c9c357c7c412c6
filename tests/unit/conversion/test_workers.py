"""Encoding in processes: the same bytes, and nothing left behind whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from fakes.processes import has_ended, words_of
from gguf import GGMLQuantizationType

from ollama_bridge.errors import ConversionError
from ollama_bridge.quantization.workers import (
    EncoderPool,
    Piece,
    Rows,
    encode_here,
    encode_in_threads,
)

Q = GGMLQuantizationType
SHAPES = [(16, 256), (3, 512), (1, 1024), (8, 256), (16, 256), (2, 768), (5, 256), (16, 256)]


def pieces() -> Iterator[Piece]:
    """Rows of several types, every second with importance; in between what needs no search."""
    random = np.random.default_rng(1)
    for index, shape in enumerate(SHAPES):
        values = random.normal(size=shape).astype(np.float32)
        importance = np.linspace(1, 2, shape[1], dtype=np.float32) if index % 2 else None
        type_ = (Q.Q4_K, Q.Q6_K, Q.Q5_0)[index % 3]
        yield Rows(shape, type_, importance, lambda out, values=values: np.copyto(out, values))
        yield partial(np.full, index, index, dtype=np.uint8)


def ours() -> list[psutil.Process]:
    """Worker processes of this test process."""
    found = psutil.Process().children(recursive=True)
    # Between exec and the program's first instruction a process has no words at all.
    while any(not words_of(child) and not has_ended(child) for child in found):
        time.sleep(0.01)
    return [child for child in found if "worker_process" in words_of(child)]


def test_processes_do_not_change_a_byte() -> None:
    """In this process, in threads, in one worker and in three: the same pieces in order."""
    expected = [bytes(piece) for piece in encode_here(pieces())]
    assert len(expected) == 2 * len(SHAPES)
    assert [bytes(piece) for piece in encode_in_threads(pieces())] == expected
    for processes in (1, 3):
        with EncoderPool(processes, max_values=4096, max_columns=1024) as pool:
            assert len(ours()) == processes
            assert [bytes(piece) for piece in pool.encode(pieces())] == expected
        assert ours() == []


def test_workers_load_no_torch() -> None:
    """A worker needs numpy and the encoders only."""
    code = (
        "import sys, ollama_bridge.quantization.worker_process, ollama_bridge.quantization.workers;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_converter_loads_reference_values_where_there_are_some() -> None:
    """Its start is a good part of a conversion: what a plain checkpoint lacks is not prepared."""
    code = "import sys, ollama_bridge.conversion; print('ollama_bridge.reference' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_worker_that_dies_is_one_error() -> None:
    """Killed in the middle: one error that says how, and the others end too."""
    with (
        pytest.raises(ConversionError, match="ended by signal 9"),
        EncoderPool(2, max_values=4096, max_columns=1024) as pool,
    ):
        for index, _ in enumerate(pool.encode(pieces())):
            if index == 0:
                for worker in ours():
                    worker.kill()
    assert ours() == []


def test_an_encoder_that_fails_is_one_error() -> None:
    """What goes wrong inside a worker is said; where, to who asks for causes."""
    odd = Rows((1, 100), Q.Q4_K, None, lambda out: out.fill(0))
    with (
        pytest.raises(ConversionError, match="could not be encoded") as caught,
        EncoderPool(1, max_values=4096, max_columns=1024) as pool,
    ):
        list(pool.encode([odd]))
    assert "encode_rows" in caught.value.__notes__[0]
    assert ours() == []


def test_an_error_of_the_caller_ends_the_workers() -> None:
    """Ctrl-C while pieces are made leaves no process."""

    def interrupted() -> Iterator[Piece]:
        yield next(pieces())
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        EncoderPool(2, max_values=4096, max_columns=1024) as pool,
    ):
        list(pool.encode(interrupted()))
    assert ours() == []


def test_a_killed_caller_takes_its_workers_along(tmp_path: Path) -> None:
    """Workers of a process that is killed end by themselves."""
    script = tmp_path / "caller.py"  # no `if __name__` guard: none is needed
    script.write_text(
        "import time\n"
        "from ollama_bridge.quantization.workers import EncoderPool\n"
        "pool = EncoderPool(2, max_values=4096, max_columns=1024).__enter__()\n"
        "print(*[worker.process.pid for worker in pool._workers], flush=True)\n"
        "time.sleep(60)\n"
    )
    caller = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in caller.stdout.readline().split()]
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    assert len(workers) == 2
    deadline_s = time.monotonic() + 30
    while not all(map(has_ended, workers)):
        assert time.monotonic() < deadline_s, "a worker outlived its caller"
        time.sleep(0.05)
