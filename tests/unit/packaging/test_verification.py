"""Verifying a tag, as far as no daemon has to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from ollama_bridge.client import Client, ModelDetails, ModelSummary
from ollama_bridge.errors import ConfigError, ParityError
from ollama_bridge.inspection import verify
from ollama_bridge.verification import type_of, verify_tag


class FakeClient:
    """Shows one tag that carries no values, and can be asked nothing else."""

    details = ModelDetails(
        modelfile=f"FROM /models/blobs/sha256-{'a' * 64}\n",
        template="",
        system="",
        parameters="",
        model_info={},
        capabilities=(),
        raw={},
    )

    def show(self, tag: str, *, verbose: bool = False) -> ModelDetails:
        """The tag."""
        return self.details

    def list(self) -> Sequence[ModelSummary]:
        """Nothing more is known of it."""
        return ()


def refuse(tag: str) -> ParityError | ConfigError:
    """The error of verifying."""
    with pytest.raises((ParityError, ConfigError)) as caught:
        verify_tag(tag, client=cast(Client, FakeClient()))
    return caught.value


def test_a_tag_without_values_asks_for_its_checkpoint() -> None:
    """Nothing can be computed from the tag alone."""
    assert "--against" in str(refuse("m").hint)


def test_a_type_that_the_daemon_does_not_tell() -> None:
    """Null, as all of its details may be."""
    details = replace(FakeClient.details, raw={"details": None})
    with pytest.raises(ParityError, match="is of type"):
        type_of("m", details)


@pytest.mark.parametrize("tag", ["../m", "a/../m", "m:../x", "/etc/passwd", "m\nn"])
def test_a_tag_that_leads_elsewhere_is_refused(tag: str) -> None:
    """Tags are parts of paths in folders of ours and of the daemon."""
    assert isinstance(refuse(tag), ConfigError)


def test_a_base_without_its_adapter_is_refused() -> None:
    """Before a daemon is asked for anything."""
    with pytest.raises(ConfigError, match="that of an adapter") as caught:
        verify("m", base="./base")
    assert "--against ADAPTER --base ./base" in (caught.value.hint or "")
