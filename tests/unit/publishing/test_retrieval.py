"""From a registry into a daemon, as far as no real one is needed."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn, nobody_listens
from fakes.registry import REFERENCE, MemoryRegistry, asks_for, layer_of
from fakes.serving import small_reference

from ollama_bridge.digests import digest_text
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    DaemonError,
    DaemonInstallError,
    ParityError,
    RegistryContentError,
    RegistryError,
)
from ollama_bridge.packaging.package import package
from ollama_bridge.publishing.publication import check_publication, publish
from ollama_bridge.publishing.retrieval import Pulled, pull, pull_through_daemon
from ollama_bridge.reference import REFERENCE_KEY
from ollama_bridge.registry.front import manifest_front
from ollama_bridge.registry.manifest import CONFIG_TYPE, LICENSE_TYPE, Layer, Manifest, digest_bytes
from ollama_bridge.registry.session import RegistrySession
from ollama_bridge.reporting import Event, Note, NullReporter, Progress


def test_the_front_knows_one_manifest() -> None:
    """And nothing else."""
    with manifest_front("ns/m", "1", b"{}") as front:
        host, _, rest = front.name.partition("/")
        assert rest == "ns/m:1"
        assert not front.asked
        base = f"http://{host}/v2/ns/m"
        assert httpx.get(f"{base}/manifests/1", trust_env=False).content == b"{}"
        assert httpx.head(f"{base}/manifests/1", trust_env=False).headers["Content-Length"] == "2"
        for path in ("manifests/2", "blobs/sha256:" + "0" * 64, "../../etc/passwd"):
            assert httpx.get(f"{base}/{path}", trust_env=False).status_code == 404


def test_a_daemon_in_a_container_is_said_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its port is on loopback, and its own 127.0.0.1 is another."""
    registry = MemoryRegistry()
    registry.manifests["1"] = Manifest(
        layer_of(b"{}", CONFIG_TYPE), (registry.store(b"weights"),)
    ).to_bytes()
    monkeypatch.setattr(
        "ollama_bridge.publishing.retrieval.RegistrySession", lambda *_, **__: registry.session()
    )
    refused = [{"error": "dial tcp 127.0.0.1:1: connect: connection refused"}]
    with FakeDaemon(contained=True, statuses=refused) as daemon:
        with pytest.raises(ConfigError, match="on another one, in a container") as caught:
            pull(str(REFERENCE), host=daemon.host)
        assert not daemon.blobs
    assert "--through daemon" in (caught.value.hint or "")
    assert not [path for path in registry.paths("GET") if "blobs" in path]


@pytest.mark.parametrize(
    "reference", ["m", "ghcr.io/../m:1", "ghcr.io/team/m:../x", "http://box:1/team/m:1"]
)
def test_names_that_lead_elsewhere(reference: str) -> None:
    """Are refused before anybody is asked."""
    with FakeDaemon() as daemon:
        with pytest.raises(ConfigError):
            pull(reference, host=daemon.host)
        with pytest.raises(ConfigError):
            publish("m", reference, host=daemon.host)
        assert not daemon.asked
    with pytest.raises(ConfigError):
        pull("ghcr.io/team/m:1", tag="../../x", host=daemon.host)


@pytest.mark.parametrize("reference", ["team/m:1", "http://box:1/team/m:1", "box:1/Team/m:1"])
def test_package_tells_a_wrong_name_first(reference: str, tmp_path: Path) -> None:
    """Not after the checkpoint was converted and proven."""
    with pytest.raises(ConfigError, match=r"registry|encrypted|lower-case"):
        package(str(tmp_path / "no-checkpoint"), "m", publish_to=reference)


@pytest.mark.parametrize("host", ["ollama.com", "Registry.Ollama.ai"])
def test_no_licence_is_added_where_the_daemon_pushes(host: str, tmp_path: Path) -> None:
    """It sends a tag as it is: the licence has to be the tag's own."""
    licence = tmp_path / "LICENCE"
    licence.write_text("Do what you like.")
    with (
        FakeDaemon() as daemon,
        pytest.raises(ConfigError, match="cannot add a licence") as caught,
    ):
        publish("m", f"{host}/me/m:1", license_file=licence, host=daemon.host)
    assert "package --license" in (caught.value.hint or "")


