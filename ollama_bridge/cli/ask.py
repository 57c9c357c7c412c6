"""``run`` and ``generate``: ask a tag once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.cli import options, output
from ollama_bridge.cli.chat.chat import talk
from ollama_bridge.cli.connecting import connect, load_ahead
from ollama_bridge.cli.embed import DimensionsOption, TruncateOption, print_vectors
from ollama_bridge.cli.manual import ThinkingCommand
from ollama_bridge.cli.piped import whole_prompt
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.cli.question_options import (
    FormatOption,
    HideThinkingOption,
    KeepAliveOption,
    ParameterOption,
    SystemOption,
    ThinkOption,
    VerboseOption,
    check_is_prompt,
    read_format,
    read_keep_alive,
    read_options,
    read_think,
)
from ollama_bridge.errors import ConfigError, DaemonError, ModelNotFoundError
from ollama_bridge.reporting import tell_bytes

if TYPE_CHECKING:
    from ollama_bridge.cli.answers import AnswerView
    from ollama_bridge.client import Client, Conversation, ModelDetails

ImageOption = Annotated[
    list[Path] | None, typer.Option("--image", help="Image to send with the prompt. Repeatable.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("run", cls=ThinkingCommand)(run)
    app.command("generate", cls=ThinkingCommand)(generate)


def run(
    tag: options.TagArgument,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            help="The question. Piped text goes before it. Without both, a chat starts."
        ),
    ] = None,
    system: SystemOption = None,
    parameter: ParameterOption = None,
    image: ImageOption = None,
    think: ThinkOption = None,
    hide_thinking: HideThinkingOption = False,
    format_: FormatOption = None,
    keepalive: KeepAliveOption = None,
    markdown: Annotated[bool, typer.Option(help="Render Markdown on a terminal.")] = True,
    verbose: VerboseOption = False,
    nowordwrap: Annotated[
        bool, typer.Option("--nowordwrap", help="Same as --no-markdown.")
    ] = False,
    insecure: options.InsecureOption = False,
    truncate: TruncateOption = False,
    dimensions: DimensionsOption = None,
    host: options.HostOption = None,
    as_json: options.JSONLinesOption = False,
) -> None:
    """Ask a tag and print the answer as it comes; without a prompt, chat.

    A tag that is not here is pulled first. For an embedding model the vector is printed. An option
    of the other kind of model is refused. With --json each line is an "event": thinking and text
    in pieces, then done with the whole reply.

    Examples:
      ollama-bridge run review-sentiment "The battery died after two days."
      ollama-bridge run review-reply --verbose -p temperature=0 "It broke."
      cat letter.txt | ollama-bridge run review-reply "Answer this letter:"
    """
    from ollama_bridge.cli.answers import AnswerView
    from ollama_bridge.client import Conversation
    from ollama_bridge.client.requests import read_image
    from ollama_bridge.client.tag_limits import with_own_limit
    from ollama_bridge.client.wire.refusals import no_images

    conversation = Conversation(
        tag,
        system,
        read_options(parameter),
        read_think(think),
        format=read_format(format_),
        keep_alive=read_keep_alive(keepalive),
    )
    pictures = [read_image(path) for path in image or ()]
    view = AnswerView(
        markdown=markdown and not nowordwrap, show_thinking=not hide_thinking, as_json=as_json
    )
    words = " ".join(prompt or [])
    with connect(host) as client:
        details = _find_or_pull(client, tag, insecure=insecure)
        check_is_prompt(prompt[0] if prompt else "", think, details)
        if "embedding" in details.capabilities and "completion" not in details.capabilities:
            # What only hides (--hide-thinking, --no-markdown) is as it was asked, of a vector too.
            of_answers = {
                "system": system,
                "image": image,
                "think": conversation.think,
                "format": format_,
                "verbose": verbose,
            }
            _refuse_unused(tag, of_answers, "is an embedding model")
            _embed(client, conversation, words, truncate, dimensions, as_json)
            return
        of_vectors = {"truncate": truncate, "dimensions": dimensions}
        _refuse_unused(tag, of_vectors, "answers with text")
        if image and details.takes_images is False:
            raise no_images(tag)
        conversation.options = with_own_limit(conversation.options, details)
        if not prompt and sys.stdin.isatty():
            _chat(client, conversation, view, details, pictures, verbose=verbose)
        else:
            _ask_once(client, conversation, view, details, words, pictures, verbose=verbose)


def _refuse_unused(tag: str, options_: Mapping[str, object], reason: str) -> None:
    """Refuse options of the other kind of model, which would be dropped without a word.

    Raises:
        ConfigError: one was given.
    """
    given = [
        f"--{name}"
        for name, value in options_.items()
        if value is not False and value not in (None, [])
    ]
    if given:
        named = ", ".join(given)
        raise ConfigError(
            f"{tag} {reason}: {named} would have no effect",
            hint=f"leave out {named}: ollama-bridge run {quote(tag)} ...",
        )


def _embed(
    client: Client,
    settings: Conversation,
    words: str,
    truncate: bool,
    dimensions: int | None,
    as_json: bool,
) -> None:
    """Print the vector of the prompt."""
    text = whole_prompt(words, command="run", tag=settings.model)
    vectors = client.embed_parts(
        settings.model,
        [text],
        truncate=truncate,
        dimensions=dimensions,
        options=settings.options,
        keep_alive=settings.keep_alive,
    )
    print_vectors(vectors, 1, as_json=as_json)


def _chat(
    client: Client,
    conversation: Conversation,
    view: AnswerView,
    details: ModelDetails,
    pictures: list[bytes],
    *,
    verbose: bool,
) -> None:
    """Talk at the terminal; the pictures go with the first question."""
    from ollama_bridge.cli.chat.repl import Repl

    repl = Repl(client, conversation, view)
    repl.verbose, repl.images = verbose, pictures
    repl.sees[conversation.model] = details.takes_images
    repl.recall(details)
    talk(repl)


def _ask_once(
    client: Client,
    conversation: Conversation,
    view: AnswerView,
    details: ModelDetails,
    words: str,
    pictures: list[bytes],
    *,
    verbose: bool,
) -> None:
    """Print the answer to the prompt as it comes."""
    from ollama_bridge.cli.answers import tell_cut, timing
    from ollama_bridge.cli.images import with_images
    from ollama_bridge.client.requests import read_image

    meanwhile = partial(load_ahead, client, conversation)
    text = whole_prompt(words, command="run", tag=conversation.model, meanwhile=meanwhile)
    if details.takes_images:
        rest, more = with_images(words)  # not of what is piped in: others wrote it
        text, pictures = text.removesuffix(words) + rest, [*pictures, *map(read_image, more)]
    question = conversation.question(text, pictures)
    reply = view.show(client.events(conversation.request(question)))
    if verbose:
        output.say(timing(reply))
    elif reply is not None:
        tell_cut(reply, conversation.options, "-p {name}={value}")


def generate(
    tag: options.TagArgument,
    prompt: Annotated[str | None, typer.Argument(help="The question. Default: stdin.")] = None,
    system: SystemOption = None,
    parameter: ParameterOption = None,
    image: ImageOption = None,
    think: ThinkOption = None,
    format_: FormatOption = None,
    suffix: Annotated[str | None, typer.Option(help="Text that follows the gap to fill.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send the prompt as it is, without the template.")
    ] = False,
    keepalive: KeepAliveOption = None,
    verbose: VerboseOption = False,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Ask a tag and print only the answer, once it is complete.

    Examples:
      ollama-bridge generate review-sentiment "Works like a charm."
      ollama-bridge generate review-sentiment "Works like a charm." --json
    """
    from ollama_bridge.client.tag_limits import with_own_limit
    from ollama_bridge.client.wire.refusals import no_images

    text = whole_prompt(prompt or "", command="generate", tag=tag)
    given, alive = read_options(parameter), read_keep_alive(keepalive)
    with connect(host) as client:
        details = client.show(tag)
        check_is_prompt(prompt or "", think, details)
        if image and details.takes_images is False:
            raise no_images(tag)
        given = with_own_limit(given, details)
        reply = client.generate(
            tag,
            text,
            system=system,
            suffix=suffix,
            raw=raw,
            images=image,
            options=given,
            think=read_think(think),
            format=read_format(format_),
            keep_alive=alive,
        )
    from ollama_bridge.cli.answers import reply_record, tell_cut, timing

    if as_json:
        output.data_json(reply_record(reply))
        return
    output.data(reply.text)
    if verbose:
        output.say(timing(replace(reply, pace=None)))  # when it came nobody saw
    else:
        tell_cut(reply, given, "-p {name}={value}")


def _find_or_pull(client: Client, tag: str, *, insecure: bool) -> ModelDetails:
    """What the daemon knows of a tag, which it fetches if it has to, as ``ollama run`` does."""
    from ollama_bridge.modelfile import check_tag

    check_tag(tag)
    try:
        return client.show(tag)
    except ModelNotFoundError as absent:
        output.say(f"({tag} is not here yet: it is being pulled)")
        try:
            with ConsoleReporter() as reporter:
                client.pull(tag, insecure=insecure, on_progress=tell_bytes(reporter, "pull"))
        except DaemonError as error:
            raise ModelNotFoundError(
                f"the daemon has no model {tag!r}, and cannot pull it: {error.message}",
                status_code=absent.status_code,
                hint="ollama-bridge ls",
                model=tag,
            ) from error
        return client.show(tag)
