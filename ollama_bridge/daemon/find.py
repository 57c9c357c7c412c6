"""Looks for a daemon that answers, and for a binary that one can be started from."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ollama_bridge.client import Client, Timeouts, read_address
from ollama_bridge.client.wire.environment import proxy_variable
from ollama_bridge.client.wire.refusals import BUSY
from ollama_bridge.daemon.era import Era, era_of
from ollama_bridge.daemon.layout import installed_binary
from ollama_bridge.errors import (
    DaemonError,
    DaemonInstallError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ReplyInvalidError,
    RequestRejectedError,
    StreamBrokenError,
)

# A daemon of this machine answers in milliseconds; a busy machine gets some seconds.
PROBE_TIMEOUTS = Timeouts(
    connect_s=3.0, load_s=0.0, first_token_s=10.0, between_tokens_s=10.0, total_s=15.0
)
# What a daemon says as well as a proxy in front of it.
_REFUSALS = frozenset({401, 403}) | BUSY


@dataclass(frozen=True)
class RunningDaemon:
    """A daemon that answers.

    Attributes:
        host: Its address, as ``Client`` takes it.
        era: Which contract it follows; see :mod:`ollama_bridge.daemon.era`.
        binary: The ``ollama`` command of this machine, for ``ollama run``; None: there is none.
    """

    host: str
    version: str
    era: Era
    binary: Path | None


def find_binary() -> Path | None:
    """The ``ollama`` to use: the one on PATH, else the one that we installed."""
    on_path = shutil.which("ollama")
    return Path(on_path).absolute() if on_path else installed_binary()


def find_daemon(host: str | None = None) -> RunningDaemon | None:
    """The daemon that answers; None: nothing listens.

    A host of None is ``OLLAMA_HOST``, else 127.0.0.1:11434.

    Raises:
        ConfigError: the address cannot be read.
        DaemonInstallError: something listens there, but it is not Ollama.
        DaemonUnreachableError: what listens there speaks TLS, and it failed; or only a proxy knows
            whether anything does.
        RequestRejectedError: it refuses us, or cannot answer now: a daemon, or what stands before.
    """
    address = read_address(host)
    url = address.url
    answer = _ask(url)
    if isinstance(answer, DaemonError) and proxy_variable(address) is not None:
        raise answer
    if isinstance(answer, DaemonError) and _accepts(url):
        # Something listens. A daemon that was just starting answers now; others do not.
        answer = _ask(url)
        if isinstance(answer, DaemonError):
            raise _silent(url, answer)
    if isinstance(answer, DaemonError):
        return None
    return RunningDaemon(url, answer, era_of(answer), find_binary())


def _ask(url: str) -> str | DaemonError:
    """The version that is answered; an error where there may be nobody."""
    try:
        with Client(url, timeouts=PROBE_TIMEOUTS) as client:
            version = client.version()
        era_of(version)
    except DaemonUnreachableError as exc:
        return exc
    except RequestRejectedError as exc:
        if exc.status_code not in _REFUSALS:
            raise _no_ollama(url, exc) from exc
        raise
    except (ReplyInvalidError, StreamBrokenError) as exc:
        raise _no_ollama(url, exc) from exc
    except DaemonTimeoutError as exc:
        if exc.phase == "connect":
            return exc
        raise _taken(url, "it takes connections, but does not answer") from exc
    return version


def _accepts(url: str) -> bool:
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or 0)
        socket.create_connection(address, timeout=PROBE_TIMEOUTS.connect_s).close()
    except OSError:
        return False
    return True


def _silent(url: str, error: DaemonError) -> DaemonError:
    if urlsplit(url).scheme == "https":
        error.hint = "for certificates of your own: export SSL_CERT_FILE=/path/to/ca.pem"
        return error
    return _taken(url, "it takes connections, but does not speak HTTP")


def _no_ollama(url: str, error: DaemonError) -> DaemonInstallError:
    return _taken(url, f"it answers, but not as Ollama does ({error})")


def _taken(url: str, reason: str) -> DaemonInstallError:
    port = (urlsplit(url).port or 0) + 1
    return DaemonInstallError(
        f"{url} is taken by something that is not Ollama: {reason}",
        hint=f"stop it, or choose another port: export OLLAMA_HOST=127.0.0.1:{port}"
        if read_address(url).loopback
        else "check OLLAMA_HOST: is the daemon at another port?",
    )
