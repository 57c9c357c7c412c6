"""Renders a checkpoint's chat template as transformers does, without transformers.

A template is someone else's program, so what it repeats is bounded.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.environment import chat_environment

# By which templates take tools beside `tools`; whoever renders others' templates tries them first.
OTHER_NAMES_OF_TOOLS = (
    *("xml_tools", "python_tools", "custom_tools", "available_tools", "builtin_tools", "functions"),
)
HINT = (
    "fix it: chat_template.jinja in the checkpoint, or the file that you gave; or give another "
    "one: --chat-template FILE.jinja (package, convert, verify)"
)
_LIMIT = "a limit"  # of the filters the one that no template can name
_CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
# A long conversation takes some thousand; a template that needs more does not end.
_MAX_STEPS = 200_000
_MAX_LENGTH = 1_000_000
_RENDER_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class RefusedError(Exception):
    """The template raises on this conversation, which is its way to say that it may not be."""


class ChatTemplate:
    """A Jinja chat template and the special tokens that it may name.

    Args:
        source: The template.
        special: ``bos_token`` and the like, by name.
        adds_bos: Whether the tokenizer puts BOS in front by itself; it is then cut off here.

    Raises:
        TemplateError: it is no Jinja, or Python cannot compile what Jinja makes of it.
    """

    def __init__(self, source: str, *, special: dict[str, str], adds_bos: bool) -> None:
        self.source = source
        self.special = special
        self.adds_bos = adds_bos
        self._clock: Callable[[str], str] = lambda form: datetime.now().strftime(form)
        environment = chat_environment(lambda form: self._clock(form))
        self._limit = _Limit()
        environment.filters[_LIMIT] = self._limit.step
        try:
            self.tree = environment.parse(source)
            self._compiled = environment.from_string(_with_limit(environment.parse(source)))
        except jinja2.TemplateSyntaxError as exc:
            raise TemplateError(
                f"the chat template, line {exc.lineno}: {exc.message}", hint=HINT
            ) from exc
        except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            # Of Python's compiler: depth, a break outside of a loop, a parameter twice.
            raise TemplateError(f"the chat template cannot be compiled: {exc}", hint=HINT) from exc

    def render(
        self,
        conversation: Conversation,
        *,
        clock: Callable[[str], str] | None = None,
        prompt: bool = True,
        with_bos: bool = False,
    ) -> str:
        """The prompt of a conversation, as ``apply_chat_template`` gives it.

        A conversation that ends on the assistant is left open, any other is followed by the
        generation prompt.

        Args:
            conversation: What was said.
            clock: Stands in for ``strftime_now``.
            prompt: False: neither left open nor followed by anything.
            with_bos: Keep a BOS that the tokenizer would add by itself.

        Raises:
            RefusedError: the template raises.
            TemplateError: the template does not end.
        """
        messages = [message.to_jinja() for message in conversation.messages]
        continued = prompt and conversation.continued
        if continued:
            messages[-1]["content"] += _CONTINUED
        if self.takes_parts:
            messages = [in_parts(message) for message in messages]
        arguments: dict[str, Any] = {
            "messages": messages,
            "tools": [dict(tool) for tool in conversation.tools] or None,
            "documents": None,
            "add_generation_prompt": prompt and not continued,
            **self.special,
        }
        if conversation.think is not None:
            # The two names that templates have for it.
            arguments |= {"enable_thinking": conversation.think, "thinking": conversation.think}
        try:
            rendered = self._run(arguments, clock)
        except RefusedError:
            # Some take the arguments of calls as OpenAI's API has them: as JSON texts.
            written = [with_written_arguments(message) for message in messages]
            if written == messages:
                raise
            rendered = self._run({**arguments, "messages": written}, clock)
        if continued:
            rendered = _cut(rendered)
        bos = "" if with_bos else self.special.get("bos_token")
        # The daemon's tokenizer adds it as well: written by both it would be there twice.
        return rendered.removeprefix(bos) if self.adds_bos and bos else rendered

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether contents must be lists of parts, as of images and texts: a text is left out."""
        said = {"role": "user", "content": "Xsaid0Z"}
        written = []
        for message in (said, in_parts(said)):
            arguments = {"messages": [message], "tools": None, **self.special}
            try:
                written.append(said["content"] in self._run(arguments, None))
            except RefusedError:
                written.append(False)
        return written == [False, True]

    def takes_thoughts_in_parts(self) -> bool:
        """Whether an answer's content may be a list in which a thought is one of the parts."""
        parts = [{"type": "thinking", "thinking": "Xmused0Z"}, {"type": "text", "text": "Yes."}]
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": parts}]
        try:
            text = self._run({"messages": messages, "tools": None, **self.special}, None)
        except RefusedError:
            return False
        # In quotes a list is printed as it is.
        return "Xmused0Z" in text and not re.search("""['"]Xmused0Z""", text)

    def reads_tools(self, name: str) -> bool:
        """Whether tools that are given under another name than ``tools`` change the prompt."""
        if name not in meta.find_undeclared_variables(self.tree):
            return False
        offered = {**offering(name), **self.special}
        bare = {key: value for key, value in offered.items() if key != name}
        try:
            return self._run(offered, None) != self._run(bare, None)
        except RefusedError:
            return False

    def unknown_tokens(self) -> tuple[str, ...]:
        """Names of special tokens that the template reads and was not given: ``eos_token``."""
        names = meta.find_undeclared_variables(self.tree)
        return tuple(sorted(name for name in names - set(self.special) if name.endswith("_token")))

    def literals(self) -> tuple[str, ...]:
        """Texts that the template compares or cuts contents with."""
        found: dict[str, None] = {}
        for node in self.tree.find_all((nodes.Compare, nodes.Call, nodes.Test)):
            for constant in node.find_all(nodes.Const):
                if isinstance(constant.value, str) and constant.value.strip():
                    found[constant.value] = None
        return tuple(found)

    def _run(self, arguments: dict[str, Any], clock: Callable[[str], str] | None) -> str:
        usual = self._clock
        self._clock = clock or usual
        parts: list[str] = []
        length = 0
        self._limit.steps = 0
        try:
            for part in self._compiled.generate(arguments):
                parts.append(part)
                length += len(part)
                if length > _MAX_LENGTH:
                    raise TemplateError("the chat template writes without end", hint=HINT)
        except _RENDER_ERRORS as exc:
            raise RefusedError(str(exc)) from exc
        except MemoryError as exc:
            raise TemplateError("the chat template takes all memory", hint=HINT) from exc
        finally:
            self._clock = usual
        return "".join(parts)


