"""What the client returns: frozen values (``readers`` reads them from the daemon's JSON)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ollama_bridge.client.model_names import name_key


@dataclass(frozen=True)
class Timings:
    """The daemon's own clock, in seconds."""

    total_s: float = 0.0
    load_s: float = 0.0
    prompt_s: float = 0.0
    generate_s: float = 0.0


@dataclass(frozen=True)
class TopLogprob:
    """One of the likeliest tokens at a position; ``logprob`` is a natural logarithm."""

    token: str
    logprob: float
    bytes: bytes | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token and its rivals. Ollama leaves some tokens out: align by text."""

    token: str
    logprob: float
    bytes: bytes | None = None
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """The model asks for a tool. Also an event of a stream.

    ``id`` tells calls of one tool apart: the message with its result says it as ``tool_call_id``.
    Empty where the daemon gives none.
    """

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Thinking:
    """A piece of the model's thinking. An event of a stream."""

    text: str


@dataclass(frozen=True)
class Text:
    """A piece of the answer. An event of a stream."""

    text: str


@dataclass(frozen=True)
class Pace:
    """How an answer came, by the client's clock, from asking on (retries included).

    Tokens are counted as pieces: the daemon sends one a token, except where it holds some back (a
    character of several tokens, a tag, what may become a stop).

    Attributes:
        first_thinking_s: Until the first thought; None if there was none.
        first_text_s: Until the first piece of the answer itself; None if there was none.
        whole_s: Until the terminal event.
        tokens_to_thinking: Up to the first thought, it included.
        tokens_to_text: Up to the first piece of the answer itself, it included.
    """

    first_thinking_s: float | None
    first_text_s: float | None
    whole_s: float
    tokens_to_thinking: int | None
    tokens_to_text: int | None

    def after(self, wait_s: float) -> Pace:
        """The same, for who had waited before it was asked."""
        thinking_s, text_s = self.first_thinking_s, self.first_text_s
        return replace(
            self,
            first_thinking_s=None if thinking_s is None else wait_s + thinking_s,
            first_text_s=None if text_s is None else wait_s + text_s,
            whole_s=wait_s + self.whole_s,
        )


@dataclass(frozen=True)
class Cut:
    """A prompt of which the daemon read only a part, as it was allowed to.

    Attributes:
        needed_tokens: Length of the whole prompt; None where it is not known.
        kept_tokens: Length of what it read.
        is_estimate: The daemon did not say how long it was; parts of it were counted.
    """

    needed_tokens: int | None
    kept_tokens: int
    is_estimate: bool = False

    @property
    def dropped_tokens(self) -> int | None:
        """How much is gone: of a conversation its oldest turns, of a text its beginning."""
        if self.needed_tokens is None:
            return None
        return max(0, self.needed_tokens - self.kept_tokens)  # an estimate may be too low


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Attributes:
        text: The answer, without thinking.
        thinking: What came in ``<think>``; empty if nothing.
        done_reason: ``stop``: ended by itself; ``length``: cut by num_predict or the context.
        model: The tag that answered.
        prompt_tokens: Tokens of the prompt as the daemon counted them.
        generated_tokens: Tokens of thinking and answer.
        timings: In seconds, by the daemon's clock.
        logprobs: Where they were asked for.
        tool_calls: In the order in which they came.
        cut: What is missing of the prompt; None: it was read as a whole.
        resumed: How often the answer broke off and was continued; tokens are then counted as in
            ``pace``, and timings are those of the last part.
        pace: When thinking and answer began.
        cached_tokens: Of the prompt, which the daemon did not have to read again; None: it does
            not say (before 0.34).
    """

    text: str
    thinking: str
    done_reason: str
    model: str
    prompt_tokens: int
    generated_tokens: int
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    cut: Cut | None = None
    resumed: int = 0
    pace: Pace | None = field(default=None, compare=False, repr=False)
    cached_tokens: int | None = None

    @property
    def hit_limit(self) -> bool:
        """Whether ``num_predict`` or the context ended the answer, not the model."""
        return self.done_reason == "length"


@dataclass(frozen=True)
class Embeddings:
    """One vector a text, in the order of the texts.

    Attributes:
        vectors: Of length 1 (by the daemon), D numbers each.
        model: The tag that answered.
        prompt_tokens: Tokens of all texts.
        timings: In seconds, by the daemon's clock.
        cut: Places of the texts of which only the beginning was embedded.
    """

    vectors: tuple[tuple[float, ...], ...]
    model: str
    prompt_tokens: int
    timings: Timings
    cut: tuple[int, ...] = ()


@dataclass(frozen=True)
class Done:
    """The terminal event of a stream, with everything that came before in one value."""

    reply: Reply


StreamEvent = Thinking | Text | ToolCall | Done


@dataclass(frozen=True)
class ModelSummary:
    """A line of ``ollama ls``."""

    name: str
    digest: str
    size_bytes: int
    modified_at: str


@dataclass(frozen=True)
class ModelDetails:
    """What ``ollama show`` knows. ``raw`` is the whole reply.

    ``think_levels`` are the names that ``think`` may have; empty: none, or the daemon does not say.
    """

    modelfile: str
    template: str
    system: str
    parameters: str
    model_info: Mapping[str, Any]
    capabilities: tuple[str, ...]
    raw: Mapping[str, Any] = field(repr=False)
    think_levels: tuple[str, ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns that the tag has in it, which the daemon sends before every question."""
        return list(self.raw.get("messages") or ())

    @property
    def takes_images(self) -> bool | None:
        """Whether it takes images, or sounds; None: the daemon does not say."""
        can = set(self.capabilities)
        return bool({"vision", "audio"} & can) if can else None

    @property
    def own_limit(self) -> int | None:
        """Tokens after which the tag's own ``num_predict`` ends an answer; None: it sets none."""
        own = re.search(r"^\s*num_predict\s+(\d+)\s*$", self.parameters, re.MULTILINE)
        return int(own[1]) or None if own else None


@dataclass(frozen=True)
class RunningModel:
    """A line of ``ollama ps``."""

    name: str
    size_bytes: int
    size_vram_bytes: int
    context_length: int
    expires_at: str
    digest: str = ""

    def is_called(self, model: str | None) -> bool:
        """Whether a request means it by this name."""
        return model is not None and name_key(model) == name_key(self.name)


@dataclass(frozen=True)
class NextToken:
    """The distribution behind a raw prompt.

    Attributes:
        prompt_tokens: How many tokens the daemon made of the prompt.
        top: The likeliest next tokens, likeliest first.
        chosen: What was generated; empty for tokens that have no text.
    """

    prompt_tokens: int
    top: tuple[TopLogprob, ...]
    chosen: str


def context_in_use(running: Sequence[RunningModel], model: str | None) -> int:
    """With how many tokens a model runs; 0 where the daemon does not tell.

    Args:
        running: What is loaded. A tag that was made anew is there twice until its old runner leaves
            memory; the one that a question gets is then taken to be the longer one.
        model: As a request names it.
    """
    return max((one.context_length for one in running if one.is_called(model)), default=0)
