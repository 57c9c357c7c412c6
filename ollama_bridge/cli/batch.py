"""``batch``: a file of questions to a file of answers."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ollama_bridge.artifacts import open_atomic, raise_if_disk_full
from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.asking import (
    FormatOption,
    ParameterOption,
    SystemOption,
    ThinkOption,
    read_format,
    read_options,
    read_think,
    with_own_limit,
)
from ollama_bridge.cli.manual import ThinkingCommand
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.errors import (
    ConfigError,
    DaemonBusyError,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    DataError,
)

if TYPE_CHECKING:
    from ollama_bridge.client import ModelDetails, Reply
    from ollama_bridge.client.jobs import Answered

_STAGE = "batch"
_SET_ASIDE = 1
_IN_MEMORY_BYTES = 16 * 2**20


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("batch", cls=ThinkingCommand)(batch)


def batch(
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl", help="File with a question on each line.", dir_okay=False
        ),
    ],
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.jsonl",
            help="File for the answers, written when all are there.",
            dir_okay=False,
        ),
    ],
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
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="Address of a daemon. Repeatable: several share the work."),
    ] = None,
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
    from ollama_bridge.client.batching import ask_all
    from ollama_bridge.client.jobs import GivenUp
    from ollama_bridge.client.options import DEFAULT_NUM_PREDICT
    from ollama_bridge.daemon.ensure import ensure_daemon
    from ollama_bridge.reporting import Note, Progress

    defaults = {
        "model": model,
        "system": system,
        "think": read_think(think),
        "format": read_format(format_),
    }
    if answers.resolve() == questions.resolve():
        raise ConfigError(
            "the answers would replace the questions",
            hint=f"ollama-bridge batch {quote(str(questions))} answers.jsonl",
        )
    requests, ids = _read(questions, defaults, read_options(parameter))
    with (
        ConsoleReporter(quiet=quiet) as reporter,
        contextlib.closing(_Lines(answers.parent, len(requests))) as lines,
    ):
        if not host:
            ensure_daemon(reporter=reporter)
        are_limits_known = _leave_limits_to_the_tags(requests, host or [None])
        events = ask_all(
            requests,
            answers.with_name(f"{answers.name}.log"),
            hosts=host or (),
            concurrency=_concurrency(concurrency),
            attempts=attempts,
            retry_failed=retry_failed,
        )
        with contextlib.closing(events):  # whatever ends the loop, nothing is asked on
            tally = _Tally()
            for number, event in enumerate(events):
                if number == 0 and not are_limits_known:  # who lacks a model, or a key, was refused
                    limit = f"{DEFAULT_NUM_PREDICT} is used; to change it: -p num_predict=N"
                    unknown = f"no daemon says which num_predict the tags set, so {limit}"
                    reporter.emit(Note(_STAGE, "warning", unknown))
                if isinstance(event, GivenUp):
                    reporter.emit(Note(_STAGE, "warning", f"{event.name}: {event.error.message}"))
                    continue
                lines.put(event.index, _line(event, ids[event.index]))
                tally.count(event, requests[event.index])
                reporter.emit(Progress(_STAGE, tally.settled, len(requests), "questions"))
        _write(answers, lines)
    tally.tell(answers, as_json=as_json)
    if tally.set_aside:
        output.say("to ask those again: the same command with --retry-failed")
        raise typer.Exit(_SET_ASIDE)


class _Tally:
    """How questions were settled, and of answers that a limit ended the longest.

    Attributes:
        answered: So many.
        cut: As many of these did a limit end.
        set_aside: As many failed for good.
    """

    def __init__(self) -> None:
        self.answered = self.cut = self.set_aside = 0
        self._longest: tuple[Reply, dict[str, Any]] | None = None

    @property
    def settled(self) -> int:
        """All of them."""
        return self.answered + self.set_aside

    def count(self, settled: Answered, request: dict[str, Any]) -> None:
        """Take an answer, or an error, and what was asked."""
        reply = settled.reply
        if reply is None:
            self.set_aside += 1
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


class _Lines:
    """Lines that come in any order, and are read in theirs; not in memory where they are many.

    Args:
        folder: Of a file without a name, which no kill leaves behind.
        count: How many there will be.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            _IN_MEMORY_BYTES, dir=str(folder)
        )
        self._places: list[tuple[int, int] | None] = [None] * count

    def put(self, index: int, line: str) -> None:
        """Keep a line.

        Raises:
            DiskFullError: no room.
        """
        data = f"{line}\n".encode()
        self._places[index] = (self._file.tell(), len(data))
        try:
            self._file.write(data)
        except OSError as exc:
            raise_if_disk_full(exc, self._folder)
            raise ConfigError(f"{self._folder} cannot be written to: {exc.strerror}") from exc

    def __iter__(self) -> Iterator[str]:
        """Those that came."""
        for begin, length in filter(None, self._places):
            self._file.seek(begin)
            yield self._file.read(length).decode()

    def close(self) -> None:
        """Forget them."""
        self._file.close()


