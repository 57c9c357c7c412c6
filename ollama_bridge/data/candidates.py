"""What a source hands over: examples that are clean, but neither deduplicated nor split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ollama_bridge.data.documents import Documents
from ollama_bridge.digests import canonical_json
from ollama_bridge.examples import Example

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Candidate:
    """One example on its way into a corpus.

    Attributes:
        example: The example.
        source: Where it comes from, such as ``movie``; splits are stratified by it.
        text: What duplicates are recognised by.
        is_class: Whether its label is one of a few that every split has to hold.
        instruction: Its own system turn, where that is not the task's; under another one the same
            text is no duplicate.
        split: The one that its file puts it in; None: the seed decides.
    """

    example: Example
    source: str
    text: str
    is_class: bool = True
    instruction: str = ""
    split: Split | None = None

    @property
    def label(self) -> str:
        """The class; empty for free text, also where its right answer is known."""
        return (self.is_class and self.example.label) or ""

    @property
    def answer(self) -> str:
        """What a free text ends on; empty where it waits for an answer, and for a class."""
        return "" if self.example.is_open or self.is_class else self.example.messages[-1].text

    @property
    def told_apart_by(self) -> str | None:
        """What of two that are nearly alike makes them no duplicates: the label, or the calls.

        ``Lamp on in the hall`` and ``... in the attic`` are two tasks, as 12 + 7 and 12 + 8 are.
        """
        calls = [call.to_dict()["function"] for one in self.example.messages for call in one.calls]
        label = self.example.label
        return label if not calls else canonical_json([label, *calls])

    @property
    def stratum(self) -> tuple[str, str]:
        """Splits keep the shares of these."""
        return (self.source, self.label)

    def in_document_of(self, documents: Documents) -> Candidate:
        """The same, in the document that its own was joined with."""
        group = documents.name_of(self.example.group)
        return replace(self, example=replace(self.example, group=group))


@dataclass
class Tally:
    """Counts what was read and what was left out, per source and reason."""

    read: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def count_read(self, source: str) -> None:
        """One row was read."""
        self.read[source] += 1

    def leave_out(self, source: str, reason: str, *, count: int = 1) -> None:
        """Rows are left out of the corpus."""
        if count:
            self.left_out.setdefault(reason, Counter())[source] += count

    def to_dict(self) -> dict[str, Mapping[str, object]]:
        """For the data card."""
        return {
            "read": dict(self.read),
            "left_out": {reason: dict(counts) for reason, counts in sorted(self.left_out.items())},
        }


@dataclass(frozen=True)
class Collected:
    """All that one source gives.

    Attributes:
        candidates: In the source's own order.
        tally: What was read and left out so far.
        notes: Sentences for the user.
        warnings: The same, of what is hardly meant so.
    """

    candidates: tuple[Candidate, ...]
    tally: Tally
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
