"""The data card of a corpus: where its texts come from, what was left out, and by which rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ollama_bridge.data.candidates import SPLITS, Candidate, Split, Tally
from ollama_bridge.data.duplicates import NEAR_THRESHOLD
from ollama_bridge.data.splitting import Sizes
from ollama_bridge.recipe.config import DataSection


def make_card(
    parts: Mapping[Split, Sequence[Candidate]],
    data: DataSection,
    tally: Tally,
    *,
    seed: int,
    requested: Sizes,
    held_out: Sizes,
    notes: Sequence[str],
) -> dict[str, object]:
    """The card, as JSON.

    Args:
        parts: The splits as they are trained on and scored.
        tally: What was read and left out.
        requested: How much was to be held out.
        held_out: How much is.
        notes: What the user was told.
    """
    return {
        "source": data.source,
        "seed": seed,
        **tally.to_dict(),
        "splits": {name: _describe(parts[name]) for name in SPLITS},
        "rules": {
            "near_duplicate": f"Jaccard of character 4-grams >= {NEAR_THRESHOLD}"
            if data.near_duplicates == "leave_out"
            else data.near_duplicates,
            "max_chars": data.max_chars,
            "requested": {"test": requested.test, "validation": requested.validation},
            "held_out": {"test": held_out.test, "validation": held_out.validation},
            "max_examples": data.max_examples,
        },
        "notes": list(notes),
    }


def _describe(candidates: Sequence[Candidate]) -> dict[str, object]:
    examples = [candidate.example for candidate in candidates]
    calls = Counter(
        call.name for one in examples for message in one.messages for call in message.calls
    )
    return {
        "examples": len(candidates),
        "documents": len({candidate.example.group for candidate in candidates}),
        "labels": dict(sorted(Counter(c.label for c in candidates if c.label).items())),
        "sources": dict(sorted(Counter(candidate.source for candidate in candidates).items())),
        "characters": sum(len(candidate.text) for candidate in candidates),
        **({"with_tools": count} if (count := sum(bool(one.tools) for one in examples)) else {}),
        **({"calls": dict(sorted(calls.items()))} if calls else {}),
    }
