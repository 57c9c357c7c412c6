"""What is asked for an example of a corpus, and what is made of the reply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ollama_bridge.answer_text import told_apart_by_case, without_thought
from ollama_bridge.client.answers.thinking import thinking_apart
from ollama_bridge.client.jobs.batch_log import Outcome
from ollama_bridge.client.jobs.jobs import Job
from ollama_bridge.client.jobs.records import reply_from_record
from ollama_bridge.client.values import Reply
from ollama_bridge.digests import digest_text
from ollama_bridge.errors import DaemonError
from ollama_bridge.examples import Call, Example, Message, handed_on
from ollama_bridge.recipe.config import TeacherSection
from ollama_bridge.teacher.replies import brings_what_is_learnt
from ollama_bridge.teacher.respondent import AnswerLimits, Respondent
from ollama_bridge.teacher.traces import EMPTY, KEPT, NOT_OFFERED, WRONG, judge, with_thinking
from ollama_bridge.teacher.unusable import REFUSED, no_distribution, nothing_usable, set_aside

_TRIAL_REPLIES = 50  # without one answer among them nothing more is asked
# Nor without a distribution beside so many. A teacher that thinks before one answer does so before
# the others, and a thought can take minutes.
_TRIAL_ANSWERS = 8


def deciding(settings: TeacherSection, labels: Sequence[str]) -> dict[str, object]:
    """What of the settings decides the result; what is as it always was is not named."""
    named: dict[str, object] = {
        "answer_tokens": settings.answer_tokens,
        "answer_temperature": settings.answer_temperature,
    }
    if settings.thinking != "strip":
        named["thinking"] = settings.thinking
    if settings.thinking == "shorten":
        named["thinking_words"] = settings.thinking_words
    if settings.rewrite:
        named["rewrite"] = True
    if settings.soft_labels == "daemon" and settings.score != "asked":
        named["logprobs"] = True
    if by_case := told_apart_by_case(labels):
        named["told_apart_by_case"] = sorted(by_case)
    return named


class Writing:
    """What is asked for an example, and what is made of the reply."""

    def __init__(
        self, respondent: Respondent, settings: TeacherSection, labels: Sequence[str], *, seed: int
    ) -> None:
        self.respondent = respondent
        self.settings = settings
        self.logprobs = bool(deciding(settings, labels).get("logprobs"))
        self.refused: list[Mapping[str, object]] = []
        self._told_apart_by_case = told_apart_by_case(labels)
        self._seed = seed

    def is_asked(self, example: Example, *, split: str) -> bool:
        """Gold answers are written again for training only: scores are taken on them."""
        if example.is_open:
            return True
        return self.settings.rewrite and split != "test"

    def job(self, example: Example) -> Job[object]:
        """The question."""
        limits = AnswerLimits(
            tokens=self.settings.answer_tokens,
            temperature=self.settings.answer_temperature,
            # Answers of equal seeds resemble one another at temperatures above 0.
            seed=int(digest_text(f"{self._seed}/{example.id}")[:7], 16),
            logprobs=self.logprobs,
        )
        return self.respondent.ask(example.prompt, limits, example.tools)

    def nothing_usable(self, where: str, outcomes: Counter[str]) -> DaemonError:
        """The error where nobody can learn from any reply."""
        return nothing_usable(self.respondent.name, where, outcomes, self.settings)

    def take(self, example: Example, reply: Reply) -> tuple[str, Example]:
        """How a reply is judged, and the example with it."""
        settings, thinking, text = self.settings, reply.thinking, reply.text
        if not thinking:
            thinking, text = thinking_apart(text)
        answer = text.strip()
        verdict = judge(
            answer,
            thinking,
            cut=reply.done_reason == "length",
            mode=settings.thinking,
            label=example.label,
            in_its_case=example.label in self._told_apart_by_case,
        )
        if verdict == KEPT and _is_answered_by_label(example):
            answer = str(example.label)  # the one spelling that the task knows, without any marks
        text = with_thinking(
            answer, thinking, mode=settings.thinking, max_words=settings.thinking_words
        )
        if not reply.tool_calls:
            return verdict, with_answer(example, text)
        offered = {tool["function"]["name"] for tool in example.tools}
        if verdict == EMPTY:  # it says nothing, and calls
            verdict = KEPT
        if verdict == KEPT and not offered.issuperset(one.name for one in reply.tool_calls):
            verdict = NOT_OFFERED
        # Ids are drawn anew for each call: there is nothing to learn in them.
        calls = tuple(Call(one.name, handed_on(dict(one.arguments))) for one in reply.tool_calls)
        return verdict, with_answer(example, text, calls)


class Trial:
    """Ends the stage where none of the first replies comes to an answer: the others will not.

    A wrong answer is one: which labels a teacher gets right is not known of the first texts. Where
    distributions have to come along, one has to.
    """

    def __init__(self, writing: Writing) -> None:
        self.is_over = False
        self._writing = writing
        self._outcomes: Counter[str] = Counter()
        self._brought = False

    def see(self, example: Example, outcome: Outcome) -> None:
        """Judge one more reply; what was refused says nothing of the others.

        Raises:
            DaemonError: nobody can learn from any of so many, or what was likely in any answer.
        """
        if self.is_over:
            return
        if outcome.value is not None:
            reply = reply_from_record(outcome.value)
            verdict, _ = self._writing.take(example, reply)
            self._brought |= brings_what_is_learnt(reply, self._writing.settings)
        else:
            verdict = set_aside(outcome)
        if verdict == REFUSED:
            return
        self._outcomes[verdict] += 1
        answers = self._outcomes[KEPT] + self._outcomes[WRONG]
        self.is_over = bool(answers) and self._brought
        seen = self._outcomes.total()
        if self.is_over or (seen < _TRIAL_REPLIES and answers < _TRIAL_ANSWERS):
            return
        if not answers:
            where = f"among the first {_TRIAL_REPLIES}"
            raise self._writing.nothing_usable(where, self._outcomes)
        name, replies = self._writing.respondent.name, f"any of the first {seen} replies"
        raise no_distribution(name, replies, self._writing.settings)


def with_answer(example: Example, answer: str, calls: tuple[Call, ...] = ()) -> Example:
    """The example, ending on this answer."""
    return replace(example, messages=(*example.prompt, Message("assistant", answer, calls)))


def _is_answered_by_label(example: Example) -> bool:
    """Whether the answer that an example came with is its label and nothing else."""
    last = example.messages[-1]
    return last.role == "assistant" and without_thought(last.content) == example.label
