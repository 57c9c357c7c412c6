"""What a log of replies says of thinking in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ollama_bridge.client.jobs.batch_log import BatchLog
from ollama_bridge.teacher.replies import read_tagged

LINES = [
    {"key": "a1", "attempts": 1, "value": {"text": "<think>Hm.</think> Yes."}},
    {"key": "b2", "attempts": 1, "value": {"text": 'He said "error".'}},
    {"key": "c3", "attempts": 3, "error": "ContextOverflowError: <think> is too long"},
    {"key": "d4", "attempts": 1, "value": {"text": "</think> No."}},
    {"key": "d4", "attempts": 1, "value": {"text": "No."}},
    {"key": "e5", "attempts": 1, "value": {"text": "<think>"}},
    {"key": "e5", "attempts": 2, "error": "RunnerCrashedError: it died"},
    {"key": "f6", "attempts": 1, "value": {"text": "<think>"}},
    {"key": "f6", "attempts": 1, "error": "ContextOverflowError: 9 tokens"},
]
TORN = [
    "",
    '{"key": "g7", "attempts": 1, "value": {"te',
    '{"key": "a1", "attempts": 1, "error": "x\0\0\n',
    '{"key": "g7", "attempts": 1, "value": {"te\0\n',
    '{"key": "a1", "attempts": 1, "value": {"text": "</think>\0\n',
]


@pytest.mark.parametrize("torn", TORN)
def test_what_is_settled_is_what_the_batch_does_not_ask_again(torn: str, tmp_path: Path) -> None:
    """The last line of a key counts; what was set aside for good is settled, a torn one not."""
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + torn)
    settled, tagged = read_tagged(path)
    assert (settled, tagged) == ({"a1", "b2", "d4", "e5"}, {"a1"})
    with BatchLog(path) as log:
        assert settled == {key for key in ("a1", "b2", "c3", "d4", "e5", "f6", "g7") if key in log}


def test_a_log_need_not_be_there(tmp_path: Path) -> None:
    """Nothing was asked."""
    assert read_tagged(tmp_path / "none.jsonl") == (set(), set())
