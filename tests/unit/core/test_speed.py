"""Measuring tags: what is asked, and how it is summed up."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    DaemonError,
    ModelNotFoundError,
)
from ollama_bridge.speed.bound import memory_bytes_per_s, read_bytes
from ollama_bridge.speed.picture import draw
from ollama_bridge.speed.rates import Load, Spread, measure_speed

TAGS = {"m:latest": "d" * 64, "<other>:1": "e" * 64}


def is_measured(question: dict[str, Any]) -> bool:
    """Neither loads nor unloads."""
    return bool(question.get("options", {}).get("num_predict", 1) > 1)


def test_every_tag_is_measured_at_every_concurrency() -> None:
    """With prompts that no other request has, so that nothing comes from a cache."""
    load = Load((1, 3), requests=4, prompt_words=5, tokens=9)
    with FakeDaemon(models=TAGS) as daemon:
        daemon.thinking = ["Hm."]
        daemon.final["prompt_eval_cached_count"] = 2
        speeds = measure_speed(list(TAGS), load, host=daemon.host, bandwidth_bytes_per_s=1e3)
        questions = [one for one in daemon.questions if is_measured(one)]
    assert [(speed.tag, one.concurrency) for speed in speeds for one in speed.measured] == [
        ("m:latest", 1),
        ("m:latest", 3),
        ("<other>:1", 1),
        ("<other>:1", 3),
    ]
    prompts = [one["messages"][0]["content"] for one in questions]
    assert len(set(prompts)) == len(prompts) == 16
    one = speeds[0].measured[0]
    assert one.requests == 4
    assert one.prompt_rate == Spread(10.0, 10.0, 10.0)  # 5 tokens in 0.5 s by the daemon's clock
    assert one.decode_rate == Spread(1.5, 1.5, 1.5)
    assert one.tokens == Spread(3.0, 3.0, 3.0)
    assert one.first_token_s is not None
    assert one.first_answer_s is not None
    assert one.first_token_s.p50 <= one.first_answer_s.p50
    assert speeds[0].load_s == 1.0
    assert speeds[0].bound_rate == 1e3 / speeds[0].size_bytes
    picture = ElementTree.fromstring(draw(speeds))
    texts = [text for text in picture.itertext() if text.strip()]
    assert "<other>:1 x3" in texts
    assert sum("memory allows" in text for text in texts) == len(TAGS)
    width = float(picture.attrib["viewBox"].split()[2])
    for text in picture.iterfind("{*}text"):  # nothing is cut at the edge, at 7 units a letter
        begins = float(text.attrib["x"])
        assert "text-anchor" in text.attrib or begins + 7 * len(text.text or "") < width


def test_what_is_not_known_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast a prompt is read whose cached part nobody tells; answers of the quickest alone.

    One that ended by itself without a word was not cut.
    """

    def script(asked: Asked) -> Turn:
        place = len(daemon.questions) % 4 if is_measured(asked.json) else 0
        reason = "length" if place == 1 else "stop"
        return Turn(pieces=[] if place in (1, 2) else None, thinking=["Hm."], done_reason=reason)

    monkeypatch.setattr("ollama_bridge.speed.bound._BUFFER_BYTES", 2**20)
    with FakeDaemon(models=TAGS) as daemon:
        daemon.script = script
        args = ["bench", "m", "--host", daemon.host, "--requests", "4", "--concurrency", "1"]
        done = CliRunner().invoke(cli.app, args)
    row = dict(zip(*[line.split("\t") for line in done.stdout.splitlines()], strict=True))
    assert (row["ANSWER"], row["PROMPT"], row["BOUND"]) == ("-", "-", "-")
    assert "-" not in row["FIRST"]
    assert (
        "1 of 4 requests to m ran out of tokens before the answer began; try --tokens 256"
        in done.stderr
    )


