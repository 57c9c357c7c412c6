"""Whole requests as a batch, from Python and from the command line."""

from __future__ import annotations

import heapq
import json
import os
import random
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn, nobody_listens
from fakes.either_client import opened
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge import client as clients
from ollama_bridge.cli import batch_files
from ollama_bridge.client import Answered, Client, ModelSummary, Reply, Timeouts
from ollama_bridge.client.jobs import batch
from ollama_bridge.client.jobs.batch import ask_all
from ollama_bridge.client.jobs.pacing import Pace, Waited, waited
from ollama_bridge.client.model_names import require_model
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    DaemonUnreachableError,
    ModelNotFoundError,
    OllamaBridgeError,
    RequestRejectedError,
    UnsupportedFeatureError,
)

MODELS = {"m:latest": "d" * 64}


def echo(asked: Asked) -> Turn:
    text = str(asked.json.get("prompt") or asked.json["messages"][-1]["content"])
    if text == "too long":
        return Turn(refusal=(400, "the input exceeds the available context size"))
    if text == "odd":
        return Turn(refusal=(400, "odd row"))
    return Turn(pieces=[f"to {text}"])


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(script=echo, models=dict(MODELS)) as running:
        yield running


def prompts(*texts: str) -> list[dict[str, Any]]:
    return [{"model": "m", "prompt": text} for text in texts]


def texts(found: list[Any]) -> dict[int, str | None]:
    return {one.index: one.reply.text if one.reply else one.error for one in found}


def test_a_client_answers_a_batch(daemon: FakeDaemon, tmp_path: Path, client_kind: str) -> None:
    """Equal requests are asked once; what fails has its error; a second call asks no more."""
    requests = [*prompts("a", "b", "a", "odd"), {"model": "m", "messages": "c"}]
    log = tmp_path / "log"

    def run() -> Any:
        with opened(client_kind, clients, daemon.host) as client:
            return client.batch(requests, log)

    found = texts(run())
    assert found[3] is not None
    assert found.pop(3).startswith("RequestRejectedError")  # type: ignore[union-attr]
    assert found == {0: "to a", 1: "to b", 2: "to a", 4: "to c"}
    asked = len(daemon.questions)
    again = run()
    assert len(daemon.questions) == asked
    assert {one.index for one in again} == {0, 1, 2, 3, 4}


def test_a_batch_asks_as_its_client_does(
    daemon: FakeDaemon, tmp_path: Path, client_kind: str
) -> None:
    """With its key and its limits."""
    asked: dict[str, Any] = {"api_key": "k", "timeouts": Timeouts(load_s=0.4, first_token_s=0.4)}
    silence = iter([Turn(fault=Fault.SILENT)])
    daemon.script = lambda asked: next(silence, None) or echo(asked)

    with opened(client_kind, clients, daemon.host, **asked) as client:
        [answered] = client.batch(prompts("a"), tmp_path / "log")
    assert answered.attempts == 2
    assert {one.headers["authorization"] for one in daemon.asked} == {"Bearer k"}


def test_what_was_too_long_is_asked_anew(daemon: FakeDaemon, tmp_path: Path) -> None:
    """By the next call, for the context may be longer; if not it is refused again, and once."""

    def call() -> dict[int, str | None]:
        asked = prompts("a", "too long", "b")
        return texts(list(ask_all(asked, tmp_path / "log", hosts=[daemon.host])))

    for _ in range(2):
        assert str(call()[1]).startswith("ContextOverflowError: ")
    daemon.script = lambda asked: Turn(pieces=["it fits now"])
    assert call() == {0: "to a", 1: "it fits now", 2: "to b"}
    asked = len(daemon.questions)
    assert call() == {0: "to a", 1: "it fits now", 2: "to b"}
    assert len(daemon.questions) == asked


