"""Makes sure that a daemon answers: uses the running one, else starts the user's own.

It is started with the user's model store and address, so that a tag registered here is there for
``ollama run`` in any shell. It outlives us; ``ollama-bridge daemon stop`` ends it.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from ollama_bridge.client import Address, read_address
from ollama_bridge.daemon import launch
from ollama_bridge.daemon.find import RunningDaemon, find_binary, find_daemon
from ollama_bridge.daemon.layout import installed_binary, state_dir
from ollama_bridge.daemon.locks import hold_lock
from ollama_bridge.daemon.service import describe_service, is_service_s, wait_for_service
from ollama_bridge.errors import DaemonInstallError, DaemonUnreachableError
from ollama_bridge.reporting import Note, NullReporter, Reporter

_STAGE = "daemon"
# Of daemons of this machine: a home may be on a disk that several share.
_OWN_RECORDS = f"ollama-{platform.node()}-"
_OWN_RECORD = re.compile(re.escape(_OWN_RECORDS) + r"\d+\.json")  # and none of "NODE-2"


def ensure_daemon(*, reporter: Reporter | None = None, host: str | None = None) -> RunningDaemon:
    """Find the daemon, or start one.

    A host of None is ``OLLAMA_HOST``, else 127.0.0.1:11434.

    Raises:
        ConfigError: the address cannot be read.
        DaemonUnreachableError: nothing answers at an address of another machine.
        DaemonInstallError: there is no ``ollama`` here, it does not start, its address is the
            silent service's, or something else listens there.
    """
    found = find_daemon(host)
    return found if found is not None else start_daemon(reporter=reporter, host=host)


def start_daemon(*, reporter: Reporter | None = None, host: str | None = None) -> RunningDaemon:
    """Start a daemon detached, or find that another process has just done so.

    Errors are those of :func:`ensure_daemon`.
    """
    address = read_address(host)
    if not is_startable(address):
        raise DaemonUnreachableError(
            f"nothing answers at {address.url}, and a daemon can only be started at 127.0.0.1 of "
            "this machine, over http and without a path",
            hint="start Ollama there, or use this machine: unset OLLAMA_HOST",
        )
    binary = find_binary()
    if binary is None:
        raise DaemonInstallError(
            f"nothing answers at {address.url}, and there is no `ollama` on PATH to start",
            hint="ollama-bridge daemon install",
        )
    if is_service_s(address):
        if (found := wait_for_service(host, reporter or NullReporter())) is not None:
            return found
        silent, fix = describe_service()
        raise DaemonInstallError(f"nothing answers at {address.url}: {silent}", hint=fix)
    # Whoever waits longer than a start can take has a problem worth reporting.
    limit_s = 2 * launch.START_LIMIT_S
    with hold_lock(state_dir() / ".start.lock", limit_s=limit_s, doing="starting Ollama"):
        found = find_daemon(host)
        return found or _start(binary, address, host, reporter or NullReporter())


def _start(binary: Path, address: Address, host: str | None, reporter: Reporter) -> RunningDaemon:
    record_path = _record_path(address)
    _end_orphans(record_path)
    log_offset = launch.log_size_bytes(log_path())
    environment = dict(os.environ)
    if host is not None:  # else OLLAMA_HOST stays as it is: it may say "all interfaces"
        environment["OLLAMA_HOST"] = address.url
    if binary == installed_binary():
        # The user's own Ollama keeps the user's own settings.
        environment = {**launch.QUIET_ENVIRONMENT, **environment}
    process, record = launch.spawn(
        binary,
        environment=environment,
        host=address.url,
        log_path=log_path(),
        record_path=record_path,
    )
    try:
        daemon = launch.wait_until_answers(
            process, record, log_path=log_path(), log_offset=log_offset
        )
    except DaemonInstallError:
        record_path.unlink(missing_ok=True)
        # Another home's starter has its own lock: it may have won the port.
        found = find_daemon(address.url)
        if found is None:
            raise
        return found
    launch.detach(process)
    reporter.emit(
        Note(
            _STAGE,
            "info",
            f"started Ollama {daemon.version} at {daemon.host} "
            f"(log: {log_path()}; stop it with: ollama-bridge daemon stop)",
        )
    )
    return daemon


def stop_daemon() -> bool:
    """Stop the daemon that we started, with its runners, and no other; whether one was running."""
    was_running = False
    limit_s = 2 * launch.START_LIMIT_S
    with hold_lock(state_dir() / ".start.lock", limit_s=limit_s, doing="starting Ollama"):
        for path in sorted(state_dir().glob("ollama-*.json")):
            record = launch.ProcessRecord.read(path)
            runs_here = record is not None and record.process() is not None
            # One that is not ours by its name may be of before this machine was called so; it may
            # be another machine's as well, which has to find it again.
            if not runs_here and not _OWN_RECORD.fullmatch(path.name):
                continue
            if record is not None:
                was_running |= runs_here
                launch.end(record)
            path.unlink(missing_ok=True)
    return was_running


def daemon_status(*, host: str | None = None) -> Mapping[str, object]:
    """What answers, what could be started, and whether we started it.

    Raises:
        ConfigError: the address cannot be read.
        DaemonInstallError: something that is not Ollama listens there.
    """
    address = read_address(host)
    found = find_daemon(host)
    process = _own_process(address)
    return {
        "running": found is not None,
        "host": address.url,
        "version": found.version if found else None,
        "era": found.era if found else None,
        "binary": find_binary(),
        "started_by_us": process is not None,
        "pid": process.pid if process is not None else None,
        "log": log_path() if process is not None else None,
    }


def log_path() -> Path:
    """Log of the daemon that we started."""
    return state_dir() / "ollama.log"


def is_startable(address: Address) -> bool:
    """Whether a daemon can be started there: on this machine, without TLS or a path in front."""
    parts = urlsplit(address.url)
    return address.loopback and parts.scheme == "http" and not parts.path


def _record_path(address: Address) -> Path:
    return state_dir() / f"{_OWN_RECORDS}{urlsplit(address.url).port}.json"


def _own_process(address: Address) -> psutil.Process | None:
    """The daemon that we started there, whatever this machine was called then."""
    if not address.loopback:
        return None
    for path in sorted(state_dir().glob("ollama-*.json")):
        record = launch.ProcessRecord.read(path)
        if record is None or urlsplit(record.host).port != urlsplit(address.url).port:
            continue
        if (process := record.process()) is not None:
            return process
    return None


def _end_orphans(record_path: Path) -> None:
    """End the runners that a killed daemon of ours has left behind; they hold its memory."""
    record = launch.ProcessRecord.read(record_path)
    if record is not None and record.process() is None:
        launch.end(record)
