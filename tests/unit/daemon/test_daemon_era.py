"""Versions of daemons and the contracts they follow."""

from __future__ import annotations

import pytest

from ollama_bridge.daemon.era import (
    default_repeat_penalty,
    era_of,
    limits_of,
    parse_version,
    samples_as_file_says,
)
from ollama_bridge.errors import ReplyInvalidError


@pytest.mark.parametrize(
    ("version", "era"),
    [
        ("0.5.0", "0.25"),
        ("0.24.0", "0.25"),
        ("0.29.9", "0.25"),
        ("0.30.0-rc1", "0.33"),
        ("0.33.3", "0.33"),
        ("0.34.0", "0.33"),
        ("0.34.1-rc0", "0.34"),
        ("0.34.4", "0.34"),
        ("1.0.0", "0.34"),
        ("0.0.0", "0.34"),
    ],
)
def test_era_changes_where_ollama_changed_its_contract(version: str, era: str) -> None:
    """The borders lie at 0.30.0 and 0.34.1; a build without a version counts as current."""
    assert era_of(version) == era
    assert default_repeat_penalty(version) == (1.1 if era == "0.25" else 1.0)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.12.10", ["log-probabilities", "Jinja", "windows", "adds a token"]),
        ("0.24.0", ["Jinja", "windows", "adds a token"]),
        ("0.30.0", ["byte for byte", "windows", "special"]),
        ("0.34.0", ["byte for byte", "windows", "special"]),
        ("0.34.1", ["ADAPTER", "windows", "special", "quantize", "convert"]),
        ("0.34.4", ["ADAPTER", "special", "quantize", "convert"]),
        ("0.0.0", ["ADAPTER", "special", "quantize", "convert"]),
    ],
)
def test_what_a_version_cannot_do_is_listed(version: str, words: list[str]) -> None:
    """Each limit begins and ends with its version, and says what is done instead."""
    limits = limits_of(version)
    assert len(limits) == len(words)
    assert all(word in limit.what for word, limit in zip(words, limits, strict=True))
    assert [limit.what for limit in limits if limit.instead is None] == [
        limit.what for limit in limits if "log-prob" in limit.what
    ]


def test_what_a_file_says_of_sampling_counts_since_0_34() -> None:
    """Also in a build of somebody's own."""
    for version, counts in (("0.33.9", False), ("0.34.0", True), ("0.0.0", True)):
        assert samples_as_file_says(version) is counts


def test_versions_are_read_with_prefix_and_suffix() -> None:
    """A leading v, a missing patch and a pre-release are all understood."""
    assert parse_version("v0.34.1-rc2") == (0, 34, 1)
    assert parse_version("0.34") == (0, 34, 0)
    assert parse_version("0.12.10+dirty") == (0, 12, 10)


@pytest.mark.parametrize("text", ["", "banana", "0", "0.x.1", "<html>"])
def test_nonsense_is_no_version(text: str) -> None:
    """What is no version is an invalid reply, not a guess."""
    with pytest.raises(ReplyInvalidError, match="version"):
        parse_version(text)
