"""The format of ``reference.json``: what a checkpoint says and answers, for the daemon to repeat.

The values are computed beside the weights (``models.reference.values``), travel with the
checkpoint and its GGUF, and are compared with a live daemon by ``verify``. The probes are
synthetic: no text of a user is in here. This module computes nothing and needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ollama_bridge.errors import ArtifactError
from ollama_bridge.storage.atomic_files import write_text_atomic
from ollama_bridge.template.thinking_tags import find_thinking_tags

# The metadata key under which a GGUF carries these values. A key of the file, and not a layer of
# Ollama's manifest, because every daemon keeps it through create, cp, push and pull, shows it, and
# needs no access to its store for it.
REFERENCE_KEY = "ollama_bridge.reference"
# Of a file whose types were chosen one by one: what its own rounding does (see :class:`Noise`).
NOISE_DIFFERENCE_KEY = "ollama_bridge.noise.max_difference"
NOISE_MEAN_KL_KEY = "ollama_bridge.noise.mean_kl_nats"

Role = Literal["system", "user", "assistant", "tool"]
# Tokens less likely than this (once in 3,000 times) are not compared. Rounding moves all logits by
# about the same, what hangs on it shrinks with the probability, and the twenty tokens that a
# daemon returns rarely reach further.
COMPARED_FLOOR = -8.0
SERVED_TOP = 20  # tokens that a daemon returns at most
# The num_ctx of a tag at most, unless another is asked for: the daemon's own default depends on the
# machine's GPU; this is what it takes without one.
SERVED_CONTEXT = 4096
TokenId = Annotated[int, Field(ge=0)]
# Whose estimate of the noise stands for a file type: the coarser one of its family. F32 is
# estimated as F16, for the daemon's cache of keys and values is F16 with every type. Three bits
# and fewer move a small model as far as any proof could allow: for them there is no estimate.
NOISE_OF: Mapping[str, str] = {
    "f32": "f16",
    "f16": "f16",
    "bf16": "bf16",
    "q8_0": "q8_0",
    "q6_k": "q6_k",
    **dict.fromkeys(("q5_k_m", "q5_k_s", "q5_1", "q5_0"), "q5_0"),
    **dict.fromkeys(("q4_k_m", "q4_k_s", "iq4_nl", "iq4_xs"), "q4_k_s"),
    **dict.fromkeys(("q4_1", "q4_0"), "q4_0"),
}
NOISE_TYPES = tuple(dict.fromkeys(NOISE_OF.values()))


def noise_types_of(file_type: str) -> tuple[str, ...]:
    """Of :data:`NOISE_TYPES`, what a tag of one file type is held against; few bits: none."""
    return (NOISE_OF[file_type],) if file_type in NOISE_OF else ()


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Value):
    """One message of a probe, named as the API names its parts."""

    role: Role
    content: str
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


class Special(_Value):
    """A token with a meaning of its own, by id and by its text in the vocabulary."""

    id: TokenId
    text: str


class TokenScore(NamedTuple):
    """One of the likeliest next tokens.

    ``text`` is what a daemon can name of the token: of one that ends in part of a character, what
    stands before; None for special tokens, and where nothing stands before.
    """

    id: int
    text: str | None
    logprob: float


class Conversation(_Value):
    """A conversation, and what the chat template makes of it.

    Attributes:
        name: What it probes.
        turns: As they are sent to the daemon, which adds the tag's SYSTEM by itself.
        tools: As they are sent.
        think: As it is sent; None: it is not.
        rendered: The prompt, without a BOS that the tokenizer adds by itself.
        token_ids: The prompt's tokens, an added BOS among them.
        token_texts: Their texts in the vocabulary (not decoded).
        top: The likeliest next tokens, best first.
    """

    name: str
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    think: bool | None = None
    rendered: str
    token_ids: tuple[TokenId, ...]
    token_texts: tuple[str, ...]
    top: tuple[TokenScore, ...]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns for ``/api/chat``."""
        return [turn.model_dump(exclude_defaults=True) for turn in self.turns]

    @model_validator(mode="after")
    def _lengths_agree(self) -> Conversation:
        if len(self.token_ids) != len(self.token_texts):
            raise ValueError(
                f"{self.name}: {len(self.token_ids)} token ids, {len(self.token_texts)} texts"
            )
        return self


