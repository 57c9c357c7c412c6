"""``batch``: a file of questions to a file of answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.batch_files import AnswerLines, answer_line, read_questions, write_answers
from ollama_bridge.cli.manual import ThinkingCommand
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.cli.question_options import (
    FormatOption,
    ParameterOption,
    SystemOption,
    ThinkOption,
    read_format,
    read_options,
    read_think,
)
from ollama_bridge.errors import ConfigError, DaemonError
from ollama_bridge.reporting import Note, Progress, Reporter

if TYPE_CHECKING:
    from ollama_bridge.client import Reply
    from ollama_bridge.client.jobs.batch import Concurrency
    from ollama_bridge.client.jobs.jobs import Answered, GivenUp

_STAGE = "batch"
_SET_ASIDE = 1
QuestionsArgument = Annotated[
    Path,
    typer.Argument(metavar="IN.jsonl", help="File with a question on each line.", dir_okay=False),
]
AnswersArgument = Annotated[
    Path,
    typer.Argument(
        metavar="OUT.jsonl",
        help="File for the answers, written when all are there.",
        dir_okay=False,
    ),
]
HostsOption = Annotated[
    list[str] | None,
    typer.Option("--host", help="Address of a daemon. Repeatable: several share the work."),
]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("batch", cls=ThinkingCommand)(batch)


def batch(
    questions: QuestionsArgument,
    answers: AnswersArgument,
    model: Annotated[
        str | None,
        typer.Option(help="Model for lines that do not name one.", autocompletion=completion.tags),
    ] = None,
    system: SystemOption = None,
    parameter: ParameterOption = None,
    think: ThinkOption = None,
    format_: FormatOption = None,
    concurrency: Annotated[
        str, typer.Option(help="Questions at a time per daemon: a number, or auto.")
    ] = "auto",
    attempts: Annotated[
        int, typer.Option(help="Attempts at a question before it is set aside.")
    ] = 3,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again what earlier runs set aside.")
    ] = False,
    host: HostsOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Answer a file of questions, each exactly once; run it again to resume after an interruption.

    A line is {"prompt": "..."} or {"messages": [...]}, with any field of Ollama's API, and may have
    an "id". Answers are in the order of the questions, each as generate --json prints it. Until all
    are there they are in OUT.jsonl.log, each synced to disk. A question that fails for good gets
    its error as its answer, and the exit code is 1. A second run asks again what was too long for
    the context, and with --retry-failed everything that failed. Answers that were cut off are
    counted; their done_reason is length.

    Examples:
      ollama-bridge batch letters.jsonl replies.jsonl --model review-reply
      ollama-bridge batch in.jsonl out.jsonl --model my-model --host box1 --host box2
    """
    from ollama_bridge.client.jobs.batch import ask_all
    from ollama_bridge.client.tag_limits import fit_to_the_tags
    from ollama_bridge.daemon.ensure import ensure_daemon

    defaults = {
        "model": model,
        "system": system,
        "think": read_think(think),
        "format": read_format(format_),
    }
    _check_answers_path(answers, questions)
    requests, ids = read_questions(questions, defaults, read_options(parameter))
    with (
        ConsoleReporter(quiet=quiet) as reporter,
        contextlib.closing(AnswerLines(answers.parent, len(requests))) as lines,
    ):
        if not host:
            ensure_daemon(reporter=reporter)
        are_limits_known = fit_to_the_tags(requests, host or [None])
        events = ask_all(
            requests,
            answers.with_name(f"{answers.name}.log"),
            hosts=host or (),
            concurrency=_concurrency(concurrency),
            attempts=attempts,
            retry_failed=retry_failed,
            on_away=lambda away: reporter.emit(Note(_STAGE, "warning", away.text)),
        )
        with contextlib.closing(events):  # whatever ends the loop, nothing is asked on
            tally = _settle(
                events, requests, ids, lines, reporter, are_limits_known=are_limits_known
            )
        write_answers(answers, lines)
    tally.tell(answers, as_json=as_json)
    if tally.set_aside:
        tally.tell_set_aside()
        raise typer.Exit(_SET_ASIDE)


def _check_answers_path(answers: Path, questions: Path) -> None:
    hint = f"ollama-bridge batch {quote(str(questions))} answers.jsonl"
    if answers.resolve() == questions.resolve():
        raise ConfigError("the answers would replace the questions", hint=hint)
    is_other = answers.exists() and not answers.is_file()
    if str(answers) == "-" or is_other or _stands_for_a_stream(answers):
        raise ConfigError(
            f"{answers} is no file: until all answers are there they lie in a log beside it",
            hint=hint,
        )


