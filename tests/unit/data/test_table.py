"""A stranger's table goes through, or is refused with all its row numbers."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ollama_bridge.data.candidates import Collected
from ollama_bridge.data.table import collect_table
from ollama_bridge.errors import ConfigError, DataError
from ollama_bridge.recipe.config import DataSection, TaskSection

TASK = TaskSection(kind="classify", system="Which?", labels=("positive", "negative"))
REPLY = TaskSection(kind="reply", system="Answer.")


def collect(path: Path, task: TaskSection = TASK, **settings: object) -> Collected:
    data = DataSection.model_validate({"source": "table", "path": path, **settings})
    return collect_table(path, data, task)


def write(folder: Path, text: str, name: str = "mine.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_bom_quotes_and_line_breaks(tmp_path: Path) -> None:
    """A BOM, quotes and embedded separators are read as meant; lines and HTML stay."""
    path = write(
        tmp_path,
        "text,label\r\n"
        '"He said ""no"", twice\r\nin a row",negative\r\n\r\ntea &amp; cake,Positive \r\n',
        encoding="utf-8-sig",
    )
    first, second = collect(path).candidates
    assert [turn.content for turn in first.example.messages] == [
        "Which?",
        'He said "no", twice\nin a row',
        "negative",
    ]
    assert second.example.id == "row-4"
    assert second.example.label == "positive"
    assert second.text == "tea &amp; cake"


@pytest.mark.parametrize("task", [TASK, REPLY], ids=["classify", "reply"])
def test_texts_of_several_columns_are_joined(tmp_path: Path, task: TaskSection) -> None:
    """By a blank line, in the order named; an empty one leaves no gap, two are no text."""
    rows = [
        {"body": f"Dear all,\nmail {n}", "subject": "An order", "label": "positive"}
        for n in range(38)
    ]
    rows += [rows[0] | {"subject": " "}, rows[0] | {"subject": None, "body": ""}]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), name="mails.jsonl")
    collected = collect(path, task, text_col=["subject", "body"])
    texts = [one.example.prompt[-1].content for one in collected.candidates]
    assert texts[:2] == [f"An order\n\nDear all,\nmail {n}" for n in (0, 1)]
    assert texts[38:] == ["Dear all,\nmail 0"]
    assert "1 of 40 rows (2.5%) have no subject and no body, or no label" in collected.notes[0]
    with pytest.raises(DataError, match="did you mean 'subject'"):
        collect(path, task, text_col=["subjekt", "body"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_delimiters_and_encodings(tmp_path: Path, delimiter: str, encoding: str) -> None:
    """Comma, semicolon and tab are told apart by the header."""
    rows = [["id", "text", "label"], ["1", "good; very, very good", "positive"]]
    quoted = "\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    (only,) = collect(write(tmp_path, quoted, encoding=encoding)).candidates
    assert only.text == "good; very, very good"


def test_few_missing_cells_are_left_out_and_said(tmp_path: Path) -> None:
    """Up to 5 % of rows without text or label are left out, counted, and noted by number."""
    rows = ["text,label", *(f"text {number},positive" for number in range(38)), ",negative", "x,"]
    collected = collect(write(tmp_path, "\n".join(rows)))
    assert len(collected.candidates) == 38
    assert collected.tally.left_out == {"missing text or label": {"table": 2}}
    assert "row 40, 41" in collected.notes[0]


@pytest.mark.parametrize("missing", [float("nan"), float("inf"), None])
def test_missing_cells_of_a_dataframe_are_no_texts(tmp_path: Path, missing: object) -> None:
    """It writes NaN for them, which was learnt as the answer `nan`."""
    rows: list[dict[str, object]] = [
        {"text": f"text {number}", "label": "Yes."} for number in range(38)
    ]
    rows += [{"text": missing, "label": "Call us."}, {"text": "When?", "label": missing}]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), name="mine.jsonl")
    collected = collect(path, REPLY, label_col="label")
    assert len(collected.candidates) == 38
    assert "line 39, 40" in collected.notes[0]


def test_many_missing_cells_are_refused(tmp_path: Path) -> None:
    """Beyond 5 % the file is refused, with the row numbers."""
    path = write(tmp_path, "text,label\na,positive\n,negative\nb,negative\nc,\n")
    with pytest.raises(DataError, match=r"2 of 4 rows.*row 3, 5"):
        collect(path)


@pytest.mark.parametrize(
    ("written", "guess"),
    [
        ("positiv", "positive"),
        ("positve", "positive"),
        ("nicht positiv", "LABEL"),
        ("nonpositive", "LABEL"),
        ("neutral", "LABEL"),
        ("keine Angabe", "LABEL"),
    ],
)
def test_a_label_that_may_mean_another_is_not_guessed(
    tmp_path: Path, written: str, guess: str
) -> None:
    """The command is typed as it is printed: a wrong guess would turn labels round, unseen."""
    path = write(tmp_path, f"text,label\na,positive\nb,{written}\n")
    with pytest.raises(DataError) as caught:
        collect(path)
    override = shlex.split(str(caught.value.hint).partition("--set ")[2].partition(";")[0])[0]
    assert yaml.safe_load(override.partition("=")[2]) == {written: guess}


@pytest.mark.parametrize(
    ("written", "label", "guess"),
    [
        ("harmless", "harm", "LABEL"),
        ("hopeless", "hope", "LABEL"),
        ("toxic-free", "toxic", "LABEL"),
        ("spamfree", "spam", "LABEL"),
        ("discriminationless", "discrimination", "LABEL"),
        ("harm", "harmless", "LABEL"),
        ("toxic", "toxic_none", "LABEL"),
        ("jokingly", "joking", "joking"),
        ("complaints", "complaint", "complaint"),
        ("entail", "entailment", "entailment"),
    ],
)
def test_a_word_and_its_reverse_are_not_guessed_for_each_other(
    tmp_path: Path, written: str, label: str, guess: str
) -> None:
    """Both begin alike; an inflection of a label means the label."""
    task = TaskSection(kind="classify", system="Which?", labels=(label, "other"))
    with pytest.raises(DataError) as caught:
        collect(write(tmp_path, f"text,label\na,other\nb,{written}\n"), task)
    override = shlex.split(str(caught.value.hint).partition("--set ")[2].partition(";")[0])[0]
    assert yaml.safe_load(override.partition("=")[2]) == {written: guess}


def test_missing_columns_are_offered(tmp_path: Path) -> None:
    """All missing columns at once, with the nearest right ones."""
    path = write(tmp_path, "Text,lable,id\na,positive,1\n")
    with pytest.raises(DataError) as caught:
        collect(path)
    assert "did you mean 'Text'" in str(caught.value)
    assert "did you mean 'lable'" in str(caught.value)
    assert "data.text_col" in str(caught.value.hint)


@pytest.mark.parametrize("turns", [["c1", "c2"], [], [{"role": "user", "content": "a"}]])
def test_a_misspelt_column_is_named_also_beside_a_list(tmp_path: Path, turns: list[object]) -> None:
    """The table is one: what is typed again is the name. Of real turns another name tells more."""
    row = {"title": "a", "topic": "b c", "conversations": turns}
    path = write(tmp_path, json.dumps(row), name="mine.jsonl")
    with pytest.raises(DataError, match="did you mean 'title'") as caught:
        collect(path, text_col="titel", label_col="topic")
    assert caught.value.hint == (
        "name the columns: --set 'data.text_col=\"title\"' --set 'data.label_col=\"topic\"'"
    )
    with pytest.raises(DataError, match="no column 'zzz'") as caught:
        collect(path, text_col=["title", "zzz"], label_col="topic", group_col="topic")
    is_chat = bool(turns) and isinstance(turns[0], dict)
    assert str(caught.value.hint) == (
        "leave out --text-col and --label-col (in a recipe: data.source: messages): a conversation "
        "is read as a whole"
        if is_chat
        else 'name the columns: --set \'data.text_col=["title", "NAME"]\' '
        "--set 'data.label_col=\"topic\"' --set 'data.group_col=\"topic\"'"
    )


def test_other_labels_are_listed_with_the_mapping_to_type(tmp_path: Path) -> None:
    """Unknown labels come with their rows and the options that map them; mapped they go through."""
    path = write(tmp_path, "text,label\na,POSITIVE\nb,pos\nc,neg\nd,neg\n")
    with pytest.raises(DataError) as caught:
        collect(path)
    assert "'pos' in 1 row(s): 3" in str(caught.value)
    assert "'neg' in 2 row(s): 4, 5" in str(caught.value)
    override = shlex.split(str(caught.value.hint).partition("--set ")[2].partition(";")[0])[0]
    assert override == 'data.label_map={"pos": "positive", "neg": "negative"}'
    assert yaml.safe_load(override.partition("=")[2]) == {"pos": "positive", "neg": "negative"}
    collected = collect(path, label_map={"pos": "positive", "NEG": "negative"})
    assert [one.example.label for one in collected.candidates] == [
        "positive",
        "positive",
        "negative",
        "negative",
    ]


def test_the_usual_spelling_of_a_label_becomes_the_tasks_own(tmp_path: Path) -> None:
    """Whichever came first: what most rows write is what the model is to say."""
    path = write(tmp_path, "text,label\na,gut \nb,Gut\nc,Schlecht\nd,Gut\ne,schlecht\n")
    with pytest.raises(DataError) as caught:
        collect(path)
    assert """--set 'task.labels=["Gut", "Schlecht"]'""" in str(caught.value.hint)


def test_labels_of_the_file_can_be_made_the_tasks_own(tmp_path: Path) -> None:
    """The second way of the hint takes those that are known and those that are not."""
    path = write(tmp_path, "text,label\na,Neutral\nb,POSITIVE\nc,neutral\nd,mixed\n")
    with pytest.raises(DataError) as caught:
        collect(path)
    _, override, _, prompt = shlex.split(str(caught.value.hint).rpartition("of the task: ")[2])
    assert override == 'task.labels=["positive", "Neutral", "mixed"]'
    assert prompt.startswith('task.system="Classify the text as positive, Neutral or mixed.')
    labels = tuple(yaml.safe_load(override.partition("=")[2]))
    task = TaskSection(kind="classify", system="Which?", labels=labels)
    found = [one.example.label for one in collect(path, task).candidates]
    assert found == ["Neutral", "positive", "Neutral", "mixed"]
    with pytest.raises(DataError) as caught:
        collect(write(tmp_path, "text,label\na,other\n"))
    assert "task.labels" not in str(caught.value.hint)


def test_accents_have_two_spellings(tmp_path: Path) -> None:
    """A file of macOS writes a letter and its accent apart; the label is one all the same."""
    task = TaskSection(kind="classify", system="", labels=("positif", "n\u00e9gatif"))
    path = write(tmp_path, "text,label\na,Ne\u0301gatif\nb,pe\u0301nible\n")
    first, second = collect(path, task, label_map={"p\u00e9nible": "n\u00e9gatif"}).candidates
    assert first.example.label == second.example.label == "n\u00e9gatif"


def test_labels_may_differ_in_case_alone(tmp_path: Path) -> None:
    """Each is itself, and what has neither's case is asked for."""
    task = TaskSection(kind="classify", system="Which?", labels=("Pole", "pole", "tree"))
    path = write(tmp_path, "text,label\na,Pole\nb,pole\nc,TREE\n")
    found = collect(path, task).candidates
    assert [one.example.label for one in found] == ["Pole", "pole", "tree"]
    path = write(tmp_path, "text,label\na,POLE\n")
    with pytest.raises(DataError, match="'POLE' in 1 row"):
        collect(path, task)
    (mapped,) = collect(path, task, label_map={"POLE": "pole"}).candidates
    assert mapped.example.label == "pole"


