"""Requests to a registry: who is shown what, and that nothing goes on for ever."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fakes.registry import QUICK, REFERENCE, asks_for, refusal, token_reply

from ollama_bridge.client.wire.deadlines import bound
from ollama_bridge.errors import OllamaBridgeError, RegistryBusyError, RegistryError
from ollama_bridge.registry.credentials import Credentials
from ollama_bridge.registry.reference import RegistryReference
from ollama_bridge.registry.replies import await_header
from ollama_bridge.registry.session import Limits, RegistrySession, Reply, Request

LOCAL = RegistryReference("127.0.0.1:5000", "team/model", "1", plain=True)
REMOTE_PLAIN = RegistryReference("box:5000", "team/model", "1", plain=True)
ADA = Credentials("ada", "hunter2")
BASIC = ADA.basic
BEARER = 'Bearer realm="https://auth.example.com/token",service="registry.example.com"'
MANIFEST = Request("GET", "manifests/1")


def ask(
    answer: Callable[[httpx.Request], httpx.Response],
    *,
    reference: RegistryReference = REFERENCE,
    credentials: Credentials | None = None,
    limits: Limits = QUICK,
    request: Request = MANIFEST,
) -> Reply:
    """One request to a registry that answers so."""
    with RegistrySession(
        reference,
        actions="pull",
        credentials=credentials,
        limits=limits,
        transport=httpx.MockTransport(answer),
    ) as session:
        return session.send(request, wanted=(200,))


def refused(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> RegistryError:
    """The error of one request."""
    with pytest.raises(RegistryError) as caught:
        ask(answer, **options)
    return caught.value


def unless_shown(shown: str, challenge: str) -> Callable[[httpx.Request], httpx.Response]:
    """A registry that answers to one Authorization header."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example.com":
            return token_reply("made-token")
        if request.headers.get("Authorization") == shown:
            return httpx.Response(200, content=b"ok")
        return asks_for(challenge)

    return answer


