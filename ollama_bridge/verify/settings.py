"""Holds what a daemon shows of a tag against its Modelfile: SYSTEM, TEMPLATE, stops, sampling."""

from __future__ import annotations

import ast
from collections import defaultdict

from ollama_bridge.client import ModelDetails
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verify.certificate import Check


def check_settings(
    details: ModelDetails, modelfile: Modelfile, reference: ReferenceValues
) -> tuple[Check, ...]:
    """Compare what ``show`` says with what was asked for.

    Args:
        details: The daemon's answer.
        modelfile: What the tag was made of.
        reference: Names the end tokens that must be stops.
    """
    served = read_parameters(details.parameters)
    return (
        _check_texts(details, modelfile, reference),
        _check_capabilities(details, modelfile, reference),
        _check_stops(served, modelfile, reference),
        _check_sampling(served, modelfile),
    )


def read_parameters(text: str) -> dict[str, list[object]]:
    """The parameters that ``show`` prints, a value a line in Go's notation."""
    values: dict[str, list[object]] = defaultdict(list)
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if not name:
            continue
        value = value.strip()
        try:
            # Go's %#v: quoted texts are Python literals too, numbers and booleans nearly.
            values[name].append({"true": True, "false": False}.get(value, ast.literal_eval(value)))
        except (ValueError, SyntaxError):
            values[name].append({"true": True, "false": False}.get(value, value))
    return dict(values)


def _check_texts(details: ModelDetails, modelfile: Modelfile, reference: ReferenceValues) -> Check:
    difference = None
    wanted_system = modelfile.system or ""
    if (details.system or "") != wanted_system:
        difference = "the daemon shows another SYSTEM than was sent"
    elif modelfile.template is not None and details.template != modelfile.template:
        difference = "the daemon shows another TEMPLATE than was sent"
    elif wanted_system != (reference.system or ""):
        difference = (
            f"SYSTEM has {len(wanted_system)} characters, and is not the one of "
            f"{len(reference.system or '')} that the checkpoint's values were made with"
        )
    return Check(
        name="SYSTEM and TEMPLATE",
        layer="template",
        passed=difference is None,
        difference=difference,
    )


def _check_capabilities(
    details: ModelDetails, modelfile: Modelfile, reference: ReferenceValues
) -> Check:
    """Tools and thinking, as the daemon finds them, are those that were proven."""
    expected = reference.template
    difference = None
    if expected is not None and modelfile.template == expected.go:
        served = tuple(name for name in ("tools", "thinking") if name in details.capabilities)
        if served != expected.capabilities:
            difference = (
                f"the daemon offers {', '.join(served) or 'neither tools nor thinking'}, the chat "
                f"template has {', '.join(expected.capabilities) or 'neither'}"
            )
    return Check(
        name="capabilities",
        layer="template",
        passed=difference is None,
        difference=difference,
    )


def _check_stops(
    served: dict[str, list[object]], modelfile: Modelfile, reference: ReferenceValues
) -> Check:
    stops = served.get("stop", [])
    asked = modelfile.parameters.get("stop", ())
    wanted = list(asked) if isinstance(asked, tuple) else []
    difference = None
    for token in reference.end_tokens:
        if token.text not in stops:
            difference = f"no PARAMETER stop for the end token {token.text!r}"
            break
    if difference is None and sorted(map(repr, stops)) != sorted(map(repr, wanted)):
        difference = f"the Modelfile has the stops {wanted}, the daemon {stops}"
    return Check(
        name="stops",
        layer="stop",
        passed=difference is None,
        numbers={"stops": len(stops)},
        difference=difference,
    )


def _check_sampling(served: dict[str, list[object]], modelfile: Modelfile) -> Check:
    difference = None
    wanted = {name: value for name, value in modelfile.parameters.items() if name != "stop"}
    for name, value in sorted(wanted.items()):
        found = served.get(name)
        if found != [value]:
            shown = "nothing" if not found else found[0]
            difference = difference or f"{name} should be {value}, the daemon has {shown}"
    for name in ("temperature", "repeat_penalty", "num_predict"):
        if name not in served:
            difference = difference or f"{name} is left to the daemon's default"
    return Check(
        name="parameters",
        layer="sampling",
        passed=difference is None,
        numbers={"parameters": len(wanted)},
        difference=difference,
    )
