"""The PARAMETERs of a tag: which ones, with what values, and whether answers have room in them.

What was asked for comes before what the checkpoint says of itself, and that before ours. Knows of
no template; ``rendering`` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ollama_bridge.client.options import DEFAULT_NUM_PREDICT
from ollama_bridge.errors import ConfigError
from ollama_bridge.modelfile import ParameterValue, check_parameters
from ollama_bridge.recipe.config import ModelfileSection
from ollama_bridge.reference import SERVED_CONTEXT, ReferenceValues


def choose_parameters(
    reference: ReferenceValues,
    asked: Mapping[str, object],
    unsaid: Mapping[str, ParameterValue | None] = MappingProxyType({}),
) -> dict[str, ParameterValue]:
    """PARAMETER values: what was asked for, over the checkpoint's own sampling, over ours.

    But by ``unsaid``, nothing that changes an answer is left to the daemon: its defaults differ
    from version to version (``repeat_penalty`` is 1.1 before 0.30, also at temperature 0), and from
    transformers'.

    Args:
        reference: Of the checkpoint.
        asked: PARAMETERs that were asked for.
        unsaid: What is taken in place of the checkpoint's sampling and ours, if anything; None: the
            daemon's own, whatever that is.

    Raises:
        ModelfileError: unknown name or wrong type.
    """
    own, wanted = {} if unsaid else reference.generation, check_parameters(asked)
    ends = (token.text for token in reference.end_tokens)
    num_ctx = wanted.get("num_ctx")
    if not isinstance(num_ctx, int):
        unstretched = reference.unstretched_context or SERVED_CONTEXT
        num_ctx = min(reference.context_length, unstretched, SERVED_CONTEXT)
    chosen: dict[str, object] = {
        "num_predict": _default_limit(num_ctx, thinks=reference.thinks),
        "num_ctx": num_ctx,
        "repeat_penalty": 1.0,
        "temperature": 0.0,  # Hugging Face decodes greedily unless the checkpoint says otherwise
        **unsaid,
    }
    if "max_new_tokens" in own:
        chosen["num_predict"] = _own_limit(int(own["max_new_tokens"]), num_ctx)
    if own.get("repetition_penalty", 1.0) != 1:
        chosen["repeat_penalty"] = own["repetition_penalty"]
        if "repeat_penalty" not in wanted:
            chosen["repeat_last_n"] = num_ctx  # transformers looks at the whole text, Ollama at 64
    if own.get("do_sample"):
        chosen["temperature"] = own.get("temperature", 1.0)
        chosen["top_k"] = own.get("top_k", 50)
        chosen["top_p"] = own.get("top_p", 1.0)
        if "min_p" in own:
            chosen["min_p"] = own["min_p"]
    # Ends are the checkpoint's, whatever else an answer is to stop at.
    stops = wanted.get("stop", ())
    if isinstance(stops, tuple):
        wanted["stop"] = tuple(dict.fromkeys((*ends, *stops)))
    merged = {**chosen, **wanted}
    return check_parameters({name: one for name, one in merged.items() if one is not None})


def name_unsaid(
    made: Mapping[str, ParameterValue], reference: ReferenceValues, asked: Mapping[str, object]
) -> dict[str, ParameterValue]:
    """The part of a tag's PARAMETERs that neither was asked for nor is the checkpoint's own.

    Args:
        made: Of the tag.
        reference: Of the checkpoint.
        asked: PARAMETERs that were asked for.
    """
    said = reference.generation
    own = {
        "num_predict": "max_new_tokens" in said,
        "repeat_penalty": said.get("repetition_penalty") == made.get("repeat_penalty"),
        "temperature": bool(said.get("do_sample"))
        and said.get("temperature", 1.0) == made.get("temperature"),
    }
    names = ("num_ctx", *own)
    return {
        name: made[name]
        for name in names
        if name in made and name not in asked and not own.get(name)
    }


def limits_of(
    settings: ModelfileSection, *, max_new_tokens: int | None = None, thinks: bool = False
) -> dict[str, float]:
    """``num_predict`` and ``num_ctx`` of a tag, as far as its context has room; below 0: infinite.

    Args:
        settings: Of the recipe.
        max_new_tokens: Of the checkpoint's generation config; None: it does not say.
        thinks: Whether its thinking is told from its answers.

    Raises:
        ModelfileError: a parameter is unknown, or of another type.
    """
    asked = {
        name: value
        for name, value in check_parameters(settings.parameters).items()
        if isinstance(value, int)
    }
    num_ctx = asked.get("num_ctx", SERVED_CONTEXT)
    own = _default_limit(num_ctx, thinks=thinks)
    if max_new_tokens is not None:
        own = _own_limit(max_new_tokens, num_ctx)
    limits = {"num_predict": asked.get("num_predict", own), "num_ctx": num_ctx}
    return {name: math.inf if limit < 0 else limit for name, limit in limits.items()}


def _default_limit(num_ctx: int, *, thinks: bool) -> int:
    """Where nobody says one: all of the context for thoughts and answer, which are cut as one."""
    return max(DEFAULT_NUM_PREDICT, num_ctx) if thinks else DEFAULT_NUM_PREDICT


def _own_limit(max_new_tokens: int, num_ctx: int) -> int:
    """A limit of the checkpoint's below ours would cut; one above the context lose the prompt."""
    return max(DEFAULT_NUM_PREDICT, min(max_new_tokens, num_ctx))


def check_labels_fit(
    settings: ModelfileSection, labels: Sequence[str], count_tokens: Callable[[str], int]
) -> None:
    """Make sure that ``num_predict`` lets a classifier say each of its labels, and end.

    Args:
        settings: Of the recipe.
        labels: The answers; none: nothing is checked.
        count_tokens: How many the student writes to say a label: with its end, and an empty
            thought where it has to write one.

    Raises:
        ConfigError: the tag would cut its longest label.
        ModelfileError: a parameter is unknown, or of another type.
    """
    limit = limits_of(settings)["num_predict"]
    if not labels:
        return
    needed, longest = max((count_tokens(label), label) for label in labels)
    if limit < needed:
        raise ConfigError(
            f"modelfile.parameters.num_predict is {limit}, but the label {longest!r} and its end "
            f"are {needed} tokens as the student writes them: the tag would cut its answer",
            hint=f"add --set modelfile.parameters.num_predict={needed}",
        )
