"""Questions to a chat template that have short answers, and the conversations it is probed with."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from ollama_bridge.template.jinja import OTHER_NAMES_OF_TOOLS, ChatTemplate, RefusedError
from ollama_bridge.template.marked_conversations import fill
from ollama_bridge.template.words import cuts_thoughts, names_thinking

# Letters as in `fill`.
PLAIN_SHAPES = ("u", "ua", "uau", "uaua", "uauau", "uauaua", "uauauau")
THOUGHT_SHAPES = ("ur", "uru", "urur", "uruau", "uauru", "uruaur", "uruaua", "uauaur")
CALLED_SHAPES = (
    *("uct", "ucta", "uctau", "uctct", "uctcta", "udtt", "udtta", "ubtt", "ubtta"),
    *("ust", "usta", "ustau"),
    *("uauct", "uaust", "uctauct", "uctaucta", "uctauaua", "uctu", "uctst", "uctsta", "ustctau"),
)
# Where calls are not written, a message must say something for its place to be seen.
SAID_AND_CALLED_SHAPES = (
    *("ust", "usta", "ustau", "uaust", "ustst", "uststa", "ustaust", "ustausta", "ustauaua"),
    *("ubtt", "ubtta", "ubttau"),
)
THOUGHT_CALLED_SHAPES = ("ukt", "ukta", "uktr", "uktru", "uktruau", "uruct", "uruktr", "uaukt")
ALL_SHAPES = (*PLAIN_SHAPES, *THOUGHT_SHAPES, *CALLED_SHAPES, *THOUGHT_CALLED_SHAPES)
_THINKS: tuple[bool | None, ...] = (None, True, False)
_ENDS_WITH_TAG = r"<(\w+)>\s*$"
_MEANS_THINKING = (
    r"think|thought|reason|reflect|analysis|rationale|scratch|deliberat|monologue"
    r"|(?:^|_)cot(?:_|$)"
)
_MEANS_ANSWER = (
    r"answer|assistant|respon[ds]|reply|output|result|final|(?:^|_)(?:bot|model|agent|ai)(?:_|$)"
)


def find_unopened(template: ChatTemplate) -> str:
    """What stands before past answers, but at the end of no prompt; usually nothing.

    Templates of training that know no ``add_generation_prompt``: the model has to write it.
    """
    asked = fill("uau", system=False, tools=0, think=None)
    question, answer, *_ = asked.messages
    lone = replace(asked, messages=(question,))
    try:
        prompt = template.render(lone)
        if template.render(lone, prompt=False) != prompt:
            return ""
        front = template.render(asked).partition(answer.content)[0]
    except RefusedError:
        return ""
    return front[len(prompt) :].strip() if front.startswith(prompt) else ""


def takes_tools(template: ChatTemplate) -> bool:
    """Whether tools change the prompt."""
    for system in (False, True):
        try:
            bare = template.render(fill("u", system=system, tools=0, think=None))
            if template.render(fill("u", system=system, tools=1, think=None)) != bare:
                return True
        except RefusedError:
            continue
    return False


def out_of_reach(template: ChatTemplate, *, listed: Collection[str] = ()) -> tuple[str, ...]:
    """What a chat template does where it is asked in a way in which Ollama never asks.

    Tools by a name of their own (SmolLM3), and thinking that is requested by a sentence and is no
    part of any message (Granite): a tag has none of it, and nothing else would say so.

    Args:
        template: The chat template.
        listed: Of tools and thinking, what Ollama offers for the template's words alone.
    """
    said = []
    reached = takes_tools(template)
    names = (name for name in OTHER_NAMES_OF_TOOLS if template.reads_tools(name))
    name = None if reached else next(names, None)
    if not reached and "tools" in listed:
        said.append(
            "a request with tools is answered as one without, though Ollama lists them: the chat "
            "template " + (f"takes them as {name}" if name else "only has the word")
        )
    elif name is not None:
        said.append(
            f"tools are not offered: the chat template takes them as {name}, Ollama gives tools"
        )
    if shows_thinking(template):
        return tuple(said)
    asked = _thinks_on_request(template)
    if asked and "thinking" not in listed:
        said.append(
            "thinking is not offered: a request to think changes the chat template's prompt, and "
            "no message shows where thoughts are"
        )
    elif not asked and "thinking" in listed:
        said.append(
            "a request to think is answered as one without, though Ollama lists thinking: the chat "
            "template only names its tags"
        )
    return tuple(said)


def left_in_answers(template: ChatTemplate) -> tuple[str, ...]:
    """That a model thinks, where its chat template shows it and Ollama cannot tell it apart."""
    if shows_thinking(template) or _thinks_on_request(template):
        return ()  # offered, or said
    if template.takes_thoughts_in_parts():
        seen = "takes thoughts as parts of a content, Ollama as a field"
    elif names_thinking(template.source) or cuts_thoughts(template.source):
        seen = "names </think>, and no answer shows where thoughts are"
    else:
        return ()
    return (
        f"thinking is not offered: the chat template {seen}; what the model thinks stands in its "
        "answers",
    )


def _thinks_on_request(template: ChatTemplate) -> bool:
    prompts = []
    for think in (None, True):
        try:
            prompts.append(template.render(fill("u", system=False, tools=0, think=think)))
        except RefusedError:
            return False
    return prompts[0] != prompts[1]


def depends_on_think(template: ChatTemplate, *, tools: bool) -> bool:
    """Whether the request's ``think`` changes any prompt."""
    for shape in ("u", "uau", "ur", "uru", "uruau", *(("uct", "ucta") if tools else ())):
        texts = set()
        for think in _THINKS:
            conversation = fill(shape, system=False, tools=int(tools), think=think)
            try:
                texts.add(template.render(conversation))
            except RefusedError:
                continue
        if len(texts) > 1:
            return True
    return False


