"""``run`` and ``generate``: ask a tag."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.cli import options, output
from ollama_bridge.errors import ConfigError
from ollama_bridge.reporting import NullReporter

if TYPE_CHECKING:
    from ollama_bridge.client import Client


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("run")(run)
    app.command("generate")(generate)


def run(
    tag: options.TagArgument,
    prompt: Annotated[str | None, typer.Argument(help="Left out: piped stdin, or a chat.")] = None,
    host: options.HostOption = None,
) -> None:
    """Ask a tag and print the answer as it comes; without a prompt, chat.

    Examples:
      ollama-bridge run review-sentiment "The battery died after two days."
      cat letter.txt | ollama-bridge run review-reply
    """
    with _connect(host) as client:
        if prompt is None and sys.stdin.isatty():
            _chat(client, tag)
            return
        text = sys.stdin.read() if prompt is None else prompt
        _print_stream(client, tag, [{"role": "user", "content": text}])


def generate(
    tag: options.TagArgument,
    prompt: Annotated[str | None, typer.Argument(help="Left out: read from stdin.")] = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Ask a tag and print the answer alone when it is whole.

    Examples:
      ollama-bridge generate review-sentiment "Works like a charm."
    """
    if prompt is None and sys.stdin.isatty():
        raise ConfigError(
            "no prompt: pass it as an argument or on stdin",
            hint=f'ollama-bridge generate {tag} "..."',
        )
    text = sys.stdin.read() if prompt is None else prompt
    with _connect(host) as client:
        reply = client.generate(tag, text)
    if not as_json:
        output.data(reply.text)
        return
    timings = reply.timings
    output.data_json(
        {
            "model": reply.model,
            "text": reply.text,
            "thinking": reply.thinking,
            "done_reason": reply.done_reason,
            "prompt_tokens": reply.prompt_tokens,
            "generated_tokens": reply.generated_tokens,
            "total_s": timings.total_s,
            "load_s": timings.load_s,
            "prompt_s": timings.prompt_s,
            "generate_s": timings.generate_s,
        }
    )


def _connect(host: str | None) -> Client:
    """A client of the daemon, which is started if nobody serves."""
    from ollama_bridge.client import Client
    from ollama_bridge.daemon.ensure import ensure_daemon

    return Client(ensure_daemon(reporter=NullReporter(), host=host).host)


def _chat(client: Client, tag: str) -> None:
    client.show(tag)  # a wrong tag is told now, not after the first question
    output.say(f"{tag}: type a message; an empty line or Ctrl-D ends the chat")
    history: list[dict[str, str]] = []
    while True:
        try:
            text = input(">>> ").strip()
        except EOFError:
            return
        if not text:
            return
        history.append({"role": "user", "content": text})
        answer = _print_stream(client, tag, history)
        history.append({"role": "assistant", "content": answer})


def _print_stream(client: Client, tag: str, messages: list[dict[str, str]]) -> str:
    from ollama_bridge.client import Text

    answer = ""
    for event in client.stream(tag, messages):
        if isinstance(event, Text):
            answer += event.text
            sys.stdout.write(event.text)
            sys.stdout.flush()
    sys.stdout.write("\n")
    return answer
