"""Tries the daemon's own Jinja on a chat template whose tools or thinking Go cannot express.

Ollama renders the Jinja of a GGUF by llama.cpp, of whose Jinja not all is Python's, and passes it
less than was sent: no earlier thinking, and tools with the keys in an order of its own. What an
answer means is found by llama.cpp too, which reads off the template how calls and thoughts are
written. So both are looked at: prompts, and what comes of an answer that the template itself wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ollama_bridge.client import Client
from ollama_bridge.daemon.era import NO_JINJA, has_limit
from ollama_bridge.errors import DaemonError, RenderingHiddenError
from ollama_bridge.template.answers import written_answer
from ollama_bridge.template.authority import NativeJinja
from ollama_bridge.template.comment import with_comment
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.probing import shows_thinking
from ollama_bridge.template.words import names_thinking
from ollama_bridge.verify.blank_gguf import Blank
from ollama_bridge.verify.trials import TRIAL, conversations, is_rendered, make, send, trials

_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look it up.",
        "parameters": {
            "type": "object",
            "required": ["word"],
            "properties": {"word": {"type": "string", "description": "The word."}},
        },
    },
}
_CALL = Call("look_up", {"word": "teapot"}, "a1B2c3D4e")
_QUESTION = Message("user", "What is it?")
_THOUGHT, _ANSWER = "Let me see.", "Five."
_MOST_TOKENS = 400  # that an answer may have; it has some dozen


def find_native_jinja(
    client: Client, template: ChatTemplate, *, lost: Collection[str], kept: Collection[str]
) -> NativeJinja | None:
    """Whether the daemon's own Jinja renders what a chat template does, and reads its answers.

    Args:
        client: Speaks to the daemon.
        template: The chat template.
        lost: Of tools and thinking, what is looked for: one of them is enough.
        kept: Of tools and thinking, what must be there as well.

    Returns:
        None: it does not, or nothing can be seen.

    Raises:
        DaemonError: the daemon could not answer.
    """
    if has_limit(client.version(), NO_JINJA):
        return None
    wanted = list(_wanted(template, keeps_thoughts="thinking" in kept))
    with trials(client):
        make(client, send(client, _blank(template)))
        able = client.show(TRIAL).capabilities
        gained = [name for name in lost if name in able]
        if not gained or not set(kept) <= set(able):
            return None
        try:
            if not all(is_rendered(client, asked, text) for asked, text in wanted):
                return None
        except RenderingHiddenError:
            return None
        if "tools" in able and not _reads(client, template, calls=True):
            return None
        if (
            "thinking" in able
            and shows_thinking(template)
            and not _reads(client, template, calls=False)
        ):
            return None
    return NativeJinja(len(wanted))


def _blank(template: ChatTemplate, *, says: str = "", behind: str = "") -> Blank:
    special = template.special
    return Blank(
        chat_template=with_comment(template.source),
        bos=special.get("bos_token") or "<s>",
        eos=special.get("eos_token") or "</s>",
        adds_bos=template.adds_bos,
        says=says,
        behind=behind,
    )


def _wanted(template: ChatTemplate, *, keeps_thoughts: bool) -> Iterator[tuple[Conversation, str]]:
    """What is asked, and the text of each.

    Earlier thinking, which Ollama leaves out, only where it must stay right: not beside calls.
    """
    thinks = (True, False) if names_thinking(template.source) else (None,)
    for conversation in conversations(template, thinks=thinks):
        thought = any(message.thinking for message in conversation.messages)
        if thought and (not keeps_thoughts or any(one.calls for one in conversation.messages)):
            continue
        try:
            yield conversation, template.render(conversation.handed_on)
        except RefusedError:
            continue


def _reads(client: Client, template: ChatTemplate, *, calls: bool) -> bool:
    """Whether a call, or a thought, that the template wrote is told from the answer."""
    think = not calls if names_thinking(template.source) else None
    asked = Conversation((_QUESTION,), (_TOOL,) if calls else (), think)
    answer = Message("assistant", _ANSWER, thinking=_THOUGHT)
    if calls:
        answer = Message("assistant", "", calls=(_CALL,))
    written = written_answer(template, asked, answer)
    if not written or answer.thinking not in written:
        return False
    make(client, send(client, _blank(template, says=written, behind=template.render(asked))))
    try:
        reply = client.chat(
            TRIAL,
            _QUESTION.content,
            think=think,
            tools=asked.tools,
            options={"num_predict": _MOST_TOKENS},
        )
    except DaemonError:  # llama.cpp makes nothing of it
        return False
    found = [(call.name, call.arguments) for call in reply.tool_calls]
    wanted = [(call.name, call.arguments) for call in answer.calls]
    said = reply.thinking.strip(), reply.text.strip()
    return found == wanted and said == (answer.thinking, answer.content)