def test_what_was_set_aside_is_asked_again_on_demand(
    daemon: FakeDaemon, tmp_path: Path, client_kind: str
) -> None:
    """Nothing else is; what fails again keeps its error, which stands until then."""
    requests, log = prompts("a", "odd", "b"), tmp_path / "log"

    def call(**settings: Any) -> dict[int, str | None]:
        with opened(client_kind, clients, daemon.host) as client:
            return texts(client.batch(requests, log, **settings))

    def asked() -> list[str]:
        bodies, daemon.asked = daemon.questions, []
        return [body["prompt"] for body in bodies]

    failed = {0: "to a", 1: "RequestRejectedError: the daemon answered 400: odd row", 2: "to b"}
    assert (call(), sorted(asked())) == (failed, ["a", "b", "odd"])
    assert (call(), asked()) == (failed, [])
    assert (call(retry_failed=True), asked()) == (failed, ["odd"])
    assert (call(), asked()) == (failed, [])
    daemon.script = lambda asked: Turn(pieces=["well now"])
    answered = {**failed, 1: "well now"}
    assert (call(retry_failed=True), asked()) == (answered, ["odd"])
    assert (call(retry_failed=True), asked()) == (answered, [])


def test_what_was_cut_is_in_the_log(daemon: FakeDaemon, tmp_path: Path) -> None:
    """An answer to half a prompt is never taken for one to the whole."""

    def cuts(asked: Asked) -> Turn:
        if asked.json["truncate"]:
            return Turn(prompt_tokens=33)
        sizes = '{"n_prompt_tokens":500,"n_ctx":64}'
        return Turn(refusal=(400, f"the prompt exceeds the available context size {sizes}"))

    daemon.script = cuts
    request = {"model": "m", "prompt": "a", "truncate": True}
    for _ in range(2):
        [answered] = ask_all([request], tmp_path / "log", hosts=[daemon.host])
        assert isinstance(answered, Answered)
        assert answered.reply is not None
        assert answered.reply.cut is not None
        assert answered.reply.cut.kept_tokens == 33


def test_what_the_daemon_tells_of_its_cache_is_in_the_log(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """None is for those that do not tell."""
    daemon.final["prompt_eval_cached_count"] = 5
    for _ in range(2):
        [answered] = ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host])
        assert isinstance(answered, Answered)
        assert answered.reply is not None
        assert answered.reply.cached_tokens == 5


def test_an_odd_line_of_a_log_is_told(daemon: FakeDaemon, tmp_path: Path) -> None:
    """A value that is no reply."""
    list(ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host]))
    [line] = rows(tmp_path / "log")
    (tmp_path / "log").write_text(json.dumps({**line, "value": {"text": "x"}}) + "\n")
    with pytest.raises(ArtifactError, match="its answer to request 1 cannot be read"):
        list(ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host]))


