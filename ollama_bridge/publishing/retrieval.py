"""Pulls a model from a registry into the daemon, and leaves it there exactly as it was published.

Ollama's own pull fails with Docker's registry, because it wants a ``Location`` on every file
(ollama#7244). Here the files are fetched and checked, linked into the daemon's store where that is
a folder of ours, else uploaded, and the manifest is handed to it by a registry on loopback.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client
from ollama_bridge.client.model_names import find_model
from ollama_bridge.daemon.ensure import ensure_daemon
from ollama_bridge.daemon.layout import state_dir
from ollama_bridge.daemon.locks import hold_lock
from ollama_bridge.daemon.placement import FileState, place_blob
from ollama_bridge.daemon.tags import replace_tag
from ollama_bridge.digests import digest_text
from ollama_bridge.errors import (
    ConfigError,
    DaemonError,
    GGUFError,
    OllamaBridgeError,
    RegistryContentError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.modelfile import check_tag
from ollama_bridge.publishing.pull_names import (
    HANDED,
    kept_names,
    pull_aside,
    remove_leftovers,
    restore,
)
from ollama_bridge.publishing.pull_proof import UNPROVEN, PullProof
from ollama_bridge.registry.credentials import read_credentials
from ollama_bridge.registry.download import (
    PARTIAL,
    blob_name,
    check_room,
    fetch_blob,
    fetch_manifest,
)
from ollama_bridge.registry.front import manifest_front
from ollama_bridge.registry.manifest import Manifest, digest_bytes
from ollama_bridge.registry.reference import RegistryReference, parse_registry_reference
from ollama_bridge.registry.session import RegistrySession
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, Timed, tell_bytes
from ollama_bridge.run_folder import tag_file_name
from ollama_bridge.storage.artifacts import Work
from ollama_bridge.storage.drafts import open_draft

_STAGE = "pull"
# Below it, looking for the daemon's store takes longer than the upload.
_WORTH_LINKING_BYTES = 1024**2
_LONGEST_PULL_S = 24 * 3600.0
_SHOWN = (
    "was shown the credentials in the environment; to show them to one registry only: export "
    "OLLAMA_BRIDGE_REGISTRY=HOST"
)


@dataclass(frozen=True)
class Pulled:
    """What was pulled.

    Attributes:
        digest: Of its manifest: the registry's and the daemon's are the same.
        fetched_bytes: Of those that the daemon did not have yet; None: it fetched them itself, and
            does not say.
        verdict: Of its proof here, in words.
    """

    tag: str
    digest: str
    size_bytes: int
    fetched_bytes: int | None
    verdict: str = UNPROVEN


def pull(
    reference: str,
    *,
    tag: str | None = None,
    out_dir: str | Path | None = None,
    insecure: bool = False,
    verify: bool = False,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> Pulled:
    """Pull a model into the daemon.

    An interrupted call goes on where it was when it is made again. The tag appears when every file
    is there and checked, and the model proven; until then an older one of that name stays.

    Args:
        reference: Where it is: ``REGISTRY/NAMESPACE/NAME:TAG``.
        tag: Its name in the daemon; None: the reference, as ``ollama pull`` names it.
        out_dir: Folder for files on their way; None: ``downloads`` in our home folder.
        insecure: Speak plain http to a registry of another machine.
        verify: Prove what is served by the values that it carries, if it carries some.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        reporter: Hears of progress.

    Raises:
        ConfigError: a name, a credential or a proxy that cannot be used, or a daemon on another
            machine or in a container.
        RegistryError: no such model, or the registry refuses or breaks off.
        RegistryContentError: what it sent is not what its manifest promised, or no sound GGUF.
        DiskFullError: no room; what came is kept.
        DaemonError: the daemon did not take it.
        ParityError: it does not serve its checkpoint here; the tag is as it was.
    """
    out_dir = Path(out_dir) if out_dir is not None else None
    source = parse_registry_reference(reference, insecure=insecure)
    tag = check_tag(tag or str(source))
    reporter = reporter or NullReporter()
    folder = (out_dir or home_dir() / "downloads").absolute() / tag_file_name(str(source))
    credentials = read_credentials(source.host)
    session = RegistrySession(source, actions="pull", credentials=credentials)
    with Timed(reporter, _STAGE) as timer, session:
        try:
            manifest, raw = fetch_manifest(session)
        finally:
            if session.showed_secret and not credentials.registry and not source.loopback:
                reporter.emit(Note(_STAGE, "warning", f"{source.host} {_SHOWN}"))
        daemon = ensure_daemon(reporter=reporter, host=host)
        with Client(daemon.host) as client:
            _check_reach(client, source)
            for name in dict.fromkeys((str(source), tag)):
                # A home without locks is told of now, too, not behind hours of fetching.
                with _alone(name, reporter) as key:
                    restore(client, name, key, reporter)
            fetched_bytes = _fill(client, session, manifest, folder, reporter)
            proof = PullProof(client, tag, _STAGE, reporter) if verify else None
            digest, verdict = _hand_over(client, tag, manifest, raw, proof, reporter)
        timer.finish(Path(tag), {"digest": digest, "fetched_bytes": fetched_bytes})
        return Pulled(tag, digest, manifest.size_bytes, fetched_bytes, verdict)


def pull_through_daemon(
    reference: str,
    *,
    tag: str | None = None,
    out_dir: Path | None = None,
    insecure: bool = False,
    verify: bool = False,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> Pulled:
    """Let the daemon pull a model, from the registries that it can read.

    Args and errors are those of :func:`pull`; ``reference`` may be ``NAME:TAG`` alone, and files
    on their way lie in the daemon's own store.

    Raises:
        ConfigError: a folder for files on their way was named.
    """
    if out_dir is not None:
        raise ConfigError(
            "unfinished downloads are kept where the daemon has its models", hint="leave out --out"
        )
    pulled = check_tag(reference.rpartition("://")[2])
    tag = check_tag(tag or pulled)
    reporter = reporter or NullReporter()
    with Timed(reporter, _STAGE) as timer:
        daemon = ensure_daemon(reporter=reporter, host=host)
        with Client(daemon.host) as client:
            proof = PullProof(client, tag, _STAGE, reporter) if verify else None
            fetch = functools.partial(
                client.pull,
                reference,
                insecure=insecure,
                on_progress=tell_bytes(reporter, _STAGE),
            )
            verdict = UNPROVEN
            with _alone(pulled, reporter) as key:
                old, new, aside = (f"{HANDED}:{key}-{part}" for part in ("old", "new", "as"))
                restore(client, pulled, key, reporter)
                if proof is None:
                    fetch()
                else:
                    pull_aside(client, pulled, fetch, old, new)
                    verdict = proof.of(new)
                    replace_tag(client, new, pulled, aside=aside)
                if tag != pulled:
                    replace_tag(client, pulled, tag, aside=aside)
                with contextlib.suppress(OllamaBridgeError):
                    remove_leftovers(client, key)
            found = find_model(client.list(), tag)
        if found is None:
            raise DaemonError(
                f"the daemon pulled {reference}, but does not list {tag}",
                hint="ollama-bridge ls",
                model=tag,
            )
        digest = _with_algorithm(found.digest)
        timer.finish(Path(tag), {"digest": digest})
        return Pulled(tag, digest, found.size_bytes, None, verdict)


def _check_reach(client: Client, source: RegistryReference) -> None:
    """Have the daemon ask for what there is not, before anything is fetched for it.

    Raises:
        ConfigError: its 127.0.0.1 is not ours.
    """
    with manifest_front(HANDED, "none", None) as front:
        with contextlib.suppress(RequestRejectedError, RunnerCrashedError):
            client.pull(front.name, insecure=True)
        if not front.asked:
            raise ConfigError(
                "the daemon cannot fetch the manifest from 127.0.0.1 of this machine: is it on "
                "another one, in a container, or behind a tunnel?",
                hint=f"run it there: ollama-bridge pull {source}; "
                "or let the daemon fetch it: --through daemon",
            )


def _fill(
    client: Client,
    session: RegistrySession,
    manifest: Manifest,
    folder: Path,
    reporter: Reporter,
) -> int:
    """Give the daemon every file that it lacks; returns how many bytes that were."""
    missing = [layer for layer in manifest.blobs if not client.has_blob(layer.digest)]
    opened = manifest.opened
    total_bytes = sum(layer.size_bytes for layer in missing)
    done_bytes = 0

    def tell(now_bytes: int) -> None:
        reporter.emit(Progress(_STAGE, done_bytes + now_bytes, total_bytes, "bytes"))

    # A draft that is never committed: resumed by the same work, and locked against another's.
    # Not by its manifest: one that was published anew may have the same weights.
    work = Work("download", _STAGE, 1, inputs={"reference": str(session.reference)})
    with open_draft(folder, work) as draft:
        present_bytes = _keep(draft.path, {blob_name(layer.digest) for layer in missing})
        check_room(draft.path, total_bytes - present_bytes)
        earlier = {file.name for file in draft.path.iterdir()}
        for layer in missing:
            path = fetch_blob(session, layer, draft.path, on_bytes=tell)
            if layer.digest in opened:
                _check_gguf(path, session, reporter)
            # What was hashed just now needs no second copy, where the daemon's store is ours.
            just_hashed = path.name not in earlier and layer.size_bytes >= _WORTH_LINKING_BYTES
            state = FileState.of(path)
            if not just_hashed or not place_blob(client, path, layer.digest, state=state):
                client.upload_blob(path, layer.digest)
            path.unlink()
            done_bytes += layer.size_bytes
            tell(0)
        shutil.rmtree(draft.path)
    return total_bytes


def _keep(folder: Path, names: Collection[str]) -> int:
    """Remove what an earlier pull left of other files; returns how many bytes stay."""
    present_bytes = 0
    for file in folder.iterdir():
        if file.name.removesuffix(PARTIAL) in names:
            present_bytes += file.stat().st_size
        elif file.name.startswith("sha256-"):
            file.unlink()
    return present_bytes


def _check_gguf(path: Path, session: RegistrySession, reporter: Reporter) -> None:
    """Never hand a daemon a file that could harm it, whoever published it.

    Raises:
        RegistryContentError: no GGUF, or one that claims what is not in it; nothing of it is kept.
    """
    try:
        from ollama_bridge.models.gguf.reader import read_gguf
    except ImportError:
        missing = "the gguf package is not installed: the daemon gets the file as it was published"
        reporter.emit(Note(_STAGE, "warning", missing))
        return
    try:
        read_gguf(path)
    except GGUFError as exc:
        path.unlink()
        raise RegistryContentError(
            f"registry {session.reference.host} has a damaged or hostile GGUF as "
            f"{session.reference}: {exc.message}",
            hint="ask who published it to publish it again; the daemon was not given the file",
        ) from exc


def _hand_over(
    client: Client,
    tag: str,
    manifest: Manifest,
    raw: bytes,
    proof: PullProof | None,
    reporter: Reporter,
) -> tuple[str, str]:
    """Make the tag of files that the daemon has; returns its manifest's digest and the verdict."""
    with _alone(tag, reporter) as key, manifest_front(HANDED, key, raw) as front:
        restore(client, tag, key, reporter)
        # Whatever stops it, the name stays until the next attempt: files that no name is of are
        # dropped by the daemon.
        try:
            client.pull(front.name, insecure=True)
        except (RequestRejectedError, RunnerCrashedError) as error:
            raise DaemonError(
                f"the daemon does not accept what was fetched: {error.message}",
                model=tag,
                hint="run the same command again: another pull that ended may have removed files",
            ) from error
        remove_leftovers(client, key, but=(front.name, kept_names(key)))
        verdict = proof.of(front.name) if proof else UNPROVEN
        replace_tag(client, front.name, tag, aside=f"{HANDED}:{key}-as")
        with contextlib.suppress(OllamaBridgeError):
            remove_leftovers(client, key)
    # Daemons before 0.34 write what they understood of it.
    accepted = {digest_bytes(content) for content in (raw, manifest.to_bytes())}
    digest = _digest_of(client, tag)
    if digest is None or digest not in accepted:
        raise DaemonError(
            f"the daemon has {digest or 'nothing'} under {tag} instead of what was pulled",
            model=tag,
            hint="run the same command again",
        )
    return digest, verdict


def _digest_of(client: Client, tag: str) -> str | None:
    found = find_model(client.list(), tag)
    return None if found is None else _with_algorithm(found.digest)


def _with_algorithm(digest: str) -> str:
    """As registries spell it; daemons list the number alone."""
    return f"sha256:{digest.removeprefix('sha256:')}"


@contextlib.contextmanager
def _alone(tag: str, reporter: Reporter) -> Iterator[str]:
    """Let others that pull a tag wait; gives what its names in the meantime have in them."""
    key = digest_text(tag.casefold())[:16]
    waits = Note(_STAGE, "info", f"waiting: another process pulls {tag}")
    with hold_lock(
        state_dir() / f".pull-{key}.lock",
        limit_s=_LONGEST_PULL_S,
        doing=f"pulling {tag}",
        on_wait=lambda: reporter.emit(waits),
    ):
        yield key
