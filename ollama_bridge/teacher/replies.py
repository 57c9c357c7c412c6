"""Replies as files keep them: in the log of all, and beside an answered corpus.

There a line is a kept answer that came with distributions. One of 500 tokens has 10,000 rivals, so
lines are read one by one.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from ollama_bridge.client.answers.thinking import THINKING_CLOSE, THINKING_OPEN
from ollama_bridge.client.jobs.batch_log import is_settled
from ollama_bridge.client.values import Reply
from ollama_bridge.recipe.config import TeacherSection
from ollama_bridge.storage.journal import JSONRecord

LOGPROBS_NAME = "logprobs.jsonl"

_TAGS = (THINKING_OPEN, THINKING_CLOSE)
# Few lines are worth parsing; zeros are what a kill left of one.
_WORTH_PARSING = tuple(word.encode() for word in (*_TAGS, '"error"', "\0"))
_KEY = re.compile(rb'{"key": "([^"]+)"')
_REPLY = b', "reply": '  # not in an id: it would be escaped there


def brings_what_is_learnt(reply: Reply, settings: TeacherSection) -> bool:
    """Whether a reply came with the distributions that are learnt of it; or needs none.

    What was likely behind a thought says little about an answer without it.
    """
    if settings.soft_labels != "daemon" or settings.score != "generated":
        return True
    return bool(reply.logprobs) and (not reply.thinking or settings.thinking == "keep")


def logprobs_line(example_id: str, reply: JSONRecord) -> str:
    """The line of one reply."""
    return json.dumps({"id": example_id, "reply": reply}, ensure_ascii=False) + "\n"


def read_tagged(log_path: Path) -> tuple[set[str], set[str]]:
    """The keys that a log settles, and of them those with tags of thinking in an answer's text.

    Settled as :class:`~ollama_bridge.client.jobs.batch_log.BatchLog` means it: not asked again.

    Args:
        log_path: Need not be there; a last line that a kill tore counts for nothing.
    """
    settled: set[str] = set()
    tagged: set[str] = set()
    with contextlib.suppress(FileNotFoundError), log_path.open("rb") as lines:
        for line in lines:
            key = _KEY.match(line)
            if key is None or not line.endswith(b"\n"):
                continue
            record: JSONRecord = {}
            if any(word in line for word in _WORTH_PARSING):
                try:
                    record = json.loads(line)
                except ValueError:  # torn
                    continue
            name = key[1].decode()
            for names in (settled, tagged):  # the last line of a key counts
                names.discard(name)
            if is_settled(record):
                settled.add(name)
                if any(tag in str((record.get("value") or {}).get("text")) for tag in _TAGS):
                    tagged.add(name)
    return settled, tagged


class KeptReplies:
    """The replies of a split, each read when it is needed.

    Args:
        path: Lines of :func:`logprobs_line`; need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts: dict[str, int] = {}
        if path.exists():
            with path.open("rb") as stream:
                start = 0
                for line in stream:
                    self._starts[json.loads(line[: line.index(_REPLY)] + b"}")["id"]] = start
                    start += len(line)

    def read(self, example_id: str) -> JSONRecord | None:
        """The record of an example's reply; None: none came."""
        if example_id not in self._starts:
            return None
        with self._path.open("rb") as stream:
            stream.seek(self._starts[example_id])
            record: JSONRecord = json.loads(stream.readline())["reply"]
            return record
