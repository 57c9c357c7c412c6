"""Reasoning traces: which are learnt, and in what form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.teacher.traces import judge, shorten, with_thinking


@pytest.mark.parametrize(
    ("answer", "thinking", "cut", "mode", "label", "verdict"),
    [
        ("positive", "I see.", False, "keep", "positive", "kept"),
        ("positive", "", False, "strip", None, "kept"),
        ("positive", "Wait, no. " * 9, False, "strip", "positive", "kept"),
        ("positive", "Wait, no. " * 9, False, "keep", "positive", "looping thinking"),
        ("positive", "", False, "shorten", "positive", "without thinking"),
        ("negative", "I see.", False, "keep", "positive", "wrong answer"),
        ("negative", "I see.", False, "keep", None, "kept"),
        ("", "I was about to", True, "keep", "positive", "cut at the limit"),
        ("", "I see.", False, "keep", "positive", "empty"),
        ("so " * 9, "I see.", False, "keep", None, "looping"),
        ("I see.\n</think>\n\nten", "", False, "strip", None, "tags of thinking in the answer"),
        ("so <think>ten", "I see.", False, "keep", None, "tags of thinking in the answer"),
    ],
)
def test_what_should_not_be_learnt_is_named(
    answer: str, thinking: str, cut: bool, mode: str, label: str | None, verdict: str
) -> None:
    """Truncated, looping and wrong ones; thinking counts only where it is learnt."""
    assert judge(answer, thinking, cut=cut, mode=mode, label=label) == verdict


def test_the_student_learns_what_the_mode_says() -> None:
    """The answer alone, or with the tags around its thinking."""
    trace = "First one.\nThen two, at some length. Then three! So four."
    assert with_thinking("4", trace, mode="strip", max_words=9) == "4"
    assert with_thinking("4", trace, mode="keep", max_words=1) == f"<think>\n{trace}\n</think>\n\n4"
    assert (
        with_thinking("4", trace, mode="shorten", max_words=6)
        == "<think>\nFirst one.\nThen three! So four.\n</think>\n\n4"
    )
    assert with_thinking("4", "", mode="keep", max_words=9) == "4"


def test_one_long_sentence_stays() -> None:
    """The conclusion is always there."""
    assert shorten("a b c d e f g", max_words=3) == "a b c d e f g"
    assert shorten("Plan it. a b c d e f g", max_words=3) == "a b c d e f g"
    assert shorten("短い。もう一つ。 最後。", max_words=1) == "最後。"


@given(st.text(alphabet="ab .!\n", max_size=60), st.integers(1, 20))
def test_a_short_trace_is_made_of_the_long_one(trace: str, max_words: int) -> None:
    """Never longer, within the limit but for a last sentence, its ends those of the trace."""
    short = shorten(trace, max_words=max_words)
    whole = trace.strip()
    assert len(short) <= len(whole)
    if len(whole.split()) <= max_words:
        assert short == whole
    if whole:
        assert short
        assert whole.endswith(short.split()[-1])
    words = iter(whole.split())
    assert all(word in words for word in short.split())