def test_basic() -> None:
    """Shown when it is asked for, and from then on."""
    seen: list[str | None] = []
    answer = unless_shown(BASIC, 'Basic realm="x"')

    def watched(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return answer(request)

    with RegistrySession(
        REFERENCE, actions="pull", credentials=ADA, transport=httpx.MockTransport(watched)
    ) as session:
        for _ in range(2):
            assert session.send(MANIFEST, wanted=(200,)).body == b"ok"
    assert seen == [None, BASIC, BASIC]


def test_token_service() -> None:
    """The password goes to the token service, its token to the registry."""
    services: list[httpx.Request] = []
    answer = unless_shown("Bearer made-token", f'{BEARER},scope="repository:else/where:push"')

    def watched(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example.com":
            services.append(request)
        else:
            assert request.headers.get("Authorization") in (None, "Bearer made-token")
        return answer(request)

    assert ask(watched, credentials=ADA).body == b"ok"
    (service,) = services
    assert service.headers["Authorization"] == BASIC
    # Of this repository and for this purpose, whatever the registry would like.
    assert parse_qs(urlsplit(str(service.url)).query) == {
        "scope": ["repository:team/model:pull"],
        "service": ["registry.example.com"],
    }


def test_anonymous_token() -> None:
    """Public models want a token too, which anybody gets."""
    assert ask(unless_shown("Bearer made-token", BEARER)).body == b"ok"


def test_own_token() -> None:
    """A token from the environment is shown as it is."""
    answer = unless_shown("Bearer t0ken", BEARER)
    assert ask(answer, credentials=Credentials(token="t0ken")).body == b"ok"


@pytest.mark.parametrize(
    ("challenge", "is_password"), [(BEARER, True), ('Basic realm="x"', False), ("Bearer", False)]
)
def test_a_token_that_is_a_password(challenge: str, *, is_password: bool) -> None:
    """What registries call a token is shown to their token service, by the name of its owner."""
    answer = unless_shown(BASIC, challenge)
    error = refused(answer, credentials=Credentials(token="ghp_t0ken"))
    assert error.status_code == 401
    assert ("unset OLLAMA_BRIDGE_REGISTRY_TOKEN" in (error.hint or "")) == is_password
    assert "OLLAMA_BRIDGE_REGISTRY_PASSWORD" in (error.hint or "")


@pytest.mark.parametrize(
    "realm",
    ["http://auth.example.com/token", "https://127.0.0.1:9/x", "http://localhost/x", "file:///x"]
    + ["", "https://ada@auth.example.com/", "https://["],
)
def test_token_services_that_get_no_password(realm: str) -> None:
    """Unencrypted, or services of this machine that a registry elsewhere names."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return asks_for(f'Bearer realm="{realm}"')

    error = refused(answer, credentials=ADA)
    assert "must not be sent to" in str(error)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("realm", "reference", "is_asked"),
    [
        ("http://auth.example.com/token", REMOTE_PLAIN, True),
        ("http://auth.example.com/token", LOCAL, True),
        ("http://auth.example.com/token", REFERENCE, False),
        ("http://127.0.0.1:9/token", REMOTE_PLAIN, False),
    ],
)
def test_token_services_that_are_asked_without_a_password(
    realm: str, reference: RegistryReference, *, is_asked: bool
) -> None:
    """A public model of a registry on plain http: Harbor, say, wants a token of everybody."""
    answer = unless_shown("Bearer made-token", f'Bearer realm="{realm}"')
    if is_asked:
        assert ask(answer, reference=reference).body == b"ok"
    else:
        said = str(refused(answer, reference=reference))
        assert f"must not be sent to: http://{urlsplit(realm).hostname}" in said


def test_a_password_for_a_token_service_on_plain_http() -> None:
    """It is the registry's settings that are wrong."""
    answer = unless_shown(BASIC, 'Bearer realm="http://auth.example.com/token"')
    assert "https address" in (refused(answer, credentials=ADA).hint or "")
    answer = unless_shown(BASIC, 'Bearer realm="http://localhost/token"')
    assert "do not trust" in (refused(answer, credentials=ADA).hint or "")


def test_no_secret_goes_unencrypted_to_another_machine() -> None:
    """Not even with --insecure; on this machine it may."""
    challenge = 'Basic realm="x"'
    error = refused(unless_shown(BASIC, challenge), reference=REMOTE_PLAIN, credentials=ADA)
    assert "unencrypted" in str(error)
    assert ask(unless_shown(BASIC, challenge), reference=LOCAL, credentials=ADA).body == b"ok"


@pytest.mark.parametrize("challenge", ['Basic realm="x"', BEARER, "Negotiate", "Bearer", ""])
def test_a_refusal_says_what_to_export(challenge: str) -> None:
    """Without credentials, or with wrong ones, once and not again and again."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "auth.example.com":
            return refusal(401, "UNAUTHORIZED", "who are you")
        return asks_for(challenge)

    for credentials in (None, ADA):
        asked.clear()
        error = refused(answer, credentials=credentials)
        if challenge != "Bearer":  # names no service at all
            assert "OLLAMA_BRIDGE_REGISTRY_USER" in (error.hint or "")
        assert len(asked) <= 2
        assert error.exit_code == 6


@pytest.mark.parametrize("challenge", ['Basic realm="x"', BEARER])
def test_a_refusal_says_for_whom_the_credentials_are(challenge: str) -> None:
    """Where they are kept for another registry."""
    kept = Credentials(registry="box:5000", hint="those are for box:5000 alone")
    error = refused(lambda _: asks_for(challenge), credentials=kept)
    assert error.hint == kept.hint


def test_a_redirect_elsewhere_carries_no_secret() -> None:
    """Storage on another host gets the request, not the header."""
    seen: dict[str, str | None] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        seen[request.url.host] = request.headers.get("Authorization")
        if request.url.host == "storage.example.net":
            return httpx.Response(200, content=b"bytes")
        if "Authorization" not in request.headers:
            return asks_for('Basic realm="x"')
        return httpx.Response(307, headers={"Location": "https://storage.example.net/b?sig=1"})

    assert ask(answer, credentials=ADA).body == b"bytes"
    assert seen == {"registry.example.com": BASIC, "storage.example.net": None}


def test_another_port_is_elsewhere() -> None:
    """The origin counts, not the name."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.port == 444:
            assert "Authorization" not in request.headers
            return httpx.Response(200)
        if "Authorization" not in request.headers:
            return asks_for('Basic realm="x"')
        return httpx.Response(302, headers={"Location": "https://registry.example.com:444/b"})

    ask(answer, credentials=ADA)


def test_a_challenge_from_elsewhere_is_not_answered() -> None:
    """Where a redirect leads nobody is shown a password."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "storage.example.net":
            assert "Authorization" not in request.headers
            return asks_for('Basic realm="x"')
        return httpx.Response(307, headers={"Location": "https://storage.example.net/b"})

    assert refused(answer, credentials=ADA).status_code == 401


@pytest.mark.parametrize(
    "target",
    ["http://registry.example.com/b", "file:///etc/passwd", "ftp://x/b", "https://a@b.c/"]
    + ["http://169.254.169.254/latest"],
)
def test_redirects_that_are_not_followed(target: str) -> None:
    """To plain http from an encrypted registry, or to what is no web address."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"Location": target})

    assert "not followed" in str(refused(answer))
    assert len(asked) == 1


def test_a_proxy_that_forgets_that_it_was_spoken_to_over_https() -> None:
    """The most frequent fault of own registries, in words that its administrator knows."""
    target = "http://registry.example.com/v2/team/model/blobs/uploads/1"
    error = refused(lambda _: httpx.Response(307, headers={"Location": target}))
    assert "X-Forwarded-Proto" in (error.hint or "")


@pytest.mark.parametrize("target", ["https:", "javascript:alert(1)", "https://[", "//"])
def test_redirects_to_nowhere(target: str) -> None:
    """What is no address at all is an error of ours too."""
    refused(lambda _: httpx.Response(307, headers={"Location": target}))


def test_redirects_end() -> None:
    """Round and round is an error."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(307, headers={"Location": f"{request.url}x"})

    assert "redirects more than 5 times" in str(refused(answer))


def test_an_upload_is_not_redirected() -> None:
    """What is sent goes where the registry's own answers say."""
    request = Request("PATCH", "blobs/uploads/1", content=b"x")
    moved = httpx.Response(307, headers={"Location": "https://storage.example.net/b"})
    assert "redirects a PATCH" in str(refused(lambda _: moved, request=request))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_busy_registry_is_asked_again(status: int) -> None:
    """A few times, then it is an error of its own kind."""
    answers = iter([refusal(status, "TOOMANYREQUESTS", "slow down")] * 2 + [httpx.Response(200)])
    assert ask(lambda _: next(answers)).status_code == 200
    asked: list[int] = []

    def busy(_: httpx.Request) -> httpx.Response:
        asked.append(status)
        return refusal(status, "TOOMANYREQUESTS", "slow down")

    error = refused(busy)
    assert isinstance(error, RegistryBusyError)
    assert len(asked) == QUICK.attempts
    assert f"answered {status} to GET /v2/team/model/manifests/1: TOOMANYREQUESTS" in str(error)


def test_retry_after_is_obeyed_within_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the registry asks for, but not for an hour; without a wish, longer each time."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    wishes = iter(["2", "3600", "-1", "soon"])

    def busy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"Retry-After": next(wishes, "")})

    refused(busy, limits=Limits())
    assert pauses == [2.0, 30.0, 2.0, 4.0]