def states_of_think(
    template: ChatTemplate, *, tools: bool, capable: bool
) -> tuple[bool | None, ...]:
    """What a request may say of thinking, as far as prompts depend on it.

    A daemon turns thinking on for a model that can, unless it is told not to; one that cannot is
    never told to. What the template refuses for a lone question already, it is not asked again.
    """
    if not depends_on_think(template, tools=tools):
        return (None,)
    states = (True, False) if capable else (None, False)
    taken = tuple(think for think in states if _takes_think(template, think=think))
    return taken or states


def _takes_think(template: ChatTemplate, *, think: bool | None) -> bool:
    """Whether a lone question may come with a request that says so of thinking."""
    try:
        template.render(fill("u", system=False, tools=0, think=think))
    except RefusedError:
        return False
    return True


def shows_thinking(template: ChatTemplate) -> bool:
    """Whether the template knows of an assistant's thinking."""
    return _shows_field(template) or find_dropped_tags(template) is not None


def find_dropped_tags(template: ChatTemplate) -> tuple[str, str] | None:
    """The tags between which the template cuts thinking out of what was said, or opens it itself.

    Or asks for it in its system prompt. Tags are tried that the template itself names, and one that
    it ends a prompt with, unless that opens an answer.
    """
    answer_tag = _find_answer_tag(template)
    for think, pattern in ((None, _ENDS_WITH_TAG), (False, r"<(\w+)>\s*</\1>\s*$")):
        try:
            prompt = template.render(fill("u", system=False, tools=0, think=think))
        except RefusedError:
            continue
        opened = re.search(pattern, prompt)
        if opened is not None and opened[1] != answer_tag:
            return f"<{opened[1]}>\n", f"\n</{opened[1]}>\n\n"
    names = {name for text in template.literals() for name in re.findall(r"</(\w+)>", text)}
    for name in sorted(names):
        tags = f"<{name}>\n", f"\n</{name}>\n\n"
        # Some keep those of the last answer.
        if any(_keeps(template, *tags, shape) is False for shape in ("uau", "uauau", "uauaua")):
            return tags
    return _tags_asked_for(template)


