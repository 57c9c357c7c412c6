"""Batches through a real daemon that is killed, loses a model, and is asked very much."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import AsyncClient, Client
from ollama_bridge.client.jobs.batch import ask_all
from ollama_bridge.client.jobs.batch_log import BatchLog, Outcome
from ollama_bridge.client.jobs.jobs import Answered, BatchLimits, GivenUp
from ollama_bridge.client.jobs.runner import daemons, question, run_batch
from ollama_bridge.client.questions import to_call
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import DaemonTimeoutError, ModelNotFoundError

pytestmark = pytest.mark.live

TAG = "batch-test:1"
OPTIONS = {"num_thread": 1, "num_ctx": 512, "temperature": 0, "num_predict": 8}


def register(client: Client, gguf: Path, tag: str = TAG) -> None:
    digest = f"sha256:{digest_file(gguf)}"
    if not client.has_blob(digest):
        client.upload_blob(gguf, digest)
    client.create({"model": tag, "files": {"m.gguf": digest}})


@pytest.fixture(scope="module")
def mortal(
    ollama_binary: Path, teacher_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrivateDaemon]:
    """A daemon that may be killed: no other test asks it."""
    with PrivateDaemon(tmp_path_factory.mktemp("mortal"), binary=ollama_binary) as daemon:
        with Client(daemon.host) as client:
            register(client, teacher_gguf)
        yield daemon


def requests(count: int) -> list[dict[str, Any]]:
    return [
        {"model": TAG, "prompt": f"Say the number {number}.", "options": OPTIONS}
        for number in range(count)
    ]


def settled(path: Path) -> list[str]:
    """The keys in a log, each line whole but perhaps the last."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line)["key"] for line in lines]


def test_a_batch_outlives_its_runner_and_its_daemon(mortal: PrivateDaemon, tmp_path: Path) -> None:
    """Killed in the middle, both: every row once, and the model that is removed is told."""
    log = tmp_path / "log"
    found = []
    for number, event in enumerate(ask_all(requests(24), log, hosts=[mortal.host])):
        assert isinstance(event, Answered)
        found.append(event)
        if number == 5:
            for runner in mortal.runners():
                runner.kill()
        if number == 12:
            mortal.kill()
            mortal.start()
    assert sorted(one.index for one in found) == list(range(24))
    assert [one.error for one in found if one.error] == []
    assert Counter(settled(log)).most_common(1)[0][1] == 1
    with Client(mortal.host) as client:
        client.copy(TAG, "batch-test:gone")
        gone = [{**one, "model": "batch-test:gone"} for one in requests(40)]
        events = ask_all(gone, tmp_path / "gone", hosts=[mortal.host], concurrency=1)
        assert isinstance(next(events), Answered)
        client.delete("batch-test:gone")
        with pytest.raises(ModelNotFoundError):
            list(events)
    assert 0 < len(settled(tmp_path / "gone")) < 40


def test_a_daemon_that_is_stopped_is_left_out(
    mortal: PrivateDaemon, ollama_binary: Path, teacher_gguf: Path, tmp_path: Path
) -> None:
    """Of two, one hangs (SIGSTOP) with rows in flight: the other answers all, each once."""
    limits = BatchLimits(in_flight=2, quiet_s=3.0, canary_s=5.0, outage_s=1.0)
    jobs = [question(to_call(one)) for one in requests(28)]
    found: list[Outcome] = []
    left_out: list[GivenUp] = []
    with (
        PrivateDaemon(tmp_path / "second", binary=ollama_binary) as second,
        BatchLog(tmp_path / "log") as log,
    ):
        with Client(second.host) as client:
            register(client, teacher_gguf)
        try:
            for event in run_batch(jobs, daemons({second.host: {}, mortal.host: {}}), log, limits):
                if isinstance(event, GivenUp):
                    left_out.append(event)
                if not isinstance(event, Outcome):
                    continue
                found.append(event)
                if len(found) == 4 and second.pid is not None:
                    os.kill(second.pid, signal.SIGSTOP)
        finally:
            if second.pid is not None:
                os.kill(second.pid, signal.SIGCONT)
    assert sorted(one.key for one in found) == sorted(job.key for job in jobs)
    assert [one.error for one in found if one.error] == []
    assert max(one.attempts for one in found) == 2  # rows that were taken away from it
    for one in left_out:  # unless all was done before
        assert one.name == second.host
        assert isinstance(one.error, DaemonTimeoutError)


@pytest.mark.slow
def test_twenty_kills_at_random_points(mortal: PrivateDaemon, tmp_path: Path) -> None:
    """Of the batch itself, the daemon and the runner, in a batch of 200: none lost, none twice."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in requests(200)))
    log, chance = tmp_path / "out.jsonl.log", random.Random(0)
    command = [sys.executable, "-m", "ollama_bridge", "batch", str(source), str(target), "-q"]
    kills = 0
    process = None
    while kills < 20 or process is not None:
        if process is None:
            process = subprocess.Popen([*command, "--host", mortal.host])
        goal = len(settled(log)) + chance.randint(2, 8)
        while process.poll() is None and len(settled(log)) < goal:
            time.sleep(0.02)
        time.sleep(chance.random() * 0.2)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        if kills == 20:
            process.wait()
            continue
        kills += 1
        victim = kills % 3
        if victim == 0:
            process.kill()
            process.wait()
            process = None
        elif victim == 1:
            for runner in mortal.runners():
                runner.kill()
        else:
            mortal.kill()
            mortal.start()
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(1, 201))
    assert [row for row in rows if "error" in row] == []
    assert set(Counter(settled(log)).values()) == {1}
    assert len(settled(log)) == 200
    assert kills == 20


@pytest.mark.slow
def test_two_thousand_short_requests_over_eight_tasks(mortal: PrivateDaemon) -> None:
    """None lost, and memory stays flat."""
    answered = 0
    sizes: list[int] = []
    own = psutil.Process(os.getpid())

    async def soak() -> None:
        left = iter(range(2000))
        async with AsyncClient(mortal.host) as client:

            async def work() -> None:
                nonlocal answered
                for number in left:
                    options = {**OPTIONS, "num_predict": 1}
                    reply = await client.generate(TAG, f"Number {number}", options=options)
                    answered += reply.generated_tokens > 0 or reply.done_reason == "stop"
                    if answered % 200 == 0:
                        sizes.append(own.memory_info().rss)

            await asyncio.gather(*(work() for _ in range(8)))

    asyncio.run(soak())
    assert answered == 2000
    assert max(sizes[2:]) < 1.05 * sizes[1]
    assert threading.active_count() < 10
