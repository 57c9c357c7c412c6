"""Tags on their way to other machines: a real registry between two real daemons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.disks import small_disk
from fakes.exports import Exports, modelfile_of, tiny_exports
from fakes.private_daemon import PrivateDaemon
from fakes.real_registry import PASSWORD, USER, RealRegistry
from fakes.redirect_front import redirect_front
from fakes.terminal import interrupt

from ollama_bridge.client import Client
from ollama_bridge.daemon.store import locate_blob
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import DaemonError, ParityError, RegistryError
from ollama_bridge.packaging.package import package
from ollama_bridge.publishing.papers import card
from ollama_bridge.publishing.publication import publish
from ollama_bridge.publishing.retrieval import pull, pull_through_daemon
from ollama_bridge.registration import register
from ollama_bridge.registry.session import RegistrySession
from ollama_bridge.reporting import Event, JSONLReporter, Progress
from ollama_bridge.verification import verify_tag

pytestmark = pytest.mark.live

TAG = "live-publish:latest"
ADDED = {
    f"application/vnd.ollama-bridge.{kind}+json" for kind in ("card", "certificate", "lineage")
}


@pytest.fixture(scope="module")
def registry(
    registry_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealRegistry]:
    """A registry without users."""
    with RealRegistry(registry_binary, tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def second_daemon(
    ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrivateDaemon]:
    """A second daemon, which shares nothing with the first."""
    with PrivateDaemon(tmp_path_factory.mktemp("second"), binary=ollama_binary) as running:
        yield running


@pytest.fixture
def other(second_daemon: PrivateDaemon) -> Iterator[PrivateDaemon]:
    """The second daemon, without a model."""
    yield second_daemon
    client = second_daemon.client()
    for model in client.list():
        client.delete(model.name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A random two-layer Llama with a system prompt."""
    return tiny_exports(tmp_path_factory.mktemp("publish"), seed=21, system="Be brief.")


@pytest.fixture
def run_dir(tiny: Exports, client: Client) -> Iterator[Path]:
    """A run that made the tag, from checkpoint to proof."""
    gguf, folder = tiny.gguf("f16"), tiny.folder
    register(
        gguf, modelfile_of(gguf, "Be brief."), TAG, client=client, out_dir=folder / "tags" / "t"
    )
    yield folder
    client.delete(TAG)


@dataclass
class At:
    """A reporter that does something once, when so many bytes are there."""

    size_bytes: int
    act: Callable[[], None]
    done: bool = False

    def emit(self, event: Event) -> None:
        """Look at the progress."""
        if isinstance(event, Progress) and event.done >= self.size_bytes and not self.done:
            self.done = True
            self.act()


def test_what_is_pulled_is_what_was_published(
    registry: RealRegistry,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    run_dir: Path,
    tmp_path: Path,
) -> None:
    """Same manifest, same files, proven again on the second daemon, with its papers."""
    reference = f"{registry.host}/team/tiny:1"
    published = publish(TAG, reference, run_dir=run_dir, host=daemon.host)
    assert published.way == "registry"
    assert set(published.added) == ADDED
    pulled = pull(reference, host=other.host)
    assert (pulled.tag, pulled.digest) == (reference, published.digest)
    client = other.client()
    certificate = verify_tag(reference, client=client)
    assert certificate.passed, certificate.first_failure
    assert certificate.checks[-1].numbers == {"layers": 3}
    text = card(reference, host=other.host)
    assert f"# {reference}" in text
    assert "Proven equal to its checkpoint" in text
    assert client.generate(reference, "Hi", options={"num_predict": 2}).generated_tokens
    # Everything is there already, on both ways.
    assert publish(TAG, reference, run_dir=run_dir, host=daemon.host).sent_bytes == 0
    again = pull(reference, tag="short-name", host=other.host)
    assert (again.tag, again.fetched_bytes) == ("short-name:latest", 0)
    names = {model.name for model in client.list()}
    assert names == {reference, "short-name:latest"}


@pytest.fixture
def front(registry: RealRegistry) -> Iterator[str]:
    """Where Ollama itself can pull from that registry."""
    with redirect_front(registry.host) as address:
        yield address


