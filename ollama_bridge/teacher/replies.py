"""Replies that came with distributions, as an answered corpus keeps them: a line a kept answer.

A line of an answer of 500 tokens has 10,000 rivals, so lines are read one by one.
"""

from __future__ import annotations

import json
from pathlib import Path

from ollama_bridge.journal import JSONRecord

LOGPROBS_NAME = "logprobs.jsonl"

_REPLY = b', "reply": '  # not in an id: it would be escaped there


def logprobs_line(example_id: str, reply: JSONRecord) -> str:
    """The line of one reply."""
    return json.dumps({"id": example_id, "reply": reply}, ensure_ascii=False) + "\n"


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
