"""From a registry's challenge to the header that answers it: Basic, or Docker's token service."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from ollama_bridge.errors import RegistryError
from ollama_bridge.registry.credentials import Credentials
from ollama_bridge.registry.reference import RegistryReference, is_loopback
from ollama_bridge.registry.replies import origin_of

_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
# Where OLLAMA_BRIDGE_REGISTRY_TOKEN was refused by a registry whose token service makes the tokens.
TOKEN_HINT = (
    "a personal access, deploy or robot token is a password there: unset "
    "OLLAMA_BRIDGE_REGISTRY_TOKEN, export OLLAMA_BRIDGE_REGISTRY_USER=... and "
    "OLLAMA_BRIDGE_REGISTRY_PASSWORD=..., which is the token"
)

# Asks a token service: URL and Authorization header in, status and body out.
AskService = Callable[[str, str], tuple[int, bytes]]


@dataclass(frozen=True)
class Challenge:
    """``basic``, or ``bearer`` with the token service and what that knows the registry as."""

    scheme: str
    realm: str = ""
    service: str = ""


def read_challenge(headers: Sequence[str]) -> Challenge | None:
    """The first challenge that can be answered, of all ``WWW-Authenticate`` headers."""
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        if scheme.lower() in ("basic", "bearer"):
            found = {name.lower(): one or two for name, one, two in _PARAMETER.findall(rest)}
            return Challenge(scheme.lower(), found.get("realm", ""), found.get("service", ""))
    return None


def answer_challenge(
    challenge: Challenge,
    reference: RegistryReference,
    credentials: Credentials,
    *,
    actions: str,
    also_pull: str,
    ask_service: AskService,
) -> str:
    """The Authorization header for further requests.

    The scope is what this command needs, not what the challenge names: a registry could otherwise
    have a token made for another repository, and would be sent it.

    ``also_pull`` is another repository, to be read from; empty: none.

    Raises:
        RegistryError: there is nothing to show, it may not be shown there, or it was refused.
    """
    has_secret = bool(credentials.secrets)
    if has_secret and reference.plain and not reference.loopback:
        raise RegistryError(
            f"{reference.host} asks for credentials, and would get them unencrypted",
            hint=f"use https://{reference.name}",
        )
    if credentials.token:
        return f"Bearer {credentials.token}"
    if challenge.scheme == "basic":
        if not has_secret:
            raise RegistryError(
                f"{reference.host} asks for a user and a password",
                hint=credentials.hint,
                status_code=401,
            )
        return credentials.basic
    _check_realm(challenge.realm, reference, has_secret=has_secret)
    query = [("scope", f"repository:{reference.repository}:{actions}")]
    if also_pull:
        query.append(("scope", f"repository:{also_pull}:pull"))
    if challenge.service:
        query.append(("service", challenge.service))
    joint = "&" if urlsplit(challenge.realm).query else "?"
    status, body = ask_service(f"{challenge.realm}{joint}{urlencode(query)}", credentials.basic)
    token = _read_token(body) if status == 200 else ""
    if not token:
        raise RegistryError(
            f"the token service of {reference.host} "
            + ("gave no token" if status == 200 else f"answered {status}"),
            hint=credentials.hint,
            status_code=status,
        )
    return f"Bearer {token}"


def _check_realm(realm: str, reference: RegistryReference, *, has_secret: bool) -> None:
    try:
        parts = urlsplit(realm)
    except ValueError:
        parts = urlsplit("")
    # A password goes there: encrypted, or not beyond this machine, whose own services a registry
    # elsewhere has no business to name. Whoever shows none may ask as openly as the registry.
    unencrypted = parts.scheme == "http" and not is_loopback(parts.netloc)
    readable = parts.scheme in ("http", "https") and parts.netloc and "@" not in realm
    may_be_asked = reference.loopback or not is_loopback(parts.netloc)
    if not readable or not may_be_asked or (unencrypted and (has_secret or not reference.plain)):
        raise RegistryError(
            f"{reference.host} names a token service that credentials must not be sent to: "
            f"{origin_of(realm)[0] or 'no scheme'}://{origin_of(realm)[1]}",
            hint="whoever runs it must give its token service an https address"
            if readable and unencrypted
            else "do not trust this registry",
        )


def _read_token(body: bytes) -> str:
    try:
        data = json.loads(body)
        token = data.get("token") or data.get("access_token") or ""
    except (ValueError, AttributeError, RecursionError):
        return ""
    plain = isinstance(token, str) and all("!" <= character <= "~" for character in token)
    return token if plain else ""
