"""The command line: one error boundary, data on stdout, and the verbs that need no daemon."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.command_line import run_in_process
from fakes.terminal import start_command, wait_until_it_sleeps
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split
from typer.testing import CliRunner

from ollama_bridge import cli, pipeline
from ollama_bridge.__main__ import main as start
from ollama_bridge.assets import home_dir, list_assets
from ollama_bridge.cli.build import recipe_with_data
from ollama_bridge.errors import ArtifactError, DaemonUnreachableError
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.run_folder import EVENTS_NAME, note_origin

runner = CliRunner()

_TURNS = '[{"role": "user", "content": "a"}]'


def test_version_is_printed() -> None:
    """``--version`` prints name and version and nothing else."""
    done = runner.invoke(cli.app, ["--version"])
    assert done.exit_code == 0
    assert done.stdout.startswith("ollama-bridge 0.")


def test_error_becomes_message_fix_and_exit_code() -> None:
    """An error of ours leaves as two lines on stderr and its exit code, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "ollama_bridge", "recipes", "show", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.strip().splitlines()
    assert first.startswith("error: no recipe 'nonsense'")
    assert second == "fix:   ollama-bridge recipes ls"


@pytest.mark.parametrize("flag", ["--json", "--json=true"])
def test_error_as_json_keeps_stdout_readable_for_programs(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--json`` the error is an object on stdout, too."""
    done = run_in_process(monkeypatch, ["build", "nonsense", flag])
    error = json.loads(done.stdout)["error"]
    assert error["exit_code"] == done.code == 2
    assert error["hint"] == "ollama-bridge recipes ls"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["build", "sentiment", "--set", "distill.epoch=2"], 2, "did you mean distill.epochs?"),
        (["build", "sentiment", "--data", "gone.csv"], 2, "gone.csv: no such file"),
        (["build", "sentiment", "--data", "/dev/null"], 2, "/dev/null: not a regular file"),
        (["build", "sentiment", "--data", "/"], 2, "--data /: not a regular file"),
        (["build", "sentiment", "--text-col", "t"], 2, "your own data"),
        (["runs", "show", "gone"], 2, "no run 'gone'"),
        (["label", "reply", "--corpus", "c", "--out", "o"], 2, "add --teacher MODEL"),
        (
            ["label", "reply", "--corpus=c", "--out=o", "--set=teacher.soft_labels=daemon"],
            2,
            "add --student MODEL",
        ),
        (
            ["evaluate", "sentiment", "a=./x", "a=./y", "--corpus=c", "--out=o"],
            2,
            "two models are called 'a'",
        ),
        (["pull", "localhost:5000/m:1"], 2, "does not name registry, namespace and model"),
        (["ls"], 3, "127.0.0.1:9"),
        (["create", "x", "-q"], 2, "ollama-bridge create --help"),
        (["runs", "rm", "--bad"], 2, "ollama-bridge runs rm --help"),
        (["nonsense", "-q"], 2, "fix:   ollama-bridge --help"),
        (["runs", "rm", "/etc", "--yes"], 1, "is not a run"),
    ],
)
def test_bad_input_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, message: str
) -> None:
    """Each bad input has its exit code and names what is wrong."""
    done = run_in_process(monkeypatch, args)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.code == code


def test_a_place_that_cannot_be_written_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whichever it is: what `--out` names, or our home, with what to set."""
    data = tmp_path / "d.csv"
    data.write_text("text,label\ngood,positive\n")
    words = ["prepare", "sentiment-quick", "--data", str(data), "--out", "/proc/nix/x", "--json"]
    done = run_in_process(monkeypatch, words)
    error = json.loads(done.stdout)["error"]
    assert (done.code, error["message"]) == (1, "/proc/nix: No such file or directory")
    assert error["hint"].endswith("ls -ld /proc /proc/nix")
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", "/proc/nix")
    monkeypatch.setattr(cli, "app", lambda **_: note_origin(home_dir() / "runs", tmp_path))
    assert run_in_process(monkeypatch, []).stderr.splitlines() == [
        "error: /proc/nix: No such file or directory",
        "fix:   export OLLAMA_BRIDGE_HOME=/a/folder/you/may/write",
    ]


def test_a_panic_of_a_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern in a tokenizer.json that its library gives up on, by no Exception."""
    pattern = Split(Regex("(?:a|aa|aaa)+$"), "isolated")
    monkeypatch.setattr(cli, "app", lambda **_: pattern.pre_tokenize_str("a" * 60 + "b"))
    done = run_in_process(monkeypatch, [])
    assert done.code == 4
    assert done.stderr.startswith("error: a library crashed: ")
    assert "tokenizer.json" in done.stderr


@pytest.mark.parametrize("run", ["", ".", ".."])
def test_what_is_no_name_of_a_run_removes_none(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set, and dots, are not put behind the folder of all runs."""
    kept = home_dir() / "runs" / "mine" / "events.jsonl"
    kept.parent.mkdir(parents=True)
    kept.touch()
    done = run_in_process(monkeypatch, ["runs", "rm", run, "--yes"])
    assert done.stderr.startswith("error: ")
    assert kept.exists()


@pytest.mark.parametrize("manifest", ["", "[]", '{"stage": "convert"}'])
def test_a_damaged_artefact_of_a_run_is_named(manifest: str, tmp_path: Path) -> None:
    """As one that is about to be used is: with the place, and how it is made again."""
    (tmp_path / EVENTS_NAME).touch()
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "manifest.json").write_text(manifest)
    done = runner.invoke(cli.app, ["runs", "show", str(tmp_path)])
    assert isinstance(done.exception, ArtifactError)
    assert f"{tmp_path}/gguf/manifest.json cannot be read" in done.exception.message
    assert f"rm -r {tmp_path}/gguf" in str(done.exception.hint)


