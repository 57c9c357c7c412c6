"""Looks at a daemon and its machine, again and again.

The daemon tells what is loaded, not what it does: that is read from the runners of this machine.
Since 0.30 they are llama.cpp servers on ports of loopback (``GET /slots``). Prompts are in that
reply too; nothing but counts is kept of it. Before, a runner is the daemon's own program
(``ollama runner``), which tells nothing of its requests: of it only the machine's side is seen.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from ollama_bridge.client import Client, Timeouts, read_address
from ollama_bridge.closing import Closing
from ollama_bridge.daemon.runners import BLOB, runners
from ollama_bridge.errors import ModelNotFoundError, OllamaBridgeError
from ollama_bridge.monitoring.snapshot import GPU, Loaded, Machine, Runner, Snapshot
from ollama_bridge.monitoring.waiting import waiting_requests
from ollama_bridge.system_tools import output_of

_SLOTS_LIMIT_S = 0.5
_SWAP_S = 60.0


@dataclass(frozen=True)
class _Task:
    """A request that a runner works on, or that was the last one of a slot."""

    tokens: int
    is_busy: bool


@dataclass
class _Seen:
    """What is remembered of a runner between two looks."""

    process: psutil.Process
    at_s: float
    tasks: dict[int, _Task] | None = None  # the last one of each slot; None: not looked at yet
    tokens_total: int = 0
    moved_at_s: float = 0.0
    progress: object = None
    is_ours: bool = True  # of the daemon that is watched


class Observer(Closing):
    """Has to be closed; each question to the daemon takes ``limit_s`` at most."""

    def __init__(self, host: str | None = None, *, limit_s: float = 3.0) -> None:
        limits = Timeouts(connect_s=limit_s, between_tokens_s=limit_s, total_s=limit_s)
        self._client = Client(host, timeouts=limits)
        self._port = urlsplit(self._client.host).port
        self._is_local = read_address(host).loopback
        self._slots = httpx.Client(timeout=_SLOTS_LIMIT_S, trust_env=False)
        self._runners: dict[int, _Seen] = {}
        self._blobs: dict[str, str] = {}
        self._until: dict[tuple[str, str], str] = {}  # changes when a model was asked
        # When, and how much by then. Who looks rarely, as Prometheus does, sees the same alert.
        self._swapped_in = deque([(time.monotonic(), psutil.swap_memory().sin)])
        self._has_nvidia = shutil.which("nvidia-smi") is not None
        psutil.cpu_percent()  # the first call has nothing to compare with

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._slots.close()

    def look(self) -> Snapshot:
        """What is to be seen now; never raises for what it finds."""
        version = answer_s = problem = None
        loaded: tuple[Loaded, ...] = ()
        begun_s = time.perf_counter()
        try:
            version = self._client.version()
            answer_s = time.perf_counter() - begun_s
            loaded = tuple(
                Loaded(
                    one.name,
                    one.size_bytes,
                    one.size_vram_bytes,
                    one.context_length,
                    one.expires_at,
                    one.digest,
                )
                for one in self._client.ps()
            )
            self._learn_blobs(loaded)
        except OllamaBridgeError as error:
            problem = error.message
        return Snapshot(
            time.time(),
            self._client.host,
            version,
            answer_s,
            problem,
            loaded,
            self._look_at_runners() if self._is_local else (),
            self._look_at_machine(),
            self._is_local,
            waiting_requests(self._port) if self._is_local and self._port else None,
        )

    def _learn_blobs(self, loaded: tuple[Loaded, ...]) -> None:
        """Which file a loaded model runs, so that a process can be given its name."""
        known = set(self._blobs.values())
        for one in loaded:
            made = (one.name, one.digest)
            if one.name not in known or one.until != self._until.get(made):
                with contextlib.suppress(ModelNotFoundError):  # it was removed just now
                    found = BLOB.search(self._client.show(one.name).modelfile)
                    if found is not None:
                        self._blobs[found[1]] = one.name
            self._until[made] = one.until

    def _look_at_runners(self) -> tuple[Runner, ...]:
        found = []
        seen: dict[int, _Seen] = {}
        for process in runners():
            with contextlib.suppress(psutil.Error):
                before = self._runners.get(process.pid)
                if before is None or before.process != process:
                    process.cpu_percent()
                    before = _Seen(process, time.monotonic(), moved_at_s=time.monotonic())
                    before.is_ours = _is_child_of(process, self._port)
                seen[process.pid] = before
                if before.is_ours:
                    found.append(self._look_at_runner(before))
        self._runners = seen
        return tuple(found)

    def _look_at_runner(self, seen: _Seen) -> Runner:
        process = seen.process
        command = process.cmdline()
        blob = BLOB.search(" ".join(command))
        slots = self._read_slots(command)
        now_s = time.monotonic()
        runner = Runner(
            process.pid,
            self._blobs.get(blob[1]) if blob else None,
            process.memory_info().rss,
            process.cpu_percent() / 100,
        )
        if slots is None:  # one that was at work and does not answer any more may hang
            stuck_s = now_s - seen.moved_at_s if seen.progress else 0.0
            return replace(runner, stuck_s=stuck_s)
        busy = [slot for slot in slots if slot.get("is_processing")]
        tasks = {
            _whole(slot, "id_task"): _Task(_decoded(slot), bool(slot.get("is_processing")))
            for slot in slots
        }
        made, is_partial = _made(seen.tasks, tasks)
        elapsed_s = now_s - seen.at_s
        progress = [
            (_whole(slot, "id_task"), _whole(slot, "n_prompt_tokens_processed")) for slot in busy
        ]
        if made > 0 or not busy or progress != seen.progress:
            seen.moved_at_s = now_s
        seen.tasks, seen.at_s, seen.progress = tasks, now_s, progress
        seen.tokens_total += made
        return replace(
            runner,
            slots=len(slots),
            busy=len(busy),
            tokens=sum(_decoded(slot) for slot in busy),
            tokens_total=seen.tokens_total,
            tokens_per_s=made / elapsed_s if elapsed_s > 0 else 0.0,
            is_partial=is_partial,
            stuck_s=now_s - seen.moved_at_s,
        )

    def _read_slots(self, command: list[str]) -> list[dict[str, Any]] | None:
        """What a runner says of its requests; None: it does not."""
        if "--port" not in command[:-1]:
            return None
        port = command[command.index("--port") + 1]
        try:
            found = self._slots.get(f"http://127.0.0.1:{int(port)}/slots").json()
        except (httpx.HTTPError, ValueError):
            return None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            return None
        return found

    def _look_at_machine(self) -> Machine:
        memory, swap, now_s = psutil.virtual_memory(), psutil.swap_memory(), time.monotonic()
        self._swapped_in.append((now_s, swap.sin))
        while now_s - self._swapped_in[1][0] >= _SWAP_S:  # one that is as old is kept
            self._swapped_in.popleft()
        return Machine(
            psutil.cpu_percent() / 100,
            memory.total - memory.available,
            memory.total,
            swap.used,
            max(0, swap.sin - self._swapped_in[0][1]),
            swap.sin,
            _hottest(),
            _gpus() if self._has_nvidia else (),
        )


def _is_child_of(process: psutil.Process, port: int | None) -> bool:
    """Whether a runner's parent listens there; also where that cannot be seen."""
    try:
        parent = process.parent()
        sockets = parent.net_connections("tcp") if parent is not None else []
    except psutil.Error:
        return True
    ports = {one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN}
    return not ports or port in ports