@pytest.mark.parametrize("form", ["seconds", "a date"])
def test_a_long_wish_to_be_left_alone_is_told(form: str) -> None:
    """Longer than we wait: whoever runs the command again knows when."""
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=3600), usegmt=True)
    wish = "3600" if form == "seconds" else at
    error = refused(lambda _: httpx.Response(503, headers={"Retry-After": wish}))
    assert isinstance(error, RegistryBusyError)
    assert error.retry_after_s == pytest.approx(3600, abs=10)
    assert re.match(r"wait 3[56]\d\d s, and run the same command again", error.hint or "")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_token_service_is_asked_again(status: int) -> None:
    """Its tokens live minutes, so that a long transfer asks it dozens of times."""
    busy, asked = iter([True, True]), [0]
    answer = unless_shown("Bearer made-token", BEARER)

    def at_times_busy(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example.com":
            asked[0] += 1
            if next(busy, False):
                return httpx.Response(status, headers={"Retry-After": "20"})
        return answer(request)

    assert ask(at_times_busy, credentials=ADA).body == b"ok"
    busy = itertools.repeat(True)
    asked[0] = 0
    error = refused(at_times_busy, credentials=ADA)
    assert isinstance(error, RegistryBusyError)
    assert asked[0] == QUICK.attempts
    assert f"token service that answered {status}" in str(error)
    assert "run the same command again" in (error.hint or "")
    assert error.retry_after_s == 20.0


STORAGE = "https://storage.example.net/b?sig=hunter2"


def behind(
    answer: Callable[[], httpx.Response], sends_to: str
) -> Callable[[httpx.Request], httpx.Response]:
    """A registry that has its files, or its tokens, elsewhere."""

    def answers(request: httpx.Request) -> httpx.Response:
        if request.url.host in ("storage.example.net", "auth.example.com"):
            return answer()
        if sends_to == "storage":
            return httpx.Response(307, headers={"Location": STORAGE})
        return asks_for(BEARER)

    return answers


@pytest.mark.parametrize(
    ("sends_to", "host"), [("storage", "storage.example.net"), ("tokens", "auth.example.com")]
)
def test_who_does_not_answer_behind_a_registry(sends_to: str, host: str) -> None:
    """The firewall must let that host through: the registry itself did answer."""

    def away() -> httpx.Response:
        raise httpx.ConnectError("[Errno -2] Name or service not known")

    error = refused(behind(away, sends_to))
    assert f"sent us to {host}, which does not answer" in str(error)
    assert f"let {host} through" in (error.hint or "")
    assert "insecure" not in (error.hint or "")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_who_refuses_behind_a_registry_is_shown_no_credentials(status: int) -> None:
    """A filter on the way, say: no password helps, and none is asked for."""
    blocked = httpx.Response(status, text="<html>Blocked by the filter</html>")
    error = refused(behind(lambda: blocked, "storage"))
    assert f"sent us to storage.example.net, which answered {status} to GET /b" in str(error)
    assert "hunter2" not in str(error)
    assert "let storage.example.net through" in (error.hint or "")
    assert "PASSWORD" not in (error.hint or "")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("unable to get local issuer certificate", "export SSL_CERT_FILE="),
        ("self-signed certificate in certificate chain", "export SSL_CERT_FILE="),
        ("certificate has expired", "renewed"),
        ("Hostname mismatch, certificate is not valid for 'box'", "name"),
    ],
)
def test_a_certificate_that_does_not_count_here(said: str, hint: str) -> None:
    """No attempt and no --insecure helps."""
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ConnectError(f"[SSL: CERTIFICATE_VERIFY_FAILED] verify failed: {said} (_ssl.c)")

    error = refused(answer)
    assert said in str(error)
    assert hint in (error.hint or "")
    assert "insecure" not in (error.hint or "")
    assert len(asked) == 1


