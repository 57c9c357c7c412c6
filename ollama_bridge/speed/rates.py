"""How fast tags are served here: loading, first token, first word of the answer, rates.

Requests run several at a time, each with a prompt that no other has, so that nothing but the
instruction comes from the daemon's prompt cache. Rates of a request are by the daemon's own clock,
waiting times by ours, so a request that waits for a slot shows it. Beside the rates stands the
bound that memory sets: one token of one request reads all weights once, so no more tokens a second
can come than they fit into the bandwidth (batched requests share the reading; a model that fits
into the processor's caches can be faster).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from ollama_bridge.client import (
    AsyncClient,
    Done,
    ModelDetails,
    Reply,
    Text,
    Thinking,
    read_address,
)
from ollama_bridge.client.model_names import require_model
from ollama_bridge.daemon.runners import BLOB, runners
from ollama_bridge.errors import ConfigError, RepetitionError
from ollama_bridge.reporting import NullReporter, Progress, Reporter
from ollama_bridge.speed.bound import memory_bytes_per_s, read_bytes

STAGE = "bench"
_WORDS = (
    "river", "stone", "letter", "winter", "market", "engine", "garden", "signal",
    "copper", "window", "harbour", "violin",
)  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What is asked.

    Attributes:
        concurrencies: Requests at a time; each is measured by itself.
        requests: How many at each; no fewer than run at a time.
        prompt_words: Length of a prompt, where ``prompts`` is empty.
        tokens: Answers are cut after so many.
        prompts: Own prompts, one for each request: asked again, one is read from the daemon's
            prompt cache.

    Raises:
        ConfigError: nothing would be asked, or not what was to be measured.
    """

    concurrencies: tuple[int, ...] = (1, 2, 4)
    requests: int = 8
    prompt_words: int = 64
    tokens: int = 64
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        numbers = (*self.concurrencies, self.requests, self.prompt_words, self.tokens)
        if not self.concurrencies or min(numbers) < 1:
            raise ConfigError(
                "concurrencies, requests, words and tokens must be 1 or more",
                hint="ollama-bridge bench TAG --concurrency 1,2,4 --requests 8",
            )
        most, needed = max(self.concurrencies), self.requests * len(self.concurrencies)
        if most > self.requests:
            raise ConfigError(
                f"{self.requests} requests are too few for {most} at a time",
                hint=f"--requests {most}",
            )
        different = len(set(self.prompts[:needed]))
        if self.prompts and different < needed:
            raise ConfigError(
                f"{different} prompts for {needed} requests: one that is asked again is read "
                "from the daemon's prompt cache",
                hint=f"give {needed} prompts, or lower --requests or --concurrency",
            )


@dataclass(frozen=True)
class Spread:
    """Percentiles of a quantity.

    Attributes:
        p50: Its median.
        p95: 95 % of the requests were as good as this or better. It is a value that was measured
            (the nearest rank): of fewer than 20 requests the worst.
        worst: Of all.
    """

    p50: float
    p95: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float], *, more_is_better: bool = False) -> Spread | None:
        """Of at least one value; None of none.

        Args:
            values: In any order.
            more_is_better: As of a rate; else as of a time.
        """
        if not values:
            return None
        ordered = sorted(values, reverse=more_is_better)
        rank = math.ceil(0.95 * len(ordered))
        return cls(statistics.median(ordered), ordered[rank - 1], ordered[-1])


@dataclass(frozen=True)
class Measured:
    """What was measured of one tag at one concurrency.

    Attributes:
        tag: The tag.
        concurrency: Requests at a time.
        requests: How many were measured.
        first_token_s: From the request to the first piece of thinking or text.
        first_answer_s: From the request to the first piece of the answer; None: thoughts of some
            were cut or ended, and the others were the quickest.
        unanswered: How many came to no answer: their thoughts were cut.
        repeated: How many Ollama ended, for one token came again and again. What came of them
            counts.
        prompt_rate: Prompt tokens that had to be read a second, by the daemon's clock; None: it
            does not say how many those were (before 0.34).
        decode_rate: Generated tokens a second of one request, by the daemon's clock; by ours where
            it ended the answer for its repeats.
        throughput: Generated tokens a second of all requests, by ours.
        tokens: Generated tokens a request.
    """

    tag: str
    concurrency: int
    requests: int
    first_token_s: Spread | None
    first_answer_s: Spread | None
    unanswered: int
    repeated: int
    prompt_rate: Spread | None
    decode_rate: Spread | None
    throughput: float
    tokens: Spread | None


