"""Gets repositories from the hub of Hugging Face; the only place that may go there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ollama_bridge.errors import MissingExtraError, ModelError
from ollama_bridge.models.sources.references import ModelReference
from ollama_bridge.models.weights.adapter_folder import ADAPTER_CONFIG
from ollama_bridge.models.weights.files import INDEX_NAME, MODULES_NAME

_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "README.md"]
# What says already that a repository cannot be used, or that it is an adapter.
JUDGED = ["config.json", ADAPTER_CONFIG, INDEX_NAME, MODULES_NAME]
# Other formats of the same weights; but additional_chat_templates/*.jinja is looked at.
_IGNORED = ["*/*.safetensors", "*/*.json", "consolidated*"]


def download(reference: ModelReference) -> Path:
    """Get a checkpoint or an adapter.

    Raises:
        ModelError: it has no safetensors, or is not to be had.
        ConfigError: the proxy that the environment names cannot be used.
        MissingExtraError: huggingface_hub is not installed.
    """
    folder = fetch(reference, _PATTERNS)
    if not any(folder.glob("*.safetensors")):
        if "gguf" in reference.value.lower():
            raise ModelError(
                f"{reference} has no safetensors, and looks like a repository of GGUF files",
                hint=f"fetch one and name its path: hf download {reference.value} FILE.gguf "
                "--local-dir .",
            )
        raise ModelError(
            f"{reference} has no safetensors at its top; weights that are pickles are never opened",
            hint="if it has some in a folder, get that and give its path: "
            f"hf download {reference.value} --include 'FOLDER/*' --local-dir .; else look for a "
            f"pull request that adds them: hf:{reference.value}@refs/pr/1",
        )
    return folder


def has_file(reference: ModelReference, name: str) -> bool:
    """Whether a repository holds a file, which is not fetched.

    Args:
        reference: Of kind ``hf``.

    Raises:
        As for :func:`fetch`, where nobody says so.
    """
    with _told(reference):
        from huggingface_hub import file_exists

        return file_exists(reference.value, name, revision=reference.revision)


def fetch(reference: ModelReference, patterns: list[str]) -> Path:
    """Get some files of a repository.

    Returns:
        The folder, with whatever else of the repository was fetched before.

    Raises:
        ModelError: they are not to be had.
        ConfigError: the proxy that the environment names cannot be used.
        MissingExtraError: huggingface_hub is not installed.
    """
    with _told(reference):
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                reference.value,
                revision=reference.revision,
                allow_patterns=patterns,
                ignore_patterns=_IGNORED,
            )
        )


@contextlib.contextmanager
def _told(reference: ModelReference) -> Iterator[None]:
    """Errors of the hub's library as ours."""
    try:
        from huggingface_hub.errors import (
            HfHubHTTPError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )
    except ImportError as exc:
        raise MissingExtraError("huggingface_hub", "train") from exc
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as exc:
        raise ModelError(
            f"{reference} is not in the hub's cache, and the hub cannot be reached",
            hint="check the network, and that HF_HUB_OFFLINE is not set",
        ) from exc
    except HfHubHTTPError as exc:
        raise ModelError(
            f"{reference}: the hub refused: {exc.server_message or exc}",
            hint="check the name; for a gated model log in with: hf auth login",
        ) from exc
    except Exception as exc:  # errors of httpx2 have no other base in common with the rest
        _check_environment()
        said = ": ".join(filter(None, (type(exc).__name__, str(exc))))
        raise ModelError(
            f"{reference} could not be downloaded: {said}",
            hint="run the command again (what was downloaded is kept); if that does not help, "
            "check the name, the network, the proxy and the free disk space",
        ) from exc


def _check_environment() -> None:
    """Name a proxy or certificates that are no use to httpx, and so to the hub's library.

    Raises:
        ConfigError: one of them cannot be used.
    """
    import httpx

    from ollama_bridge.client.wire.environment import reading_environment

    with reading_environment():
        httpx.Client().close()