@pytest.mark.parametrize("thinking", [[], ["Hm."] * 31])
def test_an_answer_that_ollama_ends_for_its_repeats_is_counted(
    monkeypatch: pytest.MonkeyPatch, thinking: list[str]
) -> None:
    """And the others are asked. What came of it has a speed; it may be nothing."""
    pieces = [] if thinking else ["So", *[" no"] * 30]
    looping = Turn(thinking=thinking, pieces=pieces, fault=Fault.NO_DONE)
    at_once = Turn(refusal=(500, "prediction aborted, token repeat limit reached"))
    order = itertools.cycle([Turn(), looping, at_once, Turn()])
    monkeypatch.setattr("ollama_bridge.speed.bound._BUFFER_BYTES", 2**20)
    with FakeDaemon(models=TAGS) as daemon:
        daemon.script = lambda asked: next(order) if is_measured(asked.json) else Turn()
        args = ["bench", "m", "--host", daemon.host, "--requests", "4", "--concurrency", "1"]
        done = CliRunner().invoke(cli.app, args)
        assert done.exit_code == 0, done.output
        as_json = CliRunner().invoke(cli.app, [*args, "--json", "-q"])
        order = itertools.cycle([looping])
        (alone,) = measure_speed(["m"], Load((2,), 4), host=daemon.host, bandwidth_bytes_per_s=1)
    row = dict(zip(*[line.split("\t") for line in done.stdout.splitlines()], strict=True))
    assert row["REPEATS"] == "2"
    assert row["ANSWER"] == "-"  # of one that had none by then, nobody knows when it would begin
    assert "Ollama ended 2 of 4 answers of m for their repeats; try --tokens 24" in done.stderr
    (measured,) = json.loads(as_json.stdout)[0]["measured"]
    assert (measured["requests"], measured["repeated"], measured["unanswered"]) == (4, 2, 0)
    assert measured["tokens"] == {"p50": 3, "p95": 31, "worst": 31}
    (one,) = alone.measured
    assert (one.requests, one.repeated, one.tokens) == (4, 4, Spread(31, 31, 31))
    assert one.decode_rate is not None
    assert one.decode_rate.worst > 0
    assert one.throughput > 0
    assert one.prompt_rate is None
    assert (one.first_answer_s is None) == bool(thinking)


@pytest.mark.parametrize(("vram_bytes", "of_others", "is_bound"), [(0, 0, 1), (1, 0, 0), (0, 1, 0)])
def test_memory_bounds_what_the_processors_of_this_machine_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vram_bytes: int,
    of_others: int,
    is_bound: int,
) -> None:
    """Not a GPU; nor what a daemon behind a tunnel runs."""
    blob = uuid4().hex * 2  # of this test alone: runners of the whole machine are looked at
    monkeypatch.setattr("ollama_bridge.speed.bound._BUFFER_BYTES", 2**20)
    binary = tmp_path / "llama-server"
    binary.symlink_to(Path(sys.executable).resolve())
    words = ["-c", "input()", f"/models/sha256-{uuid4().hex * 2 if of_others else blob}"]
    with (
        subprocess.Popen([binary, *words], stdin=subprocess.PIPE) as runner,
        FakeDaemon(models=TAGS, vram_bytes=vram_bytes) as daemon,
    ):
        daemon.shown = {**daemon.shown, "modelfile": f"FROM /models/blobs/sha256-{blob}\n"}
        (speed,) = measure_speed(["m"], Load((1,), requests=1), host=daemon.host)
        runner.communicate(b"\n")
    assert (speed.bound_rate is not None) == is_bound


def test_no_more_run_at_once_than_were_asked_for() -> None:
    """And as many do."""
    together, most = 0, 0
    lock, all_here = threading.Lock(), threading.Barrier(3, timeout=20)

    def script(asked: Asked) -> Turn:
        nonlocal together, most
        if not is_measured(asked.json):
            return Turn()
        with lock:
            together += 1
            most = max(most, together)
        all_here.wait()
        with lock:
            together -= 1
        return Turn()

    with FakeDaemon(models=TAGS) as daemon:
        daemon.script = script
        measure_speed(["m"], Load((3,), requests=6), host=daemon.host, bandwidth_bytes_per_s=1e9)
    assert most == 3


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_in_order(values: list[float]) -> None:
    """And between the least and the largest."""
    times, rates = Spread.of(values), Spread.of(values, more_is_better=True)
    assert times is not None
    assert rates is not None
    assert min(values) <= times.p50 <= times.p95 <= times.worst == max(values)
    assert max(values) >= rates.p50 >= rates.p95 >= rates.worst == min(values)
    for spread, holds in (
        (times, [value <= times.p95 for value in values]),
        (rates, [value >= rates.p95 for value in values]),
    ):
        assert sum(holds) >= 0.95 * len(values)
        assert spread.p95 in values
        assert len(values) >= 20 or spread.p95 == spread.worst