def test_a_map_to_nowhere_is_refused(tmp_path: Path) -> None:
    """A label map must lead to labels of the task."""
    path = write(tmp_path, "text,label\na,1\n")
    with pytest.raises(ConfigError, match="the task does not have: '1' to 'positve'") as caught:
        collect(path, label_map={"1": "positve", "0": "negative"})
    assert caught.value.hint == """--set 'data.label_map={"1": "positive", "0": "negative"}'"""


def test_too_many_cells_name_their_rows(tmp_path: Path) -> None:
    """A comma outside of quotes is pointed out, every row at once, 20 shown."""
    rows = "\n".join("well, good,positive" for _ in range(30))
    with pytest.raises(DataError) as caught:
        collect(write(tmp_path, f"text,label\n{rows}\n"))
    message = str(caught.value)
    assert "30 problem(s)" in message
    assert "row 2: 3 cells, but the header has 2" in message
    assert "... and 10 more" in message


def test_lists_that_are_no_turns_are_no_conversation(tmp_path: Path) -> None:
    """Spans of an annotated text: what helps is the columns' names; nor are turns beside a text."""
    record = {"text": "a", "spans": [{"start": 1, "role": "name"}], "lab": "positive"}
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="no column 'label'; did you mean 'lab'") as caught:
        collect(path)
    assert caught.value.hint == (
        "name the columns: --set 'data.text_col=\"text\"' --set 'data.label_col=\"lab\"'"
    )
    chat = [{"role": "user", "content": "a"}]
    rows: list[object] = [{"text": "a", "label": "positive", "dialog": chat}]
    path.write_text("\n".join(map(json.dumps, [*rows, {"text": "b", "label": {"is": 1}}])))
    with pytest.raises(DataError, match="line 2: label is a dict") as caught:
        collect(path)
    assert caught.value.hint is None
    path.write_text(json.dumps({"text": chat, "label": "positive"}))
    with pytest.raises(DataError, match="line 1: text is a list") as caught:
        collect(path)
    assert str(caught.value.hint).startswith("jq -c '{messages: .[\"text\"]}' ")


