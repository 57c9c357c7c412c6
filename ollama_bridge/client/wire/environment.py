"""What httpx reads of the environment, said without what may be secret in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx

from ollama_bridge.errors import ConfigError


@contextlib.contextmanager
def reading_environment() -> Iterator[None]:
    """Make an httpx client that heeds proxies and certificates; httpx reads all of them at once.

    Raises:
        ConfigError: one of them cannot be used.
    """
    try:
        yield
    except (ImportError, OSError) as exc:
        raise _unusable(
            str(exc),
            hint="unset ALL_PROXY   (or HTTPS_PROXY, HTTP_PROXY, SSL_CERT_FILE); "
            "for socks5: pip install 'httpx[socks]'",
        ) from exc
    except (ValueError, httpx.InvalidURL):
        # Not even as the cause: it names a part of the address, which may be half of a password.
        raise _unusable(
            "an address cannot be read (those in NO_PROXY count, too), or does not begin with "
            "http://, https:// or socks5://",
            hint="in a password write / # ? @ : as %2F %23 %3F %40 %3A; leave [::1] and IPv6 "
            "networks out of NO_PROXY; or: unset ALL_PROXY   (or HTTPS_PROXY, HTTP_PROXY)",
        ) from None


def _unusable(reason: str, *, hint: str) -> ConfigError:
    return ConfigError(
        f"the proxy or the certificates set in the environment cannot be used: {reason}",
        hint=hint,
    )