def test_another_model_under_the_name_is_asked_anew(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Answers belong to a digest."""
    list(ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host]))
    daemon.models["m:latest"] = "e" * 64
    list(ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host]))
    assert len(daemon.questions) == 2


def test_several_daemons_share_the_work(daemon: FakeDaemon, tmp_path: Path) -> None:
    """If they have the same model."""
    both = threading.Barrier(2, timeout=20)

    def together(asked: Asked) -> Turn:
        if asked.json["prompt"] in ("q0", "q1"):
            both.wait()
        return echo(asked)

    daemon.script = together
    with FakeDaemon(script=together, models=dict(MODELS)) as other:
        hosts = [daemon.host, other.host]
        requests = prompts(*(f"q{number}" for number in range(12)))
        found = list(ask_all(requests, tmp_path / "log", hosts=hosts, concurrency=1))
        assert len(texts(found)) == 12
        assert daemon.questions
        assert other.questions
        with Client(daemon.host) as client:
            again = client.batch(requests, tmp_path / "two", hosts=[other.host], concurrency=1)
            asked = len(daemon.questions), len(other.questions)
            assert len(texts(list(again))) == 12
        assert len(daemon.questions) > asked[0]
        assert len(other.questions) > asked[1]


@pytest.mark.parametrize(
    ("shown", "is_same"),
    [
        ({"modelfile": f"# FROM m:latest\nFROM /mnt/models/blobs/sha256-{'a' * 64}\n"}, True),
        ({"modelfile": f"FROM /root/.ollama/models/blobs/sha256-{'b' * 64}\n"}, False),
        ({"system": "Be brief."}, False),
        ({"messages": [{"role": "user", "content": "Hi"}]}, False),
    ],
)
def test_a_model_made_at_each_daemon_is_the_same(
    daemon: FakeDaemon, tmp_path: Path, shown: dict[str, Any], is_same: bool
) -> None:
    """Before 0.34 their manifests name the folders of their stores; each is held to its own."""
    daemon.shown = {**daemon.shown, "modelfile": f"FROM /home/a/blobs/sha256-{'a' * 64}\n"}
    with FakeDaemon(script=echo, models={"m:latest": "e" * 64}) as other:
        other.shown = {**daemon.shown, **shown}
        hosts = [daemon.host, other.host]
        events = ask_all(prompts("a", "b"), tmp_path / "log", hosts=hosts)
        if is_same:
            assert texts(list(events)) == {0: "to a", 1: "to b"}
            again = ask_all(prompts("a", "b"), tmp_path / "log", hosts=hosts[::-1])
            assert texts(list(again)) == {0: "to a", 1: "to b"}
            assert len(daemon.questions) + len(other.questions) == 2  # in any order
        else:
            with pytest.raises(ConfigError, match="is not the same model as at"):
                list(events)


@pytest.mark.parametrize("then", ["the other is away", "another comes"])
def test_which_daemons_are_there_decides_nothing_of_what_was_begun(
    daemon: FakeDaemon, tmp_path: Path, then: str
) -> None:
    """Each made the model itself: under the least digest of today all was asked anew."""
    daemon.shown = {**daemon.shown, "modelfile": f"FROM /home/a/blobs/sha256-{'a' * 64}\n"}
    made = {"shown": daemon.shown, "script": echo}
    with (
        FakeDaemon(models={"m:latest": "e" * 64}, **made) as second,
        FakeDaemon(models={"m:latest": "1" * 64}, **made) as third,
    ):

        def answers(requests: list[dict[str, Any]], *hosts: str) -> list[Any]:
            return list(ask_all(requests, tmp_path / "log", hosts=hosts))

        answers(prompts("a"), daemon.host, second.host)
        if then == "another comes":
            hosts = [daemon.host, second.host, third.host]
        else:
            hosts = [nobody_listens(), second.host]
        answers(prompts("a", "b"), *hosts)
        answers(prompts("a", "b"), second.host)
        answers(prompts("a", "b"), third.host)
        asked = [one["prompt"] for one in daemon.questions + second.questions + third.questions]
        assert sorted(asked) == ["a", "b"]


def test_new_rows_of_several_daemons_are_no_single_one_s(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Begun while one was not up yet, or at one alone: what both were asked either can go on."""
    daemon.shown = {**daemon.shown, "modelfile": f"FROM /home/a/blobs/sha256-{'a' * 64}\n"}
    with FakeDaemon(models={"m:latest": "1" * 64}, shown=daemon.shown, script=echo) as second:
        away = nobody_listens()
        list(ask_all(prompts("a"), tmp_path / "early", hosts=[daemon.host, away]))
        list(ask_all(prompts("a"), tmp_path / "early", hosts=[away, second.host]))
        assert [one["prompt"] for one in daemon.questions + second.questions] == ["a"]
        list(ask_all(prompts("b"), tmp_path / "alone", hosts=[daemon.host]))
        list(ask_all(prompts("b", "c"), tmp_path / "alone", hosts=[daemon.host, second.host]))
        list(ask_all(prompts("c"), tmp_path / "alone", hosts=[away, second.host]))
        asked = [one["prompt"] for one in daemon.questions + second.questions]
        assert sorted(asked) == ["a", "b", "c"]


def test_a_batch_begun_at_one_daemon_goes_on_with_others(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """What is in the log under its digest is found there while it takes part."""
    daemon.shown = {**daemon.shown, "modelfile": f"FROM /home/a/blobs/sha256-{'a' * 64}\n"}
    with FakeDaemon(models={"m:latest": "1" * 64}, shown=daemon.shown, script=echo) as second:
        list(ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host]))
        list(ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host, second.host]))
        assert len(daemon.questions) + len(second.questions) == 1


@pytest.mark.parametrize(
    ("requests", "extra", "error", "words"),
    [
        ([{"model": "m"}], {}, ConfigError, "request 1: a request has no 'prompt'"),
        (
            [*prompts("a"), "b"],
            {},
            ConfigError,
            "request 2: a request must be a dict or a request object",
        ),
        ([*prompts("a"), {"model": "m", "prompt": "b", "opts": 1}], {}, ConfigError, "request 2"),
        (prompts("a"), {"concurrency": 0}, ConfigError, "concurrency is 0"),
        (prompts("a", ""), {}, ConfigError, "request 2: 'prompt' is empty"),
        (prompts("a"), {"attempts": 0}, ConfigError, "attempts is 0"),
        ([{"model": "none", "prompt": "a"}], {}, ModelNotFoundError, "no model 'none'"),
    ],
)
def test_everything_is_checked_before_anything_is_asked(
    daemon: FakeDaemon,
    tmp_path: Path,
    requests: Any,
    extra: Any,
    error: type[OllamaBridgeError],
    words: str,
) -> None:
    """With the number of the request."""
    with pytest.raises(error, match=words):
        list(ask_all(requests, tmp_path / "log", hosts=[daemon.host], **extra))
    assert daemon.questions == []


