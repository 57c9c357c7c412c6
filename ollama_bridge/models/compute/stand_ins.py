"""Modules that are computed by another function for a while."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def computed_by(forward: Callable[..., Any], modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block ``forward(module, ...)`` is what calling one of the modules gives.

    Args:
        forward: Takes the module, then what the module takes.
        modules: Whose class has a ``forward`` of its own, which is found again behind the block.
    """
    replaced = list(modules)
    for module in replaced:
        module.forward = functools.partial(forward, module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward
