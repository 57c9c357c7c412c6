"""What a failed exchange means: who is to blame of all that were spoken to, and the way out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

AGAIN = "run the same command again; it resumes where it stopped"
_OPEN = "let {host} through (firewall, proxy), and run the same command again"
_SMALLER = "let the proxy in front of it accept 1 MiB per request: client_max_body_size 2m (nginx)"
_PROXY = (
    "proxies are set by HTTPS_PROXY, with http://USER:PASSWORD@HOST:PORT where one asks who you "
    "are; hosts that need none by NO_PROXY"
)
# (what OpenSSL says of a certificate, the way out); the first is all others, too.
_CERTIFICATES = (
    ("issuer|self.signed", "export SSL_CERT_FILE=/path/to/ca.pem, of whoever signed for it"),
    ("expired|not yet valid", "its certificate must be renewed, or the clock here is wrong"),
    ("mismatch|not valid for", "use the name that its certificate is for"),
)


@dataclass(frozen=True)
class Failure:
    """One failed exchange, in words.

    Attributes:
        what: Goes on after the registry's name.
        hint: The way out; None where none is known.
        lasting: Another attempt would fail in the same way.
    """

    what: str
    hint: str | None
    lasting: bool = False


def explain_error(error: Exception, reason: str, *, elsewhere: str) -> Failure:
    """What it means that no reply came.

    ``elsewhere`` is the host that was spoken to; empty: the registry itself.
    """
    if isinstance(error, httpx.ProxyError):
        refused = re.match(r"40[37]\b", reason) is not None
        what = f"{_sent_to(elsewhere)}cannot be reached: the proxy says {reason}"
        return Failure(what, _PROXY if refused else AGAIN, lasting=refused)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        fitting = (way for said, way in _CERTIFICATES if re.search(said, reason))
        what = f"{_sent_to(elsewhere)}shows a certificate that does not count here: {reason}"
        return Failure(what, next(fitting, _CERTIFICATES[0][1]), lasting=True)
    if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Failure(f"{_sent_to(elsewhere)}broke off: {reason}", AGAIN)
    hint = "check the address and that it runs; plain http needs --insecure"
    what = f"{_sent_to(elsewhere)}does not answer: {reason}"
    return Failure(what, _OPEN.format(host=elsewhere) if elsewhere else hint)


def explain_status(
    status: int, what: str, *, elsewhere: str, name: str, plain: bool, access_hint: str
) -> Failure:
    """What a status means that nobody wanted.

    ``elsewhere`` is the host that was spoken to; empty: the registry itself.
    """
    hint = None
    if status == 413:
        hint = _SMALLER
    elif status == 407:
        hint = _PROXY
    elif elsewhere:
        # Never credentials, which are not shown there.
        hint = _OPEN.format(host=elsewhere)
    elif status == 404:
        hint = f"check registry, name and tag; private models need credentials: {access_hint}"
    elif status in (401, 403):
        hint = access_hint
    elif status == 400 and plain and re.search("https (server|port)", what, re.IGNORECASE):
        hint = f"write https://{name}, and leave --insecure out"
    return Failure(f"{_sent_to(elsewhere)}{what}", hint)


def _sent_to(elsewhere: str) -> str:
    return f"sent us to {elsewhere}, which " if elsewhere else ""
