"""The time limits of one call, and what a breach of them and an error of httpx is called.

One limit a phase, all finite. The daemon sends its headers with the first token, so waiting for
headers is loading and reading the prompt; afterwards a limit holds between any two lines, however
many bytes drip in meanwhile. No silence is waited for beyond the end of its phase, or of the whole
call (``deadlines``). Files take as long as they are large, so calls that move them have more of it;
what holds for them is the limit of their silence.
"""

from __future__ import annotations

import math
import re
import time
from urllib.parse import urlsplit

import httpx

from ollama_bridge.client.wire.address import Address
from ollama_bridge.client.wire.deadlines import LimitUntil
from ollama_bridge.client.wire.environment import proxy_variable
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.refusals import CHECK_ADDRESS
from ollama_bridge.errors import (
    CallPhase,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ReplyInvalidError,
    StreamBrokenError,
)

# Everything that httpx raises; a test enumerates them.
HTTPX_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict)

_FILES_FACTOR = 24  # a day instead of an hour: 40 GB over a slow line
_BESIDE_S = 0.5  # for a connection, where whoever asks holds one


class Clock:
    """The limits of one call, and what a breach of them is called.

    Args:
        ends_s: When the whole has to be done, by the monotonic clock; None: counted from now.

    Attributes:
        answering: A part of the answer has come.
    """

    def __init__(
        self, call: Call, address: Address, timeouts: Timeouts, ends_s: float | None = None
    ) -> None:
        self.call = call
        self._address = address
        self._timeouts = timeouts
        self._total_s = timeouts.total_s * (_FILES_FACTOR if call.patience == "files" else 1)
        self._ends_s = time.monotonic() + self._total_s if ends_s is None else ends_s
        self._partial_since_s = math.inf
        self._line_limit_s = math.inf
        self._sent_limits: dict[str, float] = {}
        self.answering = False

    @property
    def before_answer(self) -> dict[str, float]:
        """Limits for sending the request and for the beginning of its answer."""
        left_s = max(0.001, self.left_s)
        wait_s = min(self._silence[1], left_s)
        connect_s = min(self._timeouts.connect_s, left_s)
        # An answer has to begin by then, whatever comes before; but a file is sent. To wait for a
        # connection of our own is no fault of the daemon's: only the end of the whole bounds it.
        within_s = math.inf if self.call.content is not None else wait_s
        wait = LimitUntil(wait_s, self._ends_s, within_s=within_s)
        pool_s = min(_BESIDE_S, left_s) if self.call.patience == "beside" else left_s
        self._sent_limits = {"connect": connect_s, "read": wait, "write": wait, "pool": pool_s}
        return self._sent_limits

    def begin_answer(self, response: httpx.Response) -> None:
        """From now on the limit between two pieces holds; a refusal is no answer."""
        self.answering = response.is_success
        if self.call.patience != "files":
            self._line_limit_s = self._silence[1]
        # httpcore reads this dictionary once more, when it begins to read the body.
        silence_s = max(0.001, min(self._silence[1], self.left_s))
        self._sent_limits["read"] = LimitUntil(silence_s, self._ends_s)

    def check(self, *, has_lines: bool) -> None:
        """Look at the limits when a piece has come.

        Args:
            has_lines: It completed a line; else it is a part of one.

        Raises:
            DaemonTimeoutError: the whole call, or this line, has taken too long.
        """
        now_s = time.monotonic()
        if now_s >= self._ends_s:
            raise self._timeout("total", self._total_s)
        if has_lines:
            self._partial_since_s = math.inf
        elif self._partial_since_s == math.inf:
            self._partial_since_s = now_s
        elif now_s - self._partial_since_s > self._line_limit_s:
            raise self._timeout(*self._silence)

    def place(self, error: DaemonError) -> None:
        """Say in which phase something failed, and about which model."""
        error.model = error.model or self.call.model
        error.phase = error.phase or ("connect" if _is_no_connection(error) else self._silence[0])

    def translate(self, exc: Exception) -> DaemonError:
        """The error of ours for one of httpx, or for what took longer than :attr:`left_s`."""
        if isinstance(exc, httpx.TimeoutException | TimeoutError):
            if self.left_s <= 0.01:  # a timer may fire a little early
                return self._timeout("total", self._total_s)
            if isinstance(exc, httpx.ConnectTimeout):
                return self._timeout("connect", self._timeouts.connect_s)
            return self._timeout(*self._silence)
        if isinstance(exc, httpx.DecodingError | httpx.TooManyRedirects):
            return ReplyInvalidError(
                f"the daemon's answer cannot be read: {_reason(exc)}",
                hint=CHECK_ADDRESS,
                model=self.call.model,
            )
        if self.answering and isinstance(exc, httpx.TransportError | httpx.StreamError):
            return StreamBrokenError(
                f"the connection to the daemon broke in mid-answer: {_reason(exc)}",
                hint="ask again; if it fails again: ollama-bridge doctor",
                model=self.call.model,
            )
        proxy = proxy_variable(self._address)
        through = f" through the proxy that {proxy} names" if proxy else ""
        return DaemonUnreachableError(
            f"no daemon answers at {self._address.url}{through}: {_reason(exc)}",
            hint=_what_reaches_it(self._address, _reason(exc), is_behind_proxy=proxy is not None),
            model=self.call.model,
        )

    @property
    def left_s(self) -> float:
        """How long the whole may still take, in seconds."""
        return self._ends_s - time.monotonic()

    @property
    def _silence(self) -> tuple[CallPhase, float]:
        """The longest silence that is allowed now, and the phase that it belongs to."""
        limits = self._timeouts
        patience = self.call.patience
        if patience == "files" or (patience == "model" and not self.answering):
            phase: CallPhase = "load" if limits.load_s > 0 else "first_token"
            return phase, limits.load_s + limits.first_token_s
        if not self.answering and limits.first_token_s < limits.between_tokens_s:
            return "first_token", limits.first_token_s
        return "between_tokens", limits.between_tokens_s

    def _timeout(self, phase: CallPhase, limit_s: float) -> DaemonTimeoutError:
        waited = {
            "connect": "accepted no connection",
            "total": "did not finish",
        }.get(phase, "said nothing more" if self.answering else "gave no answer")
        return DaemonTimeoutError(
            f"the daemon at {self._address.url} {waited} within {limit_s:g} s ({self.call.path})",
            phase=phase,
            limit_s=limit_s,
            hint="see what it is doing: ollama-bridge monitor   (from Python, a longer limit: "
            f"Timeouts({phase}_s=...))",
            model=self.call.model,
        )


def _is_no_connection(error: DaemonError) -> bool:
    return isinstance(error.__cause__, httpx.ConnectError)


def _what_reaches_it(address: Address, reason: str, *, is_behind_proxy: bool) -> str:
    """What helps where nobody answers: a daemon can be started on this machine, without TLS."""
    if re.search(r"self.signed|local issuer", reason):
        return "name the authority of its certificate: export SSL_CERT_FILE=/path/to/ca.pem"
    if "WRONG_VERSION_NUMBER" in reason:
        return "it speaks no TLS: write http:// in place of https://"
    if is_behind_proxy:
        return f"if it is to be reached directly: export NO_PROXY={urlsplit(address.url).hostname}"
    if address.loopback and address.url.startswith("http://"):
        return "ollama-bridge daemon start   (or: ollama serve)"
    return "check the address, and that Ollama runs there: ollama-bridge doctor"


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