def test_a_run_is_removed_from_within(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a dot, as a whole; nothing beside it."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").touch()
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path / "mine")
        done = run_in_process(monkeypatch, ["runs", "rm", ".", "--yes"])
    assert done.code == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["other"]


def test_recipes_and_modelfiles_can_be_listed_shown_and_copied(tmp_path: Path) -> None:
    """ls, show and copy work, and copy never overwrites."""
    for noun, name in (("recipes", "sentiment"), ("modelfiles", "chatml")):
        listed = runner.invoke(cli.app, [noun, "ls", "--json"])
        assert name in {row["name"] for row in json.loads(listed.stdout)}
        shown = runner.invoke(cli.app, [noun, "show", name]).stdout
        copied = runner.invoke(cli.app, [noun, "copy", name, str(tmp_path)])
        assert Path(copied.stdout.strip()).read_text() == shown
        again = runner.invoke(cli.app, [noun, "copy", name, str(tmp_path)])
        assert again.exit_code != 0


def test_run_of_a_user_is_named_after_their_file(tmp_path: Path) -> None:
    """Own data get a tag and a run of their own; the recipe's model is not replaced."""
    file = tmp_path / "My Reviews.csv"
    file.write_text("text,label\nfine,positive\n")
    recipe = recipe_with_data(
        "sentiment-quick", data=file, text_col=None, label_col="mood", tag=None, overrides=[]
    )
    assert recipe.name == "sentiment-quick-my-reviews"
    assert recipe.export.tag == "review-sentiment-quick-my-reviews"
    assert recipe.data.source == "table"
    assert recipe.data.label_col == "mood"


@pytest.mark.parametrize("name", ["Customer\nfeedback", 'a\\n"b"', "bell\a", "next\x85\u2028"])
def test_a_column_is_called_as_its_header_is(tmp_path: Path, name: str) -> None:
    """Spreadsheets break the lines of a header, and anything may be in the name of a file."""
    file = tmp_path / f"{name}.csv"
    file.write_text("text,label\nfine,positive\n")
    for columns in ((name,), (name, "title")):
        recipe = recipe_with_data(
            "sentiment", data=file, text_col=columns, label_col=name, tag=None, overrides=[]
        )
        given = (recipe.data.text_cols, recipe.data.label_col, recipe.data.path)
        assert given == (columns, name, file)
        assert recipe.data.split_col is None


