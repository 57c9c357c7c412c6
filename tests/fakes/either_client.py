"""Both clients behind one face: what may be awaited was awaited, and a stream is a list."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

KINDS = ("blocking", "asyncio")


@contextmanager
def opened(kind: str, module: Any, host: str, **settings: Any) -> Iterator[Any]:
    """The blocking or the asynchronous client of a module."""
    if kind == "blocking":
        with module.Client(host, **settings) as client:
            yield Asked(client, None)
        return
    with asyncio.Runner() as runner:
        client = module.AsyncClient(host, **settings)
        runner.run(client.__aenter__())
        try:
            yield Asked(client, runner)
        finally:
            runner.run(client.__aexit__(None, None, None))


class Asked:
    """A client, or what is asked through one."""

    def __init__(self, target: Any, runner: asyncio.Runner | None) -> None:
        self._target, self._runner = target, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            method = getattr(self._target, name)
            if self._runner is not None:
                return self._runner.run(_finished(method, args, kwargs))
            found = method(*args, **kwargs)
            return list(found) if isinstance(found, Iterator) else found

        return ask


async def _finished(method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    found = method(*args, **kwargs)
    found = await found if inspect.isawaitable(found) else found
    return [part async for part in found] if isinstance(found, AsyncIterator) else found
