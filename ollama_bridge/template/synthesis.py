"""Derives how a chat template writes conversations, by rendering marks and looking around them.

Nothing is known of any format: what stands between two things that were said is split into what
closes the one and what opens the other, and where it differs from place to place, the facts that
it depends on are learnt. What cannot be said so is an error with its reason; whether what was
derived is right, is for ``proof`` to show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from ollama_bridge.errors import TemplateError
from ollama_bridge.template import affixes
from ollama_bridge.template.decisions import (
    CONDITIONS,
    HEAD_CONDITIONS,
    Branch,
    ConflictError,
    Leaf,
    Sample,
    Tree,
    learn,
    learn_apart,
    transform,
    value_at,
)
from ollama_bridge.template.evidence import Evidence
from ollama_bridge.template.format import Calls, Format, Thinking
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.marked_conversations import fill, use_of_system
from ollama_bridge.template.notation import Notation, find_notation
from ollama_bridge.template.observation import MARK, Gap, inexpressible, observe
from ollama_bridge.template.other_tools import describe_tools
from ollama_bridge.template.probing import (
    CALLED_SHAPES,
    PLAIN_SHAPES,
    SAID_AND_CALLED_SHAPES,
    THOUGHT_CALLED_SHAPES,
    THOUGHT_SHAPES,
    find_dropped_tags,
    shows_thinking,
    states_of_think,
    takes_tools,
)
from ollama_bridge.template.trims import find_thought_trim, find_trims

_SHOWN = 60  # characters of a text, around the place where it differs from another
_ANSWERED = ("user", "assistant")
_ESSENTIAL = ("u", "uau")
_ESSENTIAL_CALLS = ("uct", "ucta")


def synthesise(template: ChatTemplate, accept: Callable[[Format], None] = lambda _: None) -> Format:
    """How a chat template writes conversations.

    Args:
        template: The chat template.
        accept: Raises an inexpressible TemplateError where a result will not do; it is then tried
            with less: without tools, without thinking, and without both.

    Raises:
        TemplateError: it does something that no Go template of ours says, with the reason.
    """
    # What is rarest is given up first: a template without tools is worth more than none.
    trials = [(True, True), (False, True)] if takes_tools(template) else [(False, True)]
    if shows_thinking(template):
        trials += [(tools, False) for tools, _ in trials]
    tools_lost = thinking_lost = reason = ""
    for tools, thinking in trials:
        lost = [*([] if tools else [tools_lost]), *([] if thinking else [thinking_lost])]
        try:
            found = _Synthesis(template, tools=tools, thinking=thinking).run()
            found = replace(found, limits=(*filter(None, lost), *found.limits))
            accept(found)
            return found
        except ConflictError as exc:
            reason = _reason_of(exc)
        except TemplateError as exc:
            if not exc.is_inexpressible:
                raise
            reason = exc.message
        except RefusedError as exc:
            reason = f"it refuses a conversation that Ollama may send: {exc}"
        if tools:
            tools_lost = tools_lost or f"tools are not offered: {reason}"
        else:
            thinking_lost = f"thinking is not offered: {reason}"
    raise inexpressible(f"Go cannot express the chat template: {reason}")


def _reason_of(conflict: ConflictError) -> str:
    """Where two places differ, in words; a whole system prompt would say less."""
    if any(isinstance(sample, bool) for sample in conflict.samples):
        return (
            "it writes what an assistant said or thought at some places and leaves it out at "
            "others, which Go cannot tell apart"
        )
    one, other = (MARK.sub(r"{\1}", str(sample)) for sample in conflict.samples)
    at = len(affixes.common_prefix([one, other]))
    begin = max(at - _SHOWN // 2, 0)
    one, other = (
        f"{'...' if begin else ''}{text[begin : begin + _SHOWN]!r}"
        f"{'...' if len(text) > begin + _SHOWN else ''}"
        for text in (one, other)
    )
    return f"it writes {one} and {other} at places that Go cannot tell apart"


class _Synthesis:
    """One attempt, with or without tools and thinking."""

    def __init__(self, template: ChatTemplate, *, tools: bool, thinking: bool) -> None:
        self._template = template
        self._tools = tools
        self._thinking = thinking
        self._notation = Notation()
        self._limits: list[str] = []
        self._evidence = Evidence()
        self._gaps: list[Gap] = []
        self._ends: dict[str, str] = {"": ""}

    def run(self) -> Format:
        self._collect()
        base = self._split_ends()
        head, user = self._user(base)
        opening = self._opening()
        thinking = self._find_thinking(opening)
        calls, said = self._find_calls(opening, thinking)
        trims, odd = find_trims(self._template, self._notation, tools=self._tools)
        self._limits += odd
        return Format(
            head=head,
            user=user,
            user_end=self._ends["user"],
            opening=opening,
            said=said,
            shows_said=self._evidence.shown("content"),
            end=self._ends["assistant"],
            prompt=learn([gap.sample for gap in self._openings("")]),
            trims=trims,
            thinking=thinking,
            tools=self._tools,
            calls=calls,
            result=self._result(),
            result_parts=self._evidence.parts("tool"),
            result_end=self._ends.get("tool", ""),
            notation=self._notation,
            tool_separator=self._evidence.separator(),
            limits=tuple(self._limits),
        )

    def _collect(self) -> None:
        """Render every shape that the template takes, in every state that Ollama can send."""
        template = self._template
        if self._tools:
            self._notation = find_notation(template)
            if self._notation.tool is None:
                raise inexpressible(describe_tools(template))
        use = use_of_system(template)
        systems = (False,) if use == "refused" else (False, True)
        if use == "refused":
            self._limits.append("the chat template refuses a system prompt; the tag leaves it out")
        elif use == "left out":
            self._limits.append("the chat template leaves a system prompt out, and so does the tag")
        capable = self._thinking and shows_thinking(template)
        thinks = states_of_think(template, tools=self._tools, capable=capable)
        shapes = [*PLAIN_SHAPES, *(THOUGHT_SHAPES if capable else ())]
        called = [*SAID_AND_CALLED_SHAPES]
        if self._notation.calls:
            called = [*CALLED_SHAPES, *(THOUGHT_CALLED_SHAPES if capable else ())]
        cases = [
            (shape, tools) for shape in shapes for tools in ((0, 1, 2) if self._tools else (0,))
        ]
        if self._tools:
            cases += [(shape, tools) for shape in called for tools in (1, 2)]
        for shape, tools in cases:
            for system in systems:
                for think in thinks:
                    self._see(shape, system=system, tools=tools, think=think)
        self._gaps = [gap for seen in self._evidence.seen for gap in seen.gaps()]
        if self._notation.calls and not self._evidence.inside("call", "call"):
            self._limits.append("the chat template refuses more than one tool call at once")

    def _see(self, shape: str, *, system: bool, tools: int, think: bool | None) -> None:
        conversation = fill(shape, system=system, tools=tools, think=think)
        try:
            self._evidence.seen.append(observe(self._template, conversation, self._notation))
        except RefusedError:
            if shape in _ESSENTIAL or shape in _ESSENTIAL_CALLS:
                raise

    def _split_ends(self) -> str:
        """What stands behind each kind of message; returns what always opens a user's."""
        into_user = [gap for gap in self._gaps if gap.after == "user"]
        plain = [
            gap.text
            for gap in into_user
            if gap.before == "assistant"
            or (not gap.before and not gap.facts.system and not gap.facts.tools)
        ]
        base = affixes.common_suffix(plain)
        # A system turn of the template's own ends as every turn does: that is no user's opening.
        into_answer = [gap.text for gap in self._gaps if (gap.before, gap.after) == _ANSWERED]
        base = base.removeprefix(affixes.turn_end([base, *into_answer]))
        after = [gap.text.removesuffix(base) for gap in into_user if gap.before == "assistant"]
        self._choose("assistant", [affixes.common_prefix(after)])
        self._choose("user", [*self._end_between_users(base), self._ends["assistant"]])
        user_end, end = self._ends["user"], self._ends["assistant"]
        if self._tools:
            texts = self._behind("tool")
            turned = [affixes.through(texts, user_end), affixes.through(texts, end)]
            self._choose("tool", [user_end, end, *turned, affixes.common_prefix(texts)])
        if self._notation.calls:
            called = self._behind("calls")
            self._choose("calls", [affixes.through(called, end), affixes.common_prefix(called)])
        return base

    def _choose(self, kind: str, candidates: Sequence[str]) -> None:
        texts = self._behind(kind)
        fitting = (end for end in candidates if end and all(text.startswith(end) for text in texts))
        self._ends[kind] = next(fitting, "")

    def _end_between_users(self, base: str) -> list[str]:
        """Ollama never sends two user messages in a row, but the text between them tells."""
        try:
            seen = observe(
                self._template, fill("uu", system=False, tools=0, think=None), self._notation
            )
        except (RefusedError, TemplateError):
            return []
        text = seen.between(seen.holes[0], seen.holes[1])
        return [text.removesuffix(base)] if text.endswith(base) else []

    def _user(self, base: str) -> tuple[Tree[str], Tree[str]]:
        """What stands before the first message, and before each of the user's."""
        samples = [gap.sample for gap in self._openings("user")]
        first = [sample for sample in samples if not sample.facts.previous]
        later = [sample for sample in samples if sample.facts.previous]
        same = all(sample.value == base for sample in later)
        if same and all(sample.value.endswith(base) for sample in first):
            before = [replace(sample, value=sample.value.removesuffix(base)) for sample in first]
            return learn(before, HEAD_CONDITIONS), Leaf(base)
        with contextlib.suppress(ConflictError):
            return learn_apart(first, later)
        return Leaf(""), learn(samples)

    def _opening(self) -> Tree[str]:
        """What opens an answer, whether it is there or to come."""
        answers = self._openings("assistant")
        into = [*answers, *self._openings("")]
        opening = self._common_opening([gap for gap in into if gap.before != "tool"])
        thoughts = [gap.text for gap in answers if (gap.kind, gap.before) == ("thinking", "user")]
        if any(not text[text.find(opening) + len(opening) :].strip() for text in thoughts):
            # Every answer begins with its thinking: the tag belongs to that.
            opening = opening.removesuffix(affixes.last_mark(opening))
        if all(opening in gap.text for gap in into):
            # Results may stand in a turn of their own, which is closed first, and what is said
            # of thinking behind the user's message.
            leads = [
                replace(gap.sample, value=gap.text[: gap.text.find(opening)]) for gap in answers
            ]
            with contextlib.suppress(ConflictError):
                return transform(learn(leads), lambda lead: lead + opening)
        return Leaf(affixes.common_prefix(gap.text for gap in into))

    def _common_opening(self, gaps: Sequence[Gap]) -> str:
        """What all these texts begin with, but for what stands before it in some requests."""
        shared = affixes.common_prefix(gap.text for gap in gaps)
        if shared.strip():
            return shared
        for condition in HEAD_CONDITIONS:
            for wanted in (False, True):
                some = [gap.text for gap in gaps if condition.holds(gap.facts) is wanted]
                opening = affixes.common_prefix(some) if some else ""
                if opening.strip() and all(opening in gap.text for gap in gaps):
                    return opening
        return shared

    def _find_thinking(self, opening: Tree[str]) -> Thinking | None:
        if not self._thinking:
            return None
        shown = self._evidence.shown("thinking")
        if shown == Leaf(False):
            tags = find_dropped_tags(self._template)
            if tags is None:
                return None
            final = next(condition for condition in CONDITIONS if condition.go == "$final")
            return Thinking(*tags, Branch(final, Leaf(True), Leaf(False)), by_field=False)
        before = {
            gap.text.removeprefix(value_at(opening, gap.facts))
            for gap in self._openings("assistant")
            if gap.kind == "thinking"
        }
        behind = self._evidence.inside("thinking", "content")
        if len(before) != 1 or len(behind) != 1:
            raise inexpressible("it writes thinking in more than one way")
        if not all(text.strip() for text in (*before, *behind)):
            raise inexpressible("it writes thinking without tags around it")
        trim, odd = find_thought_trim(self._template, self._evidence.seen)
        self._limits += odd
        return Thinking(before.pop(), behind.pop(), shown, trim=trim)

    def _find_calls(
        self, opening: Tree[str], thinking: Thinking | None
    ) -> tuple[Calls | None, Tree[str]]:
        """How calls are written, and what stands between an opening and what is said."""
        said: list[Sample[str]] = []
        first: list[Sample[str]] = []
        for gap in self._openings("assistant"):
            rest = gap.text.removeprefix(value_at(opening, gap.facts))
            sample = replace(gap.sample, value=rest)
            if gap.kind == "content":
                said.append(sample)
            elif gap.kind != "thinking":
                first.append(sample)
        if not self._notation.calls:
            return None, learn(said)
        if self._evidence.inside("call", "content"):
            raise inexpressible("it writes a call before what was said with it")
        after_said = self._evidence.inside("content", "call")
        after_thought = self._evidence.inside("thinking", "call")
        closing = thinking.closing if thinking is not None else ""
        if not all(text.startswith(closing) for text in after_thought):
            raise inexpressible("it closes thinking in another way before a call")
        before = affixes.common_suffix(
            [
                *(sample.value for sample in first),
                *after_said,
                *(text.removeprefix(closing) for text in after_thought),
            ]
        )
        if any(text != closing + before for text in after_thought):
            raise inexpressible("it opens a call in another way behind thinking")
        spaces = {text.removesuffix(before) for text in after_said}
        if len(spaces) > 1:
            raise inexpressible("it opens a call in more than one way behind what was said")
        said += [replace(sample, value=sample.value.removesuffix(before)) for sample in first]
        return self._write_calls(before, spaces.pop() if spaces else ""), learn(said)

    def _write_calls(self, before: str, space: str) -> Calls:
        between = self._evidence.inside("call", "call")
        if len(between) > 1:
            raise inexpressible("it writes more than one text between two calls")
        tail, parts = self._ends["calls"], self._evidence.parts("assistant")
        if not between:
            return Calls(space, "", before, parts, "", "", tail, many=False)
        both = between.pop()
        opening = affixes.common_suffix([both, before])
        rest = both.removesuffix(opening)
        closing = affixes.common_prefix([rest, tail])
        return Calls(
            space,
            before.removesuffix(opening),
            opening,
            parts,
            closing,
            rest.removeprefix(closing),
            tail.removeprefix(closing),
            many=True,
        )

    def _result(self) -> Tree[str]:
        samples = [gap.sample for gap in self._openings("tool")]
        return learn(samples) if samples else Leaf("")

    def _openings(self, role: str) -> list[Gap]:
        """What stands before messages of a role (none: behind the last), past the ends before."""
        return [
            replace(gap, text=gap.text.removeprefix(self._ends[gap.before]))
            for gap in self._gaps
            if gap.after == role
        ]

    def _behind(self, kind: str) -> list[str]:
        return [gap.text for gap in self._gaps if gap.before == kind]
