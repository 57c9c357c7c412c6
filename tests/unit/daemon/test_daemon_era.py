"""Versions of daemons and the contracts they follow."""

from __future__ import annotations

import pytest

from ollama_bridge.daemon.era import era_of, parse_version
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