def _tags_asked_for(template: ChatTemplate) -> tuple[str, str] | None:
    """The tags between which the template's own system prompt asks for thoughts."""
    asked = fill("u", system=False, tools=0, think=None)
    try:
        prompt = template.render(asked)
    except RefusedError:
        return None
    front = prompt.partition(asked.messages[0].content)[0]
    names = [name for name, _ in re.findall(r"<(\w+)>(.*?)</\1>", front, re.DOTALL)]
    name = next((name for name in names if _means(_MEANS_THINKING, name)), None)
    return None if name is None else (f"<{name}>\n", f"\n</{name}>\n\n")


def keeps_thoughts(template: ChatTemplate, opening: str, closing: str) -> bool:
    """Whether thinking between tags stays in the text of a past answer, which is the last."""
    return _keeps(template, opening, closing, "uau") is True


def _keeps(template: ChatTemplate, opening: str, closing: str, shape: str) -> bool | None:
    """Whether it stays in the text of the first answer; None: that is not there, or refused."""
    asked = fill(shape, system=False, tools=0, think=None)
    first, said, *others = asked.messages
    tagged = replace(said, content=f"{opening}Xmused0Z{closing}{said.content}")
    try:
        text = template.render(replace(asked, messages=(first, tagged, *others)))
    except RefusedError:
        return None
    return "Xmused0Z" in text if said.content in text else None


def _find_answer_tag(template: ChatTemplate) -> str | None:
    """The name of a tag that prompts end with, where it is an answer's and not a thought's.

    Taken for thinking's, it would have Ollama look for thoughts in every answer, find no end of
    them, and leave nothing else: ``<assistant>`` in formats of that look, ``<answer>`` in others.
    """
    last = _last_tag(template)
    if last is None:
        return None
    name, stands = last
    if stands in ("around", "closing"):  # whatever it is called
        return name
    if _means(_MEANS_THINKING, name):  # before past answers it may be kept of the thoughts
        return None
    if stands == "before" or _means(_MEANS_ANSWER, name) or find_unclear_tag(template) is not None:
        return name
    return None


def find_unclear_tag(template: ChatTemplate) -> str | None:
    """The name of a tag that prompts end with, where it may be a thought's as well as an answer's.

    Neither does its name say it, nor is its end anywhere in the chat template. Taken for an
    answer's, which costs a wrong guess a tag in the text; the other way round, all of the answer.
    """
    last = _last_tag(template)
    if last is None or last[1] in ("around", "closing") or f"</{last[0]}>" in template.source:
        return None
    return None if _means(f"{_MEANS_THINKING}|{_MEANS_ANSWER}", last[0]) else last[0]


def _means(pattern: str, name: str) -> bool:
    return re.search(pattern, name, re.IGNORECASE) is not None


def _last_tag(
    template: ChatTemplate,
) -> tuple[str, Literal["around", "before", "closing", "nowhere"]] | None:
    """The name of a tag that prompts end with, and where past answers have it.

    Closing: it ends the question, and what opens an answer is in no prompt.
    """
    try:
        prompt = template.render(fill("u", system=False, tools=0, think=None))
    except RefusedError:
        return None
    opened = re.search(_ENDS_WITH_TAG, prompt)
    if opened is None:
        return None
    name = opened[1]
    if find_unopened(template):
        return name, "closing"
    asked = fill("uau", system=False, tools=0, think=None)
    try:
        front, _, behind = template.render(asked).partition(asked.messages[1].content)
    except RefusedError:
        return name, "nowhere"
    if not behind or not re.search(rf"<{name}>\s*$", front):
        return name, "nowhere"
    return name, "around" if re.match(rf"\s*</{name}>", behind) else "before"


def _shows_field(template: ChatTemplate) -> bool:
    for shape in THOUGHT_SHAPES[:3]:
        for think in _THINKS:
            conversation = fill(shape, system=False, tools=0, think=think)
            thought = conversation.messages[1].thinking
            try:
                if thought in template.render(conversation):
                    return True
            except RefusedError:
                continue
    return False
