"""Which documents are one because of what they have in common.

A disjoint-set forest. Source: Tarjan, "Efficiency of a Good But Not Linear Set Union Algorithm"
(Journal of the ACM, 1975).
"""

from __future__ import annotations


class Documents:
    """Documents by name, at first each for itself."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._places: dict[str, int] = {}
        self._parents: list[int] = []

    def join(self, *names: str) -> None:
        """Make one document of some, and of all that was joined with them before."""
        roots = [self._root(name) for name in names]
        for root in roots:
            self._parents[root] = min(roots)

    def name_of(self, name: str) -> str:
        """The name of all that a document was joined with: the one that was named first."""
        return self._names[self._root(name)]

    def _root(self, name: str) -> int:
        place = self._places.setdefault(name, len(self._names))
        if place == len(self._names):
            self._names.append(name)
            self._parents.append(place)
        while self._parents[place] != place:
            self._parents[place] = self._parents[self._parents[place]]
            place = self._parents[place]
        return place
