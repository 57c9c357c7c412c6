"""From the tokens that a daemon reports to distributions on a student's tokens, by text alone.

A daemon reports, for tokens that it generated, the token's text and its likeliest rivals (20 at
most). Entries are lost (tokens held back as a possible stop, the end token), several bytes of one
character come as one entry with the last one's numbers, and the teacher may cut a text into other
tokens than the student. So entries are first found in the text, and a student's token gets a
distribution only where that can be told:

- it begins where a teacher's token begins and is that token: the rivals are mapped one by one;
- it is several teacher's tokens: their log-probabilities add up, the rivals of the first remain;
- it is the beginning of a teacher's token: all rivals count for the student's token that they
  begin with.

Elsewhere (inside a teacher's token, where tokens cross, in a hole) there is none. What cannot be
named in the student's vocabulary is part of the residual, never of another token.

Blanks that a template puts in front of an answer (Llama 2, Mistral) are part of its first token in
many vocabularies. They belong to each model's format, so that names of first tokens are compared
without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ollama_bridge.alignment.positions import common_end
from ollama_bridge.answer_text import thought_opening
from ollama_bridge.client import TokenLogprob, TopLogprob
from ollama_bridge.teacher.token_bytes import TokenBytes

# Behind a hole, what the next entries say together is looked for, if need be without its end: but
# not with fewer bytes, for a common letter is no proof. The last entries of an answer may be fewer.
_RESYNC_ENTRIES = 8
_RESYNC_BYTES = 8
# Two prints of one number; the second has been through another float type.
_SAME = 1e-3
_SMALLEST_REST = 1e-7  # rounding of twenty printed numbers may leave less than nothing
_REPLACEMENT = "\ufffd".encode()


@dataclass(frozen=True)
class Distribution:
    """What is known of the next token.

    Attributes:
        ids: Of the student, distinct, likeliest first.
        logprobs: Natural logarithms.
        residual: Log of the mass of all other tokens.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    residual: float


@dataclass(frozen=True)
class Span:
    """A student's token in the text of an answer: bytes ``start`` to ``end``.

    The first may have blanks in front, which are no part of the answer.
    """

    token: int
    start: int
    end: int


@dataclass(frozen=True)
class _Placed:
    entry: TokenLogprob
    start: int
    end: int


def spans_of(tokens: Sequence[int], answer: str, vocabulary: TokenBytes) -> list[Span | None]:
    """Where the tokens of a turn lie in its answer; None for those that are no part of it.

    Of an answer whose beginning the prompt has said (a template that opens the thought), the turn
    holds the rest.

    Args:
        tokens: Of one turn: the answer, what the template puts around it, the end token.
    """
    pieces = [vocabulary.of(token) or b"" for token in tokens]
    whole, wanted = b"".join(pieces), answer.encode(errors="replace")
    offset = whole.rfind(wanted)
    first = 0  # byte of the answer from which on the turn has it
    if offset < 0:
        offset = len(whole) - len(wanted)
        first = len(wanted) - common_end(whole, wanted)
    spans: list[Span | None] = []
    start = -offset
    for token, piece in zip(tokens, pieces, strict=True):
        end = start + len(piece)
        begin = _without_blanks(piece, start, end) if first == 0 else start
        inside = piece and begin >= first and end <= len(wanted)
        spans.append(Span(token, begin, end) if inside else None)
        start = end
    return spans


def lead_of(spans: Sequence[Span | None], vocabulary: TokenBytes) -> bytes:
    """The blanks that the first token of an answer has in front of it."""
    first = next((span for span in spans if span is not None), None)
    return b"" if first is None else _lead(first, vocabulary)