def test_blanks_before_quotes_are_no_part_of_texts(tmp_path: Path) -> None:
    """Where the header has them. Elsewhere they are what somebody wrote."""
    text = '"text", "label"\n"so, so", "negative"\n "a ""b""",  positive\n'
    collected = collect(write(tmp_path, text))
    assert [one.text for one in collected.candidates] == ["so, so", 'a "b"']
    assert [one.example.label for one in collected.candidates] == ["negative", "positive"]
    collected = collect(write(tmp_path, 'text, label,"""x"""\nso, "I say",\n'), REPLY)
    assert collected.candidates[0].answer == '"I say"'


@pytest.mark.parametrize(
    ("row", "text"),
    [('"It broke, twice"', "It broke, twice"), ('"So so" it is', '"So so" it is')],
)
def test_a_header_with_blanks_alone_tells_them_too(tmp_path: Path, row: str, text: str) -> None:
    """Its names need no quotes; texts that only begin with some are as they were written."""
    path = write(tmp_path, f"label, text\npositive, It works.\nnegative, {row}\n")
    assert [one.text for one in collect(path).candidates] == ["It works.", text]


def test_quotes_behind_blanks_are_told_from_no_quotes(tmp_path: Path) -> None:
    """Where the header has no blanks."""
    path = write(tmp_path, 'label,text\npositive,a, b\nnegative, "It broke, twice"\n')
    with pytest.raises(DataError, match=r"row 2: 3 cells.*\(a text with a comma in it") as caught:
        collect(path)
    reason = "quotes begin a text only where no blank is before them"
    assert f"row 3: 3 cells, but the header has 2 ({reason})" in str(caught.value)


