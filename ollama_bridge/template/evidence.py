"""What renderings of a chat template show of single messages and of what is inside them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from ollama_bridge.template.decisions import Leaf, Sample, Tree, learn
from ollama_bridge.template.format import Fixed
from ollama_bridge.template.observation import Hole, Observation, inexpressible


@dataclass(frozen=True)
class Evidence:
    """All that was seen of a template.

    Attributes:
        seen: A rendered conversation each.
    """

    seen: list[Observation] = field(default_factory=list)

    def parts(self, role: str) -> Fixed:
        """The holes of one call or of one result, and what stands between them."""
        found: set[Fixed] = set()
        for seen in self.seen:
            for number, message in enumerate(seen.conversation.messages):
                if message.role != role:
                    continue
                for call in range(len(message.calls) if role == "assistant" else 1):
                    holes = [
                        hole
                        for hole in seen.of(number)
                        if hole.call == call
                        and (role == "tool" or hole.kind not in ("content", "thinking"))
                    ]
                    texts = [seen.between(one, two) for one, two in itertools.pairwise(holes)]
                    found.add(Fixed(tuple(hole.kind for hole in holes), tuple(texts)))
        if len(found) > 1:
            raise inexpressible(f"it writes the parts of the {role}'s message in more than one way")
        return found.pop() if found else Fixed(("content",), ())

    def shown(self, kind: str) -> Tree[bool]:
        """Where an assistant's content or thinking is written at all."""
        samples: list[Sample[bool]] = []
        for seen in self.seen:
            for number, message in enumerate(seen.conversation.messages):
                said = message.thinking if kind == "thinking" else message.content
                if message.role == "assistant" and said:
                    there = any(hole.kind == kind for hole in seen.of(number))
                    samples.append(Sample(seen.facts(number), there, seen.conversation))
        return learn(samples) if samples else Leaf(False)

    def separator(self) -> str:
        """What stands between two tools."""
        found = {seen.separator for seen in self.seen if seen.separator is not None}
        if len(found) > 1:
            raise inexpressible("it writes more than one text between two tools")
        return found.pop() if found else ""

    def inside(self, before: str, after: str) -> set[str]:
        """Texts between two things in one message; ``call`` stands for all parts of a call."""
        found = set()
        for seen in self.seen:
            for one, two in itertools.pairwise(seen.holes):
                role = seen.conversation.messages[one.message].role
                same = one.message == two.message and role == "assistant"
                apart = before != after or one.call != two.call
                if same and apart and (_part(one), _part(two)) == (before, after):
                    found.add(seen.between(one, two))
        return found


def _part(hole: Hole) -> str:
    return hole.kind if hole.kind in ("content", "thinking") else "call"
