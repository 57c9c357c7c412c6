"""Starts a daemon as a process group of its own, waits for it, and ends it with its runner.

A daemon that is killed leaves its runner (``llama-server``) behind, which keeps its memory. The
runner stays in the daemon's process group, so the group is what is searched and ended here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

import psutil

from ollama_bridge.daemon.find import RunningDaemon, find_daemon
from ollama_bridge.errors import DaemonInstallError
from ollama_bridge.storage.atomic_files import write_text_atomic

START_LIMIT_S = 60.0
_STOP_GRACE_S = 10.0
_KILL_LIMIT_S = 10.0
_POLL_INTERVAL_S = 0.05
_LOG_LIMIT_BYTES = 16 * 1024**2
_OWNER_ALONE = 0o600
_LOG_TAIL_BYTES = 16 * 1024
_REGISTRY_VARIABLES = "OLLAMA_BRIDGE_REGISTRY_"
_RUNNER_NAMES = ("llama-server", "ollama")  # up to 0.29 a runner is `ollama runner`

# Our own start: no look-up of a host, one model at a time, and no spinning of OpenMP threads
# (12 tokens took 48 s beside a training job with them, 1 s without).
QUIET_ENVIRONMENT = {
    "OLLAMA_NO_CLOUD": "1",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True)
class ProcessRecord:
    """A daemon that we started, as written beside its log.

    ``started_s``, by a clock that nobody sets, tells it from a later process that was given the
    same number.
    """

    pid: int
    started_s: float
    host: str
    binary: str

    @classmethod
    def of(cls, process: subprocess.Popen[bytes], *, host: str, binary: Path) -> Self:
        """The record of a process just started."""
        try:
            started_s = _started_s(psutil.Process(process.pid))
        except psutil.NoSuchProcess:
            started_s = 0.0  # it failed at once; the waiting will say so
        return cls(process.pid, started_s, host, str(binary))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a record; None where there is none, or it is damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                pid=int(data["pid"]),
                started_s=float(data["started_s"]),
                host=str(data["host"]),
                binary=str(data["binary"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Write the record."""
        write_text_atomic(path, json.dumps(asdict(self)))

    def process(self) -> psutil.Process | None:
        """The running process; None if it ended, whoever has its number now."""
        try:
            process = psutil.Process(self.pid)
            same = _started_s(process) == self.started_s
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def runners(self) -> list[psutil.Process]:
        """The daemon's runners, those of a daemon that is gone included.

        The number of a process group is not given away while the group lasts; so where another
        process has the daemon's number, nothing of its group is left. Names are looked at as well:
        that later process may have left a group of its own.
        """
        if self.process() is None and _is_running(self.pid):
            return []
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if (
                    process.pid != self.pid
                    and os.getpgid(process.pid) == self.pid
                    and process.name().startswith(_RUNNER_NAMES)
                    and _started_s(process) >= self.started_s
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found


def _started_s(process: psutil.Process) -> float:
    """When a process was started: on Linux since boot, elsewhere as the kernel wrote it down.

    psutil adds the time of boot, which is "now" less the time since then: it moves with every
    correction of the clock (proc_pid_stat(5), field 22; proc_stat(5), btime).
    """
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return process.create_time()
    # A name may hold blanks and brackets; behind its last bracket field 3 begins.
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def spawn(
    binary: Path,
    *,
    environment: Mapping[str, str],
    host: str,
    log_path: Path,
    record_path: Path,
) -> tuple[subprocess.Popen[bytes], ProcessRecord]:
    """Start ``ollama serve`` detached: own session, no terminal, output appended to a log.

    It outlives us, so it is not given what only we need: names and secrets for registries.

    Raises:
        DaemonInstallError: the binary cannot be run or the log not be written.
        DiskFullError: no room for the record; nothing runs on.
    """
    try:
        with _open_log(log_path) as log:
            process = subprocess.Popen(
                [str(binary), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=log_path.parent,
                env={
                    name: value
                    for name, value in environment.items()
                    if not name.startswith(_REGISTRY_VARIABLES)
                },
                start_new_session=True,
            )
    except OSError as exc:
        raise DaemonInstallError(
            f"{binary} could not be started: {exc}", hint="ollama-bridge daemon install"
        ) from exc
    record = ProcessRecord.of(process, host=host, binary=binary)
    try:
        record.write(record_path)
    except BaseException:  # without a record nobody could stop it later
        end(record)
        reap(process)
        raise
    return process, record


def _open_log(path: Path) -> BinaryIO:
    """Open a log for its owner alone, behind what it has; a long one is put aside before.

    Ollama writes its settings there when it starts, a proxy's address with its password among them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _OWNER_ALONE), "ab")
    with contextlib.suppress(OSError):  # a disk that knows no owners
        os.fchmod(log.fileno(), _OWNER_ALONE)  # one of before, which all could read
        path.with_suffix(".old.log").chmod(_OWNER_ALONE)
    if path.stat().st_size <= _LOG_LIMIT_BYTES:
        return log
    log.close()
    path.replace(path.with_suffix(".old.log"))
    return _open_log(path)


def wait_until_answers(
    process: subprocess.Popen[bytes], record: ProcessRecord, *, log_path: Path, log_offset: int
) -> RunningDaemon:
    """Wait until a daemon just started answers; end it if it does not.

    Its own part of the log begins at ``log_offset``.

    Raises:
        DaemonInstallError: it ended, did not answer in time, or the address is taken.
    """
    deadline_s = time.monotonic() + START_LIMIT_S
    try:
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                reason = _last_line(log_path, log_offset)
                raise DaemonInstallError(
                    f"Ollama exited at once with status {process.returncode}: {reason}",
                    hint=f"its log: {log_path}",
                )
            # Another daemon may have been quicker on this port: its answer is not ours.
            if _listens(record):
                found = find_daemon(record.host)
                if found is not None:
                    return found
            time.sleep(_POLL_INTERVAL_S)
        raise DaemonInstallError(
            f"Ollama did not answer at {record.host} within {START_LIMIT_S:.0f} s",
            hint=f"its log: {log_path}",
        )
    except BaseException:
        end(record)
        reap(process)
        raise


def _listens(record: ProcessRecord) -> bool:
    process = record.process()
    try:
        connections = process.net_connections(kind="tcp") if process is not None else []
    except psutil.AccessDenied:
        return True  # the system does not tell; believe the answer
    return any(connection.status == psutil.CONN_LISTEN for connection in connections)


def end(record: ProcessRecord) -> None:
    """Stop a daemon and whatever is left of its group: first asked, then made."""
    daemon = record.process()
    runners = record.runners()
    if daemon is not None:
        with contextlib.suppress(psutil.Error):
            daemon.send_signal(signal.SIGTERM)
        _await_end([daemon], limit_s=_STOP_GRACE_S)
    left = {process.pid: process for process in [*runners, *record.runners()]}
    if daemon is not None:
        left[daemon.pid] = daemon
    for process in left.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    _await_end(list(left.values()), limit_s=_KILL_LIMIT_S)


def _await_end(processes: list[psutil.Process], *, limit_s: float) -> None:
    """Wait for processes; zombies have ended.

    A runner that has lost its daemon is process 1's to collect, which in a container is often a
    program that collects nothing.
    """
    ends_s = time.monotonic() + limit_s
    while processes and time.monotonic() < ends_s:
        _, left = psutil.wait_procs(processes, timeout=_POLL_INTERVAL_S)
        processes = [process for process in left if _is_running(process.pid)]


def reap(process: subprocess.Popen[bytes]) -> None:
    """Collect a child that has been ended, so that no zombie stays."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_KILL_LIMIT_S)


def detach(process: subprocess.Popen[bytes]) -> None:
    """Let a child live on after us, yet leave no zombie if it ends before us."""
    threading.Thread(target=process.wait, name="ollama-reaper", daemon=True).start()


def log_size_bytes(path: Path) -> int:
    """Where the next lines of a log will begin."""
    return path.stat().st_size if path.exists() else 0


def _last_line(log_path: Path, offset: int) -> str:
    """The last line of a log that has something to say, from ``offset`` on."""
    try:
        with log_path.open("rb") as log:
            log.seek(max(offset, log_size_bytes(log_path) - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.lower().startswith("error")]
    return (errors or said or ["it printed nothing"])[-1]