def test_the_separator_line_of_spreadsheets_is_no_header(tmp_path: Path) -> None:
    """And rows have the numbers that they have in the file."""
    path = write(tmp_path, "sep=;\r\ntext;label\r\nso, so;negative\r\n", encoding="utf-8-sig")
    (only,) = collect(path).candidates
    assert (only.text, only.example.id) == ("so, so", "row-3")


@pytest.mark.parametrize(
    ("name", "written", "content"),
    [
        ("mine.csv", "mine.jsonl", b'{"text": "a"}'),
        ("mine.csv", "mine-utf8.csv", b"text,label\ncaf\xe9,positive"),
        ("mine.json", "mine-lines.jsonl", b'[{"text": "a"}]'),
        ("mine.jsonl", "mine-chats.jsonl", b'{"says": [{"role": "user", "content": "a"}]}'),
    ],
)
def test_a_hints_command_writes_over_no_file(
    tmp_path: Path, name: str, written: str, content: bytes
) -> None:
    """Where one has the name there is another."""
    path = tmp_path / name
    path.write_bytes(content)
    wanted = tmp_path / written
    for number in ("", "-2", "-3"):
        with pytest.raises(DataError) as caught:
            collect(path)
        new = Path(shlex.split(str(caught.value.hint))[-1])
        assert new == wanted.with_stem(f"{wanted.stem}{number}")
        new.touch()