@pytest.mark.parametrize("way", ["ours", "daemon"])
def test_what_fails_its_proof_leaves_the_tag_as_it_was(
    registry: RealRegistry,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    run_dir: Path,
    client: Client,
    front: str,
    way: str,
) -> None:
    """The old model has the tag still, and serves; the other one is not fetched a second time."""
    _, _, name = (reference := f"{registry.host}/team/spoilt-{way}:1").partition("/")
    there = other.client()
    blobs = other.models_dir / "blobs"

    def fetch(*, verify: bool) -> str:
        if way == "ours":
            return pull(reference, tag="mine", verify=verify, host=other.host).verdict
        return pull_through_daemon(
            f"http://{front}/{name}", tag="mine", insecure=True, verify=verify, host=other.host
        ).verdict

    publish(TAG, reference, card=False, host=daemon.host)
    assert fetch(verify=True).startswith("proven equal")
    (before,) = {model.digest for model in there.list()}
    files = {path.name for path in blobs.iterdir()}
    client.create({"model": "spoilt", "from": TAG, "template": "{{ .Prompt }}?"})
    publish("spoilt", reference, card=False, host=daemon.host)
    client.delete("spoilt")
    with pytest.raises(ParityError, match=r"^mine:latest .*; the previous model keeps the tag"):
        fetch(verify=True)
    assert {model.digest for model in there.list() if model.name == "mine:latest"} == {before}
    assert not [model.name for model in there.ps() if "pulling" in model.name]
    assert there.generate("mine", "Hi", options={"num_predict": 2}).generated_tokens
    (came,) = (model.name for model in there.list() if "pulling" in model.name)
    there.delete(came)
    assert {path.name for path in blobs.iterdir()} == files
    with pytest.raises(ParityError):
        fetch(verify=True)
    asked = len(registry.asked("GET"))
    assert fetch(verify=False) == "not verified"
    paths = [line for line in registry.asked("GET")[asked:] if "/blobs/" in line]
    assert not paths
    assert not [model.name for model in there.list() if "pulling" in model.name]
    (now,) = {model.digest for model in there.list() if model.name == "mine:latest"}
    assert now != before


def test_both_ways_publish_the_same(
    registry: RealRegistry, daemon: PrivateDaemon, other: PrivateDaemon, run_dir: Path
) -> None:
    """Without layers of ours the daemon's push and our own make the same manifest."""
    ours, theirs = f"{registry.host}/team/ours:1", f"{registry.host}/team/theirs:1"
    digest = publish(TAG, ours, card=False, host=daemon.host).digest
    assert publish(TAG, theirs, way="daemon", host=daemon.host).way == "daemon"
    assert pull(theirs, host=other.host).digest == digest
    # The name that the daemon needed for its push is gone again.
    client = daemon.client()
    assert not [m.name for m in client.list() if m.name.startswith(registry.host)]
    # One that it has anyway, or that a killed push left, is not in the way and stays.
    client.copy(TAG, theirs)
    assert publish(TAG, theirs, way="daemon", host=daemon.host).way == "daemon"
    assert [m.name for m in client.list() if m.name == theirs]
    client.delete(theirs)


def test_a_store_that_cannot_be_read(
    registry: RealRegistry,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    keeps_files: bool,
) -> None:
    """The run's own files make the same model, to the byte; without them the daemon pushes."""
    if not keeps_files:
        pytest.skip("this Ollama wrote a file of its own, which the run does not have")
    reference = f"{registry.host}/team/replica:1"
    digest = publish(TAG, reference, run_dir=run_dir, host=daemon.host).digest
    monkeypatch.setattr("ollama_bridge.publishing.publication.find_manifest", lambda *_: None)
    again = publish(TAG, reference, run_dir=run_dir, host=daemon.host)
    assert (again.way, again.digest, again.sent_bytes) == ("registry", digest, 0)
    assert publish(TAG, f"{registry.host}/team/pushed:1", host=daemon.host).way == "daemon"
    assert pull(reference, host=other.host).digest == digest


