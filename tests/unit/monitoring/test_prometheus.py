"""What Prometheus is given, where, and that the document names all of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.daemon import FakeDaemon
from fakes.snapshots import CALM
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.errors import ConfigError
from ollama_bridge.monitoring import Exporter, Runner, exposition

DOCUMENT = Path(__file__).parents[3] / "docs" / "monitoring.md"


def numbered(thing: Any, numbers: Iterator[int], told: dict[str, float]) -> Any:
    """The same with another number in every place where there is one, which are noted."""
    if isinstance(thing, tuple):
        return tuple(numbered(one, numbers, told) for one in thing)
    if not is_dataclass(thing):
        return thing
    changed = {}
    for one in fields(thing):
        name, value = f"{type(thing).__name__}.{one.name}", getattr(thing, one.name)
        if name == "Machine.hottest_c":
            value = changed[one.name] = (float(next(numbers)), float(next(numbers)))
            told |= dict(zip(("now", "limit"), value, strict=True))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            changed[one.name] = told[name] = next(numbers)
        else:
            changed[one.name] = numbered(value, numbers, told)
    return replace(thing, **changed)


def test_prometheus_reads_every_number_that_there_is() -> None:
    """Also one that will be added to a snapshot; a process has its number in a label."""
    told: dict[str, float] = {}
    snapshot = numbered(CALM, itertools.count(1000), told)
    assert len(told) > 20
    samples = {
        sample.value
        for family in text_string_to_metric_families(exposition(snapshot))
        for sample in family.samples
    }
    missing = {name for name, value in told.items() if value not in samples}
    # Prometheus notes the time itself, and reckons what grew in a minute.
    assert missing == {"Snapshot.at_s", "Runner.pid", "Machine.swapped_in_bytes"}


def test_prometheus_reads_them_as_they_are() -> None:
    """By its own client: names with units, labels as they are, numbers whole."""
    families = list(text_string_to_metric_families(exposition(CALM)))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation for family in families)
    assert [family.name for family in families if family.type != "gauge"] == [
        "ollama_runner_tokens",
        "ollama_swapped_in_bytes",
    ]
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }
    assert samples["ollama_model_bytes", 'a"b\n', "d" * 12] == 10
    assert samples["ollama_runner_memory_bytes", "1", "m"] == 123_456_789
    assert samples["ollama_gpu_share", "0 T4"] == 0.5
    assert (samples["ollama_waiting_requests",], samples["ollama_queued_requests",]) == (5, 3)
    assert (samples["ollama_up",], samples["ollama_alerts", "daemon"]) == (1, 0)
    assert samples["ollama_info", "0.34.4", "http://h"] == 1
    assert samples["ollama_model_until_timestamp_seconds", 'a"b\n', "d" * 12] == 1_767_262_272
    told = exposition(replace(CALM, version=None, problem="gone", loaded=()))
    after = {one.name: one for one in text_string_to_metric_families(told)}
    assert {sample.labels["kind"]: sample.value for sample in after["ollama_alerts"].samples} == {
        **dict.fromkeys(("wedged", "memory", "swap", "heat"), 0),
        "daemon": 1,
    }
    assert "ollama_model_bytes" not in after


def test_a_runner_that_tells_nothing_has_no_numbers_of_requests() -> None:
    """None is not nought."""
    silent = replace(CALM, runners=(Runner(1, "m", 5, 0.5),))
    names = {family.name for family in text_string_to_metric_families(exposition(silent))}
    assert "ollama_runner_cpu_cores" in names
    assert not names & {"ollama_runner_tokens_per_second", "ollama_runner_slots"}


def test_a_tag_that_was_made_anew_is_two_models() -> None:
    """The old one stays loaded for a while: a metric with the same labels twice is refused."""
    new = replace(CALM.loaded[0], digest="e" * 64, context_tokens=8192)
    told = exposition(replace(CALM, loaded=(*CALM.loaded, new)))
    lines = [line.rpartition(" ")[0] for line in told.splitlines() if not line.startswith("#")]
    assert len(set(lines)) == len(lines)


def test_the_document_names_every_metric() -> None:
    """With its labels, and what it tells, as Prometheus shows it."""
    rows = {
        (sample.name, ", ".join(f"`{label}`" for label in sample.labels), family.documentation)
        for family in text_string_to_metric_families(exposition(CALM))
        for sample in family.samples
    }
    text = DOCUMENT.read_text(encoding="utf-8")
    written = re.findall(r"^\| `(\w+)` \| (.*?) ?\| (.+) \|$", text, flags=re.MULTILINE)
    assert len(written) == len(set(written))
    assert set(written) == rows


def test_the_page_is_as_prometheus_reads_it() -> None:
    """A taken port is a clear error."""
    with Exporter(0, lambda: exposition(CALM)) as page:
        answer = httpx.get(page.url)
        assert answer.text == exposition(CALM)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert httpx.get(page.url.removesuffix("metrics")).status_code == 404
        port = httpx.URL(page.url).port
        with pytest.raises(ConfigError, match=f"port {port} of"):
            Exporter(port or 0, str)
    with pytest.raises(httpx.ConnectError):
        httpx.get(page.url)


def test_a_page_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, for whoever reads it learns only that nothing came."""

    def broken() -> str:
        raise LookupError("no such metric")

    with Exporter(0, broken) as page, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(page.url)
    assert "no such metric" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "url", "is_told"),
    [
        ("0", "http://127.0.0.1:", False),
        ("localhost:0", "http://localhost:", False),
        ("0.0.0.0:0", "http://0.0.0.0:", True),
    ],
)
def test_other_machines_read_it_only_where_that_is_asked(
    address: str, url: str, is_told: bool
) -> None:
    """And that is told; as a service it prints nothing but where it is."""
    with FakeDaemon() as daemon:
        args = ["monitor", "--host", daemon.host, "--count", "1", "--interval", "0.1"]
        done = CliRunner().invoke(cli.app, [*args, "--prometheus", address])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith(url)
    assert ("warning: anyone who can reach this address" in done.stderr) == is_told


@pytest.mark.parametrize("address", ["x", "box:", ":9435", "99999", "192.0.2.1:9435", "1..2:9435"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """As is one of another machine."""
    done = CliRunner().invoke(cli.app, ["monitor", "--prometheus", address])
    assert isinstance(done.exception, ConfigError)
    assert "9435" in str(done.exception.hint) or ":9435" in address


def test_a_port_that_is_taken_is_not_advised() -> None:
    """Not even the one that the examples have."""
    for taken, advised in ((9435, "9436"), (9436, "9435")):
        with pytest.raises(ConfigError) as caught:
            Exporter(taken, lambda: "", host="192.0.2.1")
        assert str(caught.value.hint).endswith(f" {advised}")