def test_what_a_token_reads_of_a_model() -> None:
    """Its matrices; a row of a table, and the experts that are used."""
    table = {"name": "token_embd.weight", "type": "F16", "shape": [64, 1000]}
    matrix = {"name": "blk.0.ffn_up.weight", "type": "Q4_K", "shape": [256, 10]}
    output = {"name": "output.weight", "type": "Q8_0", "shape": [64, 1000]}
    experts = {"name": "blk.0.ffn_up_exps.weight", "type": "F32", "shape": [2, 3, 8]}
    info = {"general.architecture": "a", "a.expert_count": 8, "a.expert_used_count": 2}
    assert read_bytes([table, matrix], {}) == 128_000 + 1440
    assert read_bytes([table, matrix, output], {}) == 1440 + 68_000
    assert read_bytes([experts], info) == 48
    assert read_bytes([experts], {}) == 192
    assert read_bytes([{**matrix, "type": "TQ9"}], {}) is None
    assert read_bytes([], {}) is None


def test_bandwidth_is_a_machine_s() -> None:
    """Between a floppy disk's and a large GPU's."""
    assert 1e6 < memory_bytes_per_s() < 1e14


def test_what_cannot_be_measured_is_told() -> None:
    """Before anything is."""
    with FakeDaemon(models=TAGS) as daemon:
        with pytest.raises(ModelNotFoundError, match="no model 'none'"):
            measure_speed(["m", "none"], Load(), host=daemon.host, bandwidth_bytes_per_s=1e9)
        assert daemon.questions == []
        broken = Turn(fault=Fault.NO_DONE)
        daemon.script = lambda asked: broken if is_measured(asked.json) else Turn()
        with pytest.raises(DaemonError):
            measure_speed(["m"], Load(), host=daemon.host, bandwidth_bytes_per_s=1e9)
    with pytest.raises(ConfigError, match="no tags"):
        measure_speed([], Load())
    with pytest.raises(ConfigError, match="1 or more"):
        Load(requests=0)
    with pytest.raises(ConfigError, match="8 requests are too few for 16 at a time"):
        Load((1, 16))
    with pytest.raises(ConfigError, match="3 prompts for 4 requests"):
        Load((1, 2), requests=2, prompts=("a", "b", "c", "a"))


def test_the_command_prints_a_table_json_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short answers are pointed out; own prompts are asked."""
    monkeypatch.setattr(sys.modules["ollama_bridge.speed.bound"], "_BUFFER_BYTES", 2**20)
    prompts, picture = tmp_path / "prompts.txt", tmp_path / "speed.svg"
    prompts.write_text("one\n\none\ntwo\n")
    with FakeDaemon(models=TAGS) as daemon:
        args = ["bench", "m", "--host", daemon.host, "--requests", "2", "--concurrency", "1"]
        extra = ["--prompts", str(prompts), "--picture", str(picture)]
        done = CliRunner().invoke(cli.app, [*args, *extra])
        assert done.exit_code == 0, done.output
        asked = [one["messages"][0]["content"] for one in daemon.questions[-2:]]
        assert asked == ["one", "two"]
        assert done.stdout.splitlines()[1].split("\t")[:3] == ["m", "1", "1.00"]
        assert "answers in 3 tokens" in done.stderr
        ElementTree.fromstring(picture.read_text())
        found = json.loads(CliRunner().invoke(cli.app, [*args, "--json", "-q"]).stdout)
        assert found[0]["measured"][0]["tokens"]["p50"] == 3


def test_prompts_that_do_not_fit_are_told_with_an_option_that_there_is() -> None:
    """``bench`` has no ``-p``."""
    with FakeDaemon(models=TAGS) as daemon:
        daemon.script = lambda asked: Turn(refusal=(400, "longer than the context length"))
        with pytest.raises(ContextOverflowError) as caught:
            CliRunner().invoke(
                cli.app, ["bench", "m", "--host", daemon.host], catch_exceptions=False
            )
    assert "--words" in str(caught.value.hint)
    assert "-p " not in str(caught.value.hint)