@pytest.mark.parametrize("reference", ["registry.example.com/me/m", "https://localhost:5443/me/m"])
def test_certificates_that_cannot_be_used(
    reference: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of a private authority count on this machine, too; so what is no file is told.

    Where none are needed it hinders nothing.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="certificates of SSL_CERT_FILE="):
        check_publication(reference)
    check_publication("localhost:5000/me/m")


def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Told before anything is fetched, or made to be published."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with FakeDaemon() as daemon, pytest.raises(ConfigError, match="cannot be used"):
        pull("registry.example.com/team/m:1", host=daemon.host)
    with pytest.raises(ConfigError, match="cannot be used"):
        package(str(tmp_path / "no-checkpoint"), "m", publish_to="registry.example.com/team/m:1")


def test_a_registry_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One error with its hint; nothing is left behind."""
    monkeypatch.setattr(RegistrySession, "pause", lambda *_: None)
    with FakeDaemon() as daemon, pytest.raises(RegistryError, match="does not answer") as caught:
        pull(f"{nobody_listens()}/team/m:1", host=daemon.host)
    assert caught.value.hint
    assert not (tmp_path / "home" / "downloads").exists()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.HTML_PAGE, "manifest is not JSON"),
        (Fault.BUSY, "answered 503"),
        (Fault.HANG_UP, "broke off"),
    ],
)
def test_what_is_no_registry(monkeypatch: pytest.MonkeyPatch, fault: Fault, reason: str) -> None:
    """A proxy, a busy server, a dead one: one error each, and the daemon was asked for nothing."""
    monkeypatch.setattr(RegistrySession, "pause", lambda *_: None)
    with (
        FakeDaemon() as daemon,
        FakeDaemon(fault=fault) as registry,
        pytest.raises(RegistryError, match=reason),
    ):
        pull(f"{registry.host}/team/m:1", host=daemon.host)
    assert not daemon.asked


UNPROVABLE = {
    "modelfile": f"FROM /models/blobs/sha256-{'a' * 64}",
    "model_info": {REFERENCE_KEY: small_reference().to_json(), "general.file_type": 999},
}


class Puller(FakeDaemon):
    """Makes a tag of what it pulls, if that is anywhere."""

    def ask_registry(self, name: str) -> None:
        """What is elsewhere has a digest of its own."""
        host, _, rest = name.partition("/")
        digest = "f" * 64
        if host.startswith("127.0.0.1:"):
            repository, _, tag = rest.rpartition(":")
            reply = httpx.get(f"http://{host}/v2/{repository}/manifests/{tag}", trust_env=False)
            if reply.status_code != 200:
                return
            digest = hashlib.sha256(reply.content).hexdigest()
        self.models[self.full_tag(name) or name] = digest


@pytest.fixture
def unprovable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Puller]:
    """A daemon that has ``mine``, and shows everything as what cannot be proven."""
    registry = MemoryRegistry()
    config, card = b"{}", b"card"
    registry.blobs = {digest_bytes(one): one for one in (config, card)}
    manifest = Manifest(layer_of(config, CONFIG_TYPE), (layer_of(card, LICENSE_TYPE),))
    registry.manifests["1"] = manifest.to_bytes()
    monkeypatch.setattr(
        "ollama_bridge.publishing.retrieval.RegistrySession", lambda *_, **__: registry.session()
    )
    with Puller(models={"mine:latest": "e" * 64}, shown=UNPROVABLE) as daemon:
        yield daemon


Fetch = Callable[..., Pulled]
WAYS = pytest.mark.parametrize("fetch", [pull, pull_through_daemon])


@WAYS
def test_what_is_not_proven_leaves_the_tag_as_it_was(unprovable: Puller, fetch: Fetch) -> None:
    """And gets none: neither where the tag is another than the reference, nor a new one.

    Its files keep a name, which the hint says, until it is pulled without a proof: then it gets
    the tag, and a model that has the same tag is replaced.
    """
    reference, before = str(REFERENCE), dict(unprovable.models)
    with pytest.raises(ParityError, match="mine:latest is of type") as caught:
        fetch(reference, tag="mine", verify=True, host=unprovable.host)
    assert "the previous model keeps the tag" in caught.value.message
    assert "--no-verify" in (caught.value.hint or "")
    with pytest.raises(ParityError, match=f"{reference} is of type") as caught:
        fetch(reference, verify=True, host=unprovable.host)
    came = set(unprovable.models) - set(before)
    assert (caught.value.hint or "").endswith(tuple(f"ollama-bridge rm {name}" for name in came))
    assert {
        name: unprovable.models[name] for name in unprovable.models if name not in came
    } == before
    fetch(reference, host=unprovable.host)
    assert unprovable.models.pop(reference)
    pulled = fetch(reference, tag="mine", host=unprovable.host)
    assert pulled.verdict == "not verified"
    assert f"sha256:{unprovable.models['mine:latest']}" == pulled.digest
    assert pulled.digest != f"sha256:{before['mine:latest']}"


def test_what_the_daemon_replaced_comes_back(unprovable: Puller) -> None:
    """Its own pull gives the tag away; it is back before the proof begins."""
    seen: list[str] = []

    def look(asked: Asked) -> Turn:
        if asked.path == "/api/show":
            seen.append(unprovable.models["mine:latest"])
        return Turn()

    unprovable.turn = look  # type: ignore[method-assign]
    with pytest.raises(ParityError):
        pull_through_daemon("mine", verify=True, host=unprovable.host)
    assert unprovable.models["mine:latest"] == "e" * 64
    assert seen
    assert set(seen) == {"e" * 64}
    assert not [name for name in unprovable.models if name.endswith("-old")]


def test_the_only_name_of_the_old_model_is_not_given_away(unprovable: Puller) -> None:
    """Where it could not be given its tag back, nothing is copied over it: the next pull does."""
    refuses = True

    def refuse(asked: Asked) -> Turn:
        back = asked.path == "/api/copy" and asked.json["source"].endswith("-old")
        return Turn(fault=Fault.HANG_UP if back and refuses else None)

    unprovable.turn = refuse  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(DaemonError, match="what mine:latest was is there as") as caught:
            pull_through_daemon("mine", verify=True, host=unprovable.host)
        (old,) = (name for name in unprovable.models if name.endswith("-old"))
        assert unprovable.models[old] == "e" * 64
        assert f"ollama-bridge cp {old} mine:latest" in (caught.value.hint or "")
    refuses = False
    with pytest.raises(ParityError):
        pull_through_daemon("mine", verify=True, host=unprovable.host)
    assert unprovable.models["mine:latest"] == "e" * 64
    assert old not in unprovable.models


def test_a_pull_of_our_own_gives_back_what_ollama_s_replaced(unprovable: Puller) -> None:
    """Killed in the moment between, and done anew the other way: the old model has one name."""
    reference = str(REFERENCE)
    unprovable.models[reference] = "e" * 64

    def refuse(asked: Asked) -> Turn:
        back = asked.path == "/api/copy" and asked.json["source"].endswith("-old")
        return Turn(fault=Fault.HANG_UP if back else None)

    unprovable.turn = refuse  # type: ignore[method-assign]
    with pytest.raises(DaemonError, match="is there as"):
        pull_through_daemon(reference, verify=True, host=unprovable.host)
    assert unprovable.models[reference] == "f" * 64
    unprovable.turn = lambda _: Turn()  # type: ignore[method-assign]
    with pytest.raises(ParityError, match="is of type"):
        pull(reference, verify=True, host=unprovable.host)
    assert unprovable.models[reference] == "e" * 64


@WAYS
@pytest.mark.parametrize("since", ["replaced", "the same", "removed"])
def test_what_a_tag_was_made_since_a_killed_pull_stays(
    unprovable: Puller, fetch: Fetch, since: str
) -> None:
    """The model of before has a name until another pull succeeds; it goes over nothing newer."""
    reference, notes = str(REFERENCE), list[str]()

    class Notes(NullReporter):
        def emit(self, event: Event) -> None:
            notes.extend([event.message] if isinstance(event, Note) else [])

    key = digest_text(reference.casefold())[:16]
    old, kept = (f"ollama-bridge/pulling:{key}-{part}" for part in ("old", "kept"))
    unprovable.models[old] = "b" * 64  # as a kill leaves it, while Ollama fetched
    if since != "removed":
        unprovable.models[reference] = "c" * 64 if since == "replaced" else "b" * 64
    with pytest.raises(ParityError):
        fetch(reference, tag="mine", verify=True, host=unprovable.host, reporter=Notes())
    assert unprovable.models[reference] == ("c" if since == "replaced" else "b") * 64
    assert old not in unprovable.models
    assert (kept in unprovable.models) == (since == "replaced")
    assert any(f"{kept} until it is pulled" in one for one in notes) == (since == "replaced")
    fetch(reference, host=unprovable.host)
    assert not [name for name in unprovable.models if key in name]


@WAYS
def test_a_pull_that_is_killed_twice_loses_none_of_the_models_that_the_tag_was(
    unprovable: Puller, fetch: Fetch
) -> None:
    """The first has its name already when the second is found: all three stay until a pull ends."""
    reference = str(REFERENCE)
    key = digest_text(reference.casefold())[:16]
    old = f"ollama-bridge/pulling:{key}-old"
    for before, now in ("ab", "bc"):  # as a kill leaves it, while Ollama fetched
        unprovable.models |= {old: before * 64, reference: now * 64}
        with pytest.raises(ParityError):
            fetch(reference, tag="mine", verify=True, host=unprovable.host)
    assert {one * 64 for one in "abc"} <= set(unprovable.models.values())
    fetch(reference, host=unprovable.host)
    assert not [name for name in unprovable.models if key in name]


def test_a_first_pull_has_no_tag_until_it_is_proven(
    unprovable: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the daemon fetches, and the proof is stopped."""
    monkeypatch.setattr("ollama_bridge.publishing.pull_proof.verify_tag", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pull_through_daemon("another:latest", verify=True, host=unprovable.host)
        (came,) = set(unprovable.models) - {"mine:latest"}
        assert "pulling" in came


@WAYS
def test_values_that_cannot_be_read_take_no_second_download(
    unprovable: Puller, fetch: Fetch
) -> None:
    """A newer version wrote them: the hint says how to have the model."""
    unprovable.shown = {**UNPROVABLE, "model_info": {REFERENCE_KEY: '{"schema_version": 99}'}}
    with pytest.raises(
        ArtifactError,
        match=r"^the values that would prove mine:latest .*the previous model keeps the tag",
    ) as caught:
        fetch(str(REFERENCE), tag="mine", verify=True, host=unprovable.host)
    assert "--no-verify" in (caught.value.hint or "")
    assert len(unprovable.models) == 2


def interrupt(*_: object, **__: object) -> None:
    """Stand in for whoever presses Ctrl-C."""
    raise KeyboardInterrupt


def test_a_home_that_cannot_be_locked_is_told_before_anything_is_fetched(
    unprovable: Puller, tmp_path: Path
) -> None:
    """Also where files on their way lie elsewhere."""
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "daemon").touch()  # no folder can be made there
    with pytest.raises(DaemonInstallError, match="cannot write"):
        pull(str(REFERENCE), out_dir=tmp_path / "out", host=unprovable.host)
    assert not unprovable.blobs