class Position(_Value):
    """A place in an answer: the text before it, and the likeliest next tokens there.

    Attributes:
        prefix: What of the answer stands before.
        prompt_tokens: Tokens of prompt and prefix together.
        top: The likeliest next tokens, best first.
    """

    prefix: str
    prompt_tokens: int
    top: tuple[TokenScore, ...]


class Answer(_Value):
    """An answer, scored token by token as the weights see it.

    Attributes:
        name: What it probes.
        conversation: Name of the conversation that it answers.
        text: The answer.
        greedy: Whether the model says this by itself; else it is forced (a label).
        ends: Whether an end token follows it (greedy answers may run into the limit).
        tokens: Tokens of the answer, its end token not among them.
        certain_text: What of a greedy answer any faithful copy repeats: up to the first place
            where the two likeliest tokens are nearly tied.
        positions: The scored places; the one before the end token is always there if it ends.
    """

    name: str
    conversation: str
    text: str
    greedy: bool
    ends: bool
    tokens: int
    certain_text: str
    positions: tuple[Position, ...]


class Noise(_Value):
    """How far a GGUF type's arithmetic alone moves the checkpoint's log-probabilities.

    Attributes:
        max_difference: Largest difference above :data:`COMPARED_FLOOR`, in nats.
        mean_kl_nats: Mean over the positions of KL(float32 || rounded).
    """

    max_difference: float = Field(ge=0)
    mean_kl_nats: float = Field(ge=0)


