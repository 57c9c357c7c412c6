"""What was seen at one moment, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Trouble = Literal["daemon", "wedged", "memory", "swap", "heat"]
_LOW_MEMORY_SHARE = 0.05
_HOT_SHARE = 0.97  # of the temperature that the sensor itself calls high
_HOT_GPU_C = 90.0  # from there on those of NVIDIA slow down, or soon will


@dataclass(frozen=True)
class Loaded:
    """A model in memory, as the daemon tells it."""

    name: str
    size_bytes: int
    gpu_bytes: int
    context_tokens: int
    until: str
    digest: str = ""  # of its manifest; two may have one name where it was made anew


@dataclass(frozen=True)
class Runner:
    """A process that runs a model, as the machine tells it.

    Attributes:
        model: The tag that it serves; None: not known.
        memory_bytes: Resident.
        cpu_share: Of one core; 2.0: two cores.
        slots: Requests that it can work on at once; None: it does not say.
        tokens: Generated for those requests so far.
        tokens_total: Generated since it was first looked at; at least, see ``is_partial``.
        tokens_per_s: Generated since the last look; at least, see ``is_partial``.
        is_partial: Since the last look a request ended or another one began in its slot: its last
            tokens, and whole requests between the two, may not have been seen.
        stuck_s: How long it has been busy without anything coming of it.
    """

    pid: int
    model: str | None
    memory_bytes: int
    cpu_share: float
    slots: int | None = None
    busy: int = 0
    tokens: int = 0
    tokens_total: int = 0
    tokens_per_s: float = 0.0
    is_partial: bool = False
    stuck_s: float = 0.0


@dataclass(frozen=True)
class GPU:
    """One of NVIDIA's, as its own tool tells it; None: it does not say."""

    name: str
    share: float | None
    memory_used_bytes: int | None
    memory_bytes: int | None
    temperature_c: float | None = None


@dataclass(frozen=True)
class Machine:
    """The machine.

    Attributes:
        cpu_share: Of all cores.
        memory_used_bytes: What no program could have.
        swapped_in_bytes: In the last minute, or since it was first looked at.
        swapped_in_total_bytes: Since the machine was started.
        hottest_c: A temperature, and what its sensor calls high or else critical, if it does.
        gpus: Where NVIDIA's tool is.
    """

    cpu_share: float
    memory_used_bytes: int
    memory_bytes: int
    swap_used_bytes: int
    swapped_in_bytes: int = 0
    swapped_in_total_bytes: int = 0
    hottest_c: tuple[float, float | None] | None = None
    gpus: tuple[GPU, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """One look.

    Attributes:
        at_s: Seconds since the epoch.
        version: Of the daemon; None: it did not answer.
        answer_s: How long it took to answer.
        runners: Its processes; empty for a daemon of another machine.
        is_local: Whether the daemon is on this machine.
        waiting: Requests of which it has sent nothing yet, at least; None: not known.
    """

    at_s: float
    host: str
    version: str | None
    answer_s: float | None
    problem: str | None
    loaded: tuple[Loaded, ...]
    runners: tuple[Runner, ...]
    machine: Machine
    is_local: bool = True
    waiting: int | None = None

    @property
    def queued(self) -> int | None:
        """Those of ``waiting`` that nothing works on, at least; None: not known.

        A request whose prompt is computed, or that is answered as a whole, waits and has a slot;
        one whose answer streams has a slot and waits no more. There may be as many as ``waiting``.
        """
        if self.waiting is None or not self._sees_all:
            return None
        return max(0, self.waiting - sum(runner.busy for runner in self.runners))

    @property
    def tokens_per_s(self) -> float | None:
        """Of all runners together; None: one of them does not say, or cannot be seen.

        An address of this machine may lead elsewhere: a tunnel, a container, a virtual machine.
        """
        if not self.is_local or not self._sees_all:
            return None
        return sum(runner.tokens_per_s for runner in self.runners)

    @property
    def _sees_all(self) -> bool:
        """Whether every request is seen; a daemon that does not answer may have any."""
        may_work = bool(self.loaded) or self.problem is not None
        says_all = all(runner.slots is not None for runner in self.runners)
        return says_all and (bool(self.runners) or not may_work)

    @property
    def is_partial(self) -> bool:
        """Whether there may have been more tokens than were seen."""
        return any(runner.is_partial for runner in self.runners)

    def alerts(self, *, wedge_s: float = 30.0) -> tuple[str, ...]:
        """What is wrong, with what to do about it; of this machine only where the daemon is on it.

        A runner that is busy for ``wedge_s`` and gives nothing is wedged.
        """
        return tuple(text for _, text in self.troubles(wedge_s=wedge_s))

    def troubles(self, *, wedge_s: float = 30.0) -> tuple[tuple[Trouble, str], ...]:
        """:meth:`alerts`, each with its kind."""
        found: list[tuple[Trouble, str]] = []
        if self.problem is not None:
            found.append(("daemon", f"{self.problem}: ollama-bridge doctor"))
        for runner in self.runners:
            if runner.stuck_s >= wedge_s:
                text = (
                    f"{runner.model or 'a model'} is busy and has produced nothing for "
                    f"{runner.stuck_s:.0f} s: ollama-bridge stop {runner.model or 'TAG'}"
                )
                found.append(("wedged", text))
        return (*found, *(_troubles(self.machine) if self.is_local else ()))


def _troubles(machine: Machine) -> list[tuple[Trouble, str]]:
    found: list[tuple[Trouble, str]] = []
    free_bytes = machine.memory_bytes - machine.memory_used_bytes
    if machine.memory_bytes and free_bytes < _LOW_MEMORY_SHARE * machine.memory_bytes:
        text = f"{free_bytes / 1e9:.1f} GB of memory are left: ollama-bridge ps, then stop one"
        found.append(("memory", text))
    if machine.swapped_in_bytes:
        found.append(("swap", "memory is being swapped: models answer slowly; stop one"))
    if machine.hottest_c is not None:
        now_c, high_c = machine.hottest_c
        if high_c and now_c >= _HOT_SHARE * high_c:
            text = f"{now_c:.0f} °C of {high_c:.0f} °C: the processor will slow down"
            found.append(("heat", text))
    found += [
        ("heat", f"{gpu.name} has {gpu.temperature_c:.0f} °C: it will slow down")
        for gpu in machine.gpus
        if gpu.temperature_c is not None and gpu.temperature_c >= _HOT_GPU_C
    ]
    return found
