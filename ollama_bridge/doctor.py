"""Looks at this machine: what it has, what is missing, and the command that fixes each.

Loads torch only if it is installed, and only to ask for accelerators.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from shlex import quote
from typing import Literal

import psutil

from ollama_bridge import machine
from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client, read_address
from ollama_bridge.client.wire.retries import NO_RETRIES
from ollama_bridge.daemon.ensure import ensure_daemon, is_startable
from ollama_bridge.daemon.era import limits_of
from ollama_bridge.daemon.find import PROBE_TIMEOUTS, find_binary, find_daemon
from ollama_bridge.daemon.layout import cpu_features
from ollama_bridge.daemon.runners import left_runners
from ollama_bridge.daemon.service import describe_service, is_service_s
from ollama_bridge.daemon.tags import CANDIDATES, TRIALS
from ollama_bridge.daemon.toolchain import OFFICIAL_INSTALL, find_toolchain
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.extras import missing_train_packages
from ollama_bridge.reporting import Reporter

Status = Literal["ok", "warning", "problem"]
# What can be done without asking: nothing of the user's is touched.
Repair = Literal["install", "start"]

_GIB = 1024**3
# The default recipe's peak beside a daemon with teacher and student, and what makes it comfortable.
_MEMORY_NEEDED_BYTES, _MEMORY_WANTED_BYTES = 2 * _GIB, 6 * _GIB
# One run with its checkpoints and GGUF files; imported models and a built daemon on top.
_DISK_NEEDED_BYTES, _DISK_WANTED_BYTES = 3 * _GIB, 10 * _GIB


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ok, warning (works, but not well) or problem (stands in the way).
        detail: What was found, with its numbers.
        fix: What to type, and what to do where that is better; None where nothing needs doing.
        repair: What :func:`repair` does about it; None: only the user can.
    """

    name: str
    status: Status
    detail: str
    fix: str | None = None
    repair: Repair | None = None


def repair(finding: Finding, *, host: str | None = None, reporter: Reporter | None = None) -> str:
    """Install or start the daemon, as a finding asks for it; gives what was done.

    Raises:
        DaemonError: it could not be done.
    """
    if finding.repair == "install":
        from ollama_bridge.daemon.install import install_daemon

        install_daemon(reporter=reporter)
    daemon = ensure_daemon(host=host, reporter=reporter)
    return f"Ollama {daemon.version} answers at {daemon.host}"


def run_doctor(*, host: str | None = None) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    return [
        _cores(),
        _memory(),
        _dtypes(),
        _accelerator(),
        _disk(),
        _packages(),
        *_daemon(host),
        *_left_runners(),
    ]


def _cores() -> Finding:
    allowed, quota = machine.allowed_cores(), machine.container_cores(machine.CGROUP)
    detail = f"{allowed} core(s) for this process"
    if quota is not None and quota < allowed:
        detail += f", but a container limit of {quota:g}"
    if machine.cores() < 2:
        return Finding(
            "cores",
            "warning",
            f"{detail}: training will be slow",
            "use 2 cores or more, or: ollama-bridge build sentiment-quick",
        )
    return Finding("cores", "ok", detail)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    total_bytes, available_bytes = memory.total, memory.available
    container = machine.container_memory(machine.CGROUP)
    if container is not None:
        total_bytes = min(total_bytes, container.limit_bytes)
        available_bytes = min(available_bytes, container.free_bytes)
    detail = f"{available_bytes / _GIB:.1f} GiB free of {total_bytes / _GIB:.1f} GiB"
    return _amount(
        "memory",
        available_bytes,
        _MEMORY_NEEDED_BYTES,
        _MEMORY_WANTED_BYTES,
        detail,
        "close other programs, or: ollama-bridge build RECIPE --set distill.batch_tokens=512",
    )


def _disk() -> Finding:
    folder = home_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    return _amount(
        "disk",
        free_bytes,
        _DISK_NEEDED_BYTES,
        _DISK_WANTED_BYTES,
        f"{free_bytes / _GIB:.1f} GiB free for {home_dir()}",
        "free some (ollama-bridge runs rm NAME), or: export OLLAMA_BRIDGE_HOME=/a/larger/disk",
    )


def _amount(
    name: str, found_bytes: int, needed_bytes: int, wanted_bytes: int, detail: str, fix: str
) -> Finding:
    if found_bytes < needed_bytes:
        return Finding(name, "problem", f"{detail}; {needed_bytes / _GIB:.0f} GiB are needed", fix)
    if found_bytes < wanted_bytes:
        return Finding(
            name, "warning", f"{detail}; {wanted_bytes / _GIB:.0f} GiB are recommended", fix
        )
    return Finding(name, "ok", detail)


