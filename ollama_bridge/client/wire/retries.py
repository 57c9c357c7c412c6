"""When a question that failed is asked again. No input or output here.

The one place that decides it: nothing below or above a client repeats a request by itself. (A
batch settles its own failures and turns this off.)
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from ollama_bridge.errors import (
    ConfigError,
    DaemonBusyError,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
)

# What an error says where the runner is gone, or not there yet; one that cannot load stays so.
_RUNNER_GONE = re.compile(
    r"unexpected EOF|connection re(set|fused)|no longer running|has terminated|unexpectedly stopped"
    r"|server loading model"
)
_CANNOT_LOAD = re.compile(r"error loading model|unable to load model")


@dataclass(frozen=True)
class Retries:
    """How often a question is asked again that failed before anything of its answer was given out.

    Attributes:
        attempts: In all, the first one included; 1: never again.
        pause_s: Before the second attempt; doubles from one to the next. Each pause is drawn
            between 0 and that, so that several clients do not come back as one.
        longest_pause_s: It grows no further.
        resume: Continue an answer that broke off from the text that had come, as well.

    Raises:
        ConfigError: a number that is too small.
    """

    attempts: int = 3
    pause_s: float = 0.5
    longest_pause_s: float = 8.0
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.attempts < 1 or not 0 <= self.pause_s <= self.longest_pause_s < float("inf"):
            raise ConfigError(
                f"{self!r} is not valid",
                hint="attempts must be >= 1, and 0 <= pause_s <= longest_pause_s",
            )


NO_RETRIES = Retries(attempts=1)


class Attempts:
    """The attempts at one question.

    Args:
        retries: How many there may be.
        total_s: How long all of them together may take.

    Attributes:
        number: Of the present one.
        ends_s: When the whole has to be done, by the clock.
    """

    def __init__(
        self, retries: Retries, total_s: float, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._retries = retries
        self._now_s = now_s
        self.number = 1
        self.ends_s = now_s() + total_s

    def next_pause_s(self, error: DaemonError, *, allowed: bool = True) -> float:
        """Begin another attempt; returns how long to wait before it.

        Args:
            error: How the present one failed.
            allowed: Whether there may be another as far as the answer goes.

        Raises:
            DaemonError: the same one, if there is none.
        """
        error.attempts = self.number
        longest_s = min(
            self._retries.longest_pause_s, self._retries.pause_s * 2.0 ** (self.number - 1)
        )
        pause_s = random.uniform(0, longest_s)
        is_last = self.number >= self._retries.attempts or self._now_s() + pause_s >= self.ends_s
        if is_last or not allowed or not is_passing(error):
            raise error
        self.number += 1
        return pause_s


def is_passing(error: DaemonError) -> bool:
    """Whether the same question may be answered a moment later.

    Never what the daemon refused, and never a limit that ran out once somebody was there: waiting
    as long again is for the caller to decide.
    """
    if isinstance(error, DaemonTimeoutError):
        return error.phase == "connect"
    if isinstance(error, RequestRejectedError) and error.status_code != 500:
        return isinstance(error, DaemonBusyError)
    if isinstance(error, RequestRejectedError | RunnerCrashedError):
        # Else a PARSER cannot read the answer, which comes again: 0.24 even waits for ever then.
        gone = _RUNNER_GONE.search(error.message)
        return gone is not None and not _CANNOT_LOAD.search(error.message)
    return isinstance(error, DaemonUnreachableError | StreamBrokenError)
