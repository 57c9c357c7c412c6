"""Debian's docker-registry as a process on a free port of loopback, with a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
from fakes.private_daemon import free_port

from ollama_bridge.closing import Closing

USER, PASSWORD = "ada", "correct horse"
_HTPASSWD = f"{USER}:$2b$04$U28aQr3k/RSpCpSis/Xp.OJvhf.jbWZV/eqUIzVAPR8nsaK7RIGbu\n"
_STARTS_WITHIN_S = 60.0


def find_registry(assets_dir: Path) -> Path | None:
    """The one on PATH, else the one that scripts/install-registry has unpacked."""
    on_path = shutil.which("docker-registry")
    unpacked = assets_dir / "docker-registry" / "docker-registry"
    if on_path:
        return Path(on_path)
    return unpacked if unpacked.is_file() else None


@dataclass
class RealRegistry(Closing):
    """Runs while its block is entered.

    Attributes:
        binary: The program.
        root: Folder of its data, configuration and log.
        private: Whether it wants USER and PASSWORD.
    """

    binary: Path
    root: Path
    private: bool = False
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """As it stands before a name."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.root.mkdir(parents=True, exist_ok=True)
        access = ""
        if self.private:
            (self.root / "htpasswd").write_text(_HTPASSWD)
            access = f"auth: {{htpasswd: {{realm: test, path: {self.root}/htpasswd}}}}\n"
        (self.root / "config.yml").write_text(
            "version: 0.1\n"
            "log: {level: warn, accesslog: {disabled: false}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.root}/data}}}}\n"
            # The same after a restart, or every unfinished upload would be lost.
            f"http: {{addr: '{self.host}', secret: s}}\n{access}"
        )
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.binary), "serve", str(self.root / "config.yml")], stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + _STARTS_WITHIN_S
        while time.monotonic() < deadline_s:
            try:
                if httpx.get(f"http://{self.host}/v2/", trust_env=False).status_code in (200, 401):
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError((self.root / "log").read_text())

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def asked(self, method: str) -> list[str]:
        """What was asked for by one method, in order."""
        lines = (self.root / "log").read_text(errors="replace").splitlines()
        requests = [line.split('"')[1].split(" ")[:2] for line in lines if ' HTTP/1.1" ' in line]
        return [path for asked, path in requests if asked == method]

    def lose_uploads(self) -> None:
        """Forget every unfinished upload."""
        for folder in (self.root / "data").rglob("_uploads"):
            shutil.rmtree(folder)

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def close(self) -> None:
        """End it."""
        self.kill()
