"""The command line: wiring, and the one place where errors become messages and exit codes.

Exit codes: 0 done, 1 other error, 2 recipe, option, name or data wrong, 3 the daemon, 4 model,
training or conversion, 5 the daemon does not serve what was trained, 6 the registry, 130
interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import TyperException

from ollama_bridge.assets import home_dir
from ollama_bridge.cli import (
    ask,
    assets,
    batch,
    bench,
    build,
    completion,
    daemon,
    doctor,
    embed,
    export_stages,
    imported,
    labels,
    manage,
    manual,
    models,
    monitor,
    output,
    publish,
    runs,
    stages,
)
from ollama_bridge.cli.chat import chat
from ollama_bridge.cli.launch import is_first_process
from ollama_bridge.cli.output import Fail
from ollama_bridge.cli.termination import Termination
from ollama_bridge.errors import ConfigError, ModelError, OllamaBridgeError

# Commands that keep what they have done and go on with it.
_RESUMED = frozenset(
    {
        *("answers", "batch", "build", "distill", "finetune", "label"),
        *("package", "publish", "pull"),
    }
)

app = typer.Typer(
    name="ollama-bridge",
    help="From a model in your Ollama to a smaller, faster one that `ollama run` serves, proven "
    "to be the model you trained.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"ollama-bridge {version('ollama-bridge')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", "-v", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


build.add_to(app)
ask.add_to(app)
embed.add_to(app)
batch.add_to(app)
chat.add_to(app)
models.add_to(app)
manage.add_to(app)
publish.add_to(app)
stages.add_to(app)
export_stages.add_to(app)
bench.add_to(app)
monitor.add_to(app)
doctor.add_to(app)
app.add_typer(daemon.app, name="daemon")
app.add_typer(assets.recipes_app, name="recipes")
app.add_typer(assets.modelfiles_app, name="modelfiles")
app.add_typer(runs.app, name="runs")
app.add_typer(labels.app, name="labels")
app.add_typer(imported.app, name="models")
manual.use_in(app)


def main(fail: Fail = output.fail) -> None:
    """Run the command line; every error ends here as one message and an exit code.

    Args:
        fail: Tells an error, as a JSON document if ``as_json``; returns the exit code.
    """
    _open_what_is_closed()
    output.print_anything()
    quiet_libraries()
    words = sys.argv[1:]
    options = words[: words.index("--") if "--" in words else None]
    as_json = not {"--json", "--json=true"}.isdisjoint(options)
    keeps, termination = not _RESUMED.isdisjoint(words[:1]), Termination()
    try:
        with (
            completion.whole_words(),
            termination.as_ctrl_c() if keeps else contextlib.nullcontext(),
        ):
            code = manual.with_the_asked(app, words)(standalone_mode=False)
    except OllamaBridgeError as error:
        if os.environ.get("OLLAMA_BRIDGE_TRACEBACK", "") not in ("", "0"):
            traceback.print_exception(error)
        sys.exit(fail(error, as_json=as_json))
    except typer.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            output.say("")  # the question's line has no end
            output.interrupted(resumes=False, as_json=as_json, code=termination.exit_code)
            sys.exit(termination.exit_code)
        sys.exit(fail(OllamaBridgeError("not confirmed", hint="add --yes"), as_json=as_json))
    except TyperException as wrong:
        sys.exit(_refuse(wrong, fail, words, as_json=as_json))
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error of ours.
        _write_no_more()
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _write_no_more()
            full = OllamaBridgeError(f"the output cannot be written: {error.strerror}")
            sys.exit(fail(full, as_json=False))
        if error.filename is None or isinstance(error.filename, int):
            raise
        sys.exit(fail(_out_of_reach(error), as_json=as_json))
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of pyo3, which gives it no better base
            raise
        broken = ModelError(
            f"a library crashed: {error}",
            hint="most often the model's tokenizer.json is damaged: replace it with the one of the "
            "original model; if that does not help, report this",
        )
        sys.exit(fail(broken, as_json=as_json))
    if code == output.INTERRUPTED:
        code = termination.exit_code
        if is_first_process():  # torchrun passes Ctrl-C on to all of them
            output.interrupted(resumes=keeps, as_json=as_json, code=code)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """A shell can close a stream (``>&-``); Python then has None in its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _write_no_more() -> None:
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _out_of_reach(error: OSError) -> OllamaBridgeError:
    """A place of the user's choosing, or our home, that cannot be read or written."""
    place = Path(os.fsdecode(error.filename)).absolute()
    hint = f"see who owns it: ls -ld {shlex.quote(str(place.parent))} {shlex.quote(str(place))}"
    with contextlib.suppress(ConfigError):
        if place.is_relative_to(home_dir()):
            hint = "export OLLAMA_BRIDGE_HOME=/a/folder/you/may/write"
    return OllamaBridgeError(f"{place}: {error.strerror}", hint=hint)


def _refuse(wrong: TyperException, fail: Fail, words: Sequence[str], *, as_json: bool) -> int:
    """What was typed is no command, or not one with these options."""
    context = getattr(wrong, "ctx", None)
    if type(wrong).__name__ == "NoArgsIsHelpError":
        output.say(wrong.format_message())
        return wrong.exit_code
    named = context.command_path if context is not None else _command_of(words)
    message = " ".join(wrong.format_message().split()).rstrip(".")
    error = ConfigError(message[:1].lower() + message[1:], hint=f"{named} --help")
    return fail(error, as_json=as_json)


def _command_of(words: Sequence[str]) -> str:
    """The command that was typed: of an option without its value nobody else tells."""
    group: object = typer.main.get_command(app)
    path = ["ollama-bridge"]
    for word in words:
        group = getattr(group, "commands", {}).get(word)
        if group is None:
            break
        path.append(word)
    return " ".join(path)


def quiet_libraries() -> None:
    """Keep the libraries from spinning and from talking to people who did not call them."""
    # Threads that wait by spinning make training crawl when anything else runs on the same cores;
    # read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OLLAMA_BRIDGE_DEBUG" not in os.environ:
        # What the libraries tell their own callers is nothing that a user could act on.
        warnings.filterwarnings("ignore", module=r"torch|transformers|peft|huggingface_hub")