@pytest.mark.parametrize("said", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad"])
def test_a_proxy_that_refuses(said: str) -> None:
    """It is named, and asked again only where that may help."""
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ProxyError(said)

    error = refused(answer)
    assert f"the proxy says {said}" in str(error)
    is_lasting = not said.startswith("5")
    assert len(asked) == (1 if is_lasting else QUICK.attempts)
    assert ("HTTPS_PROXY" in (error.hint or "")) == is_lasting


def test_plain_http_to_a_registry_that_speaks_https() -> None:
    """Whoever followed a hint to --insecure is told to leave it out."""
    said = httpx.Response(400, text="Client sent an HTTP request to an HTTPS server.\n")
    error = refused(lambda _: said, reference=REMOTE_PLAIN)
    assert "write https://box:5000/team/model:1" in (error.hint or "")


def httpx_errors() -> Iterator[Exception]:
    """One of each exception that httpx raises while it sends."""
    for _, one in inspect.getmembers(httpx, inspect.isclass):
        if issubclass(one, httpx.TransportError):
            yield one("cut")
    yield httpx.TooManyRedirects("round")
    yield httpx.InvalidURL("odd")


@pytest.mark.parametrize("error", list(httpx_errors()), ids=lambda error: type(error).__name__)
def test_no_error_of_httpx_leaves(error: Exception) -> None:
    """Every one becomes an error of ours, and another attempt is made before."""
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise error

    assert isinstance(refused(answer), RegistryBusyError)
    assert len(asked) == QUICK.attempts


def test_a_reply_that_never_ends_is_cut() -> None:
    """No more is read than a manifest may have."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1024**2

    assert "sends more than" in str(refused(lambda _: httpx.Response(200, content=endless())))


def test_a_reply_that_drips_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """However regularly the bytes come, there is an end."""
    clock = iter(range(0, 10**6, 59))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))

    def drip() -> Iterator[bytes]:
        while True:
            yield b"x"

    error = refused(lambda _: httpx.Response(200, content=drip()), limits=Limits(attempts=1))
    assert "stalled" in str(error)


@pytest.mark.parametrize("asked", ["the registry", "its token service"])
@pytest.mark.parametrize("drop", [b"x", b"X-Header: 1\r\n", b"\r\n\r\nHTTP/1.1 102 Working\r\nX: "])
def test_a_header_that_drips_is_stalled(asked: str, drop: bytes) -> None:
    """It has as long as a silence: a byte a minute would else be waited for for days."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    service = f'Bearer realm="http://127.0.0.1:{port}/token"'
    begins = [b"HTTP/1.1 102 Working\r\nX-Header: "]
    if asked == "its token service":
        head = f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {service}\r\n"
        begins.insert(0, f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())

    def drip() -> None:
        with listener:
            for begin in begins:
                with contextlib.suppress(OSError), listener.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(begin)
                    for _ in range(200 if begin is begins[-1] else 0):
                        time.sleep(0.02)
                        connection.sendall(drop)

    thread = threading.Thread(target=drip)
    thread.start()
    begun_s = time.monotonic()
    reference = RegistryReference(f"127.0.0.1:{port}", "team/model", "1", plain=True)
    limits = Limits(silence_s=0.3, attempts=1)
    with (
        RegistrySession(reference, actions="pull", limits=limits) as session,
        pytest.raises(RegistryBusyError, match=r"broke off: .*timed out"),
    ):
        session.send(MANIFEST, wanted=(200,))
    assert time.monotonic() - begun_s < 3
    thread.join()


def test_the_limit_of_a_header_is_none_of_a_body() -> None:
    """What is sent piece by piece may take longer than the header did."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
            for _ in range(6):
                time.sleep(0.1)
                connection.sendall(b"x")

    thread = threading.Thread(target=answer)
    thread.start()
    host, port = listener.getsockname()
    with httpx.Client(trust_env=False) as http:
        bound(http)
        request = http.build_request("GET", f"http://{host}:{port}/x", timeout=0.3)
        with contextlib.closing(await_header(http, request)) as response:
            assert response.read() == b"xxxxxx"
    thread.join()


@pytest.mark.parametrize(
    "body",
    [b"<html>\n<body>Welcome to the proxy</body>", b"{}", b'{"errors":[]}', b'{"errors":[1]}']
    + [b"\xff\xfe", b"[" * 10_000, b"\x1b[2J" + b"x" * 10_000],
)
def test_garbage_is_one_short_line(body: bytes) -> None:
    """Whatever stands in an error page, it neither floods nor steers a terminal."""
    text = str(refused(lambda _: httpx.Response(403, content=body)))
    assert text.startswith("registry registry.example.com answered 403")
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 400


def test_no_secret_in_errors_or_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Not even where the registry sends back what it was shown."""
    caplog.set_level(logging.DEBUG)
    texts = []
    for credentials in (ADA, Credentials(token="t0ken")):

        def echo(request: httpx.Request, known: Credentials = credentials) -> httpx.Response:
            shown = request.headers.get("Authorization")
            if request.url.host == "auth.example.com":
                return token_reply("made-token")
            if shown is None:
                return asks_for(BEARER)
            return refusal(403, "DENIED", f"{shown} {known.secrets}")

        error: OllamaBridgeError = refused(echo, credentials=credentials)
        texts.append(f"{error} {error.hint} {error!r}")
    shown = "\n".join([*texts, caplog.text])
    for secret in ("hunter2", BASIC.removeprefix("Basic "), "made-token", "t0ken"):
        assert secret not in shown
    assert "DENIED" in shown


@pytest.mark.parametrize("form", ["a list of errors", "a text"])
def test_half_a_secret_is_not_shown(form: str) -> None:
    """A message is cut after its secrets are hidden: tokens are longer than messages."""
    token = "t0ken" * 100

    def echo(request: httpx.Request) -> httpx.Response:
        said = f"{'x' * 150} {request.headers.get('Authorization')}"
        if "Authorization" not in request.headers:
            return asks_for(BEARER)
        return refusal(403, "DENIED", said) if form != "a text" else httpx.Response(403, text=said)

    assert "t0ken" not in str(refused(echo, credentials=Credentials(token=token)))
