"""What holds for all commands: --json, help like a manual page, errors as one document."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import COMMANDS, EXAMPLES, run_in_process, run_line
from fakes.daemon import FakeDaemon
from typer.main import get_command
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.cli.manual import SECTIONS, with_the_asked

# What prints lines of JSON, as they come, and not one document at its end.
STREAMS = {"run", "chat", "monitor"}

# Examples that need more than a fake daemon, and the tests that run them, in which they stand.
RUN_ELSEWHERE = {
    "live/test_live_build.py": ("build sentiment-quick", "card review-sentiment"),
    "live/test_live_package.py": (
        "package ./my-finetune my-model --type q8_0",
        "verify my-model --against ./my-finetune",
        "verify my-model --against ./my-adapter --base ./unquantized-base",
        "publish my-model localhost:5000/team/my-model:1 --license LICENSE",
        "pull localhost:5000/team/my-model:1 --as my-model",
    ),
    "live/test_live_verify.py": ("verify review-sentiment",),
    "unit/cli/test_labels.py": ("labels ls", "labels show 01234567", "labels rm 01234567 --yes"),
    "unit/cli/test_imported.py": (
        "models ls",
        "models show gguf-0123",
        "models rm gguf-0123 --yes",
    ),
    "unit/daemon/test_daemon_install.py": (
        "daemon install",
        "daemon install --version 0.24.0",
    ),
    "unit/test_doctor.py": ("doctor", "doctor --fix"),
}
# This one takes all that begin so.
STAGES = "unit/cli/test_stage_examples.py"
STAGE_VERBS = (
    *("prepare", "finetune", "label ", "distill", "evaluate", "importance", "convert"),
    *("render", "template"),
)
# Too much as they stand: what they call is run with less.
RUN_SMALLER = {
    "live/test_live_build.py": ("build",),
    "live/test_live_package.py": ("package",),
    "live/test_live_register.py": ("register",),
    "live/test_live_teacher.py": ("answers",),
    "live/test_live_publish.py": ("publish", "pull"),
}


def test_every_command_has_its_section() -> None:
    """And no section names one that is not there."""
    placed = [name for names in SECTIONS.values() for name in names]
    shown = [name for name, one in get_command(cli.app).commands.items() if not one.hidden]
    assert sorted(placed) == sorted(shown)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_speaks_json(name: str) -> None:
    """Whether it prints one document or lines is said."""
    (option,) = [one for one in COMMANDS[name].params if "--json" in one.opts]
    assert ("lines of JSON" in COMMANDS[name].help + option.help) == (name in STREAMS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_a_manual_page(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does, every option by its whole name, examples: in a narrow terminal, too."""
    monkeypatch.setenv("COLUMNS", "40")
    page = run_in_process(monkeypatch, [*name.split(), "--help"])
    assert page.code == 0
    text = page.stdout.partition("\nExamples:\n")
    assert text[2].startswith(f"  {'cat' if 'cat ' in text[2][:6] else 'ollama-bridge'} ")
    for option in COMMANDS[name].params:
        if not option.hidden and option.param_type_name == "option":
            assert all(word in page.stdout for word in option.opts)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_is_one_document(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every error is; what is wrong and where help is stands on stderr, too."""
    done = run_in_process(monkeypatch, [*name.split(), "--json", "--frobnicate"])
    error = json.loads(done.stdout)["error"]
    assert (done.code, error["exit_code"]) == (2, 2)
    assert error["hint"] == f"ollama-bridge {name} --help"
    assert "error: no such option: --frobnicate" in done.stderr


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["frob"], "no such command 'frob'", "ollama-bridge --help"),
        (["chatt"], "did you mean 'chat'", "ollama-bridge --help"),
        (["ask"], "did you mean 'run', 'generate'?", "ollama-bridge --help"),
        (["import"], "no such command 'import'. Did you mean 'package'?", "ollama-bridge --help"),
        (["daemon", "ask"], "no such command 'ask'", "ollama-bridge daemon --help"),
        (["run"], "missing argument", "ollama-bridge run --help"),
        (["bench", "m", "--requests", "x"], "--requests", "ollama-bridge bench --help"),
        (["publish", "m", "x", "--through", "y"], "'registry'", "ollama-bridge publish --help"),
    ],
)
def test_what_is_typed_wrong_is_told_as_any_error(
    words: list[str], message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two lines, and with the exit code of what is typed wrong."""
    done = run_in_process(monkeypatch, words)
    assert (done.code, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert message.lower() in first.lower()
    assert second == f"fix:   {hint}"


@pytest.mark.parametrize(("words", "typers_own"), [([], set()), (["run"], {"pydantic", "email"})])
def test_help_loads_nothing_heavy(words: list[str], typers_own: set[str]) -> None:
    """So that it is there at once: no network, no screen, no numbers."""
    script = (
        f"import sys; sys.argv = ['ollama-bridge', *{words}, '--help']\n"
        "from ollama_bridge.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()} - typers_own
    for heavy in (
        *("torch", "transformers", "numpy", "httpx", "anyio", "asyncio", "ssl", "email"),
        *("pydantic", "jsonschema", "attr", "rich", "pygments", "markdown_it", "prompt_toolkit"),
        *("jinja2", "yaml", "psutil", "ollama"),
    ):
        assert heavy not in loaded


def test_the_asked_command_alone_is_that_of_the_whole_application() -> None:
    """Names, options and help; what is none of ours is left to the whole."""
    names = [name for names in SECTIONS.values() for name in names]
    runner = CliRunner()
    assert set(names) == set(get_command(cli.app).commands)  # type: ignore[attr-defined]
    for name in names:
        alone = with_the_asked(cli.app, [name, "x"])
        assert list(get_command(alone).commands) == [name]  # type: ignore[attr-defined]
        whole, one = (runner.invoke(each, [name, "--help"]).output for each in (cli.app, alone))
        assert one == whole
    for words in ([], ["--help"], ["list"], ["frob"]):
        assert with_the_asked(cli.app, words) is cli.app


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """A folder with the files that examples name, and a daemon with the tags."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    for name, text in {
        "letter.txt": "Dear Sirs,",
        "letters.txt": "".join(f"Dear Sirs, this is letter {n}.\n" for n in range(16)),
        "questions.txt": "Hello?\n",
        "texts.txt": "one\ntwo\n",
        "letters.jsonl": '{"prompt": "Hello?"}\n',
        "in.jsonl": '{"prompt": "Hello?"}\n',
        "Modelfile": "FROM review-reply\n",
        "home/runs/sentiment-quick/events.jsonl": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tags = ("review-sentiment", "review-sentiment-quick", "review-reply", "nomic-embed-text")
    tags = (*tags, "smollm2:135m", "my-model", "deepseek-r1:1.5b")
    tags = (*tags, "registry.example.com/team/model:1")
    models = {tag if ":" in tag else f"{tag}:latest": "d" * 64 for tag in tags}
    with FakeDaemon(models=models) as daemon:
        daemon.statuses = [{"status": "success"}]
        monkeypatch.setenv("OLLAMA_HOST", daemon.host)
        monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(home))
        yield daemon


def is_run_here(line: str) -> bool:
    """Whether an example is one that this file runs."""
    typed = line.partition("ollama-bridge ")[2]
    others = (*STAGE_VERBS, *(verb for verbs in RUN_SMALLER.values() for verb in verbs))
    exact = [one for lines in RUN_ELSEWHERE.values() for one in lines]
    return not typed.startswith(others) and typed.partition(" > ")[0] not in exact


@pytest.mark.parametrize("line", [line for line in EXAMPLES if is_run_here(line)])
def test_examples_do_what_they_show(
    line: str, here: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each as it stands; what would never end is ended after a look."""
    line = line.replace(" 9435", " 0")
    if " monitor" in line and "--count" not in line:
        line += " --count 1 --interval 0.1"
    if "--host box1" in line:
        line = line.replace("box1", here.host).replace(" --host box2", "")
    done = run_line(monkeypatch, line)
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_examples_that_need_more_are_run_by_other_tests() -> None:
    """Those have their lines by ``example``, which refuses what the help does not show."""
    tests = Path(__file__).parents[2]
    for file, lines in RUN_ELSEWHERE.items():
        text = (tests / file).read_text(encoding="utf-8")
        assert [line for line in lines if f'example("{line}"' not in text] == [], file
    assert "EXAMPLES" in (tests / STAGES).read_text(encoding="utf-8")
    for file, verbs in RUN_SMALLER.items():
        assert (tests / file).is_file()
        assert all(any(f"bridge {verb} " in line for line in EXAMPLES) for verb in verbs)


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_are_understood(line: str) -> None:
    """Names, options and numbers of arguments are those of the command."""
    import shlex

    words = shlex.split(line.partition("ollama-bridge ")[2].partition(" > ")[0].partition(" < ")[0])
    context: Any = None
    command: Any = get_command(cli.app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, list(words))
    assert not context.args


def test_json_is_not_asked_of_what_a_command_is_given(
    here: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind ``--``, or among others, it is a word of the prompt."""
    done = run_in_process(monkeypatch, ["run", "review-reply", "--", "--json"])
    assert (done.code, done.stdout) == (0, "Hello!\n")
    done = run_in_process(monkeypatch, ["generate", "gone", "What is --json for?"])
    assert (done.code, done.stdout) == (3, "")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("recipes ls >&-", 0, ""),
        ("ls <&- 2>&-", 3, ""),
        ("recipes ls | true", 0, ""),
        ("recipes ls > /dev/full", 1, "error: the output cannot be written: No space"),
        ("--help > /dev/full", 1, "error: the output cannot be written: No space"),
    ],
)
def test_a_shell_may_close_or_fill_what_is_written_to(line: str, code: int, told: str) -> None:
    """No traceback, now or when Python ends."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ollama_bridge {line}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(told)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
