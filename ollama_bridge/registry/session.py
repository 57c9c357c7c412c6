"""Requests to one repository of a registry: limits, retries, redirects, and who gets to see what.

Nothing waits for ever, nothing is tried without end, no reply is read without a limit, and no
header with a secret goes to another origin than the registry's own.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from ollama_bridge.client.wire.clock import HTTPX_ERRORS
from ollama_bridge.client.wire.deadlines import bound
from ollama_bridge.client.wire.environment import reading_environment
from ollama_bridge.closing import Closing
from ollama_bridge.errors import RegistryBusyError, RegistryError
from ollama_bridge.registry.authorization import TOKEN_HINT, answer_challenge, read_challenge
from ollama_bridge.registry.credentials import Credentials, hide
from ollama_bridge.registry.failures import AGAIN, explain_error, explain_status
from ollama_bridge.registry.manifest import MANIFEST_LIMIT_BYTES
from ollama_bridge.registry.reference import RegistryReference
from ollama_bridge.registry.replies import (
    await_header,
    origin_of,
    read_reason,
    read_retry_after_s,
    whole_url,
)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECT_LIMIT = 5
# Below this rate a reply counts as stalled, however regularly its bytes drip.
_LEAST_BYTES_PER_S = 50_000

_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """All finite.

    Attributes:
        connect_s: Until the registry accepts.
        silence_s: Between two pieces of anything.
        attempts: For one request.
        pause_s: Before the second attempt; doubled before each further one.
        longest_pause_s: However long the registry asks us to wait.
    """

    connect_s: float = 10.0
    silence_s: float = 60.0
    attempts: int = 5
    pause_s: float = 0.5
    longest_pause_s: float = 30.0


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        url: Whole, or relative to the repository.
        headers: Beside those that every request has.
        patience_s: What the registry may need on top of ``silence_s`` before it answers.
        attempts: None: as many as the limits allow; 1 for what must not be repeated blindly.
        also_pull: Another repository of the registry that it reads from.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    patience_s: float = 0.0
    attempts: int | None = None
    also_pull: str = ""


@dataclass(frozen=True)
class Reply:
    """One whole reply."""

    status_code: int
    headers: httpx.Headers
    body: bytes
    url: str

    @property
    def location(self) -> str:
        """The whole URL of the Location header; empty where there is none."""
        return whole_url(self.url, self.headers.get("Location", ""))


class RegistrySession(Closing):
    """Speaks to one repository; use as a context manager.

    Attributes:
        reference: The model.
        showed_secret: The registry asked for a secret, and was shown one.

    Raises:
        ConfigError: a proxy or certificates of the environment that cannot be used.
    """

    def __init__(
        self,
        reference: RegistryReference,
        *,
        actions: str,
        credentials: Credentials | None = None,
        limits: Limits | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.reference = reference
        self._actions = actions
        self._credentials = credentials or Credentials()
        self._limits = limits or Limits()
        self._authorization = ""
        self._makes_tokens = False
        self.showed_secret = False
        with reading_environment():
            self._http = httpx.Client(
                headers={"User-Agent": "ollama-bridge", "Accept-Encoding": "identity"},
                trust_env=not reference.loopback,
                verify=_certificates(reference),
                follow_redirects=False,
                transport=transport,
            )
        bound(self._http)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def is_own(self, url: str) -> bool:
        """Whether a URL is of the registry's own origin."""
        return origin_of(url) == origin_of(self.reference.origin)

    def send(self, request: Request, *, wanted: Collection[int]) -> Reply:
        """A whole reply of one of the wanted statuses.

        Raises:
            RegistryError: unreachable, another status, or an endless reply.
        """

        def once() -> Reply:
            with contextlib.closing(self._open(request, wanted)) as response:
                body = b"".join(self.pieces(response, MANIFEST_LIMIT_BYTES))
                url = str(response.url)
                return Reply(response.status_code, response.headers, body, url)

        return self._persist(once, request.attempts)

    @contextlib.contextmanager
    def stream(self, request: Request, *, wanted: Collection[int]) -> Iterator[httpx.Response]:
        """A reply whose body is still to be read, with :meth:`pieces`.

        Raises:
            RegistryError: unreachable, or another status.
        """
        response = self._persist(lambda: self._open(request, wanted), request.attempts)
        try:
            yield response
        finally:
            with contextlib.suppress(*HTTPX_ERRORS):
                response.close()

    def pieces(self, response: httpx.Response, limit_bytes: int) -> Iterator[bytes]:
        """The body, piece by piece.

        Raises:
            RegistryError: it breaks off, stalls, or is longer than ``limit_bytes``.
        """
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            # Asked for as it is; what unpacks to gigabytes is not wanted.
            raise self._error("sends compressed what was asked for uncompressed")
        begun_s, read_bytes = time.monotonic(), 0
        pieces = response.iter_bytes()
        while True:
            try:
                piece = next(pieces, None)
            except HTTPX_ERRORS as exc:
                raise self._broken(exc, str(response.url)) from exc
            if piece is None:
                return
            read_bytes += len(piece)
            allowed_s = self._limits.silence_s + read_bytes / _LEAST_BYTES_PER_S
            if time.monotonic() - begun_s > allowed_s:
                raise self._busy("sends so slowly that it counts as stalled")
            if read_bytes > limit_bytes:
                raise self._error(f"sends more than the {limit_bytes} bytes that were expected")
            yield piece

    def _persist(self, action: Callable[[], _T], attempts: int | None) -> _T:
        attempts = attempts or self._limits.attempts
        for attempt in range(1, attempts + 1):
            try:
                return action()
            except RegistryBusyError as error:
                if attempt == attempts:
                    raise
                self.pause(attempt, error.retry_after_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def pause(self, attempt: int, asked_s: float | None = None) -> None:
        """Wait before another attempt."""
        own_s = self._limits.pause_s * 2 ** (attempt - 1)
        time.sleep(min(self._limits.longest_pause_s, max(own_s, asked_s or 0.0)))

    def _open(self, request: Request, wanted: Collection[int]) -> httpx.Response:
        """One attempt: the challenge is answered, redirects of reads are followed."""
        url = urljoin(f"{self.reference.origin}/v2/{self.reference.repository}/", request.url)
        authorized = False
        for _ in range(_REDIRECT_LIMIT + 2):
            response = self._send(request, url)
            status = response.status_code
            if status in wanted:
                return response
            with contextlib.closing(response):
                if status == 401 and self.is_own(url) and not authorized:
                    authorized = True
                    self._authorize(response, request.also_pull)
                    continue
                if status in _REDIRECTS:
                    url = self._redirected(request, response)
                    continue
                raise self._rejection(request, response)
        raise self._error(f"redirects more than {_REDIRECT_LIMIT} times")

    def _send(self, request: Request, url: str) -> httpx.Response:
        headers = dict(request.headers)
        if self._authorization and self.is_own(url):
            headers["Authorization"] = self._authorization
        limits = self._limits
        timeout = httpx.Timeout(
            connect=limits.connect_s,
            read=limits.silence_s + request.patience_s,
            write=limits.silence_s,
            pool=limits.connect_s,
        )
        try:
            built = self._http.build_request(
                request.method, url, headers=headers, content=request.content, timeout=timeout
            )
            return await_header(self._http, built)
        except HTTPX_ERRORS as exc:
            raise self._broken(exc, url) from exc

    def _authorize(self, response: httpx.Response, also_pull: str) -> None:
        challenge = read_challenge(response.headers.get_list("WWW-Authenticate"))
        if challenge is None:
            raise self._error(
                "refuses (401) and does not say what it wants",
                hint=self._credentials.hint,
                status=401,
            )
        self._makes_tokens = challenge.scheme == "bearer" and bool(challenge.realm)
        self._authorization = answer_challenge(
            challenge,
            self.reference,
            self._credentials,
            actions=self._actions,
            also_pull=also_pull,
            ask_service=self._ask_service,
        )
        self.showed_secret = bool(self._credentials.secrets)

    def _ask_service(self, url: str, authorization: str) -> tuple[int, bytes]:
        self.showed_secret = bool(authorization)
        headers = {"Authorization": authorization} if authorization else {}
        timeout = httpx.Timeout(self._limits.silence_s, connect=self._limits.connect_s)
        try:
            asked = self._http.build_request("GET", url, headers=headers, timeout=timeout)
            with contextlib.closing(await_header(self._http, asked)) as response:
                if response.status_code in _TRANSIENT:
                    # Without the status, which says nothing of what was asked of the registry.
                    what = f"has a token service that answered {response.status_code}"
                    raise self._overloaded(what, response)
                body = b"".join(self.pieces(response, MANIFEST_LIMIT_BYTES))
                return response.status_code, body
        except HTTPX_ERRORS as exc:
            raise self._broken(exc, url) from exc

    def _redirected(self, request: Request, response: httpx.Response) -> str:
        target = whole_url(str(response.url), response.headers.get("Location", ""))
        if request.method not in ("GET", "HEAD"):
            raise self._error(f"redirects a {request.method}, which is not followed")
        self.check_target(target)
        return target

    def check_target(self, url: str) -> None:
        """Refuse to be led where the registry itself would not be spoken to.

        Raises:
            RegistryError: no web address, or without encryption although the registry has it.
        """
        scheme, name, _ = origin_of(url)
        allowed = ("http", "https") if self.reference.plain else ("https",)
        if scheme not in allowed or not name or "@" in urlsplit(url).netloc:
            is_own_name = name == origin_of(self.reference.origin)[1]
            raise self._error(
                f"leads to an address that is not followed ({scheme or 'no scheme'}://{name})",
                hint="the proxy in front of it must pass X-Forwarded-Proto: https"
                if scheme == "http" and is_own_name
                else None,
            )

    def _rejection(self, request: Request, response: httpx.Response) -> RegistryError:
        status, body = response.status_code, b""
        with contextlib.suppress(RegistryError):
            body = b"".join(self.pieces(response, MANIFEST_LIMIT_BYTES))
        reason = read_reason(body, self._all_secrets())
        of_token = self._makes_tokens and self._credentials.token
        failure = explain_status(
            status,
            f"answered {status} to {request.method} {response.url.path}{reason}",
            elsewhere=self._elsewhere(str(response.url)),
            name=self.reference.name,
            plain=self.reference.plain,
            access_hint=TOKEN_HINT if of_token else self._credentials.hint,
        )
        if status in _TRANSIENT:
            return self._overloaded(failure.what, response, status=status)
        return self._error(failure.what, hint=failure.hint, status=status)

    def _elsewhere(self, url: str) -> str:
        """The host of a URL, where it is not the registry's own."""
        return "" if self.is_own(url) else origin_of(url)[1]

    def _all_secrets(self) -> tuple[str, ...]:
        current = self._authorization.partition(" ")[2]
        return (*self._credentials.secrets, *([current] if current else []))

    def _broken(self, exc: Exception, url: str) -> RegistryError:
        reason = hide(str(exc) or type(exc).__name__, self._all_secrets())
        failure = explain_error(exc, reason, elsewhere=self._elsewhere(url))
        if failure.lasting:
            return self._error(failure.what, hint=failure.hint)
        return self._busy(failure.what, hint=failure.hint or AGAIN)

    def _overloaded(
        self, what: str, response: httpx.Response, *, status: int | None = None
    ) -> RegistryBusyError:
        hint, after_s = AGAIN, read_retry_after_s(response)
        if after_s is not None and after_s > self._limits.longest_pause_s:
            hint = f"wait {after_s:.0f} s, and {AGAIN}"
        elif response.status_code == 429:
            hint = f"wait, and {AGAIN}"
        return self._busy(what, hint=hint, status=status, after_s=after_s)

    def _busy(
        self,
        what: str,
        *,
        hint: str = AGAIN,
        status: int | None = None,
        after_s: float | None = None,
    ) -> RegistryBusyError:
        return RegistryBusyError(
            f"registry {self.reference.host} {what}",
            hint=hint,
            status_code=status,
            retry_after_s=after_s,
        )

    def _error(
        self, what: str, *, hint: str | None = None, status: int | None = None
    ) -> RegistryError:
        return RegistryError(
            f"registry {self.reference.host} {what}", hint=hint, status_code=status
        )


def _certificates(reference: RegistryReference) -> ssl.SSLContext | bool:
    """What httpx verifies servers with; True: its own, and those that the environment names.

    On this machine the environment is not read, as no proxy is asked; but the user's own
    certificates count there, too, also for a plain registry: its token service or storage may be
    elsewhere.

    Raises:
        OSError: certificates of the environment that cannot be used, where they are needed.
    """
    if not reference.loopback:
        return True
    try:
        return httpx.create_ssl_context()
    except OSError:
        if not reference.plain:
            raise
        return True