def _write(path: Path, lines: _Lines) -> None:
    try:
        with open_atomic(path) as stream:
            stream.writelines(lines)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc


def _read(
    path: Path, defaults: dict[str, Any], options_: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[object]]:
    """Questions with what they leave out, and their ids, else their numbers; every problem told."""
    from ollama_bridge.client.questions import to_call
    from ollama_bridge.client.requests import encode_body

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise DataError(f"{path} cannot be read: {reason}") from exc
    requests: list[dict[str, Any]] = []
    ids: list[object] = []
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold other ends of lines
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("not an object")
            ids.append(row.pop("id", number))
            given = {name: value for name, value in defaults.items() if value is not None}
            request = given | row
            if options_ or "options" in row:
                request["options"] = options_ | (row.get("options") or {})
            encode_body(to_call(request).json or {})
            requests.append(request)
        except ConfigError as error:
            problems.append(f"line {number}: {error.message}")
        except (ValueError, TypeError) as exc:
            problems.append(f"line {number}: {exc}")
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(
            f"{path} has {len(problems)} line(s) that are not valid questions:\n{shown}{more}",
            hint='a line looks like {"id": 1, "prompt": "..."}; name the model with --model TAG',
        )
    if not requests:
        raise DataError(f"{path} has no questions", hint="write one on each line")
    return requests, ids


def _leave_limits_to_the_tags(requests: list[dict[str, Any]], hosts: Sequence[str | None]) -> bool:
    """Let questions that say none have the ``num_predict`` of their tags, as ``generate`` does.

    Returns:
        Whether the tags' own are known, or none is wanted.
    """
    open_ = [one for one in requests if (one.get("options") or {}).get("num_predict") is None]
    models = {str(one["model"]) for one in open_}
    details = _details(models, hosts) if open_ else {}
    for one in open_ if details else ():
        one["options"] = with_own_limit(one.get("options") or {}, details[str(one["model"])])
    return details.keys() == models


def _details(models: set[str], hosts: Sequence[str | None]) -> dict[str, ModelDetails]:
    """What the first daemon that tells knows of some models; empty if none that is there does.

    Raises:
        DaemonError: none can be asked.
    """
    from ollama_bridge.client import Client
    from ollama_bridge.client.model_check import SOON

    away: DaemonError | None = None
    is_one_there = False
    for host in hosts:
        try:
            with Client(host, timeouts=SOON) as client:
                return {model: client.show(model) for model in models}
        except (DaemonUnreachableError, DaemonTimeoutError, DaemonBusyError) as error:
            away = error
        except DaemonError:  # a gateway that lets no such request through, or there is no model
            is_one_there = True
    if away is not None and not is_one_there:
        raise away
    return {}


def _line(answered: Answered, id_: object) -> str:
    from ollama_bridge.cli.answers import reply_record

    record: dict[str, Any] = {"id": id_}
    if answered.reply is None:
        record["error"] = answered.error
    else:
        record |= reply_record(answered.reply)
    record["attempts"] = answered.attempts
    line = json.dumps(record, ensure_ascii=False, default=list)  # bytes as Ollama writes them
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can write as an escape
        return json.dumps(json.loads(line))
    return line


def _concurrency(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as exc:
        raise ConfigError(f"--concurrency {text}: write auto or a number") from exc
