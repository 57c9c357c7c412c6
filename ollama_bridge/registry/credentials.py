"""What a registry is shown to let us in. Read from the environment or a file, never printed."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from ollama_bridge.errors import ConfigError

_REGISTRY = "OLLAMA_BRIDGE_REGISTRY"
_PREFIX = f"{_REGISTRY}_"
_IS_PASSWORD = "(a personal access, deploy or robot token is the password)"
_HINT = f"export {_PREFIX}USER=... and {_PREFIX}PASSWORD=... {_IS_PASSWORD}"
_NO_GOOD = "wrong, expired, or of somebody who may not do this"
_SECRET_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Credentials:
    """A user with a password, or a token; nothing: anonymous. No secret is in the repr.

    Attributes:
        user: Whose password it is.
        password: For Basic, and for a token service.
        token: Of a token service.
        registry: The only one that they are for; empty: the first that asks.
        hint: How to have what there is not, or what may be wrong with what there is.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    registry: str = ""
    hint: str = _HINT

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header; empty without a password."""
        if not self.password:
            return ""
        pair = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in any message."""
        found = (self.password, self.token, self.basic.removeprefix("Basic "))
        return tuple(secret for secret in found if secret)


def read_credentials(host: str) -> Credentials:
    """Read ``OLLAMA_BRIDGE_REGISTRY_USER`` with ``..._PASSWORD``, or ``..._TOKEN``.

    ``..._PASSWORD_FILE`` and ``..._TOKEN_FILE`` name a file that holds the secret instead. Where
    ``OLLAMA_BRIDGE_REGISTRY`` names another registry, there are none for this one.

    Raises:
        ConfigError: half of a pair, both kinds, a file that others may read, or a secret that
            no header can carry.
    """
    registry = os.environ.get(_REGISTRY, "").strip().lower()
    if "/" in registry or not registry.isprintable():
        raise ConfigError(
            f"{_REGISTRY}={registry!r} is not a registry's host",
            hint=f"export {_REGISTRY}={quote(host)}   (with its port where it has one)",
        )
    if registry not in ("", host.lower()):
        hint = f"those in the environment are for {registry} only; to show them to {host}: "
        return Credentials(registry=registry, hint=f"{hint}export {_REGISTRY}={quote(host)}")
    user = os.environ.get(f"{_PREFIX}USER", "").strip()
    password, token = _secret("PASSWORD"), _secret("TOKEN")
    if token and password:
        raise ConfigError(
            f"{_PREFIX}PASSWORD and {_PREFIX}TOKEN are both set",
            hint="unset the one that this registry does not want",
        )
    if bool(user) != bool(password):
        have, lack = ("USER", "PASSWORD") if user else ("PASSWORD", "USER")
        raise ConfigError(
            f"{_PREFIX}{have} is set, {_PREFIX}{lack} is not", hint=f"export {_PREFIX}{lack}=..."
        )
    if ":" in user or not user.isprintable():
        raise ConfigError(f"{_PREFIX}USER holds a colon or a control character")
    hint = _HINT
    if password:
        hint = f"check {_PREFIX}USER and {_PREFIX}PASSWORD {_IS_PASSWORD}: {_NO_GOOD}"
    elif token:
        hint = f"check {_PREFIX}TOKEN: {_NO_GOOD}; or unset it, and {_HINT}"
    return Credentials(user, password, token, registry, hint)


def hide(text: str, secrets: Iterable[str]) -> str:
    """A text from outside, without our secrets: a registry may well send them back."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _secret(name: str) -> str:
    variable = f"{_PREFIX}{name}"
    text, file = os.environ.get(variable, ""), os.environ.get(f"{variable}_FILE", "")
    if text and file:
        raise ConfigError(f"{variable} and {variable}_FILE are both set", hint=f"unset {variable}")
    if file:
        text = _read_private(Path(file).expanduser(), f"{variable}_FILE")
    text = text.strip()
    if not text.isprintable() or (name == "TOKEN" and not text.isascii()):
        raise ConfigError(f"{variable} holds a character that no header can carry")
    return text


def _read_private(path: Path, variable: str) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(
                f"{variable}: other users may read {path}", hint=f"chmod 600 {quote(str(path))}"
            )
        with path.open("rb") as stream:
            return stream.read(_SECRET_LIMIT_BYTES).decode()
    except OSError as exc:
        raise ConfigError(
            f"{variable}: cannot read {path}: {exc.strerror}", hint="check the path"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{variable}: {path} is not text") from exc
