"""Holds what a daemon shows of a tag against its Modelfile: SYSTEM, TEMPLATE, stops, sampling."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from ollama_bridge.client import ModelDetails
from ollama_bridge.modelfile import Modelfile, ParameterValue
from ollama_bridge.reference import REFERENCE_KEY, Answer, ReferenceValues
from ollama_bridge.template.words import cuts_thoughts, names_thinking, names_tools
from ollama_bridge.verify.certificate import (
    GIVEN_UP,
    LEFT_TO_DAEMON,
    MESSAGES,
    OFFERED,
    PARAMETERS,
    Check,
)
from ollama_bridge.verify.vocabulary import carried_ends, runner_ends

# What changes an answer, or keeps it from ending, and has another default in another version.
_ALWAYS_WRITTEN = ("temperature", "repeat_penalty", "num_predict")
# What else changes an answer, by the value that changes nothing.
_PENALTIES = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_DRAWING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # of no effect at temperature 0
_GO_BOOLEANS = {"true": True, "false": False}
_REACH = "repeat_last_n"  # of a penalty: the whole text in transformers, 64 tokens in Ollama


def check_settings(
    details: ModelDetails,
    modelfile: Modelfile,
    reference: ReferenceValues,
    metadata: Mapping[str, Any],
) -> tuple[Check, ...]:
    """Compare what ``show`` says with what was asked for.

    A tag whose file carries reference values was made with a Modelfile that leaves nothing to the
    daemon, so a parameter that is missing was lost, and fails. Whoever makes a tag by a bare
    ``FROM`` decided nothing, and the weights, prompts and ends may be the checkpoint's all the
    same: the runner ends at what the file names, and what is left to the daemon's defaults is a
    finding that the verdict names, not a difference to the checkpoint.

    Args:
        details: The daemon's answer.
        modelfile: What the tag was made of.
        reference: Names the end tokens.
        metadata: The GGUF's metadata.
    """
    served = read_parameters(details.parameters)
    ours = REFERENCE_KEY in metadata
    # A tag of ours was made with a stop for each end of the values that its file carries; values
    # that are computed anew may have more.
    unstopped = runner_ends(reference, metadata) - (carried_ends(metadata) or frozenset())
    return (
        _check_texts(details, modelfile, reference),
        _check_capabilities(details, modelfile, reference, ours=ours),
        _check_stops(served, modelfile, reference, unstopped),
        _check_sampling(served, modelfile, reference, may_be_left=not ours),
    )


def check_messages(details: ModelDetails) -> tuple[Check, ...]:
    """A failed check of a tag that has MESSAGEs; no check where it has none, as most tags.

    The daemon puts them in front of every chat, so that no prompt is the checkpoint's, whatever the
    TEMPLATE is.
    """
    messages = details.raw.get("messages") or ()
    if not messages:
        return ()
    difference = (
        f"the tag has {len(messages)} MESSAGE{'s' if len(messages) > 1 else ''} of its own, with "
        "which every prompt begins"
    )
    return (Check.of(MESSAGES, "template", difference, {"messages": len(messages)}),)


def read_parameters(text: str) -> dict[str, list[object]]:
    """The parameters that ``show`` prints, a value a line in Go's notation."""
    values: dict[str, list[object]] = defaultdict(list)
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if not name:
            continue
        values[name].append(_read_go(value.strip()))
    return dict(values)


