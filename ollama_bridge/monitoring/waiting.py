"""How many requests a daemon has not begun to answer, as the kernel of its machine knows it.

Ollama tells nobody how many requests wait. Linux keeps of every connection when data last came in
on it and when some was last sent: where it came later than it was sent, and where none was ever
sent, a request is there and nothing of its answer is.
"""

from __future__ import annotations

import re

from ollama_bridge.system_tools import output_of

_LIMIT_S = 2.0
_NUMBER = re.compile(r"\b(bytes_sent|bytes_received|lastsnd|lastrcv):(\d+)")


def waiting_requests(port: int) -> int | None:
    """Requests of which a daemon of this machine has sent nothing yet; at least so many.

    They may wait for a model to be loaded or for a free slot, have their prompt computed, or be
    answered as a whole. The kernel counts time in steps of some milliseconds: of a request that
    follows an answer on the same connection within one step it cannot be told that it waits.

    Returns:
        None: not known. This is no Linux, ``ss`` (iproute2) is not there, or nothing that it sees
        listens at the port: a tunnel or a container does in its place.
    """
    told = output_of("ss", "-tianHO", f"sport = :{port}", limit_s=_LIMIT_S)
    shown = [] if told is None else told.splitlines()
    if not any(line.startswith("LISTEN") for line in shown):
        return None
    return sum(_is_waiting(line) for line in shown if line.startswith("ESTAB"))


def _is_waiting(connection: str) -> bool:
    """Whether the last thing on a connection was a request; a number that is 0 is not shown."""
    numbers = {name: int(value) for name, value in _NUMBER.findall(connection)}
    if not numbers.get("bytes_received"):
        return False
    # Both are milliseconds ago.
    return not numbers.get("bytes_sent") or numbers.get("lastrcv", 0) < numbers.get("lastsnd", 0)
