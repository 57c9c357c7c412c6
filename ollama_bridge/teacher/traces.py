"""Reasoning traces: which answers of a teacher that thinks are fit to be learnt, and in what form.

Pure functions on text. A trace is what a model wrote between ``<think>`` and ``</think>`` before
its answer. A truncated trace never came to an end, a looping one teaches to go round in circles,
and one whose answer is wrong teaches wrong reasons: none of them is kept. Filtering by the label is
rejection sampling as in Zelikman et al., "STaR: Bootstrapping Reasoning With Reasoning" (NeurIPS
2022).
"""

from __future__ import annotations

import re
from typing import Literal

from ollama_bridge.answer_text import says, with_thought
from ollama_bridge.client.answers.thinking import THINKING_CLOSE, THINKING_OPEN
from ollama_bridge.repetition import is_looping

ThinkingMode = Literal["strip", "keep", "shorten"]

KEPT = "kept"
CUT, EMPTY, LOOPING = "cut at the limit", "empty", "looping"
NOT_OFFERED = "calls of tools that are not offered"
THINKING_WITHIN = "tags of thinking in the answer"
THINKING_LOOPS, THINKING_MISSING, WRONG = "looping thinking", "without thinking", "wrong answer"

# A sentence or a line, with what separates it from the next.
_SENTENCE = re.compile(r"[^\n]+?(?:[.!?。！？]+(?=\s|$)|(?=\n)|$)\s*")


def judge(
    answer: str,
    thinking: str,
    *,
    cut: bool,
    mode: ThinkingMode,
    label: str | None,
    in_its_case: bool = False,
) -> str:
    """Whether an answer should be learnt: :data:`KEPT`, or why not.

    Args:
        answer: Without the thinking, stripped.
        thinking: What came before it; empty for models that do not think.
        cut: It ended at the limit of tokens, in the thinking or behind it.
        mode: What becomes of the thinking; where it is thrown away it is not looked at.
        label: The right answer; None: not known.
        in_its_case: Another label differs from it in case alone.
    """
    if cut:
        return CUT
    if not answer:
        return EMPTY
    if THINKING_OPEN in answer or THINKING_CLOSE in answer:
        return THINKING_WITHIN  # whatever the mode: what of it is thought cannot be told
    if is_looping(answer):
        return LOOPING
    if mode != "strip" and not thinking:
        return THINKING_MISSING
    if mode != "strip" and is_looping(thinking):
        return THINKING_LOOPS
    if label is not None and not says(answer, label, in_its_case=in_its_case):
        return WRONG
    return KEPT


def with_thinking(answer: str, thinking: str, *, mode: ThinkingMode, max_words: int) -> str:
    """The text that a student learns to write.

    Args:
        answer: Without the thinking.
        thinking: May be empty.
        mode: ``strip``: the answer alone; ``keep``: as it was; ``shorten``: see :func:`shorten`.
        max_words: Of a shortened trace.
    """
    if mode == "strip" or not thinking:
        return answer
    trace = shorten(thinking, max_words=max_words) if mode == "shorten" else thinking
    return with_thought(answer, trace)


def shorten(trace: str, *, max_words: int) -> str:
    """Whole sentences from both ends of a trace: how it sets out, and how it concludes.

    The middle, where models try, doubt and try again, goes first. Sentences are taken in turn from
    the end and from the beginning while the limit allows; the last one is always there, so a trace
    of one long sentence stays as it is.

    Args:
        max_words: Blank-separated words that the result has at most (but for the case above).
    """
    sentences = _SENTENCE.findall(trace.strip())
    if sum(_words(sentence) for sentence in sentences) <= max_words:
        return trace.strip()
    head: list[str] = []
    tail = [sentences.pop()]
    left = max_words - _words(tail[0])
    while sentences:
        taken = sentences.pop(0) if len(head) < len(tail) else sentences.pop()
        left -= _words(taken)
        if left < 0:
            break
        if len(head) < len(tail):
            head.append(taken)
        else:
            tail.insert(0, taken)
    return "".join(head + tail).strip()


def _words(text: str) -> int:
    return len(text.split())