def test_an_answer_of_control_characters_is_missing(tmp_path: Path) -> None:
    """It is not a prompt without an answer."""
    rows = [f"question {n},answer {n}" for n in range(39)]
    collected = collect(write(tmp_path, "\n".join(["text,label", *rows, "q,\ufeff\x07"])), REPLY)
    assert len(collected.candidates) == 39
    assert "row 41; left out" in collected.notes[0]


def test_an_open_quote_is_found(tmp_path: Path) -> None:
    """A quote that is never closed would swallow the rest of the file."""
    with pytest.raises(DataError, match="row 3"):
        collect(write(tmp_path, 'text,label\na,positive\n"b,negative\nc,negative\n'))


def test_other_encodings_are_named(tmp_path: Path) -> None:
    """Bytes that are no UTF-8: where, and how to convert the file."""
    path = write(tmp_path, "text,label\nok,positive\ncafé “nice”,positive\n", encoding="cp1252")
    with pytest.raises(DataError, match=r"line 3: byte 0xe9 at offset 26.*cp1252") as caught:
        collect(path)
    assert caught.value.hint is not None
    subprocess.run(caught.value.hint, shell=True, check=True)  # from another folder than its own
    (only, _) = collect(path.with_name("mine-utf8.csv")).candidates[::-1]
    assert only.text == "café “nice”"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "这个手机的电池很好"),
        ("shift_jis", "バッテリーがすぐ切れる"),
        ("cp1251", "Батарея быстро садится"),
        ("cp1256", "البطارية سيئة"),
    ],
)
def test_encodings_of_other_scripts_are_not_taken_for_a_western_one(
    tmp_path: Path, encoding: str, text: str
) -> None:
    """A conversion from cp1252 would succeed, and make another text of it."""
    path = write(tmp_path, f"text,label\n{text},positive\n", encoding=encoding)
    with pytest.raises(DataError, match="no Western European") as caught:
        collect(path)
    assert caught.value.hint is not None
    assert encoding in caught.value.hint
    command = caught.value.hint.partition(", with")[0].replace("ENCODING", encoding)
    subprocess.run(command, shell=True, check=True)
    (only,) = collect(path.with_name("mine-utf8.csv")).candidates
    assert only.text == text


@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be"])
def test_utf_16_without_its_mark_is_named(tmp_path: Path, encoding: str) -> None:
    """Zeros are in no text of another encoding."""
    path = write(tmp_path, "text,label\ncafé,positive\n", encoding=encoding)
    with pytest.raises(DataError, match=f"is {encoding} that does not") as caught:
        collect(path)
    assert f"iconv -f {encoding} -t utf-8 {path} " in str(caught.value.hint)
    path.write_bytes(bytes(range(256)) * 9)
    with pytest.raises(DataError, match="no text: it has zero bytes"):
        collect(path)
    assert collect(write(tmp_path, "text,label\na\0b,positive\n")).candidates[0].text == "ab"


@pytest.mark.parametrize(
    ("name", "begin", "kind", "hint"),
    [
        (
            "mine.xlsx",
            b"PK\x03\x04\x14",
            "a workbook",
            "save it as CSV, or as JSON lines, in UTF-8",
        ),
        (
            "mine.parquet",
            b"PAR1\x15",
            "Parquet",
            'with pandas and pyarrow: python3 -c \'import pandas; pandas.read_parquet("{}")'
            '.to_json("{}/mine.jsonl", orient="records", lines=True)\'',
        ),
        ("mine.csv.gz", gzip.compress(b"text,label\n", mtime=0), "gzip", "gunzip -k {}"),
        ("mine.csv.bz2", bz2.compress(b"text,label\n"), "bzip2", "bunzip2 -k {}"),
        ("mine.csv.xz", lzma.compress(b"text,label\n"), "xz", "unxz -k {}"),
        ("mine.csv.zst", b"\x28\xb5\x2f\xfd\x04", "zstd", "zstd -d {}"),
    ],
)
def test_what_is_no_text_is_named(
    tmp_path: Path, name: str, begin: bytes, kind: str, hint: str
) -> None:
    """And not taken for one in another encoding."""
    path = tmp_path / name
    path.write_bytes(begin + bytes(range(256)))
    with pytest.raises(DataError, match=f"not text: it is .*{kind}") as caught:
        collect(path)
    assert caught.value.hint == hint.format(path, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("\n \n", "is empty"), ("text,label\n", "no rows")],
)
def test_empty_files(tmp_path: Path, text: str, message: str) -> None:
    """No rows is an error of its own."""
    with pytest.raises(DataError, match=message):
        collect(write(tmp_path, text))