def test_a_column_of_splits_is_named_for_rows_and_conversations(tmp_path: Path) -> None:
    """It makes no table of conversations, and without a file of one's own it is refused."""
    for name, line, source in (
        ("mine.csv", "text,label,1e3", "table"),
        ("chats.jsonl", '{"messages": [{"role": "user", "content": "a"}]}', "messages"),
    ):
        (tmp_path / name).write_text(f"{line}\n")
        recipe = recipe_with_data(
            "sentiment",
            data=tmp_path / name,
            text_col=None,
            label_col=None,
            split_col="1e3",
            tag=None,
            overrides=[],
        )
        assert (recipe.data.source, recipe.data.split_col) == (source, "1e3")
    args = ["prepare", "sentiment", "--split-col", "split", "--out", str(tmp_path / "out")]
    done = runner.invoke(cli.app, args)
    assert done.exit_code != 0
    assert "--data is not given" in str(done.exception)


def test_who_teaches_is_named_by_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the recipe's; a name with a colon and blanks in it is one name."""
    seen: list[Recipe] = []

    def build(recipe: Recipe, **_: object) -> None:
        seen.append(recipe)
        raise DaemonUnreachableError("far enough")

    monkeypatch.setattr(pipeline, "build", build)
    for name in ("ollama:qwen2.5:0.5b", "./my models/a: b"):
        CliRunner().invoke(cli.app, ["build", "sentiment", "--teacher", name])
    assert [one.teacher.model for one in seen] == ["ollama:qwen2.5:0.5b", "./my models/a: b"]
    assert seen[0].export.tag == "review-sentiment"


@pytest.mark.parametrize(
    ("name", "overrides", "limits"),
    [
        ("sentiment-quick", [], (None, None)),
        ("sentiment-quick", ["data.max_examples=50"], (50, None)),
        ("sentiment-quick", ["teacher.tune.max_examples=20"], (None, 20)),
        ("sentiment-quick", ["teacher.tune=null"], (None, None)),
        ("reply", [], (None, None)),
        ("reasoning-quick", [], (3400, None)),
        ("mine.yaml", [], (1000, 800)),
    ],
)
def test_limits_for_fetched_texts_do_not_hold_for_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    overrides: list[str],
    limits: tuple[int | None, int | None],
) -> None:
    """Unless asked for; those of a recipe of one's own, or for a file, do."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(list_assets("recipes")["sentiment-quick"].read_text())
    Path("mine.csv").write_text("text,label\nfine,positive\n")
    recipe = recipe_with_data(
        name, data=Path("mine.csv"), text_col=None, label_col=None, tag=None, overrides=overrides
    )
    tune = recipe.teacher.tune
    assert (recipe.data.max_examples, tune and tune.max_examples) == limits
    before = load_recipe(name)
    assert (tune is None) == (before.teacher.tune is None or "teacher.tune=null" in overrides)
    kept = before.data.model_dump(exclude={"source", "path", "max_examples"})
    assert recipe.data.model_dump(include=set(kept)) == kept


@pytest.mark.parametrize("words", [[], ["--out", "/nowhere"], ["--tag", "mine"]])
def test_run_of_another_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Nor its tag: a second file of the same name is refused, before a daemon is asked."""
    files = [tmp_path / folder / "train.csv" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("text,label\nfine,positive\n")
    run_dir = home_dir() / "runs" / "sentiment-quick-train"
    note_origin(run_dir, files[0])
    (run_dir / EVENTS_NAME).touch()
    given = ["build", "sentiment-quick", "--data", str(files[1]), *words]
    done = run_in_process(monkeypatch, given)
    assert done.code == 2
    assert f"is the name of what was made of {files[0]}" in done.stderr


@pytest.mark.parametrize(
    ("words", "is_noted"),
    [([], True), (["--tag", "m"], False), (["--set", "export.tag=m"], False)],
)
def test_a_tag_of_another_folder_has_its_file_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], is_noted: bool
) -> None:
    """So that the next file of that name does not take it; a tag of one's own is one's own."""

    def refuse(*_: object, **__: object) -> None:
        raise DaemonUnreachableError("nothing is built here")

    monkeypatch.setattr(pipeline, "build", refuse)
    file = tmp_path / "train.csv"
    file.write_text("text,label\nfine,positive\n")
    options = ["--data", str(file), "--out", str(tmp_path / "out"), *words]
    done = runner.invoke(cli.app, ["build", "sentiment-quick", *options])
    assert isinstance(done.exception, DaemonUnreachableError)
    noted = home_dir() / "runs" / "sentiment-quick-train" / "origin.json"
    assert noted.exists() == is_noted
    if is_noted:
        assert json.loads(noted.read_text())["run_dir"] == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "line", "text_col", "source"),
    [
        ("chats.JSONL", '{"messages": []}', None, "messages"),
        ("chats.json", '\n{"messages": []}', None, "messages"),
        ("share.json", '{"id": 1, "conversations": [{"from": "human"}]}', None, "messages"),
        ("trl.jsonlines", f'{{"prompt": {_TURNS}, "completion": []}}', None, "messages"),
        ("rows.jsonl", '{"prompt": "a", "completion": "positive"}', None, "table"),
        ("pairs.jsonl", '{"prompt": [{}], "chosen": [{}], "rejected": [{}]}', None, "table"),
        ("rows.jsonl", '{"text": "a", "label": "positive", "messages": []}', ["text"], "table"),
        ("rows.jsonl", '{"text": "a", "label": "positive", "messages": 3}', None, "table"),
        ("ids.jsonl", '{"text": "a", "label": "b", "conversation": ["c1"]}', None, "table"),
        ("none.jsonl", '{"text": "a", "label": "b", "conversations": []}', None, "table"),
        ("ids.jsonl", '{"text": "a", "label": "b", "conversations": [{"id": 7}]}', None, "table"),
        ("both.jsonl", f'{{"text": "a", "label": "b", "messages": {_TURNS}}}', None, "messages"),
        ("rows.jsonl", '{"text": "no \\"messages\\" here", "label": "positive"}', None, "table"),
        ("rows.csv", 'text,label,"messages"', None, "table"),
        ("torn.jsonl", '{"messages": [', None, "table"),
    ],
)
def test_a_table_is_told_from_conversations(
    tmp_path: Path, name: str, line: str, text_col: list[str] | None, source: str
) -> None:
    """By the first line, whatever suffix and encoding; columns that are named make a table."""
    file = tmp_path / name
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_text(f"{line}\n", encoding=encoding)
        recipe = recipe_with_data(
            "sentiment-quick", data=file, text_col=text_col, label_col=None, tag="o", overrides=[]
        )
        assert recipe.data.source == source