def _stands_for_a_stream(path: Path) -> bool:
    """Whether it is such as ``/dev/stdout``, which a shell's ``>`` may have made a file."""
    folder = path.absolute().parent.resolve()
    return folder in (Path("/dev"), Path("/dev/fd")) or Path("/proc") in folder.parents


def _settle(
    events: Iterable[Answered | GivenUp],
    requests: Sequence[dict[str, Any]],
    ids: Sequence[object],
    lines: AnswerLines,
    reporter: Reporter,
    *,
    are_limits_known: bool,
) -> _Tally:
    """Keep each answer as it comes, count it, and tell what is going on."""
    from ollama_bridge.client.jobs.jobs import GivenUp
    from ollama_bridge.client.options import DEFAULT_NUM_PREDICT

    tally = _Tally()
    for number, event in enumerate(_told_how_to_go_on(events, tally, len(requests), reporter)):
        if number == 0 and not are_limits_known:  # who lacks a model, or a key, was refused
            limit = f"{DEFAULT_NUM_PREDICT} is used; to change it: -p num_predict=N"
            unknown = f"no daemon says which num_predict the tags set, so {limit}"
            reporter.emit(Note(_STAGE, "warning", unknown))
        if isinstance(event, GivenUp):
            reporter.emit(Note(_STAGE, "warning", f"{event.name}: {event.error.message}"))
            continue
        lines.put(event.index, answer_line(event, ids[event.index]))
        tally.count(event, requests[event.index])
        reporter.emit(Progress(_STAGE, tally.settled, len(requests), "questions"))
    return tally


def _told_how_to_go_on(
    events: Iterable[Answered | GivenUp], tally: _Tally, total: int, reporter: Reporter
) -> Iterator[Answered | GivenUp]:
    """The events; where an error ends them, what is kept is told before it."""
    try:
        yield from events
    except DaemonError:
        if tally.settled:
            kept = f"{tally.settled} of {total} questions are kept"
            reporter.emit(Note(_STAGE, "warning", f"{kept}: the same command goes on from there"))
        raise


class _Tally:
    """How questions were settled, and of answers that a limit ended the longest."""

    def __init__(self) -> None:
        self.answered = self.cut = self.set_aside = self.too_long = 0
        self._longest: tuple[Reply, dict[str, Any]] | None = None

    @property
    def settled(self) -> int:
        """All of them."""
        return self.answered + self.set_aside

    def count(self, settled: Answered, request: dict[str, Any]) -> None:
        """Take an answer, or an error, and what was asked."""
        from ollama_bridge.client.jobs.batch_log import is_too_long

        reply = settled.reply
        if reply is None:
            self.set_aside += 1
            self.too_long += is_too_long(settled.error or "")
            return
        self.answered += 1
        if not reply.hit_limit:
            return
        self.cut += 1
        if self._longest is None or reply.generated_tokens > self._longest[0].generated_tokens:
            self._longest = reply, request.get("options") or {}

    def tell(self, path: Path, *, as_json: bool) -> None:
        """Tell the numbers, and the setting that gives more to what was cut."""
        from ollama_bridge.cli.answers import tell_cut

        if as_json:
            counts = {"answered": self.answered, "set_aside": self.set_aside, "hit_limit": self.cut}
            output.data_json({"path": path, **counts})
        else:
            cut = f" ({self.cut} of them cut)" if self.cut else ""
            output.data(f"{path}: {self.answered} answered{cut}, {self.set_aside} set aside")
        if self._longest is not None:
            more = "{name} {value} in the options of those lines, or -p {name}={value} for all"
            tell_cut(*self._longest, more)

    def tell_set_aside(self) -> None:
        """Tell how to ask those again; as it was asked, what is too long would fail again."""
        if self.too_long:
            output.say(
                f"{self.too_long} too long for the context: shorten these, or set a larger num_ctx "
                "in the options of those lines (or for all, which asks all anew: -p num_ctx=N), "
                "and give the same command"
            )
        if self.too_long < self.set_aside:
            others = "the others" if self.too_long else "those"
            output.say(f"to ask {others} again: the same command with --retry-failed")


def _concurrency(text: str) -> Concurrency:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError as exc:
        raise ConfigError(f"--concurrency {text}: write auto or a number") from exc
