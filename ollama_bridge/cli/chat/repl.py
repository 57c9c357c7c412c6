"""The chat at the prompt: what a line means, and every command that begins with a slash."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_bridge.cli import output
from ollama_bridge.cli.answers import AnswerView, tell_cut, timing
from ollama_bridge.cli.chat import saving as chat_saving
from ollama_bridge.cli.chat.lines import words
from ollama_bridge.cli.chat.other_tags import (
    check_seen,
    settings_for,
    show_if_there,
    unheard,
    without_heard,
)
from ollama_bridge.cli.facts import chat_facts
from ollama_bridge.cli.images import with_images
from ollama_bridge.cli.output import say
from ollama_bridge.cli.question_options import LEVELS
from ollama_bridge.client import Client, Conversation, ModelDetails, Session, Text
from ollama_bridge.client.model_names import name_key
from ollama_bridge.client.options import check_options
from ollama_bridge.client.requests import read_image
from ollama_bridge.client.session import SessionEvent
from ollama_bridge.client.wire.refusals import no_images
from ollama_bridge.errors import ConfigError, ContextOverflowError, OllamaBridgeError
from ollama_bridge.modelfile.parameters import parse_parameter
from ollama_bridge.models.paths import expand_home

_Events = Generator[SessionEvent, None, None]
# The path of an image, ``/etc:`` and ``/*`` begin with a slash, too.
_COMMAND = re.compile(r"/(?:[a-zA-Z]+|\?)?")

HELP = """\
/set parameter NAME VALUE   an option of every question (temperature, num_ctx, ...)
/set system TEXT            the instruction; also /system TEXT
/set think | nothink        also /think [on|off|low|medium|high|max], or a level of the model's own
/set format json | noformat answers as JSON, or as they are
/set budget TOKENS | off    limit of a question and all turns before it; the oldest are left out
/set verbose | quiet        times after every answer; also /timing
/set history | nohistory    keep what is typed, or not
/show info | license | modelfile | parameters | system | template
/load FILE.json | TAG       a saved conversation, or another model
/save FILE.json | TAG       this conversation, or a model with its settings and turns
/export FILE.md             what was said, to read
/retry                      ask the last question again
/undo                       take the last question and its answer back
/compare TAG | off          a second model gets all turns, and is asked the same
/list                       the models in Ollama
/clear                      forget what was said
/bye                        end; also /exit, Ctrl-D
/? or /help                 this list
A text of several lines begins with \"\"\" at a line's start, and ends with \"\"\" at a line's end.
In such a text, and in pasted lines, nothing is a command, and no path sends an image.
The path of an image in any other line sends the image too, if the model can see.
/save and /export replace only what a chat saved before.
Ctrl-C stops the answer, not the chat. Up and down: what was typed before; Ctrl-R searches it;
Ctrl-G: write the question in an editor (OLLAMA_EDITOR, else VISUAL or EDITOR)."""


class EndOfChat(Exception):  # noqa: N818  not an error
    """The user wants to go."""


class Repl:
    """Takes line after line."""

    def __init__(self, client: Client, conversation: Conversation, view: AnswerView) -> None:
        self.client = client
        self._view = view
        self.sessions = {conversation.model: Session(client, conversation)}
        self.verbose = False
        self.keeps_history = True
        self.is_typed = True  # by a person, who goes on after Ctrl-C
        self._turned = False  # the last of two models is asked first
        self.images: list[bytes] = []  # that go with the next question
        self.sees: dict[str, bool | None] = {}  # which tags take images, as far as asked
        self.failed: OllamaBridgeError | None = None  # the last error that was told

    @property
    def session(self) -> Session:
        """The conversation that commands are about."""
        return next(iter(self.sessions.values()))

    @property
    def said(self) -> Conversation:
        """What was said, and how the next question is asked."""
        return self.session.conversation

    def take(self, text: str, *, is_literal: bool = False) -> None:
        """Do what a text says; errors are told, and the chat goes on.

        One that ``is_literal`` is only words: no command, and paths in it send nothing.

        Raises:
            EndOfChat: it says goodbye.
        """
        try:
            self.do(text, is_literal=is_literal)
        except KeyboardInterrupt:
            if not self.is_typed:
                raise
            say("(stopped)")
        except OllamaBridgeError as error:
            self.failed = error
            if isinstance(error, ContextOverflowError):
                error.hint = "shorten the question, or: /set parameter num_ctx N"
            output.fail(error, as_json=self._view.as_json)

    def do(self, text: str, *, is_literal: bool = False) -> None:
        """Do what a text says; :meth:`take`, but errors are raised.

        Raises:
            EndOfChat: it says goodbye.
            OllamaBridgeError: it could not be done.
        """
        # Of code that was pasted the first line may be indented.
        text = text.strip("\n") if is_literal else text.strip()
        if not text.strip():
            return
        word = text.split(maxsplit=1)[0]
        if is_literal:
            self._ask(text)
        elif not _COMMAND.fullmatch(word):
            self._ask(*self._with_images(text))
        else:
            self._command(word[1:], text[len(word) :].strip())

    def recall(self, details: ModelDetails) -> None:
        """Show the turns that a tag has in it, as one that ``/save`` made: they are sent, too."""
        for message in details.messages:
            content = str(message.get("content", ""))
            if message.get("role") == "assistant":
                self._view.show([Text(content)])
            else:
                say(f">>> {content}")

    def _ask(self, text: str, paths: Sequence[Path] = ()) -> None:
        images = [*self.images, *map(read_image, paths)]
        self.images = []
        for tag in self.sessions if images else ():
            if self._takes_images(tag) is False:
                raise no_images(tag)
        asked = {name: one.stream(text, images=images) for name, one in self.sessions.items()}
        self._show(asked, self.said.question(text, images))

    def _with_images(self, text: str) -> tuple[str, list[Path]]:
        """What a line names by its path, where a model takes it; else paths are only words.

        What is piped in others wrote.
        """
        if not self.is_typed or not any(map(self._takes_images, self.sessions)):
            return text, []
        return with_images(text)

    def _takes_images(self, tag: str) -> bool | None:
        if tag not in self.sees:
            self.sees[tag] = self.client.show(tag).takes_images
        return self.sees[tag]

    def _show(self, answers: dict[str, _Events], question: dict[str, Any] | None) -> None:
        if len(answers) > 1:
            self._beside(answers, question)
            return
        (events,) = answers.values()
        with contextlib.closing(events):  # an answer that is stopped is kept as far as it came
            reply = self._view.show(events)
        if self.verbose:
            say(timing(reply))
        elif reply is not None:
            tell_cut(reply, self.said.options, "/set parameter {name} {value}")

    def _beside(self, answers: dict[str, _Events], question: dict[str, Any] | None) -> None:
        """A question is in all conversations, or in none: what follows is about the same."""
        before = [session.conversation.state() for session in self.sessions.values()]
        try:
            with contextlib.ExitStack() as stack:
                for events in answers.values():
                    stack.enter_context(contextlib.closing(events))
                # Where memory holds one of them, the one that was asked last is loaded.
                order = reversed(answers) if self._turned else iter(answers)
                for name, reply in self._view.beside(answers, order).items():
                    say(f"{name}: {timing(reply)}")
            self._turned = not self._turned
        except (KeyboardInterrupt, OllamaBridgeError):
            for session, state in zip(self.sessions.values(), before, strict=True):
                session.go_back(state, unanswered=question)
            say("(not every model answered, so this question was taken back for all of them)")
            raise

    def _command(self, name: str, rest: str) -> None:
        commands: dict[str, Callable[[str], None]] = {
            "set": self._set,
            "show": self._tell,
            "system": self._system,
            "think": self._think,
            "timing": self._timing,
            "load": self._load,
            "save": self._save,
            "export": self._export,
            "retry": self._retry,
            "undo": self._undo,
            "compare": self._compare,
            "list": self._list,
            "clear": self._clear,
            "help": self._help,
            "?": self._help,
            "bye": _leave,
            "exit": _leave,
        }
        if name not in commands:
            raise ConfigError(
                f"no command /{name}",
                hint='/help lists them; a question that begins like one goes between """ and """',
            )
        commands[name](rest)

    def _set(self, rest: str) -> None:
        what, _, value = rest.partition(" ")
        match what, value.strip():
            case "parameter", pair if len(words(pair)) > 1:
                name, *texts = words(pair)
                values = [parse_parameter(name, text, where="/set parameter") for text in texts]
                stops = [stop for value in values if isinstance(value, tuple) for stop in value]
                if len(values) > 1 and not stops:
                    raise ConfigError(f"/set parameter {name}: only one value is allowed")
                checked = check_options({name: stops or values[0]})
                for session in self.sessions.values():
                    session.conversation.options = {**session.conversation.options, **checked}
            case "system", text if text:
                self._system(text)
            case (("think" | "nothink"), level):
                self._think(level or ("on" if what == "think" else "off"))
            case "format", "json":
                self._each("format", "json")
            case "noformat", "":
                self._each("format", None)
            case "budget", "off":
                self._each("budget_tokens", None)
            case "budget", number if number.isdecimal():
                checked_budget = replace(self.said, budget_tokens=int(number)).budget_tokens
                self._each("budget_tokens", checked_budget)
            case (("verbose" | "quiet"), ""):
                self.verbose = what == "verbose"
            case (("history" | "nohistory"), ""):
                self.keeps_history = what == "history"
            case (("wordwrap" | "nowordwrap"), ""):
                say("(lines are wrapped by the terminal)")
            case _:
                raise ConfigError(
                    f"/set {rest}: not understood", hint="/help lists what can be set"
                )

    def _each(self, name: str, value: object) -> None:
        for session in self.sessions.values():
            setattr(session.conversation, name, value)

    def _system(self, text: str) -> None:
        self._each("system", text or None)

    def _think(self, level: str) -> None:
        values: dict[str, bool | None] = {"": None, "on": True, "off": False}
        think = values.get(level, level)
        for tag in self.sessions if think else ():
            details = self.client.show(tag)
            if details.capabilities and "thinking" not in details.capabilities:
                raise ConfigError(
                    f"/think {level}: {tag} cannot think", hint="/show info tells what it can do"
                )
            levels = details.think_levels or LEVELS
            if level not in ("on", *levels):
                raise ConfigError(f"/think {level}: for {tag} write on, off, {', '.join(levels)}")
        self._each("think", think)

    def _timing(self, _: str) -> None:
        self.verbose = not self.verbose
        say(f"(times {'are' if self.verbose else 'are not'} shown)")

    def _tell(self, what: str) -> None:
        text = chat_facts(what or "info", self.said, self.client.show(self.said.model))
        if self._view.as_json:
            output.line_json({"event": "shown", "what": what or "info", "text": text})
        else:
            output.data(text or "(none)")

    def _load(self, what: str) -> None:
        details, without = None, ""
        if what.endswith(".json"):
            conversation = Conversation.load(expand_home(what))
            if (found := show_if_there(self.client, conversation.model)) is not None:
                conversation = without_heard(conversation, found)
        else:
            details = self.client.show(_needed(what, "/load"))
            before = show_if_there(self.client, self.said.model)
            conversation = settings_for(self.said, what, details, before)
            # It was written for the other: this one has its own.
            without = "" if conversation.system is None else "; without the text of /system"
            conversation.system = None
        self.sessions = {conversation.model: Session(self.client, conversation)}
        self.sees = {}  # the tag may be another model by now
        say(f"({conversation.model}, {len(conversation.turns)} turns{without})")
        if details is not None and self.is_typed:
            self.recall(details)

    def _save(self, what: str) -> None:
        if _needed(what, "/save").endswith(".json"):
            chat_saving.save_file(self.said, expand_home(what))
            return
        is_asked = name_key(what) in map(name_key, self.sessions)
        if is_asked and len(self.sessions) > 1:
            raise ConfigError(
                f"{what} is part of /compare and cannot be replaced now",
                hint="/compare off, or save under another name",
            )
        chat_saving.save_model(self.client, self.said, what)
        if is_asked:  # the daemon sends what a tag has in it: here it would be sent once more
            self.said.heard += self.said.turns
            self.session.go_back(([], self.said.dropped), unanswered=self.session.unanswered)
            self.said.system = None
            say(f"(these turns are now part of {what}: /undo and /clear cannot remove them)")

    def _export(self, what: str) -> None:
        chat_saving.export(self.client, self.said, expand_home(_needed(what, "/export")))

    def _retry(self, _: str) -> None:
        again = {name: one.retry() for name, one in self.sessions.items()}
        self._show(again, self.session.unanswered)

    def _undo(self, _: str) -> None:
        is_answered = self.session.unanswered is None
        turns = [session.undo() for session in self.sessions.values()]
        if (turn := turns[0]) is None:
            say("(nothing was asked)")
        else:
            had_none = "" if is_answered else "; it had no answer"
            say(f"(taken back: {turn.question['content'][:60]}{had_none})")

    def _compare(self, tag: str) -> None:
        first = self.said.model
        if tag in ("", "off"):
            self.sessions = {first: self.session}
            say("(one model again)")
            return
        details = self.client.show(tag)
        if tag == first:
            raise ConfigError(f"{tag} is the model that you talk to", hint="name another")
        before = self.client.show(first)
        settings = settings_for(self.said, tag, details, before)
        other = Session(self.client, settings)
        # It hears what was said so far, but not twice.
        heard = [message for turn in self.said.heard for message in turn.messages]
        first_has = before.messages
        earlier = first_has[: len(first_has) - len(heard)]
        said = [*self.said.heard, *self.said.turns]
        new = unheard(said, details.messages, first=earlier)
        unanswered = self.session.unanswered
        check_seen(tag, new, details, unanswered=unanswered)
        other.go_back((new, self.said.dropped), unanswered=unanswered)
        self.sessions, self._turned = {first: self.session, tag: other}, False
        say(f"({first} and {tag} are asked in turn; end it with /compare off)")

    def _list(self, _: str) -> None:
        models = self.client.list()
        if self._view.as_json:
            rows = [{"name": one.name, "size_bytes": one.size_bytes} for one in models]
            output.line_json({"event": "listed", "models": rows})
            return
        output.table([{"NAME": one.name, "SIZE": output.size(one.size_bytes)} for one in models])

    def _clear(self, _: str) -> None:
        for session in self.sessions.values():
            session.clear()
        say("(forgotten)")
        with contextlib.suppress(OllamaBridgeError):  # it is forgotten, whoever is away
            for tag in self.sessions:
                if self.client.show(tag).messages:
                    say(f"(the turns inside {tag} are still sent: to stop it, /load another model)")

    def _help(self, _: str) -> None:
        say(HELP)


def _needed(what: str, command: str) -> str:
    if not what:
        raise ConfigError(f"{command} needs a name", hint="/help")
    return what


def _leave(_: str) -> None:
    raise EndOfChat