class ServedTemplate(_Value):
    """Who renders a tag's prompts, and what the tag can do then (``template.authority``).

    Attributes:
        authority: template: TEMPLATE is ``go``; jinja: the daemon runs the chat template; renderer:
            code of Ollama's own does.
        go: The Go template that was proven equal to the chat template.
        reason: Why, in one sentence.
        capabilities: Of ``tools`` and ``thinking``, those that the tag has.
        conversations: How many the proof compared.
        renderer: RENDERER of the tag.
        parser: PARSER of the tag; without a RENDERER its prompts are Go's.
        lost: Of ``tools``, ``thinking`` and ``tool calls``, those that the chat template has
            and the tag has not: calls are lost where they stay in the text of answers.
    """

    authority: Literal["template", "jinja", "renderer"]
    go: str | None
    reason: str
    capabilities: tuple[str, ...] = ()
    conversations: int = Field(ge=0)
    renderer: str | None = None
    parser: str | None = None
    lost: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _as_it_was(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of what is as it nearly always is there is no word, as in values written before."""
        written: dict[str, Any] = write(self)
        if self.renderer is None:
            del written["renderer"]
        if self.parser is None:
            del written["parser"]
        if not self.lost:
            del written["lost"]
        return written


class ReferenceValues(_Value):
    """Everything that a daemon has to reproduce.

    Attributes:
        schema_version: Of this format.
        system: SYSTEM that the tag must have: the task's, else the chat template's default.
        default_system: The system prompt that the chat template adds by itself, if any.
        has_chat_template: Without one, a prompt is continued as it is.
        template: How the tag renders; None: there is no chat template.
        dates: Dates in the prompts by their ``strftime`` format: a daemon writes its own day.
        turn_end: What the chat template writes after an assistant's turn.
        end_tokens: Tokens that end an answer; the first is the one that training teaches.
        special_texts: What the special tokens among the likeliest are called in the vocabulary.
        bos: The tokenizer's BOS, if any.
        adds_bos: Whether BOS stands before every text, and the daemon has to put it there.
        pre_tokenizer: How it splits texts, by llama.cpp's name (``models.gguf.pretokenizers``);
            None: otherwise than by one of those.
        vocab_size: Tokens that the tokenizer knows.
        context_length: Positions that the weights were made for.
        unstretched_context: Up to which num_ctx a daemon computes short texts as the checkpoint
            does; None: always.
        numbers: What the config makes of the metadata of a GGUF, by key: sizes, epsilon, positions,
            windows. Empty in values that were written before there were any.
        generation: Sampling as in ``generation_config.json``, as far as it is set.
        limits: What the chat template does and no Ollama template can, in words.
        conversations: Probes of template, tokenizer and first token.
        answers: Probes of whole answers.
        noise: What rounding alone does, by type of :data:`NOISE_TYPES`: no daemon can be held to
            less.
    """

    schema_version: Literal[1] = 1
    system: str | None
    default_system: str | None
    has_chat_template: bool
    template: ServedTemplate | None = None
    dates: dict[str, str] = Field(default_factory=dict)
    turn_end: str | None
    end_tokens: tuple[Special, ...]
    special_texts: tuple[str, ...] = ()
    bos: Special | None
    adds_bos: bool
    pre_tokenizer: str | None = None
    vocab_size: int = Field(gt=0)
    context_length: int = Field(gt=0)
    unstretched_context: int | None = Field(default=None, gt=0)
    numbers: dict[str, bool | int | float | str | list[bool]] = Field(default_factory=dict)
    generation: dict[str, bool | int | float] = Field(default_factory=dict)
    limits: tuple[str, ...] = ()
    conversations: tuple[Conversation, ...] = Field(min_length=1)
    answers: tuple[Answer, ...] = ()
    noise: dict[str, Noise] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _as_it_was(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without numbers there is no word of them, as in values that were written before."""
        written: dict[str, Any] = write(self)
        if not self.numbers:
            written.pop("numbers", None)
        return written

    @model_validator(mode="after")
    def _names_resolve(self) -> ReferenceValues:
        known = {conversation.name for conversation in self.conversations}
        if len(known) != len(self.conversations):
            raise ValueError("two conversations have the same name")
        for answer in self.answers:
            if answer.conversation not in known:
                raise ValueError(f"{answer.name}: no conversation {answer.conversation!r}")
        return self

    @property
    def thinking_tags(self) -> tuple[str, ...]:
        """The two by which the tag's TEMPLATE has a daemon tell thoughts from an answer, if any.

        Ollama's own renderers come with parsers, and a Jinja's thoughts its runner finds.
        """
        template = self.template
        if template is None or template.go is None or "thinking" not in template.capabilities:
            return ()
        return find_thinking_tags(template.go)

    def conversation(self, name: str) -> Conversation:
        """The conversation of that name.

        Raises:
            KeyError: there is none.
        """
        for conversation in self.conversations:
            if conversation.name == name:
                return conversation
        raise KeyError(name)

    @property
    def labels(self) -> tuple[str, ...]:
        """The answers of a classification that are scored beside the model's own."""
        forced = [answer for answer in self.answers if not answer.greedy]
        named = (answer.name.removeprefix(f"{answer.conversation}: ") for answer in forced)
        return tuple(dict.fromkeys(named))

    @property
    def thinks(self) -> bool:
        """Whether a daemon tells the tag's thinking from its answers."""
        return self.template is not None and "thinking" in self.template.capabilities

    def rendered_on(self, conversation: Conversation, day: date) -> str:
        """A conversation's prompt as a daemon renders it on another day.

        Dates are the chat template's: what is said stays, though it may look like one.
        """
        dates = {written: day.strftime(form) for form, written in self.dates.items()}
        said = {turn.content for turn in conversation.turns} | {self.system or ""}
        texts = sorted({*dates, *said} - {""}, key=len, reverse=True)
        return re.sub(
            "|".join(map(re.escape, texts)),
            lambda found: found[0] if found[0] in said else dates[found[0]],
            conversation.rendered,
        )

    def to_json(self) -> str:
        """The values on one line, as a GGUF carries them."""
        return self.model_dump_json()

    def write(self, path: Path) -> None:
        """Write ``reference.json``.

        Raises:
            DiskFullError: no room; an old file is untouched.
        """
        write_text_atomic(path, self.model_dump_json(indent=1))

    @classmethod
    def read(cls, path: Path) -> ReferenceValues:
        """Read and check ``reference.json``.

        Raises:
            ArtifactError: missing, not JSON, of another schema, or naming the first wrong field.
        """
        try:
            text = path.read_bytes()
        except FileNotFoundError as exc:
            raise ArtifactError(
                f"{path} is missing: without reference values nothing can be proven equal",
                hint="ollama-bridge package CHECKPOINT TAG computes them from the weights",
            ) from exc
        except OSError as exc:
            raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc
        return cls.parse(text, where=str(path))

    @classmethod
    def parse(cls, text: str | bytes, *, where: str) -> ReferenceValues:
        """Read and check what :meth:`to_json` wrote.

        Args:
            text: The JSON.
            where: It comes from, for messages.

        Raises:
            ArtifactError: not JSON, of another schema, or naming the first wrong field.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as exc:
            first = exc.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ArtifactError(
                f"{where}: {place}: {first['msg']} ({exc.error_count()} problem(s))",
                hint="remove the artefact's folder to build it again",
            ) from exc
