"""The tree of errors is drawn as it is."""

from __future__ import annotations

import re

from ollama_bridge import errors
from ollama_bridge.errors import OllamaBridgeError


def subclasses_of(kind: type[Exception]) -> set[type[Exception]]:
    """A class and all that derive from it in the package of errors."""
    own = [one for one in kind.__subclasses__() if one.__module__.startswith(errors.__name__)]
    return {kind}.union(*map(subclasses_of, own))


def drawn_tree(text: str) -> dict[str, str]:
    """The parent of every error in a drawing of the tree; the root has none."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines():
        match = re.match(r" {4}([├└│─ ]*)([A-Z]\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            if depth:
                parents[match[2]] = above[depth - 1]
    return parents


def test_every_error_is_drawn_below_the_one_it_derives_from() -> None:
    """Who reads the top of the package knows what to catch."""
    found = {
        kind.__name__: kind.__mro__[1].__name__
        for kind in subclasses_of(OllamaBridgeError) - {OllamaBridgeError}
    }
    assert drawn_tree(errors.__doc__ or "") == found


def test_every_error_is_exported() -> None:
    """By the package: in which of its modules one stands is nobody's business."""
    names = {kind.__name__ for kind in subclasses_of(OllamaBridgeError)}
    assert names <= set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)


def test_codes_in_the_drawing_are_those_of_the_errors() -> None:
    """``exit N`` stands at every branch, and holds for all below it."""
    drawn = re.findall(r"(\w+Error) .* exit (\d)$", errors.__doc__ or "", flags=re.MULTILINE)
    assert {name for name, _ in drawn} >= {
        kind.__name__ for kind in OllamaBridgeError.__subclasses__() if "errors" in kind.__module__
    }
    for name, code in drawn:
        assert {kind.exit_code for kind in subclasses_of(getattr(errors, name))} == {int(code)}
