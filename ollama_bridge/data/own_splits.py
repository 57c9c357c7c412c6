"""Splits that a file brings with it: a column that says of each row in which one it is.

What is held out stays so: of texts that are alike, and of those of one document, the ones of test
are kept before those of validation, and these before those of train.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ollama_bridge.data.candidates import SPLITS, Candidate, Split
from ollama_bridge.data.problems import Problems
from ollama_bridge.data.splitting import HELD_OUT, Sizes, split
from ollama_bridge.errors import DataError

# What files call them, in any case.
_NAMES: Mapping[Split, Sequence[str]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing", "holdout"),
}
_BY_NAME: Mapping[str, Split] = {name: one for one, names in _NAMES.items() for name in names}
_KEPT_FIRST: Sequence[Split] = (*HELD_OUT, "train")


@dataclass(frozen=True)
class Taken:
    """The splits of a file.

    Attributes:
        parts: Every one, in the order given; no document is in two.
        own: Those that the file has; the others of what is held out were drawn from train.
        related: Left out for being of a document that another split holds out.
    """

    parts: dict[Split, list[Candidate]]
    own: tuple[Split, ...]
    related: tuple[Candidate, ...]

    def note(self, column: str) -> str:
        """A sentence for the user."""
        sizes = ", ".join(f"{len(self.parts[name])} in {name}" for name in SPLITS)
        drawn = [name for name in SPLITS if name not in self.own]
        said = f"; the file has no {' and no '.join(drawn)}: drawn from train" if drawn else ""
        return f"splits of column {column!r}: {sizes}{said}"


def read_splits(
    path: Path, values: Iterable[tuple[int, object]], *, column: str, unit: str
) -> dict[int, Split]:
    """The split of every row by its number.

    Args:
        values: Number of each row, and what it has in the column.
        unit: What a row is called in messages: row or line.

    Raises:
        DataError: naming each row whose value is none of a split's names.
    """
    found: dict[int, Split] = {}
    problems = Problems(path, unit=unit)
    for number, value in values:
        name = _folded(value)
        if name in _BY_NAME:
            found[number] = _BY_NAME[name]
        else:
            problems.add(number, f"{column} is {repr(value) if name else 'empty'}, no split's name")
    names = (f"{one} ({', '.join(_NAMES[one][1:])})" for one in SPLITS)
    problems.raise_if_any(
        hint=f"every {unit} is of {', '.join(names)}: name it, or take the {unit} out of the file"
    )
    return found


def advice_on_column(
    columns: Iterable[str], rows: Sequence[Mapping[str, object]], *, read: Collection[str]
) -> str | None:
    """What to tell of a column of splits that nobody asked to be read; None: there is none.

    It has two of their names and nothing else, but for empty cells.
    """
    for name in columns:
        if name in read:
            continue
        if not all(map(_may_be_split, (row.get(name) for row in rows))):
            continue
        if len({_folded(row.get(name)) for row in rows} - {""}) > 1:
            return (
                f"column {name!r} is not read: which rows are held out is decided by the seed, so "
                f"what it holds out may be trained on; to take the splits from it: "
                f"--split-col {quote(name)} (in a recipe: data.split_col)"
            )
    return None


def held_out_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """In the order in which they are kept if they are alike; the same without own splits."""
    return sorted(candidates, key=lambda one: _KEPT_FIRST.index(one.split) if one.split else 0)


def take_splits(
    candidates: Sequence[Candidate],
    own: Collection[Split | None],
    asked: Sizes,
    *,
    seed: int,
    near_duplicates: int = 0,
) -> Taken:
    """The splits as the file has them; one that it does not have is drawn from its train.

    Args:
        candidates: Without duplicates; each with its split.
        own: Of the whole file, also where none of their texts are usable.
        asked: Of what is drawn: as ``split`` has it.

    Raises:
        DataError: a split has no usable text, or too few are left to be drawn from.
    """
    placed: dict[str, Split] = {}
    for name in reversed(_KEPT_FIRST):
        placed |= {one.example.group: name for one in candidates if one.split == name}
    parts: dict[Split, list[Candidate]] = {name: [] for name in SPLITS}
    related = []
    for candidate in candidates:
        name = placed[candidate.example.group]
        if candidate.split == name:
            parts[name].append(candidate)
        else:
            related.append(candidate)
    missing = [name for name in HELD_OUT if name not in own]
    if empty := [name for name in SPLITS if name not in missing and not parts[name]]:
        raise DataError(
            f"the file's own splits have no usable text in {' and none in '.join(empty)}"
            + (f" ({len(related)} have a question or group of another's)" if related else ""),
            hint="add such rows, or take the splits by the seed: without data.split_col",
        )
    if missing:
        train = parts["train"]
        sizes = Sizes(
            test=asked.test if "test" in missing else 0,
            validation=asked.validation if "validation" in missing else 0,
        )
        drawn = split(
            train,
            sizes.scaled_to(len(train)),
            seed=seed,
            near_duplicates=near_duplicates,
            held_out=missing,
        )
        parts |= {name: drawn[name] for name in ("train", *missing)}
    return Taken(parts, tuple(name for name in SPLITS if name not in missing), tuple(related))


def advice_on_shared(counts: Counter[Split]) -> str | None:
    """What to tell of texts that were taken out of a split for another; None: there are none."""
    said = [f"{counts[name]} of {name}" for name in SPLITS if counts[name]]
    if not said:
        return None
    return (
        f"{' and '.join(said)} are left out: another split holds out the same, nearly the same, or "
        "a text of their question or group"
    )


def advice_on_sample(taken: int, count: int, *, key: str) -> str:
    """What to tell of a test set that is not scored whole: others report scores of all of it.

    Args:
        taken: How many of its texts are scored.
        count: How many it has.
        key: What limits them.
    """
    return (
        f"{taken} of the file's {count} test examples will be scored, by the seed: scores are of a "
        f"sample of its test set; --set data.{key}={count} scores all"
    )


def _folded(value: object) -> str:
    return "" if value is None else str(value).strip().casefold()


def _may_be_split(value: object) -> bool:
    return value is None or (isinstance(value, str) and _folded(value) in {"", *_BY_NAME})
