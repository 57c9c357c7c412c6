"""What a look at a daemon shows."""

from __future__ import annotations

from ollama_bridge.monitoring import GPU, Loaded, Machine, Runner, Snapshot

CALM = Snapshot(
    at_s=1.0,
    host="http://h",
    version="0.34.4",
    answer_s=0.5,
    problem=None,
    loaded=(Loaded('a"b\n', 10, 5, 4096, "2026-01-01T10:11:12Z", f"sha256:{'d' * 64}"),),
    runners=(Runner(1, "m", 123_456_789, 1.5, 4, 2, 30, 31, 12.5),),
    machine=Machine(0.25, 50, 100, 0, 0, 7, (50.0, 90.0), (GPU("T4", 0.5, 1, 2, 60.0),)),
    waiting=5,
)