def test_json_lines(tmp_path: Path) -> None:
    """JSONL goes the same way; numbers and booleans are labels too."""
    rows = [
        {"text": "a\u2028b", "label": 1},
        {"text": "c", "label": True},
        {"text": "d", "label": "0"},
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), name="mine.jsonl")
    label_map = {"1": "positive", "true": "positive", "0": "negative"}
    collected = collect(path, label_map=label_map)
    assert [one.example.label for one in collected.candidates] == [
        "positive",
        "positive",
        "negative",
    ]


def test_numbers_of_a_dataframe_are_the_labels_that_were_meant(tmp_path: Path) -> None:
    """A missing one makes fractions of all; a map that has the fractions holds as well."""
    task = TaskSection(kind="classify", system="0 or 1?", labels=("0", "1"))
    path = write(tmp_path, "text,label\n" + "a,1.0\nb,0\nc,-1.0\n")
    with pytest.raises(DataError, match=r"labels that the task does not have.*\n.*'-1\.0' in 1"):
        collect(path, task)
    path = write(tmp_path, "text,label\na,1.0\nb,0\n")
    assert [one.example.label for one in collect(path, task).candidates] == ["1", "0"]
    rows = write(tmp_path, '{"text": 7.0, "label": 1.0}\n{"text": "b", "label": 2}', "rows.jsonl")
    for label_map in (
        {"1": "positive", "2": "negative"},
        {"1.0": "positive", "2.0": "negative"},
    ):
        found = collect(rows, label_map=label_map).candidates
        assert [one.example.label for one in found] == ["positive", "negative"]
    assert found[0].example.messages[1].content == "7"


def test_bad_json_lines_are_all_named(tmp_path: Path) -> None:
    """Every line that is no object is named, and texts that are none."""
    path = write(tmp_path, '{"text": "a", "label": "positive"}\n{oops\n[1]\n', name="mine.jsonl")
    with pytest.raises(DataError) as caught:
        collect(path)
    assert "line 2: not JSON" in str(caught.value)
    assert "line 3: a JSON object is expected, not list" in str(caught.value)
    assert caught.value.hint == "one JSON object a line"
    path = write(tmp_path, '{"text": ["a"], "label": "positive"}\n', name="mine.jsonl")
    with pytest.raises(DataError, match="line 1: text is a list"):
        collect(path)


def test_a_few_bad_json_lines_can_be_left_out(tmp_path: Path) -> None:
    """An export broke off twice: the command in the hint makes the file without these lines."""
    good, broken = '{"text": "a", "label": "positive"}\n', '{"text": "a\n'
    text = broken + "\n" + good * 40 + broken
    with pytest.raises(DataError) as caught:
        collect(write(tmp_path, text, name="my lines.jsonl"))
    _, _, command = str(caught.value.hint).partition(": ")
    subprocess.run(command, shell=True, check=True)
    assert (tmp_path / "my lines-whole.jsonl").read_text() == "\n" + good * 40


def test_a_number_that_python_does_not_read_is_named(tmp_path: Path) -> None:
    """A dump in digits without quotes is a problem of its line."""
    line = '{"text": "a", "label": "positive", "dump": %s}\n' % ("9" * 5000)
    with pytest.raises(DataError, match="line 1: a number of too many digits"):
        collect(write(tmp_path, line, name="mine.jsonl"))


