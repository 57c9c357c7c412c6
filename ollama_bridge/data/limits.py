"""What the limits of a recipe's data leave out, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping

from ollama_bridge.data.candidates import Candidate, Split, Tally
from ollama_bridge.data.own_splits import advice_on_sample
from ollama_bridge.data.splitting import limited
from ollama_bridge.reporting import Note, Reporter

_STAGE = "prepare"


def limit_splits(
    parts: dict[Split, list[Candidate]],
    limits: Mapping[Split, tuple[str, int | None]],
    tally: Tally,
    *,
    seed: int,
    reporter: Reporter,
) -> list[str]:
    """Take from each split what is above its limit; each limit with the key that says it.

    Returns:
        What to warn of.
    """
    warnings = []
    for name, (key, limit) in limits.items():
        count = len(parts[name])
        parts[name], surplus = limited(parts[name], limit, seed=seed)
        for candidate in surplus:
            tally.leave_out(candidate.source, f"over {key}")
        if surplus and name == "test":
            warnings.append(advice_on_sample(len(parts[name]), count, key=key))
        elif surplus:
            what, lift = ("training", "null") if name == "train" else (name, count)
            said = lifted(f"{len(surplus)} of {count}", f"{what} examples", key, lift)
            reporter.emit(Note(_STAGE, "info", said))
    return warnings


def lifted(count: int | str, what: str, key: str, value: int | str) -> str:
    """What a key of the section leaves out, and what to type for all of it."""
    return f"{count} {what} are left out by data.{key}: --set data.{key}={value} keeps them all"
