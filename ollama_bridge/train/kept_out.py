"""Packages that another one would import, and that are not to be."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def kept_out(package: str) -> Iterator[None]:
    """Inside the block it cannot be imported; what was imported before is there again behind."""
    before = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before
