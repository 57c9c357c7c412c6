"""``chat``: a conversation at the prompt."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.assets import home_dir
from ollama_bridge.cli import completion, options
from ollama_bridge.cli.chat.lines import LineReader
from ollama_bridge.cli.connecting import connect, load_ahead
from ollama_bridge.cli.manual import ThinkingCommand
from ollama_bridge.cli.output import say
from ollama_bridge.cli.piped import checked, not_utf8
from ollama_bridge.cli.question_options import (
    FormatOption,
    HideThinkingOption,
    KeepAliveOption,
    ParameterOption,
    SystemOption,
    ThinkOption,
    VerboseOption,
    read_format,
    read_keep_alive,
    read_options,
    read_think,
)

if TYPE_CHECKING:
    from ollama_bridge.cli.chat.repl import Repl


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("chat", cls=ThinkingCommand)(chat)


def chat(
    tag: options.TagArgument,
    system: SystemOption = None,
    parameter: ParameterOption = None,
    think: ThinkOption = None,
    hide_thinking: HideThinkingOption = False,
    format_: FormatOption = None,
    keepalive: KeepAliveOption = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Second tag, which is asked the same questions.",
            autocompletion=completion.tags,
        ),
    ] = None,
    load: Annotated[
        Path | None,
        typer.Option(help="Continue a conversation from a file; TAG answers.", dir_okay=False),
    ] = None,
    markdown: Annotated[bool, typer.Option(help="Render Markdown on a terminal.")] = True,
    verbose: VerboseOption = False,
    host: options.HostOption = None,
    as_json: options.JSONLinesOption = False,
) -> None:
    """Talk with a model; /help lists the commands, Ctrl-D ends.

    Lines from a pipe are taken one after the other, as if they were typed. With --json each "event"
    is a line: those of `run`, dropped turns, what was shown or listed; and each "error".

    Examples:
      ollama-bridge chat review-reply
      ollama-bridge chat review-reply --compare smollm2:135m --system "Answer in one sentence."
      cat questions.txt | ollama-bridge chat review-reply
    """
    from ollama_bridge.cli.answers import AnswerView
    from ollama_bridge.cli.chat.other_tags import settings_for, show_if_there, without_heard
    from ollama_bridge.cli.chat.repl import Repl
    from ollama_bridge.client import Conversation
    from ollama_bridge.client.model_names import name_key
    from ollama_bridge.client.options import check_options
    from ollama_bridge.client.tag_limits import with_own_limit
    from ollama_bridge.models.paths import expand_home

    conversation = Conversation(tag) if load is None else Conversation.load(expand_home(str(load)))
    given = check_options(read_options(parameter))
    conversation.system = system if system is not None else conversation.system
    conversation.format = read_format(format_) if format_ is not None else conversation.format
    if think is not None:
        conversation.think = None  # that of the file does not matter
    if keepalive is not None:
        conversation.keep_alive = read_keep_alive(keepalive)
    with connect(host) as client:
        # A wrong tag is told now, not after the first question.
        details = client.show(tag)
        if name_key(conversation.model) != name_key(tag):
            before = show_if_there(client, conversation.model)
            settings = settings_for(conversation, tag, details, before)
            conversation = replace(settings, turns=conversation.turns, dropped=conversation.dropped)
        conversation.model = tag
        conversation = without_heard(conversation, details)
        conversation.think = read_think(think) if think is not None else conversation.think
        conversation.options = with_own_limit({**conversation.options, **given}, details)
        view = AnswerView(markdown=markdown, show_thinking=not hide_thinking, as_json=as_json)
        repl = Repl(client, conversation, view)
        repl.verbose = verbose
        repl.sees[tag] = details.takes_images
        if compare is not None:
            repl.do(f"/compare {compare}")
        if sys.stdin.isatty():
            repl.recall(details)
        talk(repl)
    if repl.failed is not None and not sys.stdin.isatty():
        raise typer.Exit(repl.failed.exit_code)


def talk(repl: Repl) -> None:
    """Take lines until they end, or the user goes."""
    from ollama_bridge.cli.chat.repl import EndOfChat

    repl.is_typed = sys.stdin.isatty()
    if repl.is_typed:
        load_ahead(repl.client, repl.said)
    reader = LineReader()
    piped = (checked(line).rstrip("\n") for line in sys.stdin)
    try:
        for line in typed(repl, reader) if repl.is_typed else piped:
            if (said := reader.take(line)) is not None:
                repl.take(said.text, is_literal=said.is_literal)
        if (said := reader.rest()) is not None:
            repl.take(said.text, is_literal=said.is_literal)
    except EndOfChat:
        return
    except UnicodeError as exc:
        raise not_utf8("chat", repl.said.model) from exc


def typed(repl: Repl, reader: LineReader) -> Iterator[str]:
    """What is typed at a terminal, with a history that is kept in a file of the user's alone."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import create_output

    from ollama_bridge.cli.chat import completion as chat_completion
    from ollama_bridge.cli.chat.history import KeptHistory

    kept, trouble = KeptHistory(home_dir() / "chat-history"), None
    # As Go's ParseBool reads it, and what is no truth value as true: so does Ollama.
    nohistory = os.environ.get("OLLAMA_NOHISTORY", "").strip().strip("\"'")
    repl.keeps_history = nohistory in ("", "0", "f", "F", "false", "FALSE", "False")
    if "OLLAMA_EDITOR" in os.environ:
        os.environ["VISUAL"] = os.environ["OLLAMA_EDITOR"]
    keys = KeyBindings()
    keys.add("c-g")(lambda event: event.current_buffer.open_in_editor())
    forgotten = InMemoryHistory()
    session: PromptSession[str] = PromptSession(
        # What is typed is shown beside the answers on a terminal, but is no part of a result.
        output=create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr),
        key_bindings=keys,
        history=kept,
        auto_suggest=AutoSuggestFromHistory(),
        completer=chat_completion.completer(),
        complete_while_typing=False,
        enable_open_in_editor=True,
        enable_suspend=True,
    )
    say(f"{repl.said.model}: /help lists the commands, Ctrl-D ends")
    while True:
        if trouble != kept.trouble:
            trouble = kept.trouble
            say(f"(the history of what you type is not saved: {trouble})")
        session.default_buffer.history = kept if repl.keeps_history else forgotten
        try:
            yield session.prompt("... " if reader.is_within else ">>> ")
        except KeyboardInterrupt:
            say("(the text is dropped)" if reader.is_within else "(Ctrl-D or /bye ends the chat)")
            reader.drop()
        except EOFError:
            if reader.is_within:
                say('(the text has no closing """, so it is not sent)')
                reader.drop()
            return
