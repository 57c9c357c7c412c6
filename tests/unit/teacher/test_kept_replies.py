"""What a log of replies says of thinking in them."""

from __future__ import annotations

import json
from pathlib import Path

from ollama_bridge.teacher.replies import read_tagged


def test_the_last_line_of_a_key_counts(tmp_path: Path) -> None:
    """What was set aside is asked again, so it is no reply; a torn line is none either."""
    log = tmp_path / "replies.jsonl"
    lines = [
        {"key": "a1", "attempts": 1, "value": {"text": "<think>Hm.</think> Yes."}},
        {"key": "b2", "attempts": 1, "value": {"text": 'He said "error".'}},
        {"key": "c3", "attempts": 3, "error": "ContextOverflowError: <think> is too long"},
        {"key": "d4", "attempts": 1, "value": {"text": "</think> No."}},
        {"key": "d4", "attempts": 1, "value": {"text": "No."}},
        {"key": "e5", "attempts": 1, "value": None},
        {"key": "e5", "attempts": 2, "error": "RunnerCrashedError: it died"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    log.write_text(text + '{"key": "f6", "attempts": 1, "value": {"te')
    assert read_tagged(log) == ({"a1", "b2", "d4"}, {"a1"})
    assert read_tagged(tmp_path / "none.jsonl") == (set(), set())