def _made(before: dict[int, _Task] | None, now: dict[int, _Task]) -> tuple[int, bool]:
    """Tokens that were made between two looks, and whether there may have been more.

    A slot shows its last request alone. Its count is gone when it ends (seen with 0.34.4), or else
    whole.
    """
    made, is_partial = 0, False
    if before is None:
        return made, is_partial
    for name, task in now.items():
        last = before.get(name, _Task(0, False))
        made += max(0, task.tokens - last.tokens)
        has_ended = last.is_busy and not task.is_busy
        is_partial |= name not in before or (has_ended and task.tokens <= last.tokens)
    return made, is_partial


def _whole(slot: dict[str, Any], name: str) -> int:
    value = slot.get(name)
    return value if isinstance(value, int) else 0


def _decoded(slot: dict[str, Any]) -> int:
    """Tokens that were generated; older servers have one record, newer ones a list."""
    record = slot.get("next_token")
    if isinstance(record, list):
        record = record[0] if record else None
    return _whole(record, "n_decoded") if isinstance(record, dict) else 0


def _hottest() -> tuple[float, float | None] | None:
    """The sensor that is nearest to what it calls high; many name what is critical only."""
    read = getattr(psutil, "sensors_temperatures", None)  # Linux only
    if read is None:
        return None
    found = [one for group in read().values() for one in group if one.current]
    sensors = [(one.current, one.high or one.critical) for one in found]
    return max(sensors, key=lambda one: one[0] / (one[1] or 100.0), default=None)


def _gpus() -> tuple[GPU, ...]:
    """NVIDIA's GPUs by its own tool; none where it fails."""
    query = "name,utilization.gpu,memory.used,memory.total,temperature.gpu"
    told = output_of(
        "nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", limit_s=2.0
    )
    try:
        return tuple(_gpu(*line.rsplit(", ", 4)) for line in (told or "").splitlines())
    except (ValueError, TypeError):
        return ()


def _gpu(name: str, percent: str, used_mib: str, total_mib: str, temperature_c: str) -> GPU:
    share, used, total = _number(percent), _number(used_mib), _number(total_mib)
    return GPU(
        name,
        None if share is None else share / 100,
        None if used is None else int(used * 2**20),
        None if total is None else int(total * 2**20),
        _number(temperature_c),
    )


def _number(text: str) -> float | None:
    """What is not known is "[N/A]", "[Not Supported]" and the like."""
    return float(text) if text.strip().isdecimal() else None
