"""A daemon that serves reference values exactly, and can be told to serve one thing wrongly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ollama_bridge.client import (
    ModelDetails,
    ModelSummary,
    NextToken,
    Reply,
    Timings,
    TokenLogprob,
    TopLogprob,
)
from ollama_bridge.errors import ModelNotFoundError, RenderingHiddenError, RepetitionError
from ollama_bridge.reference import (
    Answer,
    Conversation,
    Position,
    ReferenceValues,
    ServedTemplate,
    Special,
    TokenScore,
    Turn,
)

END = Special(id=2, text="<|im_end|>")
SYSTEM = "Be brief."
TOP = (TokenScore(5, "Yes", -0.1), TokenScore(6, "No", -2.4), TokenScore(2, None, -6.0))
# ChatML in Go, as `modelfiles/chatml.Modelfile.j2` has it.
CHATML_GO = (
    "{{- range $i, $_ := .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}"
    "{{- if gt (len (slice $.Messages $i)) 1 }}<|im_end|>\n"
    '{{ else if ne .Role "assistant" }}<|im_end|>\n<|im_start|>assistant\n{{ end }}{{- end }}'
)
ENDING = (TokenScore(2, None, -0.01), TokenScore(6, "No", -5.0))


def chatml(turns: Sequence[tuple[str, str]], *, system: str | None) -> str:
    """ChatML, written down once more."""
    turns = list(turns)
    if system and turns[0][0] != "system":
        turns.insert(0, ("system", system))
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    if turns[-1][0] == "assistant":
        return text.removesuffix("<|im_end|>\n")
    return text + "<|im_start|>assistant\n"


def small_reference(*, system: str | None = SYSTEM) -> ReferenceValues:
    """Two conversations and one answer that ends."""

    def conversation(name: str, *turns: tuple[str, str]) -> Conversation:
        return Conversation(
            name=name,
            turns=tuple(Turn(role=role, content=content) for role, content in turns),  # type: ignore[arg-type]
            rendered=chatml(turns, system=system),
            token_ids=(1, 5, 6),
            token_texts=("<|im_start|>", "Yes", "No"),
            top=TOP,
        )

    return ReferenceValues(
        system=system,
        default_system=None,
        has_chat_template=True,
        template=ServedTemplate(
            authority="template", go=CHATML_GO, reason="a test", conversations=1
        ),
        turn_end="<|im_end|>",
        end_tokens=(END,),
        bos=None,
        adds_bos=False,
        pre_tokenizer="gpt-2",
        vocab_size=7,
        context_length=8192,
        conversations=(
            conversation("plain", ("user", "Hi")),
            conversation("continued", ("user", "Hi"), ("assistant", "Well")),
        ),
        answers=(
            Answer(
                name="plain: own answer",
                conversation="plain",
                text="Yes",
                greedy=True,
                ends=True,
                tokens=1,
                certain_text="Yes",
                positions=(
                    Position(prefix="", prompt_tokens=3, top=TOP),
                    Position(prefix="Yes", prompt_tokens=4, top=ENDING),
                ),
            ),
        ),
    )


@dataclass
class Stored:
    """A tag in the fake daemon."""

    request: dict[str, Any]
    digest: str


@dataclass
class FakeDaemon:
    """Has the surface of ``Client`` that registering uses.

    Attributes:
        reference: What it serves.
        logprob_shift: Added to the second token of every place.
        shifted_prompt: The only place where it is added; None: everywhere.
        extra_tokens: Added to every prompt's token count.
        never_ends: Answers run into the limit.
        says: Its answers in a chat; None: the reference's.
        ends_repeats: It ends its answers because a token came again and again.
        right_once_unloaded: ``says`` and ``logprob_shift`` are of the runner that is loaded, not of
            the next one.
        goes_on_raw: It does not end where the reference does.
        drops: Parameter that create loses.
        renders: Whether it shows how it renders a prompt.
        rewrites: Whether it keeps another file than it was sent.
        copies_wrongly: Whether a copied tag is another one.
        loaded: Tags in memory.
        created_at: When each tag was made.
        model_info: What it reads in the file.
        tensors: What it shows of the file's tensors.
        ollama: Its version.
        fail_at: Name of the method that raises ``failure``.
        host: Another machine's, so that files are sent.
    """

    reference: ReferenceValues
    logprob_shift: float = 0.0
    shifted_prompt: str | None = None
    extra_tokens: int = 0
    never_ends: bool = False
    says: str | None = None
    ends_repeats: bool = False
    right_once_unloaded: bool = False
    goes_on_raw: bool = False
    drops: str | None = None
    renders: bool = True
    rewrites: bool = False
    copies_wrongly: bool = False
    loaded: list[str] = field(default_factory=list)
    created_at: str = "2026-01-01T00:00:00Z"
    model_info: dict[str, Any] = field(default_factory=dict)
    tensors: list[dict[str, Any]] = field(default_factory=list)
    ollama: str = "0.34.4"
    fail_at: str | None = None
    failure: BaseException | None = None
    blobs: set[str] = field(default_factory=set)
    tags: dict[str, Stored] = field(default_factory=dict)
    uploads: int = 0
    host: str = "http://192.0.2.1:11434"
    calls: list[str] = field(default_factory=list)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail_at and self.failure is not None:
            raise self.failure

    def _stored(self, tag: str) -> Stored:
        if tag not in self.tags:
            raise ModelNotFoundError(f"model {tag!r} not found", status_code=404, model=tag)
        return self.tags[tag]

    def version(self) -> str:
        """A current one, if not told otherwise."""
        return self.ollama

    def has_blob(self, digest: str) -> bool:
        """Whether it was uploaded."""
        return digest in self.blobs

    def upload_blob(self, path: Path, digest: str, *, on_progress: object = None) -> None:
        """Keep the digest."""
        self._call("upload_blob")
        self.uploads += 1
        self.blobs.add(digest)

    def create(self, request: Mapping[str, Any]) -> None:
        """Keep the request under its tag."""
        self._call("create")
        kept = json.loads(json.dumps(request))
        if self.drops is not None:
            kept["parameters"].pop(self.drops, None)
        content = json.dumps({key: kept[key] for key in sorted(kept) if key != "model"})
        self.tags[request["model"]] = Stored(kept, hashlib.sha256(content.encode()).hexdigest())

    def copy(self, source: str, destination: str) -> None:
        """Both names have the same manifest."""
        self._call("copy")
        copied = self._stored(source)
        self.tags[destination] = replace(copied, digest="other") if self.copies_wrongly else copied

    def delete(self, tag: str) -> None:
        """Forget the tag."""
        self._stored(tag)
        del self.tags[tag]

    def list(self) -> list[ModelSummary]:
        """All tags, without what is Ollama's own in their names."""
        return [
            ModelSummary(
                name=name.removeprefix("registry.ollama.ai/").removeprefix("library/"),
                digest=stored.digest,
                size_bytes=1,
                modified_at=self.created_at,
            )
            for name, stored in self.tags.items()
        ]

    def ps(self) -> list[ModelSummary]:
        """What is loaded."""
        return [model for model in self.list() if model.name in self.loaded]

    def unload(self, tag: str) -> None:
        """Take it out of memory."""
        self._call(f"unload {tag}")
        if tag in self.loaded:
            self.loaded.remove(tag)
        if self.right_once_unloaded:
            self.says, self.logprob_shift = None, 0.0

    def show(self, tag: str, *, verbose: bool = False) -> ModelDetails:
        """What was created, in the daemon's notation."""
        request = self._stored(tag).request
        lines = []
        for name, value in request.get("parameters", {}).items():
            for item in value if isinstance(value, list) else [value]:
                shown = json.dumps(item) if isinstance(item, str | bool) else f"{item:g}"
                lines.append(f"{name:<30} {shown}")
        blob = next(iter(request["files"].values())).replace(":", "-")
        if self.rewrites:
            blob = f"sha256-{'0' * 64}"
        adapters = [digest.replace(":", "-") for digest in request.get("adapters", {}).values()]
        return ModelDetails(
            modelfile=f"FROM /models/blobs/{blob}\n"
            + "".join(f"ADAPTER /models/blobs/{name}\n" for name in adapters),
            template=request.get("template", ""),
            system=request.get("system", ""),
            parameters="\n".join(lines),
            model_info=self.model_info,
            capabilities=("completion",),
            raw={
                "tensors": self.tensors,
                **({"messages": request["messages"]} if "messages" in request else {}),
            },
        )

    def render(
        self,
        tag: str,
        messages: Sequence[Mapping[str, str]],
        *,
        think: object = None,
        tools: object = None,
    ) -> str:
        """ChatML with the tag's own system prompt."""
        self._call("render")
        if not self.renders:
            raise RenderingHiddenError("this daemon does not say how it renders a prompt")
        return self._prompt(tag, messages)

    def _prompt(self, tag: str, messages: Sequence[Mapping[str, str]]) -> str:
        request = self._stored(tag).request
        turns = [(one["role"], one["content"]) for one in (*request.get("messages", ()), *messages)]
        return chatml(turns, system=request.get("system"))

    def next_token(self, tag: str, prompt: str, *, top: int = 20) -> NextToken:
        """The reference's own log-probabilities, shifted."""
        self._call("next_token")
        tokens, scores = self._place(prompt)
        served = self._served(scores, shifted=self.shifted_prompt in (None, prompt))
        return NextToken(
            prompt_tokens=tokens + self.extra_tokens, top=served, chosen=served[0].token
        )

    def _served(
        self, scores: Sequence[TokenScore], *, shifted: bool = True
    ) -> tuple[TopLogprob, ...]:
        return tuple(
            TopLogprob(
                token=score.text or "",
                logprob=score.logprob + (self.logprob_shift if shifted and index == 1 else 0.0),
                bytes=None,
            )
            for index, score in enumerate(scores)
        )

    def _place(self, prompt: str) -> tuple[int, tuple[TokenScore, ...]]:
        for conversation in self.reference.conversations:
            if conversation.rendered == prompt:
                return len(conversation.token_ids), conversation.top
        for answer in self.reference.answers:
            rendered = self.reference.conversation(answer.conversation).rendered
            for position in answer.positions:
                if rendered + position.prefix == prompt:
                    return position.prompt_tokens, position.top
        raise AssertionError("a prompt that no probe has")

    def chat(
        self,
        tag: str,
        messages: Sequence[Mapping[str, str]],
        *,
        think: object = None,
        tools: object = None,
        options: Mapping[str, Any],
        logprobs: bool = False,
        top_logprobs: int | None = None,
    ) -> Reply:
        """The reference's own answer; a prompt that is not the reference's has more tokens."""
        reply = self._reply(self.reference.answers[0].text if self.says is None else self.says)
        if not logprobs:
            if self.ends_repeats:
                raise RepetitionError("it repeats", model=tag, partial_text=reply.text)
            return reply
        prompt = self._prompt(tag, messages)
        known = any(prompt == found.rendered for found in self.reference.conversations)
        tokens, scores = self._place(prompt) if known else (99, TOP)
        top = self._served(scores)
        entry = TokenLogprob(token=top[0].token, logprob=top[0].logprob, bytes=None, top=top)
        return replace(reply, prompt_tokens=tokens + self.extra_tokens, logprobs=(entry,))

    def generate(
        self, tag: str, prompt: str, *, raw: bool, think: bool, options: Mapping[str, Any]
    ) -> Reply:
        """The reference's answer to its prompt, and behind that nothing more."""
        for answer in self.reference.answers:
            if prompt == self.reference.conversation(answer.conversation).rendered:
                return self._reply(answer.text)
        return self._reply("x" if self.goes_on_raw else "")

    def _reply(self, text: str) -> Reply:
        return Reply(
            text=text,
            thinking="",
            done_reason="length" if self.never_ends else "stop",
            model="fake",
            prompt_tokens=3,
            generated_tokens=1,
            timings=Timings(),
        )