def align(
    spans: Sequence[Span | None],
    answer: str,
    entries: Sequence[TokenLogprob],
    vocabulary: TokenBytes,
    *,
    top_k: int,
) -> list[Distribution | None]:
    """The teacher's distribution at every student's token; None where it cannot be told.

    Args:
        spans: Of the student's tokens, from :func:`spans_of`.
        answer: The text that the student learns.
        entries: What the daemon reported with the text that it generated. Of a thought's marks it
            may say nothing: they are a hole like others.
        vocabulary: The student's.
        top_k: Tokens kept at most.
    """
    opening = thought_opening(answer).encode()
    placed = _place(answer.encode(errors="replace"), entries, begin=len(opening))
    starts = {one.start: number for number, one in enumerate(placed)}
    found: list[Distribution | None] = []
    for span in spans:
        number = None if span is None else starts.get(span.start)
        if span is None or number is None:
            found.append(None)
        else:
            chain = _chain(placed, number, span.end)
            found.append(_distribution(span, chain, vocabulary, top_k))
    return found


def named_distribution(
    top: Sequence[TopLogprob],
    vocabulary: TokenBytes,
    *,
    target: int,
    top_k: int,
    lead: bytes | None = None,
) -> Distribution | None:
    """A list of a daemon's likeliest tokens in a student's vocabulary.

    Args:
        top: Likeliest first.
        vocabulary: The student's.
        target: The right token. If it is a special one, the answer's end, the likeliest token
            without a text is taken for it; elsewhere such tokens are part of the rest.
        top_k: Tokens kept at most.
        lead: At an answer's beginning: the blanks that the right token has in front; names are
            compared without theirs. None: everywhere else, and where neither has any.

    Returns:
        None if no token could be named.
    """
    masses: dict[int, float] = {}
    _count(top, masses, vocabulary, target, lead)
    if vocabulary.of(target) is None:
        nameless = [entry.logprob for entry in top if _is_nameless(entry, vocabulary)]
        if nameless:
            masses[target] = max(nameless)
    return _sorted(masses, top_k) if masses else None


def _without_blanks(content: bytes, start: int, end: int) -> int:
    """Where a token begins in an answer, if all of it that is in front of one is blank."""
    before = content[: max(0, -start)]
    return 0 if before.isspace() and end > 0 else start


def _lead(span: Span, vocabulary: TokenBytes) -> bytes:
    content = vocabulary.of(span.token) or b""
    return content[: len(content) - (span.end - span.start)]


def _place(answer: bytes, entries: Sequence[TokenLogprob], *, begin: int) -> list[_Placed]:
    """Find the entries in the text, in order; what has no certain place is left out.

    Args:
        begin: Where the first stands, bytes, unless all that is before is among them.
    """
    texts = [_content(entry) for entry in entries]
    offset = b"".join(texts).rfind(answer)
    if offset >= 0:  # nothing of it is lost
        return _place_all(len(answer), entries, texts, -offset)
    placed: list[_Placed] = []
    end = begin
    for number, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        if not text or _REPLACEMENT in text:
            continue
        start = end
        if not answer.startswith(text, end):
            start = _resync(answer, b"".join(texts[number : number + _RESYNC_ENTRIES]), end)
            if start < 0:
                continue
            # What was lost may also lie before the last entries: their place is not certain.
            edge = start
            while placed and answer.endswith(
                (last := answer[placed[-1].start : placed[-1].end]), 0, edge
            ):
                edge -= len(last)
                placed.pop()
        end = start + len(text)
        placed.append(_Placed(entry, start, end))
    return placed


def _place_all(
    size_bytes: int, entries: Sequence[TokenLogprob], texts: Sequence[bytes], start: int
) -> list[_Placed]:
    placed = []
    for entry, text in zip(entries, texts, strict=True):
        end = start + len(text)
        begin = _without_blanks(text, start, end)
        if text and _REPLACEMENT not in text and begin >= 0 and end <= size_bytes:
            placed.append(_Placed(entry, begin, end))
        start = end
    return placed


