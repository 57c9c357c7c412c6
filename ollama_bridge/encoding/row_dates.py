"""The date in a row of a corpus: the row's own, where a chat template writes one.

Chat templates of Llama 3.2, SmolLM3 or Granite write today into every prompt. A row would be
another one each day: labels of yesterday would be missing, and a resumed run would learn other data
than it began with. A student would know one date, too. So a row has a day of its own, which only
what it says decides: always the same one, for teachers and students alike.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import Any

import jinja2

from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.encoding.tool_turns import with_short_ids
from ollama_bridge.examples import Message
from ollama_bridge.template.environment import chat_environment
from ollama_bridge.template.jinja import with_written_arguments

_CLOCK = "strftime_now"  # what templates ask for the day, with a format
_FIRST_DAY = datetime(2024, 1, 1)
_DAYS = 366 + 365  # through 2025


def key_of_dates(tokenizer: Any) -> dict[str, str]:
    """For the key of work on rendered rows; empty where the chat template asks for no day.

    What was done while it was told today is done anew.
    """
    dated = tokenizer.chat_template and _asks_for_day(tokenizer.get_chat_template())
    return {"dates": "of the rows"} if dated else {}


def render(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """What ``apply_chat_template`` makes of some turns on the conversation's own day.

    Args:
        messages: The conversation, or as much of it as there is in front of one of its answers.
        tokenizer: The checkpoint's own, with its chat template.
        generation_prompt: Whether an answer is asked for.
        tools: What the assistant may call.

    Raises:
        jinja2.TemplateError: the template refuses the conversation.
        ValueError: there is no template.
        TypeError: the template cannot read the conversation.
    """
    said = [message.to_jinja() for message in messages]
    asked = partial(
        _render, tokenizer=tokenizer, messages=messages, tools=tools, prompt=generation_prompt
    )
    try:
        return asked(said)
    except (jinja2.TemplateError, TypeError):
        if not any(message.calls for message in messages):
            raise
        # Some take the arguments of calls as OpenAI's API has them, as JSON texts, some ids of one
        # length alone.
        named = [message.to_jinja() for message in with_short_ids(messages)]
        for other in (list(map(with_written_arguments, said)), named):
            with contextlib.suppress(jinja2.TemplateError, TypeError):
                return asked(other)
        raise


def _render(
    said: list[dict[str, Any]],
    *,
    tokenizer: Any,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    prompt: bool,
) -> str:
    template = tokenizer.get_chat_template()
    offered = [dict(tool) for tool in tools] or None
    if _asks_for_day(template):
        # Not by transformers: it lets no function through to a template, so no clock of ours.
        return _compiled(template).render(
            messages=said,
            tools=offered,
            documents=None,
            add_generation_prompt=prompt,
            **tokenizer.special_tokens_map,
            **{_CLOCK: clock_of(messages)},
        )
    return str(
        tokenizer.apply_chat_template(
            said,
            tools=offered,
            chat_template=template,  # of several by name the one that all else is made of
            tokenize=False,
            add_generation_prompt=prompt,
        )
    )


def clock_of(messages: Sequence[Message]) -> Callable[[str], str]:
    """A format to the date of a conversation, of which the turns before its first answer decide.

    However many of its turns are rendered, the day is the same.
    """
    asked = takewhile(lambda message: message.role != "assistant", messages)
    digest = digest_text(canonical_json([message.to_dict() for message in asked]))
    day = _FIRST_DAY + timedelta(days=int(digest[:8], 16) % _DAYS)
    return day.strftime


def _asks_for_day(template: str) -> bool:
    return _CLOCK in template


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    return chat_environment(clock_of(())).from_string(template)
