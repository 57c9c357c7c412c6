"""Conversations of several turns out of chatterbot-corpus (English).

Only its file ``conversations`` holds real dialogues, of four and more turns. Everywhere else an
entry is a question and one or more answers to choose from; there, the question and its first answer
are taken, and two questions of one topic make a conversation of two turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from ollama_bridge.data.candidates import Candidate, Collected, Tally
from ollama_bridge.data.cleaning import clean_turn, text_key
from ollama_bridge.data.problems import read_text
from ollama_bridge.data.splitting import seeded_order
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message
from ollama_bridge.recipe.config import TaskSection

_DIALOGUES = "conversations"
# Insults, gossip, jokes without their answer, opinions: no model of a polite reply.
_UNFIT = frozenset({"gossip", "humor", "politics", "psychology", "emotion"})
# Its answers are single names and years: taken last.
_TERSE = "-trivia-"
_SOURCE = "dialogue"
_MAX_TURNS = 8
# Programs and essays are no short replies.
_MAX_TURN_CHARS = 300
_PAIRS_JOINED = 2


def dialogue_files(folder: Path) -> dict[str, Path]:
    """The usable files by topic.

    Raises:
        DataError: the folder is not the English chatterbot-corpus.
    """
    inner = folder / "english" if (folder / "english").is_dir() else folder
    files = {path.stem: path for path in sorted(inner.glob("*.yml")) if path.stem not in _UNFIT}
    if _DIALOGUES not in files:
        raise DataError(
            f"{folder} holds no english/{_DIALOGUES}.yml",
            hint="delete the folder; it will be fetched again",
        )
    return files


def collect_dialogues(
    files: dict[str, Path], task: TaskSection, *, count: int, seed: int
) -> Collected:
    """At most ``count`` dialogues with their answers; real ones first, then joined pairs.

    Every question occurs in one dialogue only, so that none can be in two splits.

    Raises:
        DataError: a file is damaged.
    """
    tally = Tally()
    seen: set[str] = set()
    real: list[tuple[str, list[str]]] = []
    joined: list[tuple[str, list[str]]] = []
    for topic, path in files.items():
        pairs = []
        for number, turns in _entries(path):
            tally.count_read(_SOURCE)
            if topic == _DIALOGUES and len(turns) >= 2 * _PAIRS_JOINED:
                turns = turns[:_MAX_TURNS]
                turns = turns[: len(turns) // 2 * 2]  # ends on an answer
            else:
                turns = turns[:2]
            key = text_key(turns[0])
            if len(turns) < 2 or any(not turn or len(turn) > _MAX_TURN_CHARS for turn in turns):
                tally.leave_out(_SOURCE, "no answer, or a turn too long")
            elif key in seen:
                tally.leave_out(_SOURCE, "question asked before")
            else:
                seen.add(key)
                if len(turns) > 2:
                    real.append((f"dialogue-{topic}-{number}", turns))
                else:
                    pairs.append((f"dialogue-{topic}-{number}", turns))
        joined += _join(pairs, seed=seed)
    joined.sort(key=lambda one: (_TERSE in one[0], seeded_order(seed, one[0])))
    chosen = [*real, *joined]
    tally.leave_out(_SOURCE, "over dialogue_examples", count=len(chosen) - len(chosen[:count]))
    notes = []
    if len(chosen) < count:
        notes.append(
            f"{count} dialogues were asked for, the corpus yields {len(chosen)} without repetition"
        )
    candidates = (_candidate(name, turns, task) for name, turns in chosen[:count])
    return Collected(tuple(candidates), tally, tuple(notes))


def _join(pairs: list[tuple[str, list[str]]], *, seed: int) -> Iterator[tuple[str, list[str]]]:
    ordered = sorted(pairs, key=lambda pair: seeded_order(seed, pair[0]))
    for start in range(0, len(ordered) - _PAIRS_JOINED + 1, _PAIRS_JOINED):
        group = ordered[start : start + _PAIRS_JOINED]
        yield group[0][0], [turn for _, turns in group for turn in turns]


def _entries(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        content = yaml.safe_load(read_text(path))
        entries = content["conversations"]
        for number, entry in enumerate(entries, start=1):
            yield number, [clean_turn(str(turn)) for turn in entry]
    except (yaml.YAMLError, KeyError, TypeError) as exc:
        raise DataError(f"{path}: not a file of conversations ({exc!r})") from exc


def _candidate(name: str, turns: list[str], task: TaskSection) -> Candidate:
    messages = [Message("system", task.system)] if task.system else []
    for place, turn in enumerate(turns):
        messages.append(Message("user" if place % 2 == 0 else "assistant", turn))
    return Candidate(Example(name, tuple(messages), name), _SOURCE, "\n".join(turns))