def _read_go(text: str) -> object:
    """A value in Go's ``%#v``: but for booleans, literals are those of Python; else the text."""
    if text in _GO_BOOLEANS:
        return _GO_BOOLEANS[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def text_before_stop(text: str, stops: Iterable[object]) -> str:
    """What a tag with these stops says of an answer."""
    found = [text.index(stop) for stop in stops if isinstance(stop, str) and stop in text]
    return text[: min(found, default=len(text))]


def describe_sampling(
    parameters: Mapping[str, ParameterValue],
    own: Mapping[str, ParameterValue],
    reference: ReferenceValues,
) -> str:
    """What a tag sets otherwise than its checkpoint, as whoever made it may have wanted.

    Args:
        parameters: Of the tag.
        own: What they are where nobody asks for anything: the checkpoint's own sampling.
        reference: Has the checkpoint's answers.

    Returns:
        Names and values; empty where there is nothing to say.
    """
    drawing = _DRAWING if parameters.get("temperature") != 0 else {}
    said = []
    for name, neutral in {"temperature": None, **drawing, **_PENALTIES}.items():
        value = parameters.get(name)
        if value not in (None, own.get(name, neutral)):
            known = f" (checkpoint: {own[name]:g})" if name in own else ""
            said.append(f"{name} {value:g}{known}")
    limit = parameters.get("num_predict")
    needed = max((one.tokens + one.ends for one in reference.answers if one.greedy), default=0)
    if isinstance(limit, int) and 0 <= limit < needed:
        said.append(f"num_predict {limit} (an answer of the checkpoint: {needed})")
    context = parameters.get("num_ctx")
    longest = max(len(one.token_ids) for one in reference.conversations)
    if isinstance(context, int) and context < longest:
        said.append(f"num_ctx {context} (a prompt of the checkpoint: {longest})")
    stops = parameters.get("stop")
    cutting = [stop for stop, _ in _cuts(stops if isinstance(stops, tuple) else (), reference)]
    said += [f"stop {stop!r} (in a text of the checkpoint)" for stop in dict.fromkeys(cutting)]
    return ", ".join(said)


def _check_texts(details: ModelDetails, modelfile: Modelfile, reference: ReferenceValues) -> Check:
    difference = None
    wanted_system = modelfile.system or ""
    if (details.system or "") != wanted_system:
        difference = "the daemon shows another SYSTEM than was sent"
    elif modelfile.template is not None and details.template != modelfile.template:
        difference = "the daemon shows another TEMPLATE than was sent"
    elif wanted_system != (reference.system or "") and not _is_left_to_template(
        modelfile, reference
    ):
        difference = (
            f"SYSTEM ({len(wanted_system)} characters) is not the one "
            f"({len(reference.system or '')} characters) that the checkpoint's values were made "
            "with"
        )
    return Check.of("SYSTEM and TEMPLATE", "template", difference)


def _is_left_to_template(modelfile: Modelfile, reference: ReferenceValues) -> bool:
    """Whether the default of the chat template is missing, which its own rendering puts in."""
    return not modelfile.system and reference.system == reference.default_system


def _check_capabilities(
    details: ModelDetails, modelfile: Modelfile, reference: ReferenceValues, *, ours: bool
) -> Check:
    """Tools and thinking, as the daemon finds them, are those that were proven.

    What the checkpoint can do has to be there, whoever wrote the TEMPLATE: without it no probe of
    it could be asked. A recipe may name a TEMPLATE that gives it up; then the verdict says so.
    What a TEMPLATE of others offers beyond the checkpoint is their business, and said too.
    """
    expected = reference.template
    difference = None
    numbers: dict[str, float | int | str] = {}
    if expected is not None:
        served = tuple(name for name in ("tools", "thinking") if name in details.capabilities)
        lost = [name for name in expected.capabilities if name not in served]
        proven = modelfile.template == expected.go
        more = set(served) - set(expected.capabilities)
        if expected.authority == "jinja":
            more -= _named_in(details.template or "")
        if (proven and (lost or more)) or (lost and not ours):
            difference = (
                f"the daemon offers {', '.join(served) or 'neither tools nor thinking'}, the chat "
                f"template has {', '.join(expected.capabilities) or 'neither'}"
            )
        elif lost:
            numbers[GIVEN_UP] = " and ".join(lost)
        if difference is None and more:
            numbers[OFFERED] = " and ".join(sorted(more))
    return Check.of("capabilities", "template", difference, numbers)


def _named_in(source: str) -> set[str]:
    """What a daemon lists for words in the Jinja that it renders itself: those are limits."""
    thinks = names_thinking(source) or cuts_thoughts(source)
    return {*(("tools",) if names_tools(source) else ()), *(("thinking",) if thinks else ())}


def _check_stops(
    served: dict[str, list[object]],
    modelfile: Modelfile,
    reference: ReferenceValues,
    unstopped: frozenset[int],
) -> Check:
    stops = served.get("stop", [])
    asked = modelfile.parameters.get("stop", ())
    wanted = list(asked) if isinstance(asked, tuple) else []
    difference = None
    for token in reference.end_tokens:
        if token.text not in stops and token.id not in unstopped:
            difference = f"no PARAMETER stop for the end token {token.text!r}"
            break
    if difference is None and sorted(map(repr, stops)) != sorted(map(repr, wanted)):
        difference = f"the Modelfile has the stops {wanted}, the daemon {stops}"
    difference = difference or _first_cut(stops, reference)
    return Check.of("stops", "stop", difference, {"stops": len(stops)})


def _first_cut(stops: Iterable[object], reference: ReferenceValues) -> str | None:
    """An answer of the checkpoint, as far as it is certain of it, that the tag does not finish.

    A model without a chat template continues texts, and where one is finished nobody knows.
    """
    if not reference.has_chat_template:
        return None
    for stop, answer in _cuts(stops, reference):
        return f"the stop {stop!r} cuts the checkpoint's {answer.name!r}"
    return None


def _cuts(stops: Iterable[object], reference: ReferenceValues) -> Iterator[tuple[str, Answer]]:
    """Stops, and the checkpoint's answers that they cut where it is certain of them.

    What ends turns is a stop by right, whether it is a token or plain text. So is what cuts behind
    an answer only, where a checkpoint whose turns end in plain text goes on with the next one.
    """
    ends = {reference.turn_end, *(token.text for token in reference.end_tokens)}
    marks = _turn_marks(reference)
    for stop in [stop for stop in stops if isinstance(stop, str) and stop not in ends]:
        for answer in reference.answers:
            said = text_before_stop(answer.text, marks).rstrip()
            if answer.greedy and 0 <= answer.certain_text.find(stop) < len(said):
                yield stop, answer


def _turn_marks(reference: ReferenceValues) -> set[str]:
    """What the chat template writes in front of a turn, behind the end of the one before."""
    marks = set()
    for conversation in reference.conversations:
        for before, after in pairwise(turn.content for turn in conversation.turns):
            if not before or not after:
                continue  # calls of tools
            between, found, _ = conversation.rendered.partition(before)[2].partition(after)
            if found:
                marks.add(between.strip().removeprefix(reference.turn_end or "").strip())
    return marks - {""}


def _check_sampling(
    served: dict[str, list[object]],
    modelfile: Modelfile,
    reference: ReferenceValues,
    *,
    may_be_left: bool,
) -> Check:
    difference = None
    wanted = {name: value for name, value in modelfile.parameters.items() if name != "stop"}
    for name, value in sorted(wanted.items()):
        found = served.get(name)
        if found != [value]:
            shown = "nothing" if not found else found[0]
            difference = difference or f"{name} should be {value}, the daemon has {shown}"
    missing = [name for name in _ALWAYS_WRITTEN if name not in served]
    if missing and not may_be_left:
        difference = difference or f"{missing[0]} is left to the daemon's default"
    left = missing if may_be_left else []
    # Tags of ours once left this one out too: no other model, but other answers.
    penalty = reference.generation.get("repetition_penalty", 1.0)
    if penalty != 1 and served.get("repeat_penalty") == [penalty] and not served.get(_REACH):
        left = [*left, _REACH]
    numbers: dict[str, float | int | str] = {"parameters": len(wanted)}
    if left:
        numbers[LEFT_TO_DAEMON] = ", ".join(left)
    return Check.of(PARAMETERS, "sampling", difference, numbers)
