"""Where the daemon is, read as Ollama itself reads ``OLLAMA_HOST``."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ollama_bridge.errors import ConfigError

DEFAULT_PORT = 11434
_LONGEST_LABEL = 63  # of a name in DNS; the system's look-up has no error of its own for it
_SCHEME_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """A daemon's base URL, and the key to show there.

    The key is never part of the repr.
    """

    url: str
    loopback: bool
    api_key: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


def read_address(
    host: str | None = None, *, api_key: str | None = None, key_variable: str = "OLLAMA_API_KEY"
) -> Address:
    """Read an address such as ``127.0.0.1``, ``box:1234`` or ``https://box/ollama``.

    Args:
        host: None: ``OLLAMA_HOST``, else the default port on this machine.
        api_key: None: what ``key_variable`` holds.
        key_variable: The environment's, so that a key goes where it belongs only.

    Raises:
        ConfigError: unreadable, or a key would be sent unencrypted to another machine.
    """
    text = (host or os.environ.get("OLLAMA_HOST") or "").strip().strip("\"'").strip()
    scheme, separator, rest = text.rpartition("://")
    scheme = scheme.lower() if separator else "http"
    if scheme not in _SCHEME_PORTS:
        raise _unreadable(text, f"scheme {scheme!r} is not http or https")
    try:
        ipaddress.IPv6Address(rest)
    except ValueError:
        pass
    else:
        rest = f"[{rest}]"  # an IPv6 address without brackets has no port
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port or (_SCHEME_PORTS[scheme] if separator else DEFAULT_PORT)
    except ValueError as exc:
        raise _unreadable(text, str(exc)) from exc
    name = parts.hostname or "127.0.0.1"
    if "@" in parts.netloc or parts.query or parts.fragment or not _is_plain(name + parts.path):
        # The text may hold a password, so it is not repeated.
        raise _unreadable(name, "only a scheme, a host, a port and a path are allowed")
    if not all(0 < len(label) <= _LONGEST_LABEL for label in name.removesuffix(".").split(".")):
        raise _unreadable(name, "a part of the host name between dots is empty or too long")
    # A daemon that listens on all interfaces is asked on this machine's own.
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    loopback = _is_loopback(name)
    key = _read_key(api_key, key_variable)
    if key and scheme == "http" and not loopback:
        raise ConfigError(
            f"the API key would be sent unencrypted to {name}",
            hint=f"use https://{name}, or unset {key_variable}",
        )
    shown = f"[{name}]" if ":" in name else name
    return Address(f"{scheme}://{shown}:{port}{parts.path.rstrip('/')}", loopback, key)


def _read_key(api_key: str | None, variable: str) -> str | None:
    key = (api_key or os.environ.get(variable) or "").strip()
    if not _is_plain(key):
        raise ConfigError(
            "the API key has blanks or characters that a header cannot carry",
            hint=f"set {variable} to the key alone",
        )
    return key or None


def _is_plain(text: str) -> bool:
    return all("!" <= character <= "~" for character in text)


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _unreadable(text: str, reason: str) -> ConfigError:
    return ConfigError(
        f"daemon address {text!r}: {reason}",
        hint="write OLLAMA_HOST as host, host:port or http://host:port",
    )
