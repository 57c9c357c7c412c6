"""Help like a manual page: plain text, commands in sections, examples as they are typed.

Typer's own boxes cut the names of options where a terminal is narrow, and load what draws them.
"""

from __future__ import annotations

import copy
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import typer
from typer import TyperException
from typer.core import TyperCommand, TyperGroup

SECTIONS = {
    "Ask": ("run", "chat", "generate", "embed", "batch"),
    "Models": ("ls", "show", "ps", "pull", "push", "create", "cp", "rm", "stop"),
    "From a model to a smaller one": (
        "build", "package", "template", "verify", "publish", "card",
    ),
    "Its stages, one by one": (
        "prepare", "answers", "finetune", "label", "distill", "evaluate", "importance", "convert",
        "render", "register",
    ),
    "This machine": ("doctor", "daemon", "monitor", "bench"),
    "Files": ("recipes", "modelfiles", "runs", "labels", "models"),
}  # fmt: skip
_ALIASES = {"list": "ls"}
# What other tools, or people, call it: too far from its name to be found by its letters.
_MEANT = {
    "ask": ("run", "generate"),
    "delete": ("rm",),
    "download": ("pull",),
    "export": ("convert", "package"),
    "import": ("package",),
    "info": ("show",),
    "merge": ("convert", "package"),
    "quantize": ("package", "convert"),
    "serve": ("daemon",),
    "start": ("daemon",),
    "train": ("build", "finetune"),
    "upload": ("push", "publish"),
}
_SUMMARY_CHARACTERS = 200  # a whole sentence: Typer's own limit of 45 leaves its beginning
_HELP_LINE = "* `--help`: Show this message and exit.\n"
_EXAMPLES = re.compile(r"^Examples:\n((?:[ ]+.*\n?)+)", re.MULTILINE)


class Command(TyperCommand):
    """A command whose examples are shown behind its options.

    What is on or off may be given as ``--name=false``, too: ``ollama`` writes it so.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """``--name=true`` is the option alone, ``--name=false`` its opposite, or left out."""
        flags = {name: one for one in self.params if _is_flag(one) for name in one.opts}
        found: list[str] = []
        for place, word in enumerate(args):
            if word == "--":
                return super().parse_args(ctx, [*found, *args[place:]])
            name, _, value = word.partition("=")
            if name not in flags or value not in ("true", "false"):
                found.append(word)
            elif value == "true":
                found.append(name)
            else:
                found += flags[name].secondary_opts[:1]
        return super().parse_args(ctx, found)

    def get_short_help_str(self, limit: int = _SUMMARY_CHARACTERS) -> str:
        """Its first sentence, for lists of commands."""
        return super().get_short_help_str(limit).rstrip(".")

    def format_help_text(self, _: Any, formatter: Any) -> None:
        """What it does."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_EXAMPLES.sub("", self.help or "").strip())

    def format_epilog(self, _: Any, formatter: Any) -> None:
        """How it is typed."""
        lines = examples(self.help or "")
        if lines:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in lines))


class ThinkingCommand(Command):
    """A command whose ``--think`` may stand alone, as in ``ollama``: its value is then empty."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Only a word that says how to think is its value; all else is a prompt."""
        from ollama_bridge.cli.question_options import THINK

        found = list(args)
        end = found.index("--") if "--" in found else len(found)
        for place, word in enumerate(found[:end]):
            following = found[place + 1] if place + 1 < end else ""
            if word == "--think" and following.lower() not in THINK:
                found[place] = "--think="
        return super().parse_args(ctx, found)


class Group(TyperGroup):
    """Commands in sections; some have a second name, which ``ollama`` gives them."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """By either name."""
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """By its name; an error says which one may be meant."""
        try:
            return super().resolve_command(ctx, args)
        except TyperException as wrong:
            meant = [repr(name) for name in _MEANT.get(args[0], ()) if name in self.commands]
            if meant:  # better than what its letters are near to, which may be there already
                told = wrong.message.partition(" Did you mean")[0].rstrip(".")
                wrong.message = f"{told}. Did you mean {', '.join(meant)}?"
            raise

    def get_short_help_str(self, limit: int = _SUMMARY_CHARACTERS) -> str:
        """Its first sentence, for lists of commands."""
        return super().get_short_help_str(limit).rstrip(".")

    def list_commands(self, _: Any) -> list[str]:
        """In the order of the sections; a group of a few has none."""
        placed = [name for names in SECTIONS.values() for name in names]
        return sorted(self.commands, key=lambda name: placed.index(name) if name in placed else 0)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A line for each command, under the name of its section."""
        shown = {name: one for name, one in self.commands.items() if not one.hidden}
        width = max(len(name) for name in shown)
        titled = SECTIONS if ctx.parent is None else {"Commands": tuple(shown)}
        for title, names in titled.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{name:<{width}}", shown[name].get_short_help_str())
                        for name in names
                        if name in shown
                    ]
                )


def _is_flag(parameter: Any) -> bool:
    return bool(getattr(parameter, "is_flag", False))


def use_in(app: typer.Typer) -> None:
    """Give an application, and what is in it, help of this kind."""
    app.info.cls = Group
    for command in app.registered_commands:
        if not issubclass(command.cls or TyperCommand, Command):
            command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            use_in(group.typer_instance)


def with_the_asked(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """An application with the one command that is typed: building all takes longer than most run.

    Args:
        app: See :func:`use_in`.
        words: As typed; where they begin with no command of ours, it is the application itself.
    """
    if not words or all(words[0] not in names for names in SECTIONS.values()):
        return app
    alone = copy.copy(app)
    alone.registered_commands = [one for one in app.registered_commands if _name(one) == words[0]]
    alone.registered_groups = [one for one in app.registered_groups if one.name == words[0]]
    return alone


def _name(command: Any) -> str:
    return str(command.name or typer.main.get_command_name(command.callback.__name__))


def examples(text: str) -> list[str]:
    """The lines of a docstring that are typed; one that goes on ends with a backslash."""
    found = _EXAMPLES.search(text)
    return textwrap.dedent(found[1]).rstrip().splitlines() if found else []


def fenced(markdown: str) -> str:
    """A page that Typer wrote: examples as code, usage on a line, ``--help`` once for all."""
    page = _EXAMPLES.sub(
        lambda found: f"```console\n{textwrap.dedent(found[1]).rstrip()}\n```\n", markdown
    )
    page = re.sub(r"\*\*Usage\*\*:\n\n```console\n\$ (.*)\n```", r"Usage: `\1`", page)
    first, line, others = page.partition(_HELP_LINE)
    return first + line + others.replace(_HELP_LINE, "").replace("**Options**:\n\n\n", "")
