"""Holds a daemon's tag against the reference values of its checkpoint, layer by layer.

Torch-free: everything needed was computed beside the weights. Returns a certificate whether the
tag passes or not; what to do with it is ``registration``'s business.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ollama_bridge.client import Client, Reply
from ollama_bridge.errors import RepetitionError
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.reference import SERVED_TOP, Answer, ReferenceValues, TokenScore
from ollama_bridge.reporting import NullReporter, Progress, Reporter
from ollama_bridge.verify.answer_parser import check_parser
from ollama_bridge.verify.bounds import Bounds, bounds_of, recorded_noise
from ollama_bridge.verify.certificate import LOG_PROBABILITIES, TOKEN_COUNT, Certificate, Check
from ollama_bridge.verify.context import check_context
from ollama_bridge.verify.measured import Measured, Place
from ollama_bridge.verify.prompts import check_prompts
from ollama_bridge.verify.scores import ServedScore, special_texts
from ollama_bridge.verify.settings import (
    check_messages,
    check_settings,
    read_parameters,
    text_before_stop,
)
from ollama_bridge.verify.thinking import check_thinking_tags
from ollama_bridge.verify.vocabulary import check_vocabulary
from ollama_bridge.verify.windows import explain_wider_window, refuse_unread_windows

# The likeliest end token has to lead by this before a daemon is held to ending there, and losing
# the lead has to cost this many times the mean KL that answers may have: a coarse type is not held.
_CERTAIN_END = 0.5
_UNLIKELY = 4.0
_GREEDY = {
    "temperature": 0.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


def check_parity(
    client: Client,
    tag: str,
    reference: ReferenceValues,
    *,
    type: str,  # noqa: A002  the word of the recipe and of every stage
    modelfile: Modelfile,
    metadata: Mapping[str, Any],
    blob_digest: str,
    reporter: Reporter | None = None,
) -> Certificate:
    """Check a tag of a running daemon.

    Args:
        client: Speaks to the daemon.
        tag: The tag to check.
        reference: What its checkpoint renders, tokenizes and answers.
        type: GGUF type, which decides the bounds.
        modelfile: What the tag was made of.
        metadata: The GGUF's metadata.
        blob_digest: Digest of the GGUF, for the certificate.
        reporter: Hears of progress.

    Returns:
        The certificate; ask it whether it passed.

    Raises:
        DaemonError: the daemon could not answer, or is of a version that leaves out of the model
            what no probe is long enough to show.
        ParityError: the file's context has no room for the probes.
    """
    version = client.version()
    refuse_unread_windows(version, tag, metadata)
    context = check_context(tag, reference, metadata)
    bounds = bounds_of(type, reference, recorded=recorded_noise(metadata))
    run = _Run(client, tag, reference, bounds, reporter or NullReporter())
    details = client.show(tag)
    template = check_prompts(
        client,
        tag,
        reference,
        capabilities=details.capabilities,
        mean_kl_bound=run.bounds.mean_kl_nats,
    )
    prompts, answers = run.score_prompts(), run.score_answers()
    scores = run.check_scores(prompts, answers)
    reason: tuple[Check, ...] = ()
    if not scores.passed:
        short = functools.partial(run.agrees_up_to, prompts=prompts, answers=answers)
        reason = explain_wider_window(version, metadata, short)
    checks = (
        *check_messages(details),  # in front of the difference that it explains
        template,
        *check_vocabulary(reference, metadata),
        check_thinking_tags(version, reference, modelfile, metadata),
        check_parser(reference, details),
        _check_counts([*prompts, *answers]),
        context,
        *reason,
        scores,
        *check_settings(details, modelfile, reference, metadata),
        run.check_ends(),
        run.check_generation(read_parameters(details.parameters).get("stop", [])),
    )
    return Certificate(
        tag=tag,
        type=type,
        daemon_version=version,
        blob_digest=blob_digest,
        rendering=reference.template.reason if reference.template is not None else "",
        limits=reference.limits,
        checks=checks,
    )


class _Run:
    def __init__(
        self,
        client: Client,
        tag: str,
        reference: ReferenceValues,
        bounds: Bounds,
        reporter: Reporter,
    ) -> None:
        self.client = client
        self.tag = tag
        self.reference = reference
        self.bounds = bounds
        self.reporter = reporter
        self._total = len(reference.conversations) + sum(
            len(answer.positions) for answer in reference.answers
        )
        self._done = 0

    def score_prompts(self) -> list[Place]:
        """The first token after every conversation."""
        return [
            self._score(
                f"prompt {conversation.name!r}",
                conversation.rendered,
                len(conversation.token_ids),
                conversation.top,
            )
            for conversation in self.reference.conversations
        ]

    def score_answers(self) -> list[Place]:
        """Every scored token of every answer."""
        return [
            self._score(
                f"answer {answer.name!r}, token {index}",
                self.reference.conversation(answer.conversation).rendered + position.prefix,
                position.prompt_tokens,
                position.top,
            )
            for answer in self.reference.answers
            for index, position in enumerate(answer.positions)
        ]

    def _score(self, where: str, prompt: str, tokens: int, top: tuple[TokenScore, ...]) -> Place:
        place = self._ask(where, prompt, tokens, top)
        self._done += 1
        self.reporter.emit(Progress("register", self._done, self._total, "probes"))
        return place

    def _ask(self, where: str, prompt: str, tokens: int, top: tuple[TokenScore, ...]) -> Place:
        token = self.client.next_token(self.tag, prompt, top=SERVED_TOP)
        served = tuple(ServedScore(item.token, item.logprob) for item in token.top)
        return Place(where, prompt, tokens, token.prompt_tokens, top, served)

    def check_scores(self, prompts: Sequence[Place], answers: Sequence[Place]) -> Check:
        """Log-probabilities agree at every place."""
        bounds, special = self.bounds, special_texts(self.reference)
        measured = Measured(answers, prompts, special=special)
        odd = measured.odd_places(bounds)
        if odd:
            places = list(measured.places)
            for index in odd:
                self.client.unload(self.tag)  # see check_generation
                one = places[index]
                places[index] = self._ask(one.where, one.prompt, one.expected_tokens, one.reference)
            split = len(answers)
            measured = Measured(places[:split], places[split:], special=special)
        passed = measured.is_within(bounds)
        worst = measured.max_difference
        mean_kl, answers_kl = measured.mean_kl_nats(), measured.answers_kl_nats()
        numbers: dict[str, float | int | str] = {
            "positions": len(measured.places),
            "compared": measured.compared,
            "max_difference": round(worst, 5),
            "mean_kl_nats": round(mean_kl, 6),
            "mean_kl_bound": round(bounds.mean_kl_nats, 6),
        }
        if bounds.answers_kl_nats is not None:
            numbers["answers_kl_nats"] = round(answers_kl, 6)
            numbers["answers_kl_bound"] = round(bounds.answers_kl_nats, 6)
        if bounds.max_difference is not None:
            numbers["max_difference_bound"] = round(bounds.max_difference, 5)
        if odd:
            numbers["positions_asked_after_reload"] = len(odd)
        difference = None
        is_rounding = bounds.capped and answers_kl <= bounds.explained_kl_nats
        if not passed:
            difference = (
                f"largest difference {worst:.3f} nats ({measured.worst}), mean KL {mean_kl:.4f} "
                f"nats over {len(measured.places)} positions, {answers_kl:.4f} in answers "
                f"(bounds: {bounds})"
            )
            if is_rounding:
                difference += (
                    "; but its type's rounding alone moves this checkpoint further than a proof "
                    "may allow, so it cannot be told whether a tensor is wrong"
                )
        return Check.of(
            LOG_PROBABILITIES, "rounding" if is_rounding else "tensor", difference, numbers
        )

    def agrees_up_to(
        self, tokens: int, *, prompts: Sequence[Place], answers: Sequence[Place]
    ) -> bool | None:
        """Whether log-probabilities agree at all places with at most so many tokens, if any."""
        short = [
            [one for one in places if one.expected_tokens <= tokens]
            for places in (answers, prompts)
        ]
        measured = Measured(*short, special=special_texts(self.reference))
        return measured.is_within(self.bounds) if measured.places else None

    def check_ends(self) -> Check:
        """Where an end token is the clear choice, the daemon ends without being told to."""
        tried, first = 0, None
        for answer in self.reference.answers:
            if not self._clearly_ends(answer) or tried == 3:
                continue
            tried += 1
            rendered = self.reference.conversation(answer.conversation).rendered
            reply = self.client.generate(
                self.tag,
                rendered + answer.text,
                raw=True,
                think=False,
                options={**_GREEDY, "num_predict": 4, "stop": []},
            )
            if reply.text or reply.done_reason != "stop":
                first = first or (
                    f"after the answer {answer.name!r} the daemon goes on instead of ending "
                    f"(done_reason {reply.done_reason!r}): its end token is not the checkpoint's"
                )
        return Check.of("end of an answer", "stop", first, {"ends_tried": tried})

    def check_generation(self, stops: Iterable[object]) -> Check:
        """Through the chat API: certain text is repeated, and a finished answer has ended.

        What a stop of the tag cuts off is not the tensors' fault, and said of the stops.
        """
        tried, reloaded, first = 0, 0, None
        for answer in self.reference.answers:
            if not answer.greedy:
                continue
            tried += 1
            certain = text_before_stop(answer.certain_text, stops)
            reply = self._answer(answer)
            if self.bounds.same_text and not reply.begins_with(certain):
                # Runners go on from saved states of earlier prompts, which are not exact where a
                # model looks through a sliding window. A fresh one has none.
                reloaded += 1
                self.client.unload(self.tag)
                reply = self._answer(answer)
            problem = None
            same = reply.text == answer.text
            if self.bounds.same_text and not reply.begins_with(certain):
                problem = "the greedy answer differs where the checkpoint is certain"
            elif same and answer.ends and reply.done_reason != "stop":
                problem = f"the answer does not end (done_reason {reply.done_reason!r})"
            if problem is not None and first is None:
                first = f"{answer.name!r}: {problem}"
        return Check.of(
            "greedy answers",
            "stop" if first is not None and "not end" in first else "tensor",
            first,
            {"greedy_answers": tried, "asked_after_reload": reloaded},
        )

    def _answer(self, answer: Answer) -> _Said:
        try:
            reply = self._asked(answer)
        except RepetitionError as error:
            return _Said(error.partial_text, None, was_ended=True)
        return _Said(reply.text, reply.done_reason)

    def _asked(self, answer: Answer) -> Reply:
        conversation = self.reference.conversation(answer.conversation)
        options = {**_GREEDY, "num_predict": answer.tokens + 8}
        # The chat API would take a thinker's answer apart, and puts today into prompts with a day.
        if self.reference.thinks or self.reference.dates:
            return self.client.generate(
                self.tag, conversation.rendered, raw=True, think=False, options=options
            )
        return self.client.chat(self.tag, conversation.messages, options=options)

    def _clearly_ends(self, answer: Answer) -> bool:
        if not answer.ends or not answer.positions:
            return False
        place = answer.positions[-1]
        if place.prefix != answer.text or len(place.top) < 2:
            return False
        ends = {token.id for token in self.reference.end_tokens}
        best, second = place.top[0], place.top[1]
        lead = best.logprob - second.logprob
        mean_kl = self.bounds.mean_kl_nats
        if self.bounds.answers_kl_nats is not None:  # but the worst tenth; an end may be of that
            mean_kl = min(mean_kl, 2 * self.bounds.answers_kl_nats)
        unlikely = _cost_of_a_tie(lead) >= _UNLIKELY * mean_kl
        return best.id in ends and lead >= _CERTAIN_END and unlikely


@dataclass(frozen=True)
class _Said:
    """An answer of the daemon.

    Attributes:
        text: It.
        done_reason: Why it ended; None: see below.
        was_ended: Ollama ended it, because one token came again and again: there might be more.
    """

    text: str
    done_reason: str | None
    was_ended: bool = False

    def begins_with(self, text: str) -> bool:
        """Whether it says a text, or what was let through of it."""
        was_let_through = self.was_ended and bool(self.text) and text.startswith(self.text)
        return was_let_through or self.text.startswith(text)


def _cost_of_a_tie(lead: float) -> float:
    """KL in nats between two tokens of which one leads, and the two as likely as each other."""
    likelier = 1 / (1 + math.exp(-lead))
    less = 1 - likelier
    return likelier * math.log(2 * likelier) + (less * math.log(2 * less) if less else 0.0)


def _check_counts(places: Sequence[Place]) -> Check:
    wrong = [place for place in places if place.served_tokens != place.expected_tokens]
    difference = None
    if wrong:
        first = wrong[0]
        difference = (
            f"{first.where} is {first.expected_tokens} tokens in the checkpoint and "
            f"{first.served_tokens} in the daemon"
        )
    return Check.of(
        TOKEN_COUNT,
        "tokenizer",
        difference,
        {
            "tokens": sum(place.expected_tokens for place in places),
            "different_counts": len(wrong),
        },
    )
