"""The optional parts of the package."""

from __future__ import annotations

import importlib.util

import pytest

from ollama_bridge.errors import MissingExtraError
from ollama_bridge.extras import missing_train_packages, require_training_extra


def test_training_is_refused_by_the_first_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is named, with the command that installs it and all others."""
    found = importlib.util.find_spec
    gone = {"peft", "gguf"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else found(name)
    )
    assert missing_train_packages() == ["peft", "gguf"]
    with pytest.raises(MissingExtraError, match="'peft'") as caught:
        require_training_extra()
    assert caught.value.hint == "pip install 'ollama-bridge[train]'"


def test_training_may_begin_where_everything_is_installed() -> None:
    """Here all of it is, or this test could not run beside those of training."""
    assert missing_train_packages() == []
    require_training_extra()