def _dtypes() -> Finding:
    features = set(cpu_features())
    native = sorted(features & {"avx512_bf16", "amx_bf16", "bf16"})
    if native:
        detail = f"float32, and bfloat16 by the processor's {', '.join(native)}"
        return Finding("types", "ok", detail)
    if sys.platform == "darwin":
        return Finding("types", "ok", "float32; bfloat16 where a probe finds it faster")
    return Finding(
        "types",
        "ok",
        "float32 (this processor has no bfloat16 instructions: training takes about twice as long)",
    )


def _accelerator() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("accelerator", "ok", "not looked for: PyTorch is not installed")
    try:
        return _found_by_torch()
    # Half installed, or beside libraries of another version; a folder that was left is a module.
    except (ImportError, OSError, RuntimeError, AttributeError) as exc:
        reason = str(exc).partition("\n")[0]
        return Finding(
            "accelerator",
            "problem",
            f"PyTorch is installed, but cannot be used: {reason}",
            "pip install --force-reinstall torch",
        )


def _found_by_torch() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("accelerator", "ok", f"CUDA: {torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return Finding("accelerator", "ok", "MPS (Apple GPU)")
    if shutil.which("nvidia-smi") is not None:
        return Finding(
            "accelerator",
            "warning",
            f"there is an NVIDIA driver, but PyTorch {torch.__version__} cannot use a GPU",
            "pip install --force-reinstall torch   (for CUDA: https://pytorch.org/get-started/locally/)",
        )
    return Finding("accelerator", "ok", "none; the CPU is used")


def _packages() -> Finding:
    missing = missing_train_packages()
    if missing:
        return Finding(
            "packages",
            "warning",
            f"training needs {', '.join(missing)} (client and packaging work without)",
            "pip install 'ollama-bridge[train]'",
        )
    return Finding("packages", "ok", "everything that training and conversion need")


def _daemon(host: str | None) -> list[Finding]:
    try:
        found = find_daemon(host)
    except OllamaBridgeError as error:
        return [Finding("daemon", "problem", error.message, error.hint)]
    if found is not None:
        detail = f"Ollama {found.version} at {found.host} (contract {found.era})"
        detail += "".join(
            f"; it does not {limit.what}: {limit.instead or 'update it'}"
            for limit in limits_of(found.version)
        )
        answers = Finding("daemon", "ok", detail)
        if found.binary is None:
            answers = Finding(
                "daemon",
                "warning",
                f"{detail}; but there is no `ollama` command here",
                "use `ollama-bridge run TAG`, or: ollama-bridge daemon install",
            )
        return [answers, *_left_models(host)]
    address = read_address(host)
    if not is_startable(address):
        silent = f"nothing answers at {address.url}"
        return [Finding("daemon", "problem", silent, "start Ollama there, or: unset OLLAMA_HOST")]
    binary = find_binary()
    if binary is not None and is_service_s(address):
        silent, fix = describe_service()
        return [Finding("daemon", "problem", f"nothing answers at {address.url}: {silent}", fix)]
    if binary is not None:
        idle = f"not running; {binary} is started when it is needed"
        return [Finding("daemon", "ok", idle, repair="start")]
    absent = Finding(
        "daemon",
        "problem",
        "no daemon answers, and there is no `ollama` command",
        f"{OFFICIAL_INSTALL}   (or build it: ollama-bridge daemon install)",
        repair="install",
    )
    return [absent, _build_tools()]


def _left_models(host: str | None) -> list[Finding]:
    """Told where there are some; not removed without asking: one may be proven just now."""
    with (
        contextlib.suppress(OllamaBridgeError),
        Client(host, timeouts=PROBE_TIMEOUTS, retries=NO_RETRIES) as client,
    ):
        names = [one.name for one in client.list() if one.name.startswith((CANDIDATES, TRIALS))]
        if names:
            detail = f"{len(names)} model(s) of a proof that was killed, or still goes on"
            fix = f"ollama-bridge rm {' '.join(names)}" + (f" --host {quote(host)}" if host else "")
            return [Finding("models", "warning", detail, fix)]
    return []


def _left_runners() -> list[Finding]:
    """Told where there are some; not ended without asking: they are the user's."""
    found, held_bytes = [], 0
    for process in left_runners():
        with contextlib.suppress(psutil.Error):  # it ended just now
            held_bytes += process.memory_info().rss
            found.append(str(process.pid))
    if not found:
        return []
    detail = f"{len(found)} runner(s) of a daemon that was killed hold {held_bytes / _GIB:.1f} GiB"
    return [Finding("runners", "warning", detail, f"kill {' '.join(found)}")]


def _build_tools() -> Finding:
    try:
        tools = find_toolchain()
    except OllamaBridgeError as error:
        return Finding("build tools", "warning", error.message, error.hint)
    go = tools.go[0] if tools.go else "Go is fetched from PyPI"
    return Finding("build tools", "ok", f"Ollama can be built here ({go}; {tools.cmake[0]})")