def _resync(answer: bytes, ahead: bytes, start: int) -> int:
    """Where the text goes on behind a hole; -1 if nowhere, or at more than one place."""
    while ahead:
        found = answer.find(ahead, start)
        if found >= 0:
            return found if answer.find(ahead, found + 1) < 0 else -1
        ahead = ahead[:-1] if len(ahead) > _RESYNC_BYTES else b""  # the next hole may be near
    return -1


def _chain(placed: Sequence[_Placed], first: int, end: int) -> list[_Placed]:
    """The entries from one on that lie one behind the other, until ``end`` is reached."""
    chain = [placed[first]]
    for following in placed[first + 1 :]:
        if chain[-1].end >= end or following.start != chain[-1].end:
            break
        chain.append(following)
    return chain


def _distribution(
    span: Span, chain: Sequence[_Placed], vocabulary: TokenBytes, top_k: int
) -> Distribution | None:
    first, end = chain[0], chain[-1].end
    if not all(_is_own(one.entry) for one in chain):
        return None
    if end < span.end or (end > span.end and len(chain) > 1):
        return None
    masses: dict[int, float] = {}
    rivals = (top for top in first.entry.top if top.token != first.entry.token)
    lead = _lead(span, vocabulary)
    has_lead = lead or len(_content(first.entry)) > first.end - first.start
    _count(rivals, masses, vocabulary, span.token, lead if has_lead else None)
    # Of a chain, what the first token would have gone on to otherwise is part of the rest.
    logprob = sum(one.entry.logprob for one in chain)
    masses[span.token] = _log_add(masses.get(span.token), logprob)
    return _sorted(masses, top_k)


def _is_own(entry: TokenLogprob) -> bool:
    """Whether an entry's numbers are those of the token that it names.

    Of a character that is several tokens, a daemon names the whole and gives the last one's
    numbers: the name is not among the rivals then, though the number is.
    """
    named = [top.logprob for top in entry.top if top.token == entry.token]
    if named:
        return any(abs(logprob - entry.logprob) < _SAME for logprob in named)
    return bool(entry.top) and entry.logprob <= min(top.logprob for top in entry.top) + _SAME


def _count(
    tops: Iterable[TopLogprob],
    masses: dict[int, float],
    vocabulary: TokenBytes,
    target: int,
    lead: bytes | None,
) -> None:
    """Add what can be named.

    Half a character is printed as nothing or as U+FFFD, so a blank with half a character behind it
    may be printed as a blank: such a name counts only where that very token is the right one, and
    of two tokens of one name the likelier.
    """
    seen: set[bytes] = set()
    for top in tops:
        content = _content(top)
        if not content or content in seen or _REPLACEMENT in content:
            continue
        seen.add(content)
        if lead is not None and not content.isspace():
            content = lead + content.lstrip()
        token = vocabulary.first(content)
        if token is None or (vocabulary.may_be_cut(content) and token != target):
            continue
        masses[token] = _log_add(masses.get(token), top.logprob)


def _content(entry: TokenLogprob | TopLogprob) -> bytes:
    """A token's bytes: the true ones where a server gives them, else those of its text."""
    return entry.token.encode(errors="replace") if entry.bytes is None else entry.bytes


def _is_nameless(entry: TopLogprob, vocabulary: TokenBytes) -> bool:
    # Version 0.24 prints special tokens as they are written, 0.34 prints nothing.
    return not entry.token or vocabulary.is_special(entry.token)


def _log_add(left: float | None, right: float) -> float:
    if left is None:
        return right
    high, low = max(left, right), min(left, right)
    return high + math.log1p(math.exp(low - high))


def _sorted(masses: dict[int, float], top_k: int) -> Distribution:
    ranked = sorted(masses.items(), key=lambda item: -item[1])[:top_k]
    rest = 1.0 - math.fsum(math.exp(logprob) for _, logprob in ranked)
    return Distribution(
        tuple(token for token, _ in ranked),
        tuple(logprob for _, logprob in ranked),
        math.log(max(rest, _SMALLEST_REST)),
    )
