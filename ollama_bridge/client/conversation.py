"""A conversation as a value that grows: history, what was dropped of it, saving and loading.

Asks nobody; ``session`` does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from ollama_bridge.client.options import Options, check_options
from ollama_bridge.client.questions import ChatRequest
from ollama_bridge.client.requests import Format, Images, KeepAlive, Think, read_image
from ollama_bridge.client.values import Reply
from ollama_bridge.errors import ArtifactError, ConfigError, ContextOverflowError
from ollama_bridge.storage.atomic_files import write_text_atomic

Trim = Literal["oldest", "never"]
_SCHEMA = 1
# Where no reply has told yet. English has 0.25 tokens a character; of other scripts, which have
# more, hardly any character takes more than one.
_TOKENS_PER_ASCII, _TOKENS_PER_OTHER = 0.33, 1.0


@dataclass
class Turn:
    """A question and its answer.

    Attributes:
        question: The user's message.
        answer: Of the model; where ``is_whole`` is false, what came before it was stopped. Where
            that was its thinking only, it is empty, and the question is sent alone.
        thinking: Of the model; not sent again.
        is_whole: Whether the answer ended, by itself or at its limit of tokens.
    """

    question: dict[str, Any]
    answer: str
    thinking: str = ""
    is_whole: bool = True

    @property
    def messages(self) -> list[dict[str, Any]]:
        """As they are sent."""
        if not (self.answer or self.is_whole):
            return [self.question]
        return [self.question, {"role": "assistant", "content": self.answer}]

    @property
    def size_chars(self) -> int:
        """Length of its texts."""
        return len(self.text)

    @property
    def text(self) -> str:
        """Question and answer."""
        return str(self.question.get("content", "")) + self.answer


# What stands and what was dropped.
State = tuple[list[Turn], list[Turn]]


@dataclass
class Conversation:
    """What was said, and how the next question is asked.

    Attributes:
        model: The tag that is asked.
        system: Its instruction; None: the model's own.
        options: Of every question.
        think: Of every question.
        trim: What is done when it does not fit the context any more: ``oldest``: the oldest turns
            are left out of it (and listed in ``dropped``); ``never``: it is an error.
        reserve_tokens: Room that is left for an answer; at most half of the context.
        budget_tokens: What a question may take with all that is sent in front of it, by what the
            last answer told, before one by a guess (a third of a token a character of ASCII, one of
            any other): beyond it the oldest turns are left out. None: what the context holds.
        format: Of every answer: ``json`` or a JSON schema.
        keep_alive: How long the model stays loaded after every answer.
        turns: Those that are still sent.
        dropped: Those that are not any more.
        heard: Those before them that ``model`` has in it, which the daemon sends by itself. A file
            has them in front of ``turns``: it is read with another model, too.
    """

    model: str
    system: str | None = None
    options: Options = field(default_factory=dict)
    think: Think = None
    trim: Trim = "oldest"
    reserve_tokens: int = 512
    format: Format = None
    keep_alive: KeepAlive = None
    turns: list[Turn] = field(default_factory=list)
    dropped: list[Turn] = field(default_factory=list)
    budget_tokens: int | None = None
    heard: list[Turn] = field(default_factory=list)
    _used_tokens: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what could not be asked."""
        check_options(self.options)
        if self.trim not in ("oldest", "never"):
            raise ConfigError(f"trim is {self.trim!r}", hint="write oldest or never")
        if self.budget_tokens is not None and self.budget_tokens < 1:
            raise ConfigError(f"budget_tokens is {self.budget_tokens}", hint="1 or more, or None")
        if self.budget_tokens is not None and self.trim == "never":
            raise ConfigError("budget_tokens is set, but trim is never", hint="write trim=oldest")
        if self.reserve_tokens < 0:
            raise ConfigError(f"reserve_tokens is {self.reserve_tokens}: it cannot be negative")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What is sent in front of the next question."""
        history = [message for turn in self.turns for message in turn.messages]
        if self.system is None:
            return history
        return [{"role": "system", "content": self.system}, *history]

    def question(self, text: str, images: Images = None) -> dict[str, Any]:
        """A user's message.

        Raises:
            ConfigError: an image cannot be read.
        """
        message: dict[str, Any] = {"role": "user", "content": text}
        if images:
            message["images"] = [read_image(image) for image in images]
        return message

    def request(self, question: dict[str, Any]) -> ChatRequest:
        """A question behind what was said, as a client asks it; nothing of it is remembered.

        Args:
            question: As :meth:`question` makes it.
        """
        return ChatRequest(
            model=self.model,
            messages=[*self.messages, question],
            options=self.options,
            think=self.think,
            format=self.format,
            keep_alive=self.keep_alive,
        )

    def make_room(self, question: Mapping[str, Any], context_tokens: int | None) -> list[Turn]:
        """Drop turns that would leave no room for an answer, by what the last reply took.

        Args:
            context_tokens: Length of the model's context, if it is known.

        Returns:
            The turns that were dropped.
        """
        text = "".join(turn.text for turn in self.turns)
        used, chars = self._used_tokens, len(text)
        limits = [] if context_tokens is None else [self._room_tokens(context_tokens)]
        if self.budget_tokens is not None:
            # The daemon refuses what its context does not hold; to the budget only we hold it.
            if used is None:
                limits, used = [], _estimate(text + (self.system or ""))
            limits.append(self.budget_tokens)
        if self.trim == "never" or used is None or not limits or not chars:
            return []
        # The instruction and the template are in `used` too, so this is the most that they can be.
        tokens_per_char = min(_TOKENS_PER_OTHER, used / chars)
        expected = used + len(str(question.get("content", ""))) * tokens_per_char
        return self._drop(expected, tokens_per_char, min(limits))

    def make_room_after(
        self, question: Mapping[str, Any], refusal: ContextOverflowError
    ) -> list[Turn]:
        """Drop turns by what the daemon said of a prompt that is too long; at least one.

        Args:
            refusal: Its numbers say how many turns have to go, the oldest first.

        Returns:
            The turns that were dropped; none where there is none, or none may be.
        """
        turns = list(self.turns)
        dropped = self.drop_oldest()
        needed, limit = refusal.needed_tokens, refusal.limit_tokens
        if not dropped or needed is None or limit is None:
            return dropped
        others = len(self.system or "") + len(str(question.get("content", "")))
        tokens_per_char = needed / max(1, others + sum(turn.size_chars for turn in turns))
        expected = needed - dropped[0].size_chars * tokens_per_char
        return dropped + self._drop(expected, tokens_per_char, self._room_tokens(limit))

    def _room_tokens(self, context_tokens: int) -> int:
        """What a context has for a question."""
        return context_tokens - min(self.reserve_tokens, context_tokens // 2)

    def _drop(self, expected_tokens: float, tokens_per_char: float, most_tokens: int) -> list[Turn]:
        dropped: list[Turn] = []
        while self.turns and expected_tokens > most_tokens:
            expected_tokens -= self.turns[0].size_chars * tokens_per_char
            dropped += self.drop_oldest()
        return dropped

    def drop_oldest(self) -> list[Turn]:
        """Leave out the oldest turn; empty if there is none, or none may be dropped."""
        if self.trim == "never" or not self.turns:
            return []
        turn = self.turns.pop(0)
        self.dropped.append(turn)
        self._used_tokens = None  # counted anew by the next reply
        return [turn]

    def add(self, question: dict[str, Any], reply: Reply) -> None:
        """Take an answer in."""
        self.turns.append(Turn(question, reply.text, reply.thinking))
        # Thinking is not sent again.
        share = len(reply.text) / max(1, len(reply.text) + len(reply.thinking))
        self._used_tokens = reply.prompt_tokens + round(reply.generated_tokens * share)

    def add_stopped(self, question: dict[str, Any], text: str, thinking: str = "") -> None:
        """Take in what came of an answer that was stopped; nothing if nothing came."""
        if text or thinking:
            self.turns.append(Turn(question, text, thinking, is_whole=False))
            self._used_tokens = None

    def state(self) -> State:
        """What :meth:`go_back` goes back to."""
        return list(self.turns), list(self.dropped)

    def go_back(self, state: State) -> None:
        """Be as before a question that came to nothing."""
        self.turns[:], self.dropped[:] = state
        self._used_tokens = None

    def undo(self) -> Turn | None:
        """Take the last turn back; None if there is none."""
        self._used_tokens = None
        return self.turns.pop() if self.turns else None

    def clear(self) -> None:
        """Forget what was said; the settings stay."""
        self.turns.clear()
        self.dropped.clear()
        self.heard.clear()
        self._used_tokens = None

    def save(self, path: str | Path) -> None:
        """Write everything into a JSON file, whole or not at all; a new one is the user's alone.

        Raises:
            ArtifactError: it cannot be written.
        """
        path = Path(path)
        data = {
            "schema": _SCHEMA,
            "model": self.model,
            "system": self.system,
            "options": dict(self.options),
            "think": self.think,
            "trim": self.trim,
            "reserve_tokens": self.reserve_tokens,
            "format": self.format,
            "keep_alive": self.keep_alive,
            "budget_tokens": self.budget_tokens,
            "dropped": [_to_json(turn) for turn in self.dropped],
            "turns": [_to_json(turn) for turn in [*self.heard, *self.turns]],
        }
        try:
            text = json.dumps(data, ensure_ascii=False, indent=1) + "\n"
            write_text_atomic(path, text, private=True)
        except OSError as exc:
            raise ArtifactError(
                f"{path} cannot be written: {exc.strerror}",
                hint=f"mkdir -p {quote(str(path.parent))}",
            ) from exc

    @classmethod
    def load(cls, path: str | Path) -> Conversation:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: it is not such a file.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not JSON"
            raise ArtifactError(f"{path} cannot be read: {reason}") from exc
        try:
            if data.pop("schema") != _SCHEMA:
                raise ArtifactError(f"{path} was saved by another version of ollama-bridge")
            turns, dropped = _turns(data.pop("turns")), _turns(data.pop("dropped"))
            return cls(turns=turns, dropped=dropped, **_settings(data))
        except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as exc:
            raise ArtifactError(
                f"{path} is not a saved conversation: {exc}",
                hint="save one with: ollama-bridge chat TAG, then /save FILE",
            ) from exc


def _estimate(text: str) -> int:
    ascii_chars = len(text.encode("ascii", errors="ignore"))
    others = len(text) - ascii_chars
    return round(ascii_chars * _TOKENS_PER_ASCII + others * _TOKENS_PER_OTHER)


def _to_json(turn: Turn) -> dict[str, Any]:
    question = dict(turn.question)
    if "images" in question:
        question["images"] = [base64.b64encode(image).decode() for image in question["images"]]
    return {**vars(turn), "question": question}


def _turns(items: Sequence[Mapping[str, Any]]) -> list[Turn]:
    found = []
    for item in items:
        question: dict[str, Any] = {"role": "user", "content": str(item["question"]["content"])}
        if "images" in item["question"]:
            question["images"] = [base64.b64decode(image) for image in item["question"]["images"]]
        whole = bool(item["is_whole"])
        found.append(Turn(question, str(item["answer"]), str(item["thinking"]), whole))
    return found


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model", "system", "options", "think", "trim", "reserve_tokens", "format")
    if not isinstance(data["model"], str) or not isinstance(data["system"], str | None):
        raise TypeError("model and system must be texts")
    # Files of before have none of these.
    newer = {name: data.get(name) for name in ("keep_alive", "budget_tokens")}
    return {name: data[name] for name in names} | newer