def test_ollama_itself_pulls_behind_a_front(
    registry: RealRegistry, daemon: PrivateDaemon, other: PrivateDaemon, run_dir: Path
) -> None:
    """``ollama pull`` fails with this registry; behind a redirect it gets the same model."""
    name = "team/front:1"
    digest = publish(TAG, f"{registry.host}/{name}", run_dir=run_dir, host=daemon.host).digest
    client = other.client()
    with pytest.raises(DaemonError, match="no Location header"):
        client.pull(f"http://{registry.host}/{name}", insecure=True)
    with redirect_front(registry.host) as front:
        client.pull(f"http://{front}/{name}", insecure=True)
        (model,) = client.list()
        assert f"sha256:{model.digest}" == digest
        assert verify_tag(model.name, client=client).passed


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead registry is given up at once."""
    monkeypatch.setattr(RegistrySession, "pause", lambda *_: None)


@pytest.fixture
def large(client: Client, teacher_gguf: Path) -> Iterator[str]:
    """A tag of 93 MB: SmolLM2 as it is."""
    digest = f"sha256:{digest_file(teacher_gguf)}"
    client.upload_blob(teacher_gguf, digest)
    client.create({"model": "live-publish-large:latest", "files": {"model.gguf": digest}})
    yield "live-publish-large:latest"
    client.delete("live-publish-large:latest")


@pytest.mark.parametrize("forgets", [False, True])
def test_a_registry_that_is_killed_in_mid_push(
    registry_binary: Path,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    large: str,
    no_pauses: None,
    tmp_path: Path,
    forgets: bool,
) -> None:
    """One clear error and no tag; the same command goes on, or begins the file anew."""
    registry = RealRegistry(registry_binary, tmp_path / "registry")
    reference = f"{registry.host}/team/large:1"
    with registry:
        at_24_mb = At(24 * 10**6, registry.kill)
        with pytest.raises(RegistryError, match="does not answer") as caught:
            publish(large, reference, host=daemon.host, reporter=at_24_mb)
        assert caught.value.exit_code == 6
        assert caught.value.hint
        if forgets:
            registry.lose_uploads()
        registry.start()
        with pytest.raises(RegistryError, match="404"):
            pull(reference, host=other.host)
        before = len(registry.asked("PATCH"))
        published = publish(large, reference, host=daemon.host)
        chunks = len(registry.asked("PATCH")) - before
        assert chunks == (12 if forgets else 9)
        assert pull(reference, host=other.host).digest == published.digest


def test_a_registry_without_room(
    registry_binary: Path,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    large: str,
    no_pauses: None,
    tmp_path: Path,
) -> None:
    """Its disk fills up in mid-push: one clear error, and no tag there."""
    with (
        small_disk(tmp_path / "disk", size_kib=4096) as disk,
        RealRegistry(registry_binary, disk / "registry") as registry,
    ):
        reference = f"{registry.host}/team/large:1"
        with pytest.raises(RegistryError) as caught:
            publish(large, reference, host=daemon.host)
        assert caught.value.exit_code == 6
        assert caught.value.hint
        with pytest.raises(RegistryError, match="404"):
            pull(reference, host=other.host)


def test_a_pull_that_is_cut_goes_on(
    registry_binary: Path,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    large: str,
    no_pauses: None,
    tmp_path: Path,
) -> None:
    """What came is not fetched again, and no tag is there before all of it is."""
    registry = RealRegistry(registry_binary, tmp_path / "registry")
    reference = f"{registry.host}/team/large:1"
    with registry:
        publish(large, reference, host=daemon.host)
        with pytest.raises(RegistryError):
            pull(reference, host=other.host, reporter=At(24 * 10**6, registry.kill))
        assert not other.client().list()
        (partial,) = (tmp_path / "home").rglob("*.partial")
        assert partial.stat().st_size >= 24 * 10**6
        registry.start()
        told: list[int] = []
        pull(reference, host=other.host, reporter=Told(told))
        assert told[0] > 24 * 10**6
    assert not list((tmp_path / "home").rglob("sha256-*"))


def test_a_store_of_ours_gets_no_second_copy(
    registry: RealRegistry,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    large: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a large file: it needs its room once. The model is the same."""
    reference = f"{registry.host}/team/linked:1"
    published = publish(large, reference, host=daemon.host)
    monkeypatch.setenv("OLLAMA_MODELS", str(other.models_dir))
    before = other.log_path.stat().st_size
    assert pull(reference, host=other.host).digest == published.digest
    client = other.client()
    blob = locate_blob(client, reference)
    assert blob.path is not None
    assert f"sha256:{digest_file(blob.path)}" == blob.digest
    log = other.log_path.read_text(encoding="utf-8")[before:].splitlines()
    assert not [line for line in log if "POST" in line and blob.digest in line]
    assert client.generate(reference, "Hi", options={"num_predict": 2}).generated_tokens


def test_ctrl_c_on_the_way(
    registry: RealRegistry, daemon: PrivateDaemon, other: PrivateDaemon, large: str, tmp_path: Path
) -> None:
    """Exit code 130, no traceback and no tag, there or here; the same command goes on."""
    reference = f"{registry.host}/team/interrupted:1"
    before = len(registry.asked("PATCH"))
    interrupt(
        *("publish", large, reference),
        when=lambda: len(registry.asked("PATCH")) >= before + 2,
        waits=False,
        OLLAMA_HOST=daemon.host,
    )
    with pytest.raises(RegistryError, match="404"):
        pull(reference, host=other.host)
    published = publish(large, reference, host=daemon.host)
    interrupt(
        *("pull", reference),
        when=lambda: any((tmp_path / "home").rglob("sha256-*")),
        waits=False,
        OLLAMA_HOST=other.host,
    )
    assert not other.client().list()
    assert pull(reference, host=other.host).digest == published.digest


@dataclass
class Told:
    """A reporter that keeps how many bytes were there."""

    done: list[int]

    def emit(self, event: Event) -> None:
        """Keep it."""
        if isinstance(event, Progress):
            self.done.append(event.done)


