"""What httpx reads of the environment, said without what may be secret in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import httpx

from ollama_bridge.client.wire.address import Address
from ollama_bridge.errors import ConfigError


@contextlib.contextmanager
def reading_environment() -> Iterator[None]:
    """Make an httpx client that heeds proxies and certificates; httpx reads all of them at once.

    Raises:
        ConfigError: one of them cannot be used.
    """
    try:
        yield
    except ImportError as exc:
        raise _unusable(
            str(exc),
            hint="unset ALL_PROXY   (or HTTPS_PROXY, HTTP_PROXY); for socks5: "
            "pip install 'httpx[socks]'",
        ) from exc
    except OSError as exc:
        name = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        raise ConfigError(
            f"the certificates of {name}={os.environ.get(name, '')} cannot be used: {exc}",
            hint="export SSL_CERT_FILE=/path/to/ca.pem   (or unset it)",
        ) from exc
    except (ValueError, httpx.InvalidURL):
        # Not even as the cause: it names a part of the address, which may be half of a password.
        raise _unusable(
            "an address cannot be read (those in NO_PROXY count, too), or does not begin with "
            "http://, https:// or socks5://",
            hint="in a password write / # ? @ : as %2F %23 %3F %40 %3A; leave [::1] and IPv6 "
            "networks out of NO_PROXY; or: unset ALL_PROXY   (or HTTPS_PROXY, HTTP_PROXY)",
        ) from None


def proxy_variable(address: Address) -> str | None:
    """The variable that names the proxy before a daemon, as httpx reads it; None: there is none.

    The proxy's own address may hold a password.
    """
    parts = urlsplit(address.url)
    proxies = getproxies_environment()
    named = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    if named is None or address.loopback or proxy_bypass(parts.netloc):
        return None
    return f"{named.upper()}_PROXY"


def _unusable(reason: str, *, hint: str) -> ConfigError:
    return ConfigError(f"the proxy set in the environment cannot be used: {reason}", hint=hint)
