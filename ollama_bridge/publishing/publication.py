"""Publishes a tag to a registry, with its model card, certificate and lineage as layers.

The direct way reads the daemon's own files and speaks to the registry itself: it goes on where it
was interrupted, knows passwords and tokens, and can add layers. Where the daemon's store cannot be
read, its files are made again from the artefacts of the tag; where that fails too, or the registry
is Ollama's own, the daemon pushes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client
from ollama_bridge.daemon.push import push_as
from ollama_bridge.daemon.store import StoredManifest, find_manifest
from ollama_bridge.daemon.tags import model_digest
from ollama_bridge.errors import ArtifactError, ConfigError, DaemonError
from ollama_bridge.modelfile import check_tag
from ollama_bridge.publishing.card import model_card
from ollama_bridge.publishing.papers import carried_papers, is_card, new_papers, read_license
from ollama_bridge.publishing.provenance import Provenance, find_provenance
from ollama_bridge.publishing.replica import rebuild
from ollama_bridge.registry.attachments import small_blob
from ollama_bridge.registry.credentials import read_credentials
from ollama_bridge.registry.manifest import (
    LICENSE_TYPE,
    Layer,
    Manifest,
    parse_manifest,
)
from ollama_bridge.registry.reference import (
    RegistryReference,
    check_repository,
    parse_registry_reference,
)
from ollama_bridge.registry.session import RegistrySession
from ollama_bridge.registry.unfinished import UploadRecords
from ollama_bridge.registry.upload import (
    Blob,
    is_present,
    push_blob,
    push_manifest,
)
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, Timed, tell_bytes

Way = Literal["auto", "registry", "daemon"]

_STAGE = "publish"
# They know Ollama's own keys only, which are the daemon's to use.
_OLLAMA_HOSTS = ("ollama.com", "registry.ollama.ai")


@dataclass(frozen=True)
class Publication:
    """What was published.

    Attributes:
        reference: Where it is: ``REGISTRY/NAMESPACE/NAME:TAG``.
        way: Who sent it: ``registry`` (directly) or ``daemon``.
        digest: Of its manifest, which fixes all of its files; None: the daemon sent it, and does
            not say. So also of the next two.
        size_bytes: Of all files.
        sent_bytes: Of what was sent by this call; what the registry had, or took from another
            repository, is not.
        added: Media types of the layers that the daemon's own tag does not have.
    """

    reference: str
    way: Way
    digest: str | None = None
    size_bytes: int | None = None
    sent_bytes: int | None = None
    added: tuple[str, ...] = ()


def publish(
    tag: str,
    reference: str,
    *,
    way: Way = "auto",
    run_dir: str | Path | None = None,
    license_file: str | Path | None = None,
    card: bool = True,
    mount_from: str | None = None,
    insecure: bool = False,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> Publication:
    """Publish a tag of the daemon to a registry.

    An interrupted call goes on where it was when it is made again. The manifest, which makes the
    published tag, is sent last. The daemon's own tag stays as it is.

    Args:
        tag: A tag of the daemon.
        reference: Where to: ``REGISTRY/NAMESPACE/NAME:TAG``.
        way: ``registry``: directly; ``daemon``: let the daemon push; ``auto``: directly where its
            files can be read.
        run_dir: Run that made the tag, for the card; None: it is looked for in our home folder.
        license_file: Text to add as licence, beside those that the tag has.
        card: Add card, certificate and lineage, as far as known here. Those that the tag carries
            already are kept where we have no others; those of another model never.
        mount_from: ``NAMESPACE/NAME`` of the same registry that may have the weights already.
        insecure: Speak plain http to a registry of another machine.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        reporter: Hears of progress.

    Raises:
        ConfigError: a name, a credential, a proxy or a file that cannot be used.
        DaemonError: the daemon has no such tag, or could not push it.
        ArtifactError: its files are damaged.
        RegistryError: the registry refuses or breaks off.
    """
    run_dir = Path(run_dir) if run_dir is not None else None
    license_file = Path(license_file) if license_file is not None else None
    tag, target = check_tag(tag), _target(reference, insecure=insecure)
    if mount_from is not None:
        mount_from = _target(f"{target.host}/{mount_from}", insecure=insecure).repository
    license_text = read_license(license_file)
    reporter = reporter or NullReporter()
    with Timed(reporter, _STAGE) as timer, Client(host) as client:
        digest = model_digest(client, tag)
        provenance = find_provenance(digest, run_dir=run_dir)
        files = None if way == "daemon" else _files_of(tag, digest, client, provenance)
        if way == "auto":
            way = "daemon" if files is None or _is_ollamas(target) else "registry"
            if way == "daemon":
                reporter.emit(Note(_STAGE, "warning", "the daemon pushes: no layers are added"))
        if way == "daemon":
            _refuse_license(license_text)
            done = _have_pushed(client, tag, digest, target, reporter)
        elif files is None:
            raise ArtifactError(
                f"the files of {tag} are not on this machine, or cannot be read",
                hint="let the daemon push: --through daemon; or set OLLAMA_MODELS to its folder",
            )
        else:
            added = [small_blob(LICENSE_TYPE, license_text.encode())] if license_text else []
            if not card or provenance.certificate is None:
                added += carried_papers(*files)
            if card and not any(is_card(blob.layer) for blob in added):
                text = model_card(
                    str(target), client.show(tag), provenance, license_text=license_text
                )
                added += new_papers(tag, files[0], provenance, text, reporter)
            done = _send(target, *files, added, mount_from, reporter)
        timer.finish(Path(str(target)), {"digest": done.digest, "sent_bytes": done.sent_bytes})
        return done


def publish_command(
    tag: str, reference: str, *, run_dir: Path, insecure: bool = False, host: str | None = None
) -> str:
    """The command that publishes a tag which is there, with the card of the run that made it."""
    command = f"ollama-bridge publish {tag} {quote(reference)}"
    if run_dir.parent != home_dir() / "runs":  # else it is found by the tag
        command += f" --run {quote(str(run_dir))}"
    if insecure:
        command += " --insecure"
    return f"{command} --host {quote(host)}" if host else command


def check_publication(reference: str, *, insecure: bool = False) -> None:
    """Tell what would stop :func:`publish`, before the work that comes before it is done.

    Raises:
        ConfigError: a name, a credential or a proxy that cannot be used.
    """
    with _session(_target(reference, insecure=insecure)):
        pass


def _target(reference: str, *, insecure: bool) -> RegistryReference:
    target = parse_registry_reference(reference, insecure=insecure)
    if not _is_ollamas(target):
        check_repository(target)
    return target


def _is_ollamas(target: RegistryReference) -> bool:
    return target.host.lower() in _OLLAMA_HOSTS


def _files_of(
    tag: str, digest: str, client: Client, provenance: Provenance
) -> tuple[Manifest, list[Blob]] | None:
    """Manifest and files of a tag: the daemon's own, else made again; None: neither is to be had.

    Raises:
        ArtifactError: the daemon's files are damaged.
        DaemonError: the tag is another model than a moment ago, which ``provenance`` is of.
    """
    stored = find_manifest(client, tag)
    if stored is None:
        return rebuild(provenance, client.show(tag), digest)
    if stored.digest != digest:
        raise DaemonError(
            f"{tag} was replaced while it was being published",
            hint="run the same command again",
            model=tag,
        )
    manifest = parse_manifest(stored.content, where=tag)
    return manifest, [_stored_blob(stored, layer, tag) for layer in manifest.blobs]


def _have_pushed(
    client: Client, tag: str, digest: str, target: RegistryReference, reporter: Reporter
) -> Publication:
    """Let the daemon send it."""
    tell = tell_bytes(reporter, _STAGE)
    push_as(client, tag, str(target), digest=digest, insecure=target.plain, on_progress=tell)
    return Publication(str(target), "daemon")


def _send(
    target: RegistryReference,
    manifest: Manifest,
    blobs: Sequence[Blob],
    added: Sequence[Blob],
    mount_from: str | None,
    reporter: Reporter,
) -> Publication:
    """Every file that the registry lacks, then the manifest."""
    published = manifest.without_paths().with_layers(blob.layer for blob in added)
    by_digest = {blob.layer.digest: blob for blob in (*blobs, *added)}
    records = UploadRecords(home_dir() / "uploads")
    done_bytes = sent_bytes = 0

    def tell(now_bytes: int) -> None:
        reporter.emit(Progress(_STAGE, done_bytes + now_bytes, published.size_bytes, "bytes"))

    with _session(target) as session:
        for layer in published.blobs:
            if not is_present(session, layer.digest):
                blob = by_digest[layer.digest]
                sent_bytes += push_blob(
                    session, blob, records=records, on_bytes=tell, mount_from=mount_from
                )
            done_bytes += layer.size_bytes
            tell(0)
        digest = push_manifest(session, published)
    own = {layer.digest for layer in manifest.layers}
    return Publication(
        str(target),
        "registry",
        digest,
        published.size_bytes,
        sent_bytes,
        tuple(layer.media_type for layer in published.layers if layer.digest not in own),
    )


def _session(target: RegistryReference) -> RegistrySession:
    credentials = read_credentials(target.host)
    return RegistrySession(target, actions="pull,push", credentials=credentials)


def _stored_blob(stored: StoredManifest, layer: Layer, tag: str) -> Blob:
    path = stored.blob_path(layer.digest)
    size_bytes = path.stat().st_size if path.is_file() else None
    if size_bytes != layer.size_bytes:
        raise ArtifactError(
            f"{path} of {tag} "
            + ("is missing" if size_bytes is None else f"has {size_bytes} bytes")
            + f"; its manifest says {layer.size_bytes} bytes",
            hint=f"the model in Ollama is damaged: ollama rm {tag}, then pull or create it again",
        )
    return Blob(layer, path)


def _refuse_license(text: str) -> None:
    if text:
        raise ConfigError(
            "the daemon pushes a tag as it is, and cannot add a licence",
            hint="leave --license out, or give it to the tag: ollama-bridge package --license",
        )
