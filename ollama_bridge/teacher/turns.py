"""The turns of a split: tokens, what came along with written answers, what is to be asked.

Answers that a daemon wrote come with its likeliest tokens, aligned here with the student's; of the
others a passage says where the daemon can be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ollama_bridge.client.jobs.records import reply_from_record
from ollama_bridge.encoding.encode import EncodedExample, Tokenizer, encode
from ollama_bridge.examples import Example
from ollama_bridge.recipe.config import TeacherSection
from ollama_bridge.storage.journal import JSONRecord
from ollama_bridge.teacher.alignment import Distribution, Span, align, lead_of, spans_of
from ollama_bridge.teacher.replies import KeptReplies
from ollama_bridge.teacher.scoring import Passage, Place, places_of, read_scores
from ollama_bridge.teacher.splits import CorpusSplit
from ollama_bridge.teacher.token_bytes import TokenBytes

# Where a token's distribution is from: it came with the written answer, it was asked for, or there
# is none and the hard label stands in for it.
Origin = Literal["generated", "scored", "hard"]


@dataclass(frozen=True)
class Turn:
    """One assistant turn, in the student's tokens.

    Attributes:
        tokens: (T,) its supervised ones, in order.
        known: (T,) distributions that came along with the answer; None where none did.
        passage: Where the teacher has to be asked; None: nowhere.
    """

    tokens: tuple[int, ...]
    known: tuple[Distribution | None, ...]
    passage: Passage | None


def begins_in_blanks(example: Example, tokenizer: Tokenizer, vocabulary: TokenBytes) -> bool:
    """Whether the student's template puts blanks in front of an answer, to be learnt with it.

    Raises:
        DataError: no answer in it.
        TrainingError: the chat template fails or cannot be used for training.
    """
    encoded = encode(example, tokenizer)
    tokens = encoded.input_ids[encoded.stretches[-1]] if encoded.stretches else ()
    said = b"".join(vocabulary.of(int(token)) or b"" for token in tokens)
    answer = example.messages[-1].content.encode(errors="replace")
    return said.partition(answer)[0].isspace()


class SplitReader:
    """The turns of a split's examples, with what came along.

    Args:
        split: Its examples, and their tokens of the student's.
        logprobs_path: What ``write_answers`` kept of the replies; need not be there.
        settings: Which tokens are asked about, and what became of thinking.
        vocabulary: The student's.
        top_k: Tokens kept of a distribution, at most.
    """

    def __init__(
        self,
        split: CorpusSplit,
        logprobs_path: Path,
        settings: TeacherSection,
        vocabulary: TokenBytes,
        *,
        top_k: int,
    ) -> None:
        self._examples = split.examples
        self.encoded = split.encoded.examples
        self._replies = KeptReplies(logprobs_path)
        self._settings = settings
        self._vocabulary = vocabulary
        self._top_k = top_k

    def turns(self) -> Iterator[Turn]:
        """Of all examples."""
        for encoded in self.encoded:
            yield from self.turns_of(encoded)

    def turns_of(self, encoded: EncodedExample) -> Iterator[Turn]:
        """Of one example, in order; together they are its supervised tokens."""
        example = self._examples[encoded.row]
        places = [place for place, one in enumerate(example.messages) if one.role == "assistant"]
        runs = encoded.stretches
        if len(runs) != encoded.turns:  # turns that the template writes without a gap
            tokens = tuple(int(token) for token in encoded.input_ids[encoded.targets])
            yield Turn(tokens, (None,) * len(tokens), None)
            return
        # Where the template forgets thoughts, the last turn alone is learnt.
        for place, run in zip(places[-len(runs) :], runs, strict=True):
            tokens = tuple(int(token) for token in encoded.input_ids[run])
            is_last = place == len(example.messages) - 1
            reply = self._replies.read(example.id) if is_last else None
            yield self._turn(example, place, tokens, reply)

    def distributions(
        self, turn: Turn, scores: Iterable[JSONRecord]
    ) -> list[tuple[Distribution | None, Origin]]:
        """What is known of each token of a turn, and from where."""
        scored: Mapping[int, Distribution] = {}
        if turn.passage is not None:
            scored = read_scores(
                scores, turn.passage, turn.tokens, self._vocabulary, top_k=self._top_k
            )
        found: list[tuple[Distribution | None, Origin]] = []
        for place, known in enumerate(turn.known):
            if known is not None:
                found.append((known, "generated"))
            elif place in scored:
                found.append((scored[place], "scored"))
            else:
                found.append((None, "hard"))
        return found

    def _turn(
        self,
        example: Example,
        place: int,
        tokens: tuple[int, ...],
        record: JSONRecord | None,
    ) -> Turn:
        answer = example.messages[place].content
        if example.messages[place].calls:  # a daemon shows no tokens of a call
            return Turn(tokens, (None,) * len(tokens), None)
        spans = spans_of(tokens, answer, self._vocabulary)
        known: Sequence[Distribution | None] = (None,) * len(tokens)
        if record is not None:
            known = self._known(spans, answer, record)
        places: list[Place] = []
        if self._settings.score != "generated":
            places = [
                one
                for one in places_of(tokens, spans, answer, self._vocabulary)
                if known[one.number] is None
            ]
        if not places:
            return Turn(tokens, tuple(known), None)
        lead = lead_of(spans, self._vocabulary)
        passage = Passage(example.messages[:place], answer, tuple(places), lead, example.tools)
        return Turn(tokens, tuple(known), passage)

    def _known(
        self, spans: Sequence[Span | None], answer: str, record: JSONRecord
    ) -> Sequence[Distribution | None]:
        reply = reply_from_record(record)
        if reply.thinking and self._settings.thinking != "keep":
            # What was likely behind a thought says little about an answer without it.
            return (None,) * len(spans)
        return align(spans, answer, reply.logprobs or (), self._vocabulary, top_k=self._top_k)