@dataclass(frozen=True)
class TagSpeed:
    """A tag, and what was measured of it.

    Attributes:
        tag: The tag.
        load_s: Of loading it, by the daemon's clock.
        size_bytes: Of its files.
        read_bytes: Of its weights, those that are read for one token.
        bound_rate: Tokens a second that memory bandwidth allows one request on processors; None:
            the model is on a GPU, if in part, or no runner of this machine has it.
        measured: At each concurrency.
    """

    tag: str
    load_s: float
    size_bytes: int
    read_bytes: int
    bound_rate: float | None
    measured: tuple[Measured, ...]


def measure_speed(
    tags: Sequence[str],
    load: Load,
    *,
    host: str | None = None,
    bandwidth_bytes_per_s: float | None = None,
    reporter: Reporter | None = None,
) -> list[TagSpeed]:
    """Measure tags one after the other; each is taken out of memory first.

    Args:
        tags: Of the daemon.
        load: What is asked.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        bandwidth_bytes_per_s: Of memory; None: measured here, for models that the processors of
            this machine run.
        reporter: Hears of progress.

    Raises:
        ConfigError: no tags.
        ModelNotFoundError: the daemon lacks a tag; said before anything is measured.
        DaemonError: a request failed.
    """
    if not tags:
        raise ConfigError("no tags were named", hint="ollama-bridge ls")
    here_bytes_per_s = None
    if bandwidth_bytes_per_s is None and read_address(host).loopback:
        here_bytes_per_s = memory_bytes_per_s()
    return asyncio.run(
        _measure_all(
            tags, load, host, bandwidth_bytes_per_s, here_bytes_per_s, reporter or NullReporter()
        )
    )


async def _measure_all(
    tags: Sequence[str],
    load: Load,
    host: str | None,
    bandwidth_bytes_per_s: float | None,
    here_bytes_per_s: float | None,
    reporter: Reporter,
) -> list[TagSpeed]:
    total = len(tags) * len(load.concurrencies) * load.requests
    found: list[TagSpeed] = []
    async with AsyncClient(host) as client:
        there = await client.list()
        sizes = {tag: require_model(there, tag).size_bytes for tag in tags}
        for tag in tags:
            await client.unload(tag)
            first = await client.chat(tag, "Hello.", options={"num_predict": 1})
            asker = _Asker(client, tag, load, reporter, total, len(found))
            measured = [await asker.measure(at) for at in load.concurrencies]
            details = await client.show(tag, verbose=True)
            size_bytes = sizes[tag]
            tensors = details.raw.get("tensors") or ()
            weights_bytes = read_bytes(tensors, details.model_info) or size_bytes
            allowed_bytes_per_s = bandwidth_bytes_per_s
            if here_bytes_per_s is not None and await _is_on_processors(client, tag, details):
                allowed_bytes_per_s = here_bytes_per_s
            found.append(
                TagSpeed(
                    tag,
                    first.timings.load_s,
                    size_bytes,
                    weights_bytes,
                    None if allowed_bytes_per_s is None else allowed_bytes_per_s / weights_bytes,
                    tuple(measured),
                )
            )
    return found


async def _is_on_processors(client: AsyncClient, tag: str, details: ModelDetails) -> bool:
    """Whether a loaded model is in this machine's memory, and nothing of it on a GPU.

    An address of this machine may lead elsewhere: a tunnel, a container, a virtual machine.
    """
    on_gpu = [one.size_vram_bytes for one in await client.ps() if one.is_called(tag)]
    blob = BLOB.search(details.modelfile)
    if any(on_gpu) or blob is None:
        return False
    for process in runners():
        with contextlib.suppress(psutil.Error):  # it ended just now
            if blob[1] in " ".join(process.cmdline()):
                return True
    return False