class _Limit:
    """Ends a template that runs for ever.

    Attributes:
        steps: Turns of loops, and calls of what can call itself, since a rendering began.
    """

    def __init__(self) -> None:
        self.steps = 0

    @jinja2.pass_context  # else it is taken for a constant
    def step(self, _context: object, value: object) -> object:
        """A filter that counts."""
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise TemplateError("the chat template does not end", hint=HINT)
        return value


def _with_limit(tree: nodes.Template) -> nodes.Template:
    """Every loop, what it leaves out included, and every macro and block counts itself."""
    repeated: list[nodes.For | nodes.Macro | nodes.Block] = list(
        tree.find_all((nodes.For, nodes.Macro, nodes.Block))
    )
    for node in repeated:
        line = node.lineno
        step = nodes.Filter(nodes.Const(True), _LIMIT, [], [], None, None, lineno=line)
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(step, node.test, lineno=line)
        node.body.insert(0, nodes.ExprStmt(step, lineno=line))
    return tree


def offering(name: str) -> dict[str, Any]:
    """What a template is called with to see whether it takes tools by a name of its own."""
    function = {"name": "look", "description": "Look.", "parameters": {"type": "object"}}
    return {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": None,
        name: [{"type": "function", "function": function}],
    }


def with_written_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose calls have their arguments as JSON texts."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    functions = [call["function"] for call in calls]
    texts = [json.dumps(function["arguments"], ensure_ascii=False) for function in functions]
    written = [
        {**call, "function": {**call["function"], "arguments": text}}
        for call, text in zip(calls, texts, strict=True)
    ]
    return {**message, "tool_calls": written}


def in_parts(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is a list of one text."""
    if not message["content"]:
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _cut(rendered: str) -> str:
    place = rendered.rfind(_CONTINUED.strip())
    if place < 0:
        raise RefusedError("the chat template drops the message that is to be continued")
    # Without its space the template trims: what was before the mark is trimmed too.
    whole = rendered[place : place + len(_CONTINUED)] == _CONTINUED
    return rendered[:place] if whole else rendered[:place].rstrip()
