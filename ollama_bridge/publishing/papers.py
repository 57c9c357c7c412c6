"""The papers of a tag: its model card, certificate and lineage, as it carries them or made here.

A paper that a tag carries counts where it was written for that very model. One that is made here
says what our folders know of the tag, and so does the card in the folder of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from ollama_bridge.client import Client
from ollama_bridge.daemon.store import find_manifest
from ollama_bridge.daemon.tags import model_digest
from ollama_bridge.errors import ConfigError
from ollama_bridge.modelfile import check_tag
from ollama_bridge.publishing.card import is_as_written, model_card
from ollama_bridge.publishing.provenance import Provenance, find_provenance
from ollama_bridge.registry.attachments import attach, media_type_of, own_papers, read_attachments
from ollama_bridge.registry.manifest import Layer, Manifest, parse_manifest
from ollama_bridge.registry.upload import Blob
from ollama_bridge.reporting import Note, NullReporter, Reporter
from ollama_bridge.storage.atomic_files import write_text_atomic

CARD_NAME = "card.md"  # in the folder of a run

_LICENSE_LIMIT_BYTES = 1024**2


def card(
    tag: str,
    *,
    run_dir: Path | None = None,
    license_file: Path | None = None,
    host: str | None = None,
) -> str:
    """The model card of a tag, in Markdown: that which it carries, else what our folders know.

    It is written anew where a run or a licence to add is given.

    Raises:
        ConfigError: a name or a file that cannot be used, or a run that did not make this tag.
        DaemonError: the daemon has no such tag.
        ArtifactError: the card that the tag carries is damaged.
    """
    tag, license_text = check_tag(tag), read_license(license_file)
    with Client(host) as client:
        carried = None if run_dir or license_text else _carried_card(tag, client)
        if carried is not None:
            return carried
        provenance = find_provenance(model_digest(client, tag), run_dir=run_dir)
        return model_card(
            tag, client.show(tag), provenance, license_text=license_text, published=False
        )


def write_card(
    tag: str, run_dir: Path, *, host: str | None = None, reporter: Reporter | None = None
) -> None:
    """Write the card of a tag beside what it was made of, as ``card.md``.

    A ``card.md`` that was not written here, or was changed since, stays as it is.

    Raises:
        DaemonError: the daemon does not have the tag any more.
        DiskFullError: no room.
    """
    reporter, path = reporter or NullReporter(), run_dir / CARD_NAME
    if not _is_ours(path):
        shown = f"ollama-bridge card {tag} --run {quote(str(run_dir))}"
        if host is not None:
            shown += f" --host {quote(host)}"
        kept = (
            f"{path} was written or changed by you and is kept; {shown} prints the card of this run"
        )
        reporter.emit(Note("card", "warning", kept))
        return
    write_text_atomic(path, card(tag, run_dir=run_dir, host=host))
    reporter.emit(Note("card", "info", f"the model card is {path}"))


def _is_ours(path: Path) -> bool:
    """Whether a file may be replaced: there is none, or it is as it was written here."""
    try:
        return is_as_written(path.read_bytes().decode(errors="replace"))
    except FileNotFoundError:
        return True
    except OSError:  # a folder, or what may not be read
        return False


def _carried_card(tag: str, client: Client) -> str | None:
    stored = find_manifest(client, tag)
    if stored is None:
        return None
    manifest = parse_manifest(stored.content, where=tag)
    for found in read_attachments(manifest, stored.read):
        if found.kind == "card" and found.belongs_to(manifest):
            # Written by who knows whom: it shall not steer a terminal.
            return "".join(c for c in str(found.content) if c.isprintable() or c in "\n\t")
    return None


def carried_papers(manifest: Manifest, blobs: Sequence[Blob]) -> list[Blob]:
    """Card, certificate and lineage that a tag has of who made it; not those of another model."""
    by_digest = {blob.layer.digest: blob for blob in blobs}

    def read(digest: str) -> bytes:
        blob = by_digest[digest]
        return blob.read(0, blob.layer.size_bytes)

    papers = own_papers(manifest, read)
    return [replace(by_digest[layer.digest], layer=layer) for layer in papers]


def is_card(layer: Layer) -> bool:
    """Whether a layer is a model card."""
    return layer.media_type == media_type_of("card")


def new_papers(
    tag: str, manifest: Manifest, provenance: Provenance, card_text: str, reporter: Reporter
) -> list[Blob]:
    """Card, certificate and lineage, as far as our folders know them."""
    certificate = provenance.certificate
    found = [attach(manifest, "card", card_text)]
    if certificate is None:
        message = f"no run here made this {tag}: its card has neither proof nor scores"
        reporter.emit(Note("publish", "warning", message))
        return found
    if not certificate.passed:
        reporter.emit(Note("publish", "warning", f"{tag}: {certificate.verdict}"))
    found.append(attach(manifest, "certificate", certificate.model_dump(mode="json")))
    found.append(attach(manifest, "lineage", provenance.to_json()))
    return found


def read_license(path: Path | None) -> str:
    """The text of a licence; of none, nothing.

    Raises:
        ConfigError: it cannot be read, is empty, or too long.
    """
    if path is None:
        return ""
    try:
        if path.stat().st_size > _LICENSE_LIMIT_BYTES:
            raise ConfigError(f"{path} is too long for a licence", hint="name a text file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read the licence {path}: {exc}", hint="check the path") from exc
    if not text.strip():
        raise ConfigError(f"the licence {path} is empty", hint="check the path")
    return text
