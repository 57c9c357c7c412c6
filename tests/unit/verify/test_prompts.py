"""Prompts that a daemon renders, where they have a day in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from fakes.serving import TOP, small_reference

from ollama_bridge.client import Reply, Timings, TokenLogprob, TopLogprob
from ollama_bridge.errors import RenderingHiddenError
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verify.certificate import TOKEN_COUNTS, Check
from ollama_bridge.verify.prompts import check_prompts

FORM, WRITTEN = "%d %b %Y", "20 Nov 2020"


def dated() -> ReferenceValues:
    """One conversation whose chat template writes the day."""
    reference = small_reference()
    plain = reference.conversations[0]
    plain = plain.model_copy(update={"rendered": f"Today is {WRITTEN}.\n{plain.rendered}"})
    return reference.model_copy(update={"dates": {FORM: WRITTEN}, "conversations": (plain,)})


class OfADay:
    """A daemon that renders as the checkpoint does, with the day that it has."""

    def __init__(self, off_days: int, *, end: str = "", hides: bool = False) -> None:
        self.day = date.today() + timedelta(days=off_days)
        self.end = end
        self.hides = hides

    def render(self, tag: str, messages: Sequence[Mapping[str, Any]], **asked: object) -> str:
        """The prompt of its day."""
        if self.hides:
            raise RenderingHiddenError("this daemon does not say how it renders a prompt")
        reference = dated()
        return reference.rendered_on(reference.conversations[0], self.day) + self.end

    def chat(self, tag: str, messages: Sequence[Mapping[str, Any]], **asked: object) -> Reply:
        """Behind another day, other tokens are likely."""
        top = tuple(TopLogprob(score.text or "", score.logprob) for score in reversed(TOP))
        return Reply(
            text="No",
            thinking="",
            done_reason="stop",
            model=tag,
            prompt_tokens=3,
            generated_tokens=1,
            timings=Timings(),
            logprobs=(TokenLogprob("No", -0.1, top=top),),
        )


def check(daemon: OfADay) -> Check:
    """Hold a daemon against the checkpoint."""
    return check_prompts(
        daemon,  # type: ignore[arg-type]
        "t",
        dated(),
        capabilities=(),
        mean_kl_bound=0.001,
    )


@pytest.mark.parametrize(("off_days", "passed"), [(0, True), (-1, True), (1, True), (-2, False)])
def test_a_daemon_may_be_a_day_off(off_days: int, passed: bool) -> None:
    """One in a container has UTC, where it is yesterday until nine o'clock in Tokyo."""
    assert check(OfADay(off_days)).passed == passed


def test_what_else_differs_is_named_on_another_day_too() -> None:
    """Not the day, which is nobody's fault."""
    found = check(OfADay(-1, end="!"))
    assert not found.passed
    end = len(dated().conversations[0].rendered)
    assert f"differs at byte {end}" in str(found.difference)


def test_tokens_behind_another_day_are_not_compared() -> None:
    """A daemon that hides its prompts is held to their length alone."""
    found = check(OfADay(0, hides=True))
    assert found.passed
    assert found.numbers["proof"] == TOKEN_COUNTS