@dataclass(frozen=True)
class _Request:
    first_token_s: float | None
    first_answer_s: float | None
    tokens: int
    decode: tuple[int, float]  # so many tokens in so many seconds
    reply: Reply | None  # None: Ollama ended it for its repeats


class _Asker:
    """Asks one tag."""

    def __init__(
        self,
        client: AsyncClient,
        tag: str,
        load: Load,
        reporter: Reporter,
        total: int,
        tags_done: int,
    ) -> None:
        self._client, self._tag, self._load = client, tag, load
        self._reporter, self._total = reporter, total
        self._done = tags_done * len(load.concurrencies) * load.requests
        self._random = random.Random(tag)
        self._asked = 0

    async def measure(self, concurrency: int) -> Measured:
        """Ask with so many at a time."""
        free = asyncio.Semaphore(concurrency)
        requests: list[_Request] = []

        async def one() -> None:
            async with free:
                requests.append(await self._ask())
            self._done += 1
            self._reporter.emit(Progress(STAGE, self._done, self._total, "requests"))

        begun_s = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._load.requests):
                    group.create_task(one())
        except ExceptionGroup as failed:  # the first error is why the others were cancelled
            raise failed.exceptions[0] from None
        elapsed_s = time.perf_counter() - begun_s
        replies = [one.reply for one in requests if one.reply is not None]
        answers_s = [one.first_answer_s for one in requests if one.first_answer_s is not None]
        silent = [one.reply for one in requests if one.first_answer_s is None]
        unanswered = sum(reply is not None and reply.hit_limit for reply in silent)
        return Measured(
            self._tag,
            concurrency,
            len(requests),
            Spread.of([one.first_token_s for one in requests if one.first_token_s is not None]),
            None if unanswered or None in silent else Spread.of(answers_s),
            unanswered,
            len(requests) - len(replies),
            _tokens_per_s(
                [
                    (one.prompt_tokens - one.cached_tokens, one.timings.prompt_s)
                    for one in replies
                    if one.cached_tokens is not None
                ]
            ),
            _tokens_per_s([one.decode for one in requests]),
            sum(one.tokens for one in requests) / elapsed_s,
            Spread.of([float(one.tokens) for one in requests]),
        )

    async def _ask(self) -> _Request:
        first_answer_s = None
        came_s: list[float] = []
        begun_s = time.perf_counter()
        options = {"num_predict": self._load.tokens}
        try:
            async for event in self._client.stream(self._tag, self._prompt(), options=options):
                now_s = time.perf_counter() - begun_s
                if isinstance(event, Thinking | Text):
                    came_s.append(now_s)
                if isinstance(event, Text) and first_answer_s is None:
                    first_answer_s = now_s
                if isinstance(event, Done):
                    reply, tokens = event.reply, event.reply.generated_tokens
                    decode = tokens, reply.timings.generate_s
                    return _Request(next(iter(came_s), None), first_answer_s, tokens, decode, reply)
        except RepetitionError as error:
            # How long the first took is not known, for the prompt was read before it.
            decode = len(came_s) - 1, came_s[-1] - came_s[0] if came_s else 0.0
            first_token_s = next(iter(came_s), None)
            return _Request(first_token_s, first_answer_s, error.pieces, decode, None)
        raise AssertionError("unreachable: a stream ends with Done or an error")

    def _prompt(self) -> str:
        number, self._asked = self._asked, self._asked + 1
        if self._load.prompts:
            return self._load.prompts[number]
        words = self._random.choices(_WORDS, k=self._load.prompt_words)
        return f"{' '.join(words)}: tell a long story with these words."


def _tokens_per_s(pairs: Sequence[tuple[int, float]]) -> Spread | None:
    rates = [tokens / time_s for tokens, time_s in pairs if time_s > 0]
    return Spread.of(rates, more_is_better=True)