def test_rows_of_one_document_share_a_group(tmp_path: Path) -> None:
    """The group column makes documents; rows without one are their own."""
    path = write(tmp_path, "text,label,doc\na,positive,x\nb,positive,x\nc,negative,\n")
    groups = [one.example.group for one in collect(path, group_col="doc").candidates]
    assert groups[0] == groups[1] != groups[2]


def test_a_reply_task_takes_answers_or_none(tmp_path: Path) -> None:
    """For replies the label column is the answer; without one the texts are prompts."""
    path = write(tmp_path, 'text,answer\n"one\ntwo",Thanks!\n')
    (only,) = collect(path, REPLY, label_col="answer").candidates
    assert [turn.content for turn in only.example.messages] == ["Answer.", "one\ntwo", "Thanks!"]
    prompts = collect(path, REPLY)
    assert prompts.candidates[0].example.messages[-1].role == "user"
    assert "without answers" in prompts.warnings[0]
    with pytest.raises(DataError, match="no column 'reply'"):
        collect(path, REPLY, label_col="reply")


def test_answers_may_be_json(tmp_path: Path) -> None:
    """Objects and lists are learnt as JSON writes them; to a text they are a problem with a way."""
    rows = [{"q": "Köln, 2", "a": {"to": "Köln", "seats": 2}}, {"q": "b", "a": ["x", "y"]}]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), name="mine.jsonl")
    collected = collect(path, REPLY, text_col="q", label_col="a")
    answers = [one.example.messages[-1].content for one in collected.candidates]
    assert answers == ['{"to": "Köln", "seats": 2}', '["x", "y"]']
    with pytest.raises(DataError, match="line 1: a is a dict, not a text") as caught:
        collect(path, REPLY, text_col="a", label_col="q")
    told, _, command = str(caught.value.hint).partition(": ")
    assert told == "to have them asked about as JSON"
    words = shlex.split(command)
    assert words[3:] == [str(path), ">", f"{tmp_path}/mine-texts.jsonl"]
    if shutil.which("jq"):  # it is not on every machine
        done = subprocess.run(words[:4], check=True, capture_output=True)
        texts = [json.loads(line)["a"] for line in done.stdout.splitlines()]
        assert [json.loads(text) for text in texts] == [row["a"] for row in rows]
    with pytest.raises(DataError, match="line 2: a is a list, not a text") as caught:
        collect(path, TASK, text_col="q", label_col="a")
    assert str(caught.value.hint).endswith(
        f"ollama-bridge build chat --data {path} --text-col q --label-col a"
    )


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (["prompt", "completion"], {"text_col": "prompt", "label_col": "completion"}),
        (
            ["instruction", "input", "output"],
            {"text_col": ["instruction", "input"], "label_col": "output"},
        ),
        (["id", "Question"], {"text_col": "Question"}),
        (["message", "intent"], {"text_col": "message"}),
        (["intent", "review_text"], {"text_col": "review_text"}),
    ],
)
def test_columns_that_others_name_so_are_guessed(
    tmp_path: Path, columns: list[str], options: dict[str, object]
) -> None:
    """What is printed names text and answer at once, and goes through."""
    path = write(tmp_path, json.dumps(dict.fromkeys(columns, "a b")), name="mine.jsonl")
    with pytest.raises(DataError, match="no column 'text'") as caught:
        collect(path, REPLY)
    words = shlex.split(str(caught.value.hint).partition("name the columns: ")[2])
    settings = dict(word.removeprefix("data.").split("=") for word in words if word != "--set")
    assert {name: yaml.safe_load(value) for name, value in settings.items()} == options
    assert collect(path, REPLY, **options).candidates


def test_several_labels_in_a_cell_are_no_label(tmp_path: Path) -> None:
    """A class for each combination would be none that a model learns: they are an answer."""
    path = write(tmp_path, 'say,topic\na,crash\nb,login\nc,"crash, login"\n')
    with pytest.raises(DataError) as caught:
        collect(path, text_col="say", label_col="topic")
    assert str(caught.value.hint).endswith(
        f"ollama-bridge build chat --data {path} --text-col say --label-col topic"
    )


