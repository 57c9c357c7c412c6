"""The part of a recipe that says who teaches and how it is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ollama_bridge.recipe.sections import Section


class AskedTeacherSection(Section):
    """Which model teaches, what is asked of it, and where."""

    model: str = Field(description="Model reference: ollama:tag, ./dir, file.gguf, hf:org/name.")
    answers: Literal["gold", "daemon"] = Field(
        default="gold",
        description="gold: answers of the data; daemon: the teacher writes them through Ollama, or "
        "through the API at base_url.",
    )
    answer_tokens: int = Field(
        default=80, gt=0, description="Limit of a written answer, in tokens."
    )
    answer_temperature: float = Field(default=0.0, ge=0)
    hosts: tuple[str, ...] = Field(
        default=(),
        description="Daemons that answer together, each with the same model; empty: the one in "
        "use. Does not change results.",
    )
    in_flight: int = Field(
        default=2,
        ge=1,
        le=256,
        description="Requests at a time per daemon: one more than its OLLAMA_NUM_PARALLEL keeps it "
        "busy. Does not change results.",
    )
    base_url: str | None = Field(
        default=None,
        description="An OpenAI-compatible API (vLLM, ...) that is asked instead of Ollama, such as "
        "http://127.0.0.1:8000/v1; `model` is the name there. The key: OPENAI_API_KEY.",
    )
    soft_labels: Literal["local", "daemon", "none"] = Field(
        default="local",
        description="Who gives the distributions. local: the weights in torch; daemon: the "
        "likeliest 20 tokens that Ollama (or the API) reports, for teachers whose weights are not "
        "at hand; none: nobody, the written answers alone are learnt.",
    )
    score: Literal["generated", "asked", "both"] = Field(
        default="generated",
        description="With `soft_labels: daemon`: which tokens get a distribution; the others are "
        "learnt as hard labels. generated: those of answers that the daemon wrote (it reports them "
        "with the answer); asked: those of every answer, one request per token; both: the "
        "reported ones, and the rest asked.",
    )
    thinking: Literal["strip", "keep", "shorten"] = Field(
        default="strip",
        description="What the student learns of a written answer's thinking. strip: the answer "
        "alone; keep: <think> and answer; shorten: sentences from both ends of the thinking.",
    )
    thinking_words: int = Field(
        default=120, gt=0, description="With `thinking: shorten`: keep at most this many words."
    )
    rewrite: bool = Field(
        default=False,
        description="With `answers: daemon`: also write answers where the data have one, for "
        "training; those that do not say the example's label are left out.",
    )

    @model_validator(mode="after")
    def _written_answers_are_written(self) -> AskedTeacherSection:
        if self.answers == "gold" and (self.rewrite or self.thinking != "strip"):
            raise ValueError("answers: set it to daemon, so that answers with thinking are written")
        if self.answers == "gold" and self.soft_labels == "daemon" and self.score == "generated":
            raise ValueError(
                "score: set it to asked (--set teacher.score=asked), or set answers: daemon; "
                "answers from the data come without distributions"
            )
        if self.base_url is not None:
            if self.answers == "gold" or self.soft_labels == "local" or self.hosts:
                raise ValueError(
                    "base_url: an API writes answers (answers: daemon), has no weights here "
                    "(soft_labels: daemon or none), and is not a daemon (no hosts)"
                )
            if self.soft_labels == "daemon" and self.score != "generated":
                raise ValueError("score: an API says nothing about text that it did not write")
        return self