def test_files_that_another_pull_took_away(unprovable: Puller) -> None:
    """The daemon dropped them with the other's name: who asks again gets them."""
    unprovable.statuses = [{"error": "max retries exceeded: file does not exist"}]
    with pytest.raises(DaemonError, match="does not accept what was fetched") as caught:
        pull(str(REFERENCE), host=unprovable.host)
    assert "run the same command again" in (caught.value.hint or "")


def test_this_machine_by_a_name_of_its_own(
    unprovable: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which address is its own, a daemon knows that fetches from 127.0.0.1."""
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args, **named: look_up("127.0.0.1", *args, **named)
    )
    named = unprovable.host.replace("127.0.0.1", "box.example")
    assert pull(str(REFERENCE), host=named).tag == str(REFERENCE)


@WAYS
def test_who_stops_the_proof_need_not_fetch_again(
    unprovable: Puller, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files without a name are dropped by the daemon; the old model has its tag all the same."""
    with monkeypatch.context() as patch:
        patch.setattr("ollama_bridge.publishing.pull_proof.verify_tag", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(str(REFERENCE), tag="mine", verify=True, host=unprovable.host)
    assert unprovable.models.pop("mine:latest") == "e" * 64
    assert len(unprovable.models) == 1  # what came
    fetch(str(REFERENCE), host=unprovable.host)
    assert len(unprovable.models) <= 2


def test_the_same_weights_of_a_tag_that_was_published_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What came before the interruption is not fetched again; what is not needed goes."""
    weights, old, config = b"weights" * 100, b"old card", b"{}"
    registry = MemoryRegistry()
    first, *others = (layer_of(one, LICENSE_TYPE) for one in (weights, old, b"new card"))
    registry.blobs = {digest_bytes(one): one for one in (weights, old, b"new card", config)}

    def publish_with(card: Layer) -> None:
        manifest = Manifest(layer_of(config, CONFIG_TYPE), (card, first))
        registry.manifests["1"] = manifest.to_bytes()

    class Interrupted(NullReporter):
        def emit(self, event: Event) -> None:
            if isinstance(event, Progress) and event.done >= event.total - len(config):
                raise KeyboardInterrupt

    monkeypatch.setattr(
        "ollama_bridge.publishing.retrieval.RegistrySession", lambda *_, **__: registry.session()
    )
    with FakeDaemon() as daemon:
        publish_with(others[0])
        with pytest.raises(KeyboardInterrupt):
            pull(str(REFERENCE), host=daemon.host, reporter=Interrupted())
        (partial,) = (tmp_path / "home").rglob("sha256-*")
        partial.with_name(f"sha256-{'0' * 64}").touch()
        publish_with(others[1])
        with contextlib.suppress(DaemonError):  # this daemon makes no tag of it
            pull(str(REFERENCE), host=daemon.host)
        assert {first.digest, others[1].digest} <= set(daemon.blobs)
    asked = [path.rpartition("/")[2] for path in registry.paths("GET")]
    assert asked.count(first.digest) == 1
    assert not list((tmp_path / "home").rglob("sha256-*"))


@pytest.mark.parametrize("also", [None, LICENSE_TYPE])
def test_a_hostile_gguf_is_not_given_to_the_daemon(
    monkeypatch: pytest.MonkeyPatch, also: str | None
) -> None:
    """Right by its digest, wrong by what it claims: told before a byte of it is uploaded.

    Nor where the manifest lists the same file a second time, as something that nobody opens.
    """
    weights, config = b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), b"{}"
    registry = MemoryRegistry()
    registry.blobs[digest_bytes(config)] = config
    layers = [registry.store(weights), *([layer_of(weights, also)] if also else [])]
    manifest = Manifest(layer_of(config, CONFIG_TYPE), tuple(layers))
    registry.manifests["1"] = manifest.to_bytes()
    monkeypatch.setattr(
        "ollama_bridge.publishing.retrieval.RegistrySession", lambda *_, **__: registry.session()
    )
    with FakeDaemon() as daemon, pytest.raises(RegistryContentError, match="hostile GGUF"):
        pull(str(REFERENCE), host=daemon.host)
    assert digest_bytes(weights) not in daemon.blobs


@pytest.mark.parametrize("named", [True, False])
def test_who_was_shown_the_credentials_is_told(
    monkeypatch: pytest.MonkeyPatch, *, named: bool
) -> None:
    """Any registry may ask for them; unless they were said to be for this one, it is told."""
    monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY_TOKEN", "t0ken")
    if named:
        monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY", REFERENCE.host)
    registry = MemoryRegistry(
        fault=lambda request: (
            None if "Authorization" in request.headers else asks_for('Basic realm="x"')
        )
    )
    monkeypatch.setattr(
        "ollama_bridge.publishing.retrieval.RegistrySession",
        lambda _, *, credentials, **__: registry.session(credentials=credentials),
    )
    notes: list[str] = []

    class Notes(NullReporter):
        def emit(self, event: Event) -> None:
            notes.extend([event.message] if isinstance(event, Note) else [])

    with pytest.raises(RegistryError, match="404"):  # whatever it answers then
        pull(str(REFERENCE), host=nobody_listens(), reporter=Notes())
    assert [REFERENCE.host in note for note in notes] == ([] if named else [True])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("none", None, "cannot read"), ("empty", b" \n", "is empty"), ("binary", b"\xff", "cannot")],
)
def test_licences_that_are_none(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    """Told before anything is sent."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        publish("m", "localhost:1/team/m:1", license_file=path)


def test_a_daemon_whose_files_cannot_be_read_pushes_itself() -> None:
    """Under the registry's name, which it has for the time of the push only."""
    with FakeDaemon() as daemon:
        done = publish("m", "localhost:5000/team/m:1", host=daemon.host)
        assert done.way == "daemon"
        asked = [one.path for one in daemon.asked]
        assert asked[-3:] == ["/api/copy", "/api/push", "/api/delete"]
        (pushed,) = [one.json for one in daemon.asked if one.path == "/api/push"]
        assert pushed["insecure"] is True
        assert set(daemon.models) == {"m:latest"}


def test_capital_letters_are_for_ollama_s_own_registry_alone() -> None:
    """No other can have such a repository, nor one to take files from."""
    with FakeDaemon() as daemon:
        with pytest.raises(ConfigError, match="lower-case letters"):
            publish("m", "localhost:5000/Team/m:1", host=daemon.host)
        with pytest.raises(ConfigError, match="lower-case letters"):
            publish("m", "localhost:5000/team/m:1", mount_from="Team/base", host=daemon.host)
        assert not daemon.asked
        assert publish("m", "Registry.Ollama.ai/Me/M:1", host=daemon.host).way == "daemon"


def test_a_failed_push_leaves_no_name(tmp_path: Path) -> None:
    """Whatever the registry says to the daemon."""
    with FakeDaemon(statuses=[{"error": "unauthorized: access denied"}]) as daemon:
        with pytest.raises(Exception, match="access denied"):
            publish("m", "localhost:5000/team/m:1", host=daemon.host)
        assert set(daemon.models) == {"m:latest"}


@pytest.mark.parametrize(
    ("listed", "reference"),
    [
        ("localhost:5000/team/m:1", "localhost:5000/team/m:1"),
        ("me/M:1", "registry.ollama.ai/me/m:1"),
        ("x:latest", "registry.ollama.ai/library/x"),
    ],
)
def test_a_name_that_is_another_model_s_is_left_alone(listed: str, reference: str) -> None:
    """The daemon may have something under the registry's name, however it lists it."""
    with FakeDaemon() as daemon:
        daemon.models[listed] = "e" * 64
        with pytest.raises(ConfigError, match="already has") as caught:
            publish("m", reference, host=daemon.host)
        assert f"ollama-bridge publish {listed} {reference}" in (caught.value.hint or "")
        assert daemon.models == {"m:latest": "d" * 64, listed: "e" * 64}


@pytest.mark.parametrize("tag", ["me/m:1", "mine"])
@pytest.mark.parametrize("statuses", [[{"status": "success"}], [{"error": "unauthorized"}]])
def test_the_registry_s_name_of_the_same_model_stays(
    tag: str, statuses: list[dict[str, str]]
) -> None:
    """Ollama's own registry stands in no name that is listed: it would have been deleted.

    Also where a killed push left the name, and where the registry refuses.
    """
    models = {tag: "e" * 64} if "/" in tag else {"Me/M:1": "e" * 64, "mine:latest": "e" * 64}
    with FakeDaemon(models=dict(models), statuses=statuses) as daemon:
        with contextlib.suppress(DaemonError):
            publish(tag, "registry.ollama.ai/me/m:1", host=daemon.host)
        paths = [one.path for one in daemon.asked]
        assert paths[-1] == "/api/push"
        assert not {"/api/copy", "/api/delete"} & set(paths)
        assert daemon.models == models