def test_answers_to_one_question_stay_in_one_split(tmp_path: Path) -> None:
    """Their rows are one document, together with the documents that they are of."""
    rows = ["Hello!,a,", "hello,b,", "so,c,x", "x,d,x", "So?,e,"]
    path = write(tmp_path, "\n".join(["text,answer,doc", *rows]))
    collected = collect(path, REPLY, label_col="answer", group_col="doc")
    groups = [one.example.group for one in collected.candidates]
    assert groups == ["row-2", "row-2", "doc-x", "doc-x", "doc-x"]


def test_a_cell_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    """It is read; whether it is too long is another question. Other readers keep their limit."""
    limit = csv.field_size_limit()
    (only,) = collect(write(tmp_path, f"text,label\n{'a' * 200_000},positive\n")).candidates
    assert len(only.text) == 200_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("name", ["mine.json", "mine.csv", "mine.jsonl"])
def test_a_json_array_is_told_what_to_do(tmp_path: Path, name: str) -> None:
    """Whatever the file is called; lines of JSON are read from a .json, too."""
    rows = [{"text": "a", "label": "positive"}, {"text": "b", "label": "negative"}]
    path = write(tmp_path, json.dumps(rows, indent=1), name=name)
    with pytest.raises(DataError, match="is one JSON array") as caught:
        collect(path)
    assert caught.value.hint == f"jq -c '.[]' {path} > {tmp_path / 'mine-lines.jsonl'}"
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), name="lines.json")
    assert [one.text for one in collect(path).candidates] == ["a", "b"]


@pytest.mark.parametrize(
    ("others", "advice"),
    [
        (("Antwort",), "'Antwort' is not read; if this column holds the answers: --label-col "),
        (
            ("Antwort", "Kanal"),
            "'Antwort', 'Kanal' are not read; if one of these columns holds the answers: "
            "--label-col NAME ",
        ),
        (("Nummer",), ""),
        (("Artikel", "Nummer"), ""),
        (("Antwort", "Artikel"), "'Antwort' is not read; "),
        (("Antwort", "Fach"), "'Antwort', 'Fach' are not read; "),
        (("Antwort", "Kotae"), "'Antwort', 'Kotae' are not read; "),
        ((), ""),
    ],
)
def test_answers_under_another_name_are_asked_for(
    tmp_path: Path, others: tuple[str, ...], advice: str
) -> None:
    """They would all be dropped, and a teacher write others; columns of numbers hold none."""
    cells = {"Antwort": "Gerne: Teil {n}.", "Kanal": "mail", "Nummer": "{n}"}
    cells |= {"Artikel": "P-{n}", "Fach": "F1", "Kotae": "棚{n}にあります。"}
    rows = [
        {"Frage": f"Wo ist {n}?", **{name: cells[name].format(n=n) for name in others}}
        for n in range(39)
    ]
    rows.append(rows[0] | {"Frage": ""})
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), name="mine.jsonl")
    collected = collect(path, REPLY, text_col="Frage")
    assert len(collected.candidates) == 39
    assert "have no Frage: line 40; left out" in collected.notes[0]
    told = [one for one in collected.warnings if "prompts without answers" in one]
    assert len(told) == bool(advice)
    assert all(advice in one for one in told)
    assert len(collected.notes) == 2 - bool(advice)
    if advice:
        answered = collect(path, REPLY, text_col="Frage", label_col="Antwort")
        assert not answered.warnings
        assert answered.candidates[0].answer == "Gerne: Teil 0."


def test_splits_of_the_files_own_are_said_not_to_be_read(tmp_path: Path) -> None:
    """Who has a test split would take the report's scores for those of it."""
    rows = "".join(
        f"text {number},positive,{split},{number}\n"
        for number, split in enumerate(("train", "Test", "", "dev"))
    )
    path = write(tmp_path, f"text,label,part,test\n{rows}")
    (warning,) = collect(path).warnings
    assert "column 'part' is not read" in warning
    assert warning.endswith(": --split-col part (in a recipe: data.split_col)")
    grouped = write(tmp_path, f"text,label,part,test\n{rows}", name="grouped.csv")
    assert not collect(grouped, group_col="part").warnings
    of_one = write(tmp_path, "text,label,test\na,positive,test\nb,negative,test\n", name="one.csv")
    assert not collect(of_one).warnings