def test_columns_and_tags_may_be_numbers(tmp_path: Path) -> None:
    """What an option names is a text, whatever YAML would make of it."""
    file = tmp_path / "mine.csv"
    file.write_text("0,1e3\nfine,positive\n")
    for columns, read in ((["0"], "0"), (["0", 'a"]'], ("0", 'a"]'))):
        recipe = recipe_with_data(
            "sentiment-quick",
            data=file,
            text_col=columns,
            label_col="1e3",
            tag="2024",
            overrides=[],
        )
        assert (recipe.data.text_col, recipe.data.label_col) == (read, "1e3")
        assert recipe.export.tag == "2024"


def test_ctrl_c_is_told_in_a_word() -> None:
    """While a registry keeps silent: exit code 130 and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reference = f"127.0.0.1:{silent.getsockname()[1]}/team/m:1"
        with start_command("pull", reference) as process:
            try:
                asking, _ = silent.accept()
                with asking:
                    assert asking.recv(1) == b"G"
                    wait_until_it_sleeps(process.pid)
                    process.send_signal(signal.SIGINT)
                    out, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted; the same command goes on from here\n")


def test_ctrl_c_while_modules_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a command line that could catch it."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupt)
    with pytest.raises(SystemExit) as caught:
        start()
    assert caught.value.code == 130


def test_unexpected_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors of ours are turned into messages; others keep their traceback."""
    monkeypatch.setattr(cli, "app", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_where_an_error_came_from_is_shown_to_who_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its causes, with their places, above the message."""

    def broken(**_: object) -> None:
        try:
            json.loads("{")
        except ValueError as exc:
            raise DaemonUnreachableError("nothing answers") from exc

    monkeypatch.setattr(cli, "app", broken)
    shown = []
    for value in ("0", "1"):
        monkeypatch.setenv("OLLAMA_BRIDGE_TRACEBACK", value)
        with pytest.raises(SystemExit):
            cli.main()
        shown.append(capsys.readouterr().err)
    assert shown[0] == "error: nothing answers\n"
    assert "JSONDecodeError" in shown[1]
    assert "in broken" in shown[1]
    assert shown[1].endswith(shown[0])
