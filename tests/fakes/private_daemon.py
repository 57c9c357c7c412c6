"""A daemon of our own beside the user's: own port, home and model folder, nothing left behind.

For tests and trials. The daemon that ``ollama run`` talks to is started by
:mod:`ollama_bridge.daemon.ensure`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

from ollama_bridge.client import Client
from ollama_bridge.closing import Closing
from ollama_bridge.daemon import launch
from ollama_bridge.daemon.find import find_binary
from ollama_bridge.errors import DaemonError, DaemonInstallError

_PORT_ATTEMPTS = 5


class PrivateDaemon(Closing):
    """A daemon that lives in one folder; use as a context manager.

    A process that dies without leaving the block (``kill -9``) leaves the daemon running; the
    next one in the same folder ends it first.

    Raises:
        DaemonInstallError: there is no binary, or it does not start.
    """

    def __init__(
        self, root: Path, *, binary: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        found = binary or find_binary()
        if found is None:
            raise DaemonInstallError(
                "there is no `ollama` on PATH, and none was installed",
                hint="ollama-bridge daemon install",
            )
        self.root = root.absolute()
        self.binary = found
        self.models_dir = self.root / "models"
        self.log_path = self.root / "ollama.log"
        self._record_path = self.root / "daemon.json"
        self._env = dict(env or {})
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._record: launch.ProcessRecord | None = None
        self._clients: list[Client] = []

    @property
    def host(self) -> str:
        """Its address; the same after a restart."""
        if self._port is None:
            raise DaemonError(
                "this private daemon was never started", hint="use it in a with block"
            )
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Number of its process; None while it does not run."""
        running = self._record.process() if self._record else None
        return running.pid if running else None

    def client(self) -> Client:
        """A new client of it; closed at the latest when the daemon stops."""
        client = Client(self.host)
        self._clients.append(client)
        return client

    def runners(self) -> list[psutil.Process]:
        """Its running model runners, orphaned ones included."""
        return self._record.runners() if self._record else []

    def start(self) -> None:
        """Start it and wait until it answers; does nothing while it runs."""
        if self.pid is not None:
            return
        self._end_previous()
        for folder in (self.root / "home", self.models_dir):
            folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = self._port or free_port()
            try:
                self._start_on(port)
            except DaemonInstallError as exc:
                # A free port can be taken by another between looking and listening.
                if self._port is not None or attempt == _PORT_ATTEMPTS or not _is_taken(exc):
                    raise
            else:
                self._port = port
                atexit.register(self.stop)
                return

    def stop(self) -> None:
        """Stop it and its runners; does nothing when it is stopped."""
        while self._clients:
            self._clients.pop().close()
        self._end_previous()
        atexit.unregister(self.stop)

    def kill(self) -> None:
        """Kill it as a crash would (SIGKILL): its runner stays, until the next start or stop."""
        running = self._record.process() if self._record else None
        if running is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                running.kill()
        if self._process is not None:
            launch.reap(self._process)

    def restart(self) -> None:
        """Stop it, if it runs, and start it again on the same port."""
        self._end_previous()
        self.start()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def close(self) -> None:
        """Stop it."""
        self.stop()

    def _end_previous(self) -> None:
        record = self._record or launch.ProcessRecord.read(self._record_path)
        if record is not None:
            launch.end(record)
        if self._process is not None:
            launch.reap(self._process)
        self._process = None
        self._record_path.unlink(missing_ok=True)

    def _start_on(self, port: int) -> None:
        host = f"http://127.0.0.1:{port}"
        log_offset = launch.log_size_bytes(self.log_path)
        self._process, self._record = launch.spawn(
            self.binary,
            environment=self._environment(port),
            host=host,
            log_path=self.log_path,
            record_path=self._record_path,
        )
        launch.wait_until_answers(
            self._process, self._record, log_path=self.log_path, log_offset=log_offset
        )

    def _environment(self, port: int) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
        return {
            **kept,
            **launch.QUIET_ENVIRONMENT,
            "HOME": str(self.root / "home"),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(self.models_dir),
            "OLLAMA_NOPRUNE": "1",
            **self._env,
        }


def free_port() -> int:
    """A port on loopback that nothing listens on right now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _is_taken(error: DaemonInstallError) -> bool:
    return "address already in use" in error.message or "is taken by" in error.message
