"""``bench``: how fast tags are served here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.errors import ConfigError, ContextOverflowError
from ollama_bridge.storage.atomic_files import write_text_atomic

if TYPE_CHECKING:
    from ollama_bridge.speed.rates import Spread, TagSpeed


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("bench")(bench)


def bench(
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", autocompletion=completion.tags)],
    concurrency: Annotated[
        str, typer.Option(help="Requests at a time; each number is measured separately.")
    ] = "1,2,4",
    requests: Annotated[int, typer.Option(help="Requests to send at each --concurrency.")] = 8,
    words: Annotated[int, typer.Option(help="Length of each prompt, in words.")] = 64,
    tokens: Annotated[int, typer.Option(help="Cut each answer after this many tokens.")] = 64,
    prompts: Annotated[
        Path | None,
        typer.Option(help="File of your own prompts, one on each line.", dir_okay=False),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Also draw the result, as SVG, into this file.", dir_okay=False),
    ] = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Measure how fast tags are served: loading, waiting, rates, against the memory's bound.

    FIRST and ANSWER are seconds to the first token and to the first token of the answer; PROMPT and
    DECODE are tokens a second of one request. Of their two numbers, half of the requests reach the
    first, and 95 % the second (all of them, if fewer than 20). ALL is tokens a second of all
    requests together; BOUND is what memory allows one request on this machine's processors.

    REPEATS, a column where there are any, are answers that Ollama ended because one token came
    again and again. What had come of them counts, but for PROMPT.

    "-" is not known: ANSWER if some were cut before it, PROMPT with Ollama before 0.34,
    which does not say what was cached, and BOUND on GPUs or on another machine.

    Examples:
      ollama-bridge bench review-sentiment smollm2:135m
      ollama-bridge bench review-reply --concurrency 1,4 --prompts letters.txt --picture speed.svg
    """
    from ollama_bridge.daemon.ensure import ensure_daemon
    from ollama_bridge.speed.picture import draw
    from ollama_bridge.speed.rates import Load, measure_speed

    if picture is not None and not picture.absolute().parent.is_dir():
        raise ConfigError(
            f"{picture} cannot be written: there is no such folder",
            hint=f"mkdir -p {quote(str(picture.parent))}",
        )
    load = Load(_numbers(concurrency), requests, words, tokens, _lines(prompts) if prompts else ())
    with ConsoleReporter(quiet=quiet) as reporter:
        daemon = ensure_daemon(reporter=reporter, host=host)
        try:
            speeds = measure_speed(tags, load, host=daemon.host, reporter=reporter)
        except ContextOverflowError as overflow:
            overflow.hint = (
                "shorten the prompts (--words, or the lines of --prompts), or measure a tag whose "
                "Modelfile gives it a larger num_ctx"
            )
            raise
    if as_json:
        output.data_json([asdict(speed) for speed in speeds])
    else:
        _tell(speeds, tokens)
    if picture is not None:
        try:
            write_text_atomic(picture, draw(speeds))
        except OSError as exc:
            # The numbers are on stdout already: with --json no second document follows them.
            error = ConfigError(f"{picture} cannot be written: {exc.strerror}")
            raise typer.Exit(output.fail(error, as_json=False)) from exc


def _tell(speeds: Sequence[TagSpeed], tokens: int) -> None:
    repeats = any(one.repeated for speed in speeds for one in speed.measured)
    rows = [
        {
            "TAG": one.tag,
            "AT ONCE": one.concurrency,
            "LOAD": f"{speed.load_s:.2f}",
            "FIRST": _pair(one.first_token_s, 2),
            "ANSWER": _pair(one.first_answer_s, 2),
            "PROMPT": _pair(one.prompt_rate, 0),
            "DECODE": _pair(one.decode_rate, 1),
            "ALL": f"{one.throughput:.1f}",
            "BOUND": "-" if speed.bound_rate is None else f"{speed.bound_rate:.0f}",
            **({"REPEATS": str(one.repeated)} if repeats else {}),
        }
        for speed in speeds
        for one in speed.measured
    ]
    output.table(rows)
    for speed in speeds:
        asked = sum(one.requests for one in speed.measured)
        lacking = sum(one.unanswered for one in speed.measured)
        ended = sum(one.repeated for one in speed.measured)
        if ended:
            output.say(
                f"Ollama ended {ended} of {asked} answers of {speed.tag} for their repeats; try "
                "--tokens 24, or --prompts of your own task"
            )
        if lacking:
            output.say(
                f"{lacking} of {asked} requests to {speed.tag} ran out of tokens before the answer "
                f"began; try --tokens {4 * tokens}"
            )
        length = speed.measured[0].tokens
        if length is not None and length.p50 < 8:
            output.say(
                f"{speed.tag} answers in {length.p50:.0f} tokens, too few for DECODE to mean much; "
                "measure with --prompts of your own task, and read FIRST"
            )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise ConfigError(f"--concurrency {text}: write numbers, such as 1,2,4") from exc


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}") from exc
    found = tuple(dict.fromkeys(line for line in lines if line.strip()))
    if not found:
        raise ConfigError(f"{path} has no prompts", hint="write one on each line")
    return found


def _pair(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{spread.p50:.{digits}f} {spread.p95:.{digits}f}"