def test_a_row_at_which_a_batch_ends_is_named(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Nothing was answered before, so it may be the daemon that cannot."""
    daemon.script = lambda asked: Turn(refusal=(400, "no images"))
    requests = prompts(*"abcde")
    with pytest.raises(RequestRejectedError, match=r"no images \(request \d, and others before"):
        list(ask_all(requests, tmp_path / "log", hosts=[daemon.host], concurrency=1))


@pytest.mark.parametrize("name", ["library/m", "M:Latest", "Registry.Ollama.ai/library/m"])
def test_a_model_may_be_called_by_another_name(name: str) -> None:
    """As Ollama takes it; the daemon lists it by the short one."""
    there = [ModelSummary("m:latest", "d" * 64, 1, "")]
    assert require_model(there, name).digest == "d" * 64


def test_two_processes_do_not_write_one_log(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The second is told."""
    first = ask_all(prompts("a", "b"), tmp_path / "log", hosts=[daemon.host])
    assert isinstance(next(first), Answered)
    with pytest.raises(ArtifactError, match="another process is writing"):
        list(ask_all(prompts("a"), tmp_path / "log", hosts=[daemon.host]))
    first.close()  # type: ignore[attr-defined]


def settle(slots: int, *, tells: bool, seed: int = 0) -> int:
    """The number for a daemon of so many slots; jobs differ much in length."""
    pace, chance, now_s = Pace(), random.Random(seed), 0.0
    waiting: deque[tuple[float, float]] = deque()
    running: list[tuple[float, float, float]] = []
    for _ in range(400):
        while len(running) + len(waiting) < pace.limit:
            waiting.append((now_s, chance.uniform(0.2, 1.8)))
        while waiting and len(running) < slots:
            came_s, work_s = waiting.popleft()
            heapq.heappush(running, (now_s + work_s, came_s, work_s))
        now_s, came_s, work_s = heapq.heappop(running)
        times = Waited(now_s - came_s - work_s, now_s - came_s)
        pace.settled(work_s, now_s, times if tells else None)
    assert pace.is_settled
    return pace.limit


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 8, 16])
def test_the_pace_finds_how_many_a_daemon_works_on(slots: int) -> None:
    """By the time that jobs waited; where one is worked on at a time, a second waits its turn."""
    found = [settle(slots, tells=True, seed=seed) for seed in range(20)]
    assert found.count(max(2, slots)) >= 14
    assert all(abs(one - slots) <= max(1, slots // 8) for one in found)


@pytest.mark.parametrize("slots", [1, 2, 4, 8, 16])
def test_the_pace_of_a_server_that_tells_no_times(slots: int) -> None:
    """None of its slots is idle; by chance more may wait than had to."""
    found = [settle(slots, tells=False, seed=seed) for seed in range(20)]
    assert min(found) >= slots
    assert sum(one <= max(8, 2 * slots) for one in found) >= 15


def test_how_long_a_reply_waited() -> None:
    """What its times leave open; nothing where it tells none."""
    times = {"total_s": 4.0, "load_s": 0.5, "prompt_s": 0.5, "generate_s": 1.0}
    assert waited({"timings": times}) == Waited(2.0, 4.0)
    assert waited({"timings": {"total_s": 0.0}}) is None
    assert waited({}) is None


def test_a_given_pace_stays() -> None:
    """Whatever comes of it."""
    pace = Pace(3)
    for number in range(100):
        pace.settled(1.0, float(number))
    assert pace.limit == 3


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_not_kept_in_memory(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: one is gone when the next one comes; their order is that of IN."""
    alive: list[int] = []
    replies: list[weakref.ref[Reply]] = []
    ask = batch.ask_all

    def watched(*args: Any, **settings: Any) -> Iterator[Any]:
        for event in ask(*args, **settings):
            replies.append(weakref.ref(event.reply))
            yield event
            del event
            alive.append(sum(reply() is not None for reply in replies))

    monkeypatch.setattr(batch, "ask_all", watched)
    monkeypatch.setattr(batch_files, "_IN_MEMORY_BYTES", 100)
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"é{n}"}) + "\n" for n in range(20)))
    args = ["batch", str(source), str(target), "--model", "m", "-q", "--host", daemon.host]
    assert CliRunner().invoke(cli.app, args).exit_code == 0
    assert len(alive) == 20
    assert max(alive) <= 2
    assert [row["text"] for row in rows(target)] == [f"to é{n}" for n in range(20)]
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".log", ".lock"}


def test_a_file_of_questions_becomes_a_file_of_answers(daemon: FakeDaemon, tmp_path: Path) -> None:
    """In the order of the questions, with their ids; what is left out comes from the options."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"id": "x", "prompt": "a"},
        {"messages": [{"role": "user", "content": "b"}], "options": {"seed": 2}},
        {"prompt": "too long"},
    ]
    source.write_text("\n\n".join(json.dumps(line) for line in lines))
    args = ["batch", str(source), str(target), "--model", "m", "-p", "seed=1", "-q"]
    done = CliRunner().invoke(cli.app, [*args, "--system", "Be brief.", "--host", daemon.host])
    assert done.exit_code == 1
    assert done.stdout == f"{target}: 2 answered, 1 set aside\n"
    first, second, third = rows(target)
    assert (first["id"], first["text"], second["id"], second["text"]) == ("x", "to a", 3, "to b")
    assert third["error"].startswith("ContextOverflowError")
    assert "1 too long for the context" in done.stderr
    assert "num_ctx" in done.stderr
    assert "--retry-failed" not in done.stderr
    bodies = sorted(daemon.questions, key=lambda body: "messages" in body)
    assert bodies[0]["options"]["seed"] == 1
    assert bodies[0]["system"] == "Be brief."
    assert bodies[-1]["options"]["seed"] == 2
    daemon.script = lambda asked: Turn(pieces=["well now"])
    args += ["--system", "Be brief.", "--host", daemon.host, "--retry-failed"]
    assert CliRunner().invoke(cli.app, args).exit_code == 0
    assert [row["text"] for row in rows(target)] == ["to a", "to b", "well now"]


@pytest.mark.parametrize(
    ("asked", "said"), [(["odd", "too long"], "the others"), (["odd"], "those")]
)
def test_what_may_be_answered_if_asked_again_is_told_apart(
    daemon: FakeDaemon, tmp_path: Path, asked: list[str], said: str
) -> None:
    """From what is too long for the context."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": one}) for one in ["a", *asked]))
    args = ["batch", str(source), str(target), "--model", "m", "-q", "--host", daemon.host]
    done = CliRunner().invoke(cli.app, args)
    assert done.exit_code == 1
    last = f"to ask {said} again: the same command with --retry-failed\n"
    assert done.stderr.endswith(last)
    assert ("too long for the context" in done.stderr) == ("too long" in asked)


def test_an_answer_that_ollama_ends_for_its_repeats_is_set_aside_at_once(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """It would be ended again; however many there are, the others are asked."""
    loop = Turn(pieces=["So", *[" no"] * 30], fault=Fault.NO_DONE)
    daemon.script = lambda asked: Turn() if asked.json["prompt"] == "b" else loop
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts_asked = [*"acdefghij", "b"]
    source.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in texts_asked))
    args = ["batch", str(source), str(target), "--model", "m", "-q", "--host", daemon.host]
    done = CliRunner().invoke(cli.app, args)
    assert done.exit_code == 1
    assert done.stdout == f"{target}: 1 answered, 9 set aside\n"
    *loops, last = rows(target)
    assert {one["error"].partition(":")[0] for one in loops} == {"RepetitionError"}
    assert {one["attempts"] for one in loops} == {1}
    assert last["text"]
    assert len(daemon.questions) == len(texts_asked)


def test_a_tag_s_own_limit_holds_in_a_batch(daemon: FakeDaemon, tmp_path: Path) -> None:
    """As for ``generate``; a line's own comes first, then that of the command."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"prompt": "a"}, {"prompt": "b", "options": {"num_predict": 9}}]
    lines += [{"prompt": "c", "options": {"num_predict": None, "seed": 1}}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = ["batch", str(source), str(target), "--model", "m", "--host", daemon.host, "-q"]
    own = "stop x\nnum_predict 4096"
    for parameters, more, asked in (
        ("stop x", [], {"a": 1024, "b": 9, "c": 1024}),
        ("stop x", [], {}),
        (own, [], {"a": 4096, "c": 4096}),  # else what there is of them would be cut
        (own, ["-p", "num_predict=5"], {"a": 5}),
    ):
        daemon.shown = {**daemon.shown, "parameters": parameters}
        daemon.asked.clear()
        assert CliRunner().invoke(cli.app, [*args, *more]).exit_code == 0
        limits = {one["prompt"]: one["options"]["num_predict"] for one in daemon.questions}
        assert limits == asked
        # For its limit, and for what a log that is there may call it; not once a line.
        assert [one.path for one in daemon.asked].count("/api/show") <= 2


def test_images_for_a_tag_that_takes_none_are_refused_in_a_batch(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Before anything is asked: Ollama 0.24 would answer without them. Known limits or not."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    shown = {"role": "user", "content": "What is it?", "images": [__file__]}
    args = ["batch", str(source), str(target), "--model", "m", "--host", daemon.host, "-q"]
    for more in ([], ["-p", "num_predict=5"]):
        for line in ({"prompt": "What is it?", "images": [__file__]}, {"messages": [shown]}):
            source.write_text("".join(f"{json.dumps(one)}\n" for one in ({"prompt": "a"}, line)))
            error = CliRunner().invoke(cli.app, [*args, *more]).exception
            assert isinstance(error, UnsupportedFeatureError)
            assert error.message == "request 2: 'm' takes no images"
    assert daemon.questions == []
    assert sorted(tmp_path.iterdir()) == [source]
    for capabilities in (["completion", "vision"], []):  # of none is told: then nobody knows
        daemon.shown = {**daemon.shown, "capabilities": capabilities}
        assert CliRunner().invoke(cli.app, [*args, "-p", "num_predict=5"]).exit_code == 0


def test_a_daemon_that_does_not_show_models_is_asked_all_the_same(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Such as a gateway, which is said; another one, or one that is away, leaves it to the next."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "a"}\n')
    daemon.shown = {**daemon.shown, "parameters": "num_predict 30"}
    args = ["batch", str(source), str(target), "--model", "m", "--host"]
    away = CliRunner().invoke(cli.app, [*args, nobody_listens()])
    assert isinstance(away.exception, DaemonUnreachableError)
    both = [*args, nobody_listens(), "--host", daemon.host]
    assert CliRunner().invoke(cli.app, both).exit_code == 0
    with FakeDaemon() as gateway:
        gateway.turn = lambda asked: (  # type: ignore[method-assign]
            Turn(fault=Fault.HTML_PAGE if asked.path == "/api/show" else None)
        )
        told = CliRunner().invoke(cli.app, [*args, gateway.host, "--host", daemon.host])
        assert (told.exit_code, "num_predict" in told.stderr) == (0, False)
        alone = CliRunner().invoke(cli.app, [*args, gateway.host, "--host", nobody_listens()])
        assert alone.exit_code == 0
        assert "no daemon says which num_predict the tags set, so 1024 is used" in alone.stderr
        assert [one["options"]["num_predict"] for one in gateway.questions] == [1024]
    assert [one["options"]["num_predict"] for one in daemon.questions] == [30]


def test_a_batch_that_cannot_begin_warns_of_nothing_else(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """A wrong name is no gateway: what the limit would be does not matter."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a"}\n')
    args = ["batch", str(source), str(tmp_path / "out.jsonl"), "--host", daemon.host]
    done = CliRunner().invoke(cli.app, [*args, "--model", "typo"])
    assert isinstance(done.exception, ModelNotFoundError)
    assert "num_predict" not in done.stderr


def test_an_answer_is_told_as_by_generate(daemon: FakeDaemon, tmp_path: Path) -> None:
    """For programs: each thing by its name, whatever the log keeps of it."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    question = {"messages": [{"role": "user", "content": "hi"}], "top_logprobs": 1}
    source.write_text(json.dumps({"id": 7, **question}), encoding="utf-8-sig")
    reported = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    daemon.script = lambda asked: Turn(
        pieces=["é"],
        logprobs=[[{**reported, "top_logprobs": [reported]}]],
        tool_calls=[("look", {"where": "here"})],
    )
    args = ["batch", str(source), str(target), "--model", "m", "--host", daemon.host, "-q"]
    assert CliRunner().invoke(cli.app, args).exit_code == 0
    (line,) = rows(target)
    assert line["tool_calls"] == [{"name": "look", "arguments": {"where": "here"}, "id": "call_0"}]
    assert line["logprobs"] == [{**reported, "top": [reported]}]
    assert line["total_s"] == 4.0
    alone = ["generate", "m", "hi", "--host", daemon.host, "--json"]
    daemon.script = None
    told = json.loads(CliRunner().invoke(cli.app, alone).stdout)
    assert set(line) == set(told) | {"id", "attempts", "logprobs"}


def test_answers_that_were_cut_are_counted(daemon: FakeDaemon, tmp_path: Path) -> None:
    """They are answers, and half ones: of a model that thinks often nothing but thoughts."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"q{n}"}) + "\n" for n in range(3)))
    daemon.script = lambda asked: Turn(
        done_reason="stop" if asked.json["prompt"] == "q1" else "length"
    )
    args = ["batch", str(source), str(target), "--model", "m", "--host", daemon.host, "-q"]
    for _ in range(2):  # those of an earlier run as well
        done = CliRunner().invoke(cli.app, [*args, "-p", "num_predict=3"])
        assert done.stdout == f"{target}: 3 answered (2 of them cut), 0 set aside\n"
        assert "(cut off at num_predict; for longer answers: num_predict 12 in " in done.stderr
        assert "-p num_predict=12 for all)" in done.stderr
    counted = json.loads(CliRunner().invoke(cli.app, [*args, "--json"]).stdout)
    assert counted == {"path": str(target), "answered": 3, "set_aside": 0, "hit_limit": 2}


@pytest.mark.parametrize(
    ("content", "args", "words"),
    [
        ('{"prompt": "a"}', [], "line 1: a request has no 'model'"),
        ('{"prompt": "a"}\n[]\nx\n', ["--model", "m"], "line 3: Expecting value"),
        ('{"prompt": "a", "n": 1}', ["--model", "m"], "line 1: unknown field 'n'"),
        ('{"prompt": "a", "options": [1]}', ["--model", "m"], "line 1: options are of type list"),
        (f'{{"prompt": {"[" * 100_000}', ["--model", "m"], "line 1: maximum recursion depth"),
        ('{"prompt": "a"}\n{"messages": []}', ["--model", "m"], "line 2: 'messages' is empty"),
        ("", ["--model", "m"], "has no questions"),
        ('{"prompt": "a"}', ["--model", "m", "--concurrency", "many"], "write auto or a number"),
    ],
)
def test_bad_questions_are_told_with_their_lines(
    daemon: FakeDaemon, tmp_path: Path, content: str, args: list[str], words: str
) -> None:
    """All at once, before anything is asked; nothing is written."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(content)
    done = CliRunner().invoke(
        cli.app, ["batch", str(source), str(target), "--host", daemon.host, *args]
    )
    assert isinstance(done.exception, OllamaBridgeError)
    assert words in done.exception.message
    assert daemon.questions == []
    assert list(tmp_path.iterdir()) == [source]


def test_a_killed_batch_goes_on(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Answers of the run that was killed are not asked again."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"q{n}"}) + "\n" for n in range(30)))
    slow = threading.Event()

    def script(asked: Asked) -> Turn:
        if len(daemon.questions) > 10:
            slow.set()
            daemon.closing.wait()
        return echo(asked)

    daemon.script = script
    args = ["batch", str(source), str(target), "--model", "m", "--host", daemon.host, "-q"]
    command = [sys.executable, "-m", "ollama_bridge", *args]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert slow.wait(30)
    process.kill()
    process.wait()
    assert not target.exists()
    settled = {row["value"]["text"] for row in rows(tmp_path / "out.jsonl.log")}
    again: list[str] = []

    def note(asked: Asked) -> Turn:
        again.append(f"to {asked.json['prompt']}")
        return echo(asked)

    daemon.script = note
    done = CliRunner().invoke(cli.app, args)
    assert done.exit_code == 0, done.output
    assert [row["text"] for row in rows(target)] == [f"to q{n}" for n in range(30)]
    assert settled
    assert settled.isdisjoint(again)


def test_a_file_of_the_user_is_never_a_log(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Nor is a damaged log's folder to be removed."""
    notes, damaged = tmp_path / "notes.txt", tmp_path / "log"
    for text in ("buy milk\n", "[" * 100_000 + "\n"):
        notes.write_text(text)
        with pytest.raises(ArtifactError, match="is a file of another kind"):
            list(ask_all(prompts("a"), notes, hosts=[daemon.host]))
        assert notes.read_text() == text
    list(ask_all(prompts("a", "b"), damaged, hosts=[daemon.host]))
    lines = damaged.read_text().splitlines(keepends=True)
    damaged.write_text("{\n".join(lines))
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        list(ask_all(prompts("a"), damaged, hosts=[daemon.host]))
    assert str(caught.value.hint).startswith(f"mv {damaged} ")
    for folder, advice in (("none", "mkdir -p"), ("notes.txt", "name a place that can be")):
        with pytest.raises(ArtifactError, match="cannot be written") as caught:
            list(ask_all(prompts("a"), tmp_path / folder / "log", hosts=[daemon.host]))
        assert str(caught.value.hint).startswith(advice)


def test_json_of_the_user_is_never_a_log(daemon: FakeDaemon, tmp_path: Path) -> None:
    """One line without its end, as ``json.dump`` leaves it, is no line of ours that a kill tore."""
    settings, log = tmp_path / "settings.json", tmp_path / "log"
    keyed = '{"key": "theme", "value": "dark"}\n'
    settings.write_text(keyed)
    with pytest.raises(ArtifactError, match="is not a batch log"):
        list(ask_all(prompts("a"), settings, hosts=[daemon.host]))
    assert settings.read_text() == keyed
    settings.write_text('{"theme": "dark"}')
    with pytest.raises(ArtifactError, match="is a file of another kind"):
        list(ask_all(prompts("a"), settings, hosts=[daemon.host]))
    assert settings.read_text() == '{"theme": "dark"}'
    list(ask_all(prompts("a"), log, hosts=[daemon.host]))
    whole = log.read_bytes()
    for torn in (0, 1, 12, len(whole) // 2, len(whole) - 1):
        log.write_bytes(whole[:torn])
        [answered] = ask_all(prompts("a"), log, hosts=[daemon.host])
        assert isinstance(answered, Answered)
        assert answered.reply is not None


def test_one_daemon_that_is_away_does_not_stop_the_others(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """It is told as given up; with none left it is an error."""
    away = nobody_listens()
    found = list(ask_all(prompts("a", "b"), tmp_path / "log", hosts=[away, daemon.host]))
    assert texts([one for one in found if isinstance(one, Answered)]) == {0: "to a", 1: "to b"}
    with pytest.raises(DaemonUnreachableError, match=f"^no daemon answers at http://{away}"):
        list(ask_all(prompts("c"), tmp_path / "log", hosts=[away]))
    both = [away, nobody_listens()]
    with pytest.raises(DaemonUnreachableError, match=".*".join(both)):
        list(ask_all(prompts("c"), tmp_path / "log", hosts=both))


def test_answers_that_a_log_cannot_lie_beside_are_refused(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe, a device such as ``/dev/stdout``, or what stands for it: before anything is asked."""
    monkeypatch.chdir(tmp_path)
    source, pipe = tmp_path / "q.jsonl", tmp_path / "pipe"
    source.write_text('{"prompt": "a"}')
    os.mkfifo(pipe)
    behind = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)  # as of `> out`
    for place in (str(pipe), "-", f"/dev/fd/{behind}"):
        args = ["batch", str(source), place, "--model", "m", "--host", daemon.host]
        with pytest.raises(ConfigError, match=f"{place} is no file") as caught:
            CliRunner().invoke(cli.app, args, catch_exceptions=False)
        assert str(caught.value.hint).endswith("answers.jsonl")
    os.close(behind)
    assert daemon.questions == []
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out", pipe, source]


def test_questions_are_not_replaced_by_answers(tmp_path: Path) -> None:
    """Nor is half a surrogate pair sent."""
    file = tmp_path / "q.jsonl"
    file.write_text('{"prompt": "a \\ud83d"}\n')
    args = ["batch", str(file), str(file), "--model", "m"]
    same = CliRunner().invoke(cli.app, args)
    assert isinstance(same.exception, ConfigError)
    half = CliRunner().invoke(cli.app, [*args[:2], str(tmp_path / "out"), *args[3:]])
    assert isinstance(half.exception, OllamaBridgeError)
    assert "line 1" in half.exception.message
