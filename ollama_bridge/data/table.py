"""A user's CSV or JSONL with a text column and a label (or answer) column.

Rows with an empty text or label are left out, counted and noted with their numbers while they are
at most 5 % of the rows; beyond that the file is refused, for then something else is wrong with it.
Every other problem refuses the file, all row numbers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from ollama_bridge.data.candidates import Candidate, Collected, Split, Tally
from ollama_bridge.data.chats.advice import advice_on_turns
from ollama_bridge.data.chats.forms import is_list_of_turns
from ollama_bridge.data.cleaning import clean_turn, storable, text_key
from ollama_bridge.data.documents import Documents
from ollama_bridge.data.labels import LabelMatcher, advice_on_several
from ollama_bridge.data.own_splits import advice_on_column, read_splits
from ollama_bridge.data.problems import (
    MAX_LEFT_OUT_SHARE,
    Problems,
    nearest,
    numbers_text,
    unused,
)
from ollama_bridge.data.rows import Row, Table, cell_text, read_table
from ollama_bridge.data.task_prompt import as_option
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message
from ollama_bridge.recipe.config import DataSection, TaskSection

# What others call the columns of text and answer, where none of the file's is named as wanted.
_TEXT_NAMES = (
    *("prompt", "instruction", "question", "query", "input", "request", "message", "content"),
    *("review", "sentence", "body"),
)
_ANSWER_NAMES = (
    *("completion", "response", "answer", "output", "target", "category", "class", "sentiment"),
)
_MOSTLY_APART = 0.9  # codes that come again and again may be what is answered
_MUCH_ALIKE = 0.75  # lab and label; but intent is not far from text
_TEXT_SEPARATOR = "\n\n"  # between the texts of several columns: whoever asks joins them likewise
_SOURCE = "table"
_DEFAULT_TEXT_COL = DataSection.model_fields["text_col"].default
_DEFAULT_LABEL_COL = DataSection.model_fields["label_col"].default


def collect_table(path: Path, data: DataSection, task: TaskSection) -> Collected:
    """Read the table as chat examples.

    For a ``classify`` task the label column holds labels; for a ``reply`` task it holds the
    answers, and may be missing: then the texts are prompts without answers. Rows of one question
    stay in one split. Texts keep their lines and markup, for so the model will be asked.

    Raises:
        DataError: naming file, row numbers and columns.
        ConfigError: ``data.label_map`` leads to a label that the task does not have.
    """
    matcher = (
        LabelMatcher(task.labels, data.label_map, system=task.system)
        if task.kind == "classify"
        else None
    )
    wanted = [*data.text_cols, data.label_col, *filter(None, (data.group_col, data.split_col))]
    table = read_table(path, wanted=wanted)
    unanswered = (
        task.kind == "reply"
        and data.label_col == _DEFAULT_LABEL_COL
        and data.label_col not in table.columns
    )
    _check_columns(
        path, data, table, [name for name in wanted if not (unanswered and name == data.label_col)]
    )
    splits: Mapping[int, Split] = {}
    if data.split_col:
        cells = ((row.number, row.cells.get(data.split_col)) for row in table.rows)
        splits = read_splits(path, cells, column=data.split_col, unit=table.unit)
    problems = Problems(path, unit=table.unit)
    tally = Tally()
    missing: list[int] = []
    candidates = []
    documents = Documents()
    for row in table.rows:
        tally.count_read(_SOURCE)
        text = _text(row, data.text_cols, problems)
        answer = (
            "" if unanswered else _answer(row, data.label_col, problems, is_free=matcher is None)
        )
        if text is None or answer is None:
            continue
        said = clean_turn(answer)
        if not text or not (said or unanswered):
            missing.append(row.number)
            continue
        label = None
        if matcher is not None:
            label = matcher.match(answer, number=row.number)
            if label is None:
                continue
        document = _document(row, data.group_col)
        if matcher is None:
            documents.join(document, f"question-{text_key(text)}")
        candidate = _candidate(task, row.number, text, label, said, document=document)
        candidates.append(replace(candidate, split=splits.get(row.number)))
    candidates = [candidate.in_document_of(documents) for candidate in candidates]
    first = table.rows[0].cells
    is_chat = any(is_list_of_turns(first.get(name)) for name in wanted)
    problems.raise_if_any(
        hint=advice_on_turns(path, first) if is_chat else _advice_on_values(path, data, table)
    )
    if matcher is not None:
        matcher.raise_if_unknown(
            path, column=data.label_col, unit=table.unit, text_cols=data.text_cols
        )
    notes = _judge_missing(path, data, table, missing, unanswered=unanswered)
    tally.leave_out(_SOURCE, "missing text or label", count=len(missing))
    warnings = []
    if unanswered:
        said = f"no column {data.label_col!r}: the texts are prompts without answers"
        if others := _other_texts(table, wanted):
            warnings.append(f"{said}{_advice_on_answers(others)}")
        else:
            notes.append(said)
    rows = [row.cells for row in table.rows]
    if not data.split_col and (advice := advice_on_column(table.columns, rows, read=wanted)):
        warnings.append(advice)
    return Collected(tuple(candidates), tally, tuple(notes), tuple(warnings))


def _candidate(
    task: TaskSection, number: int, text: str, label: str | None, answer: str, *, document: str
) -> Candidate:
    messages = [Message("system", task.system)] if task.system else []
    messages.append(Message("user", text))
    if label is not None or answer:
        messages.append(Message("assistant", label if label is not None else answer))
    example = Example(f"row-{number}", tuple(messages), document, label)
    if label is not None:
        return Candidate(example, _SOURCE, text)
    return Candidate(example, _SOURCE, f"{text}\n{answer}".strip(), is_class=False)


def _other_texts(table: Table, wanted: Sequence[str]) -> list[str]:
    """The columns that are not read, though some cell of theirs has letters; without numbers."""
    cells = {
        name: [cell for row in table.rows if isinstance(cell := row.cells.get(name), str)]
        for name in table.columns
        if name not in wanted
    }
    return [
        name
        for name, texts in cells.items()
        if any(any(map(str.isalpha, text)) for text in texts) and not _are_numbers(texts)
    ]


def _are_numbers(texts: Sequence[str]) -> bool:
    """Whether they tell rows apart, as those of orders and articles do: A-17, A-18."""
    return len(set(texts)) >= _MOSTLY_APART * len(texts) and all(
        len(text.split()) == 1
        and text.isascii()  # sentences of some languages have no blanks
        and any(map(str.isdecimal, text))
        for text in filter(None, texts)
    )


def _advice_on_answers(others: Sequence[str]) -> str:
    """What to type where the answers stand in another column: a teacher would write new ones."""
    names = ", ".join(map(repr, others))
    name = quote(others[0]) if len(others) == 1 else "NAME"
    one = "this column holds" if len(others) == 1 else "one of these columns holds"
    return (
        f", for {names} {'is' if len(others) == 1 else 'are'} not read; if {one} the answers: "
        f"--label-col {name} (in a recipe: data.label_col)"
    )


def _check_columns(path: Path, data: DataSection, table: Table, wanted: list[str]) -> None:
    near = {name: _meant(name, table.columns) for name in wanted if name not in table.columns}
    if not near:
        return
    lines = [
        f"  - no column {name!r}" + (f"; did you mean {other!r}?" if other else "")
        for name, other in near.items()
    ]
    # A name that is only misspelt makes no conversation of a table, also of one that has turns.
    advice = None if any(near.values()) else advice_on_turns(path, table.rows[0].cells)
    raise DataError(
        f"{path} has the columns {', '.join(repr(name) for name in table.columns)}:\n"
        + "\n".join(lines),
        hint=advice or f"name the columns: {_as_options(data, near, table.columns)}",
    )


def _meant(name: str, columns: Sequence[str]) -> str | None:
    """The column that is named like it; much like it, where nobody typed that name."""
    if name not in (_DEFAULT_TEXT_COL, _DEFAULT_LABEL_COL):
        return nearest(name, columns)
    holds = (column for column in columns if name in column.casefold())
    return nearest(name, columns, cutoff=_MUCH_ALIKE) or next(holds, None)


def _as_options(data: DataSection, near: Mapping[str, str | None], columns: Sequence[str]) -> str:
    """What is typed behind a command to name the columns as they are named in the file.

    ``--text-col`` would be one column more where it was given, and is refused without ``--data``.

    Args:
        data: As the columns were looked for.
        near: Those that are not there, and the nearest of the file's.
    """
    texts: list[str] = []
    for name in data.text_cols:
        known = _known(columns, _TEXT_NAMES) if name == _DEFAULT_TEXT_COL else []
        found = near.get(name, name)
        texts += [found] if found else known or ["NAME"]
    label = data.label_col if data.label_col in columns else near.get(data.label_col)
    if label is None and data.label_col == _DEFAULT_LABEL_COL:
        label = next(iter(_known(columns, _ANSWER_NAMES)), None)
    if label is None and data.label_col in near:
        label = "NAME"
    words = [as_option("data.text_col", texts if len(texts) > 1 else texts[0])]
    if label is not None:
        words.append(as_option("data.label_col", label))
    for key, column in (("data.group_col", data.group_col), ("data.split_col", data.split_col)):
        if column:
            words.append(as_option(key, near.get(column, column) or "NAME"))
    return " ".join(words)


def _known(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for column in columns if column.casefold() in names]


def _text(row: Row, columns: Sequence[str], problems: Problems) -> str | None:
    """The texts of some columns as one; empty where all are, None where one is no text."""
    cells = [_cell(row, column, problems) for column in columns]
    cleaned = [clean_turn(cell) for cell in cells if cell is not None]
    if len(cleaned) < len(cells):
        return None
    return _TEXT_SEPARATOR.join(filter(None, cleaned))


def _answer(row: Row, column: str, problems: Problems, *, is_free: bool) -> str | None:
    """The cell of a label or of a free answer, which an object or a list is in JSON."""
    value = row.cells.get(column)
    if is_free and isinstance(value, dict | list) and not is_list_of_turns(value):
        return json.dumps(value, ensure_ascii=False)
    return _cell(row, column, problems)


def _advice_on_values(path: Path, data: DataSection, table: Table) -> str | None:
    """What helps where texts, or labels of a classification, are objects or lists; else None."""
    kinds = {
        name: {type(row.cells.get(name)) for row in table.rows}
        for name in (*data.text_cols, data.label_col)
    }
    columns = [name for name in data.text_cols if kinds[name] & {dict, list}]
    if not columns:
        if list not in kinds[data.label_col]:
            return None
        return advice_on_several(path, column=data.label_col, text_cols=data.text_cols)
    keys = (json.dumps(name, ensure_ascii=False) for name in columns)
    form = " | ".join(f"(.[{key}] | objects, arrays) |= tojson" for key in keys)
    written = unused(path.with_name(f"{path.stem}-texts.jsonl"))
    command = f"jq -c {quote(form)} {quote(str(path))} > {quote(str(written))}"
    return f"to have them asked about as JSON: {command}"


def _cell(row: Row, column: str, problems: Problems) -> str | None:
    """A cell as a text; empty where it is missing, None (and a problem) where it is no text."""
    value = row.cells.get(column)
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return cell_text(value)
    problems.add(row.number, f"{column} is a {type(value).__name__}, not a text")
    return None


def _document(row: Row, group_col: str | None) -> str:
    value = row.cells.get(group_col) if group_col else None
    text = "" if value is None else str(value).strip()
    return storable(f"{group_col}-{text}") if text else f"row-{row.number}"


def _judge_missing(
    path: Path, data: DataSection, table: Table, missing: list[int], *, unanswered: bool
) -> list[str]:
    if not missing:
        return []
    share = len(missing) / len(table.rows)
    found = (
        f"{len(missing)} of {len(table.rows)} rows ({share:.1%}) have no "
        f"{' and no '.join(data.text_cols)}{'' if unanswered else f', or no {data.label_col}'}: "
        f"{table.unit} {numbers_text(missing)}"
    )
    if share > MAX_LEFT_OUT_SHARE:
        raise DataError(
            f"{path}: {found}",
            hint=f"fill or delete these rows; up to {MAX_LEFT_OUT_SHARE:.0%} are left out for you",
        )
    return [f"{found}; left out"]