def test_a_registry_with_users(
    registry_binary: Path,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody gets in without the password, which stands in no error, event or file of ours."""
    events = tmp_path / "home" / "events.jsonl"
    with (
        JSONLReporter(events) as reporter,
        RealRegistry(registry_binary, tmp_path / "registry", private=True) as registry,
    ):
        reference = f"{registry.host}/team/tiny:1"
        with pytest.raises(RegistryError, match="asks for a user") as caught:
            publish(TAG, reference, host=daemon.host)
        assert "OLLAMA_BRIDGE_REGISTRY_USER" in (caught.value.hint or "")
        monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY_USER", USER)
        monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY_PASSWORD", "wrong horse")
        with pytest.raises(RegistryError, match="401") as caught:
            publish(TAG, reference, host=daemon.host, reporter=reporter)
        assert "wrong horse" not in f"{caught.value} {caught.value.hint}"
        monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY_PASSWORD", PASSWORD)
        published = publish(TAG, reference, run_dir=run_dir, host=daemon.host, reporter=reporter)
        pulled = pull(reference, host=other.host, reporter=reporter)
        assert pulled.digest == published.digest
        # The daemon knows no password, and says so.
        with pytest.raises(DaemonError):
            publish(TAG, reference, way="daemon", host=daemon.host)
    assert "StageFailed" in events.read_text()
    for file in (tmp_path / "home").rglob("*"):
        assert file.is_dir() or b" horse" not in file.read_bytes()


def test_weights_of_another_repository_are_mounted(
    registry: RealRegistry, daemon: PrivateDaemon, run_dir: Path
) -> None:
    """The same registry needs the same file once."""
    publish(TAG, f"{registry.host}/team/base:1", card=False, host=daemon.host)
    before = len(registry.asked("PUT"))
    publish(
        TAG, f"{registry.host}/team/mounted:1", card=False, mount_from="team/base", host=daemon.host
    )
    assert len(registry.asked("PUT")) == before + 1  # the manifest


def test_papers_of_another_model_are_told_from_its_own(
    registry: RealRegistry, daemon: PrivateDaemon, other: PrivateDaemon, run_dir: Path
) -> None:
    """A model made FROM a published one inherits its card, which verify does not believe."""
    reference = f"{registry.host}/team/papers:1"
    published = publish(TAG, reference, run_dir=run_dir, host=daemon.host)
    pull(reference, host=other.host)
    # Whoever publishes elsewhere what another made hands its papers on.
    mirrored = publish(reference, f"{registry.host}/team/mirror:1", host=other.host)
    assert mirrored.digest == published.digest
    client = other.client()
    client.create({"model": "made-from", "from": reference, "parameters": {"num_ctx": 256}})
    certificate = verify_tag("made-from", client=client)
    assert not certificate.checks[-1].passed
    assert certificate.checks[-1].layer == "provenance"
    assert "Not known here" in card("made-from", host=other.host)
    # Published again, it has papers of its own, and none of the other's.
    again = f"{registry.host}/team/papers:2"
    assert publish("made-from", again, host=other.host).added == (
        "application/vnd.ollama-bridge.card+json",
    )
    pull(again, host=other.host)
    assert verify_tag(again, client=client).checks[-1].passed


def test_package_and_publish_in_one_verb(
    registry: RealRegistry,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """From a folder that was trained elsewhere to a tag on another machine, with its lineage."""
    reference = f"{registry.host}/team/packaged:1"
    licence = tmp_path / "LICENCE"
    licence.write_text("Do what you like.")
    model = package(
        str(tiny_checkpoint),
        "live-publish-packaged",
        gguf_type="f16",
        publish_to=reference,
        license_file=licence,
        host=daemon.host,
    )
    daemon.client().delete(model.tag)
    pull(reference, host=other.host)
    assert verify_tag(reference, client=other.client()).passed
    text = card(reference, host=other.host)
    assert "| convert | gguf |" in text
    assert "> Do what you like." in text
    assert str(tiny_checkpoint.parent) not in text


def test_command_line(
    registry: RealRegistry,
    daemon: PrivateDaemon,
    other: PrivateDaemon,
    run_dir: Path,
    tmp_path: Path,
) -> None:
    """``publish``, ``pull`` and ``card``, with a licence of the user's own."""
    licence = tmp_path / "LICENCE"
    licence.write_text("Do what you like.\n")
    reference = f"{registry.host}/team/cli:1"

    def run(host: str, *args: str) -> str:
        env = {**os.environ, "OLLAMA_HOST": host}
        done = subprocess.run(
            [sys.executable, "-m", "ollama_bridge", *args],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run(daemon.host, "publish", TAG, reference, "--license", str(licence), "--json")
    digest = json.loads(said)["digest"]
    pulled = run(other.host, "pull", reference, "--as", "from-cli", "--quiet")
    assert pulled.startswith(f"from-cli:latest: {digest}, proven equal")
    assert "> Do what you like." in run(other.host, "card", "from-cli")
    assert "Do what you like." in other.client().show("from-cli").raw["license"]
