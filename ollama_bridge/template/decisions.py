"""Which facts of a conversation a piece of text depends on, learnt from samples.

Every fact can be asked in Go too, so a learnt decision can be written as ``{{ if }}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from ollama_bridge.template.conversation import Conversation

Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Facts:
    """What is known where a piece of text is written.

    Attributes:
        previous: Role of the message before; empty at the start (a system message does not
            count: it is written where the template wants it).
        system: Whether there is a system prompt.
        tools: Whether there are tools.
        think: The request's ``think``.
        past: Whether the message stands before the last user message.
        last: Whether it is the last user message.
        final: Whether it is the last message.
        thinking: Whether it has thinking.
        content: Whether it has content.
        calls: Whether it has tool calls.
    """

    previous: str
    system: bool
    tools: bool
    think: bool | None
    past: bool = False
    last: bool = False
    final: bool = False
    thinking: bool = False
    content: bool = False
    calls: bool = False


@dataclass(frozen=True)
class Condition:
    """A question about the facts, in Python and in Go."""

    go: str
    holds: Callable[[Facts], bool]
    in_head: bool = False


# In the order in which they are preferred where several would do.
CONDITIONS: tuple[Condition, ...] = (
    Condition("not $previous", lambda facts: not facts.previous),
    Condition("$.System", lambda facts: facts.system, in_head=True),
    Condition("$.Tools", lambda facts: facts.tools, in_head=True),
    Condition("and $.IsThinkSet (not $.Think)", lambda facts: facts.think is False, in_head=True),
    Condition("$.Think", lambda facts: facts.think is True, in_head=True),
    Condition("$thinking", lambda facts: facts.thinking),
    Condition("$calls", lambda facts: facts.calls),
    Condition('eq $previous "tool"', lambda facts: facts.previous == "tool"),
    Condition('eq $previous "assistant"', lambda facts: facts.previous == "assistant"),
    Condition("eq $i $last", lambda facts: facts.last),
    Condition("lt $i $last", lambda facts: facts.past),
    Condition("$final", lambda facts: facts.final),
    Condition(".Content", lambda facts: facts.content),
)
# What can be asked before the first message.
HEAD_CONDITIONS = tuple(condition for condition in CONDITIONS if condition.in_head)


class ConflictError(Exception):
    """Two places with the same facts have different texts.

    Args:
        samples: The two, with where they were seen.
    """

    def __init__(self, samples: tuple[object, object], where: tuple[Conversation, Conversation]):
        super().__init__(f"{samples[0]!r} and {samples[1]!r}")
        self.samples = samples
        self.where = where


@dataclass(frozen=True)
class Sample(Generic[Value]):
    """A value, the facts at its place, and the conversation that it was seen in."""

    facts: Facts
    value: Value
    seen: Conversation


@dataclass(frozen=True)
class Leaf(Generic[Value]):
    """No question is left."""

    value: Value


@dataclass(frozen=True)
class Branch(Generic[Value]):
    """A question, and what follows from its answers."""

    condition: Condition
    yes: Tree[Value]
    no: Tree[Value]


Tree = Leaf[Value] | Branch[Value]


def learn(
    samples: Sequence[Sample[Value]], conditions: Sequence[Condition] = CONDITIONS
) -> Tree[Value]:
    """The smallest decisions, found greedily, that give every sample its value.

    Raises:
        ConflictError: no question tells two samples with different values apart.
    """
    first = samples[0]
    other = next((sample for sample in samples if sample.value != first.value), None)
    if other is None:
        return Leaf(first.value)
    best: tuple[int, Condition, list[Sample[Value]], list[Sample[Value]]] | None = None
    for condition in conditions:
        yes = [sample for sample in samples if condition.holds(sample.facts)]
        no = [sample for sample in samples if not condition.holds(sample.facts)]
        if not yes or not no:
            continue
        left = _kinds(yes) + _kinds(no)
        if best is None or left < best[0]:
            best = (left, condition, yes, no)
    if best is None:
        raise ConflictError((first.value, other.value), (first.seen, other.seen))
    _, condition, yes, no = best
    return Branch(condition, learn(yes, conditions), learn(no, conditions))


def learn_apart(
    first: Sequence[Sample[str]], later: Sequence[Sample[str]]
) -> tuple[Tree[str], Tree[str]]:
    """What stands before the first message, told from what opens a user's, which is not always so.

    Of a conversation that is too long Ollama leaves out messages at its beginning: an answer may
    come first then, and the system prompt must not be part of a turn that is gone.

    Raises:
        ConflictError: the two cannot be told apart.
    """
    openings = learn(later)
    heads, users = [], list(later)
    for sample in first:
        opening = value_at(openings, sample.facts)
        head, found, rest = sample.value.rpartition(opening) if opening.strip() else ("", "", "")
        if not found:
            raise ConflictError((opening, sample.value), (later[0].seen, sample.seen))
        heads.append(replace(sample, value=head))
        users.append(replace(sample, value=found + rest))
    return learn(heads, HEAD_CONDITIONS), learn(users)


def transform(tree: Tree[Value], change: Callable[[Value], Other]) -> Tree[Other]:
    """The same decisions with other values; branches whose answers agree are dropped."""
    if isinstance(tree, Leaf):
        return Leaf(change(tree.value))
    yes, no = transform(tree.yes, change), transform(tree.no, change)
    return yes if yes == no else Branch(tree.condition, yes, no)


def leaves(tree: Tree[Value]) -> Iterator[Value]:
    """All values."""
    if isinstance(tree, Leaf):
        yield tree.value
    else:
        yield from leaves(tree.yes)
        yield from leaves(tree.no)


def questions(tree: Tree[Value]) -> Iterator[Condition]:
    """All conditions."""
    if isinstance(tree, Branch):
        yield tree.condition
        yield from questions(tree.yes)
        yield from questions(tree.no)


def value_at(tree: Tree[Value], facts: Facts) -> Value:
    """The value where these facts hold."""
    while isinstance(tree, Branch):
        tree = tree.yes if tree.condition.holds(facts) else tree.no
    return tree.value


def _kinds(samples: Sequence[Sample[Value]]) -> int:
    distinct: list[Value] = []
    for sample in samples:
        if sample.value not in distinct:
            distinct.append(sample.value)
    return len(distinct) - 1
