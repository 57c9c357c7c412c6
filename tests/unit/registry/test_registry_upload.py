"""Uploads: in chunks, and on where they stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fakes.registry import MemoryRegistry, asks_for, layer_of, manifest_of, refusal, token_reply

from ollama_bridge.errors import (
    ArtifactError,
    RegistryBusyError,
    RegistryError,
)
from ollama_bridge.registry import upload
from ollama_bridge.registry.session import Limits
from ollama_bridge.registry.unfinished import Unfinished, UploadRecords
from ollama_bridge.registry.upload import (
    Blob,
    is_present,
    push_blob,
    push_manifest,
)

MIB = 1024**2
UPLOAD = "/v2/team/model/blobs/uploads/0"
CONTENT = bytes(range(256)) * 10  # 2,560 bytes: 5 chunks of 500 and a rest


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    """A file of six chunks."""
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return Blob(layer_of(CONTENT), path)


@pytest.fixture
def records(tmp_path: Path) -> UploadRecords:
    """Records in a folder of their own."""
    return UploadRecords(tmp_path / "uploads")


def push(
    registry: MemoryRegistry,
    blob: Blob,
    records: UploadRecords,
    mount_from: str | None = None,
    chunk_bytes: int = 500,
) -> list[int]:
    """Send a file; returns what was told of the progress."""
    told: list[int] = []
    with registry.session() as session:
        push_blob(
            session,
            blob,
            records=records,
            on_bytes=told.append,
            mount_from=mount_from,
            chunk_bytes=chunk_bytes,
        )
    return told


def begin(registry: MemoryRegistry, blob: Blob, records: UploadRecords) -> None:
    """Send the first 1,000 bytes of a file, as an earlier command that was stopped there."""
    registry.uploads["0"] = CONTENT[:1000]
    with registry.session() as session:
        at = Unfinished(f"{session.reference.origin}{UPLOAD}")
        records.write(session, blob.layer.digest, at)


def cut(at: int) -> object:
    """A network that is gone from one chunk on."""

    def fault(request: httpx.Request) -> None:
        if request.method == "PATCH" and request.headers["Content-Range"].startswith(f"{at}-"):
            raise httpx.ConnectError("Connection refused")

    return fault


def test_in_chunks(blob: Blob, records: UploadRecords, tmp_path: Path) -> None:
    """Every byte once; nothing is remembered of what is finished."""
    registry = MemoryRegistry()
    assert push(registry, blob, records) == [500, 1000, 1500, 2000, 2500, 2560, 2560]
    assert registry.blobs == {blob.layer.digest: CONTENT}
    assert not list((tmp_path / "uploads").iterdir())


def test_small_files_in_two_requests(records: UploadRecords) -> None:
    """What fits in a chunk is sent with the closing request; also nothing at all."""
    for content in (b"small", b""):
        registry = MemoryRegistry()
        push(registry, Blob(layer_of(content), content=content), records)
        assert registry.blobs == {layer_of(content).digest: content}
        assert [request.method for request in registry.asked] == ["POST", "PUT"]


def test_a_later_command_goes_on(blob: Blob, records: UploadRecords, tmp_path: Path) -> None:
    """From the byte that the registry has, in the same upload."""
    registry = MemoryRegistry(fault=cut(1500))  # type: ignore[arg-type]
    with pytest.raises(RegistryBusyError, match="does not answer") as caught:
        push(registry, blob, records)
    assert caught.value.hint
    assert registry.uploads == {"0": CONTENT[:1500]}
    (record,) = (tmp_path / "uploads").iterdir()
    assert record.stat().st_mode & 0o077 == 0
    registry.fault = None
    registry.asked.clear()
    assert push(registry, blob, records)[0] == 1500
    assert registry.paths("POST") == []
    assert registry.blobs[blob.layer.digest] == CONTENT


@pytest.mark.parametrize(
    ("case", "sent_bytes"), [("new", 2560), ("resumed", 1560), ("lost", 2560), ("mounted", 0)]
)
def test_what_was_sent_is_counted(
    blob: Blob, records: UploadRecords, case: str, sent_bytes: int
) -> None:
    """Not what an earlier command sent, nor what the registry took from another repository."""
    registry = MemoryRegistry(elsewhere={blob.layer.digest: CONTENT} if case == "mounted" else {})
    if case == "resumed":
        registry.uploads["0"] = CONTENT[:1000]
    with registry.session() as session:
        if case in ("resumed", "lost"):
            at = Unfinished(f"{session.reference.origin}{UPLOAD}")
            records.write(session, blob.layer.digest, at)
        told = push_blob(
            session,
            blob,
            records=records,
            on_bytes=lambda _: None,
            mount_from="team/base",
            chunk_bytes=500,
        )
    assert told == sent_bytes


def test_a_cut_within_one_command(blob: Blob, records: UploadRecords) -> None:
    """Asks how much arrived, and sends what did not: also of a chunk that arrived in half."""
    cuts = iter([700, 1200])
    registry = MemoryRegistry()

    def fault(request: httpx.Request) -> None:
        if request.method == "PATCH" and len(registry.uploads["0"]) == 500:
            end = next(cuts, None)
            if end == 700:
                registry.uploads["0"] += request.content[:200]
                raise httpx.WriteError("Broken pipe")

    registry.fault = fault
    push(registry, blob, records)
    assert registry.blobs[blob.layer.digest] == CONTENT
    assert len(registry.paths("POST")) == 1


def test_a_lost_upload_begins_anew(blob: Blob, records: UploadRecords) -> None:
    """The registry forgot it: restarted, or it lost the half of a chunk."""
    registry = MemoryRegistry(fault=cut(1000))  # type: ignore[arg-type]
    with pytest.raises(RegistryError):
        push(registry, blob, records)
    registry.uploads.clear()
    registry.fault = None
    push(registry, blob, records)
    assert registry.blobs[blob.layer.digest] == CONTENT


@pytest.mark.parametrize("status", [405, 500, 501])
@pytest.mark.parametrize("when", ["later", "at once"])
def test_a_status_that_no_registry_has_to_answer(
    blob: Blob, records: UploadRecords, status: int, when: str
) -> None:
    """The upload begins anew, in the same command and in a later one."""
    cuts = 1 if when == "at once" else 0

    def fault(request: httpx.Request) -> httpx.Response | None:
        nonlocal cuts
        if request.method == "GET":
            return refusal(status, "UNSUPPORTED", "no such request")
        if request.method == "PATCH" and cuts and len(registry.asked) > 2:
            cuts -= 1
            raise httpx.ReadError("Connection reset by peer")
        return None

    registry = MemoryRegistry(fault=fault)
    if when == "later":
        with registry.session() as session:
            lost = f"{session.reference.origin}/v2/team/model/blobs/uploads/9"
            records.write(session, blob.layer.digest, Unfinished(lost))
    push(registry, blob, records)
    assert registry.blobs[blob.layer.digest] == CONTENT
    assert len(registry.paths("GET")) <= 3


def test_two_faults_at_the_status_lose_nothing(blob: Blob, records: UploadRecords) -> None:
    """It is asked again, twice: what was sent is there."""
    faults = iter([500, 500])

    def fault(request: httpx.Request) -> httpx.Response | None:
        status = next(faults, None) if request.method == "GET" else None
        return None if status is None else refusal(status, "UNKNOWN", "for a moment")

    registry = MemoryRegistry(fault=fault)
    registry.uploads["0"] = CONTENT[:1000]
    with registry.session() as session:
        at = Unfinished(f"{session.reference.origin}{UPLOAD}")
        records.write(session, blob.layer.digest, at)
    assert push(registry, blob, records)[0] == 1000


@pytest.mark.parametrize(("status", "problem"), [(401, "401"), (503, "503"), (None, "certificate")])
def test_an_upload_is_not_forgotten_for_a_moment(
    blob: Blob, records: UploadRecords, status: int | None, problem: str
) -> None:
    """A registry that is busy, or lets nobody in for now, still has what it was sent.

    So it has behind a captive portal, which answers in its place.
    """

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.method != "GET":
            return None
        if status is None:
            raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
        return refusal(status, "X", "x")

    registry = MemoryRegistry(fault=fault)
    begin(registry, blob, records)
    with pytest.raises(RegistryError, match=problem):
        push(registry, blob, records)
    registry.fault = None
    assert push(registry, blob, records)[0] == 1000


def test_a_dying_registry_is_given_up(blob: Blob, records: UploadRecords) -> None:
    """Attempts without progress are counted, and end."""

    def fault(request: httpx.Request) -> httpx.Response | None:
        return refusal(503, "UNAVAILABLE", "disk full") if request.method == "PATCH" else None

    registry = MemoryRegistry(fault=fault)
    with pytest.raises(RegistryBusyError, match="UNAVAILABLE disk full"):
        push(registry, blob, records)
    assert len(registry.paths("PATCH")) == 4


def test_a_registry_that_always_forgets_is_given_up(blob: Blob, records: UploadRecords) -> None:
    """One that takes a chunk and loses it, again and again."""
    registry = MemoryRegistry()

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.method == "PATCH" and not request.headers["Content-Range"].startswith("0-"):
            registry.uploads["0"] = b""
            return refusal(500, "UNKNOWN", "lost")
        return None

    registry.fault = fault
    with pytest.raises(RegistryBusyError):
        push(registry, blob, records)
    assert len(registry.paths("PATCH")) <= 40


def test_a_registry_without_room_is_not_filled_again_and_again(
    blob: Blob, records: UploadRecords
) -> None:
    """It ends an upload in the middle and frees the room, so that the next comes as far again."""
    registry = MemoryRegistry()

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.headers.get("Content-Range", "").startswith("2000-"):
            registry.uploads.clear()
            return refusal(500, "UNKNOWN", "no space left on device")
        return None

    registry.fault = fault
    large = Blob(replace(blob.layer, size_bytes=40 * MIB), blob.path)  # what attempts are by
    with pytest.raises(RegistryBusyError, match="no space left") as caught:
        push(registry, large, records)
    assert "disk full" in (caught.value.hint or "")
    assert len(registry.paths("POST")) == 5


def test_a_registry_that_forgets_takes_a_file_on_a_bad_line(
    blob: Blob, records: UploadRecords
) -> None:
    """What comes a chunk further each time is progress, however often it begins anew."""
    ends = iter([1000, 500, 1500, 1500, 1000, 2000, 2500])
    registry, end = MemoryRegistry(), next(ends)

    def fault(request: httpx.Request) -> None:
        nonlocal end
        if request.headers.get("Content-Range", "").startswith(f"{end}-"):
            registry.uploads.clear()
            end = next(ends, -1)
            raise httpx.WriteError("Broken pipe")

    registry.fault = fault
    push(registry, blob, records)
    assert registry.blobs[blob.layer.digest] == CONTENT
    assert end == -1


@pytest.mark.parametrize("answer", [500, 504, "none"])
def test_a_file_that_arrived_though_no_answer_said_so(
    blob: Blob, records: UploadRecords, answer: int | str
) -> None:
    """A proxy gives up before the registry has checked a large file: it is not sent again."""
    registry = MemoryRegistry()

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.method != "PUT":
            return None
        registry.store(registry.uploads.pop("0") + request.content)
        if answer == "none":
            raise httpx.ReadTimeout("timed out")
        return refusal(int(answer), "UNKNOWN", "")

    registry.fault = fault
    assert push(registry, blob, records)[-1] == len(CONTENT)
    assert registry.blobs[blob.layer.digest] == CONTENT
    assert len(registry.paths("POST")) == 1


def test_it_waits_as_long_as_it_is_asked_to(
    blob: Blob, records: UploadRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lets nobody begin for a while says for how long."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    busy = iter([httpx.Response(429, headers={"Retry-After": "20"}), httpx.Response(503)])
    registry = MemoryRegistry(fault=lambda _: next(busy, None))
    with registry.session(limits=Limits()) as session:
        push_blob(session, blob, records=records, on_bytes=lambda _: None)
    assert pauses == [20.0, 2.0]


@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_a_refusal_is_not_repeated(blob: Blob, records: UploadRecords, status: int) -> None:
    """Who is not let in is not asked again."""

    def fault(request: httpx.Request) -> httpx.Response | None:
        return refusal(status, "DENIED", "no") if request.method == "PATCH" else None

    registry = MemoryRegistry(fault=fault)
    with pytest.raises(RegistryError) as caught:
        push(registry, blob, records)
    assert caught.value.status_code == status
    assert len(registry.paths("PATCH")) == 1


def test_a_token_that_expires_in_mid_push(blob: Blob, records: UploadRecords) -> None:
    """Is renewed, also where an upload is gone on with; nothing is sent twice."""
    registry, made = MemoryRegistry(), 0

    def fault(request: httpx.Request) -> httpx.Response | None:
        nonlocal made
        if request.url.host == "auth.example.com":
            made += 1
            return token_reply(f"token-{made}")
        expired = made == 0 or (made == 1 and request.method == "PATCH")
        if expired or request.headers.get("Authorization") != f"Bearer token-{made}":
            return asks_for('Bearer realm="https://auth.example.com/token"')
        return None

    begin(registry, blob, records)
    registry.fault = fault
    assert push(registry, blob, records)[0] == 1000
    assert made == 2
    assert registry.blobs[blob.layer.digest] == CONTENT


def test_mount(blob: Blob, records: UploadRecords) -> None:
    """A file of another repository is not sent; where the registry has none, it is."""
    registry = MemoryRegistry(elsewhere={blob.layer.digest: CONTENT})
    assert push(registry, blob, records, "team/base") == [2560]
    assert [request.method for request in registry.asked] == ["POST"]
    assert registry.asked[0].url.params["from"] == "team/base"
    registry = MemoryRegistry()
    push(registry, blob, records, "team/base")
    assert registry.blobs[blob.layer.digest] == CONTENT


@pytest.mark.parametrize("grants", ["both", "its own", "none of two"])
def test_mount_where_tokens_are_used(blob: Blob, records: UploadRecords, grants: str) -> None:
    """A token for both repositories is asked for; where there is none, the file is sent."""
    registry = MemoryRegistry(elsewhere={blob.layer.digest: CONTENT})
    own, other = "repository:team/model:pull,push", "repository:team/base:pull"

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "auth.example.com":
            scopes = request.url.params.get_list("scope")
            if grants == "none of two" and len(scopes) > 1:
                return refusal(401, "DENIED", "no such repository")
            return token_reply("+".join(scopes if grants == "both" else scopes[:1]))
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ").split("+")
        wanted = {own, other} if "from" in request.url.params else {own}
        may = wanted <= set(shown)
        return None if may else asks_for('Bearer realm="https://auth.example.com/token"')

    registry.fault = fault
    told = push(registry, blob, records, "team/base")
    assert registry.blobs[blob.layer.digest] == CONTENT
    assert (told == [2560]) == (grants == "both")


@pytest.mark.parametrize("status", [403, 404])
def test_a_repository_that_nothing_may_be_taken_from(
    blob: Blob, records: UploadRecords, status: int
) -> None:
    """The file is sent: an option that saves bytes stops nothing."""

    def fault(request: httpx.Request) -> httpx.Response | None:
        mounts = "from" in request.url.params
        return refusal(status, "NAME_UNKNOWN", "repository name not known") if mounts else None

    registry = MemoryRegistry(fault=fault)
    push(registry, blob, records, "team/base")
    assert registry.blobs[blob.layer.digest] == CONTENT


@pytest.mark.parametrize(
    ("least", "steps"),
    [("2000", [2000, 2560, 2560]), ("9" * 5000, [500, 1000, 1500, 2000, 2500, 2560, 2560])],
)
def test_a_registry_may_want_larger_chunks(
    blob: Blob, records: UploadRecords, least: str, steps: list[int]
) -> None:
    """OCI-Chunk-Min-Length is respected, within reason."""
    registry = MemoryRegistry()

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.method != "POST":
            return None
        registry.fault = None
        answer = registry(request)
        answer.headers["OCI-Chunk-Min-Length"] = least
        return answer

    registry.fault = fault
    assert push(registry, blob, records) == steps


def sizes(registry: MemoryRegistry) -> list[int]:
    """Of what was sent with each request that sends some of a file."""
    return [len(one.content) for one in registry.asked if one.method in ("PATCH", "PUT")]


@pytest.mark.parametrize("status", [413, 416])
@pytest.mark.parametrize("size_bytes", [3 * MIB, 5 * MIB])
def test_a_registry_may_want_smaller_chunks(
    records: UploadRecords, status: int, size_bytes: int
) -> None:
    """GitHub's takes 4 MiB and says 416, a proxy often 1 MiB; also where one chunk is the file."""
    content = bytes(size_bytes)
    registry = MemoryRegistry(chunk_limit=(status, MIB))
    push(registry, Blob(layer_of(content), content=content), records, chunk_bytes=4 * MIB)
    assert registry.blobs == {layer_of(content).digest: content}
    first = min(size_bytes, 4 * MIB)
    assert sizes(registry) == [first, 2 * MIB, *([MIB] * (size_bytes // MIB)), 0]


@pytest.mark.parametrize("status", [413, 416])
def test_chunks_become_no_smaller_than_sense(records: UploadRecords, status: int) -> None:
    """Who takes not even those gets an end, and says why."""
    content = bytes(3 * MIB)
    registry = MemoryRegistry(chunk_limit=(status, 1000))
    with pytest.raises(RegistryError, match="body is too large") as caught:
        push(registry, Blob(layer_of(content), content=content), records, chunk_bytes=2 * MIB)
    assert sizes(registry)[0] == 2 * MIB
    assert set(sizes(registry)[1:]) == {MIB}
    assert caught.value.hint or status == 416


def test_attempts_end_where_the_last_one_was_of_too_large_a_chunk(
    records: UploadRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one is gone on with in smaller ones, and does not make their number endless."""
    content = bytes(3 * MIB)
    monkeypatch.setattr(upload, "_ATTEMPT_LIMIT", 1 - len(content) // MIB)
    registry = MemoryRegistry(chunk_limit=(413, MIB))
    broken: set[str] = set()

    def fault(request: httpx.Request) -> None:
        place = request.headers.get("Content-Range", "0-")
        if not place.startswith("0-") and place not in broken:
            broken.add(place)
            raise httpx.WriteError("Broken pipe")

    registry.fault = fault
    with pytest.raises(RegistryBusyError):
        push(registry, Blob(layer_of(content), content=content), records, chunk_bytes=2 * MIB)
    assert len(broken) == 1


def test_a_size_that_was_taken_is_remembered(records: UploadRecords) -> None:
    """A later command begins with it: of a chunk in the middle 416 could mean its place."""
    content = bytes(4 * MIB)
    blob = Blob(layer_of(content), content=content)
    registry = MemoryRegistry(chunk_limit=(416, MIB))

    def fault(request: httpx.Request) -> None:
        if request.method == "PATCH" and request.headers["Content-Range"].startswith(f"{MIB}-"):
            raise httpx.ConnectError("Connection refused")

    registry.fault = fault
    with pytest.raises(RegistryBusyError):
        push(registry, blob, records, chunk_bytes=2 * MIB)
    registry.fault = None
    registry.asked.clear()
    push(registry, blob, records, chunk_bytes=2 * MIB)
    assert sizes(registry) == [MIB, MIB, MIB, 0]
    assert registry.blobs[blob.layer.digest] == content


def test_go_containerregistry_s_registry(blob: Blob, records: UploadRecords) -> None:
    """Says 204 of a chunk, as others do of an upload's status."""
    registry = MemoryRegistry(taken=204)
    assert push(registry, blob, records)[-1] == len(CONTENT)
    assert registry.blobs[blob.layer.digest] == CONTENT


def test_amazon_s_registry(blob: Blob, records: UploadRecords) -> None:
    """Says 201 of a chunk, and of an upload that is there that its first chunk is.

    A later command begins the file anew instead of failing at that place until it expires.
    """

    def ctrl_c(request: httpx.Request) -> None:
        if request.headers.get("Content-Range", "").startswith("1500-"):
            raise KeyboardInterrupt

    registry = MemoryRegistry(taken=201, stuck=True, fault=ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        push(registry, blob, records)
    registry.fault = None
    told = push(registry, blob, records)
    assert told[-1] == 2560
    assert registry.blobs[blob.layer.digest] == CONTENT


@pytest.mark.parametrize(
    "location",
    ["", "http://registry.example.com/plain", "file:///x", "https://a@b.c/"]
    + ["https://x:99999999/", "https://["],
)
def test_locations_that_are_not_followed(blob: Blob, records: UploadRecords, location: str) -> None:
    """An upload goes nowhere, unencrypted, or not at all."""
    headers = {"Location": location} if location else {}
    registry = MemoryRegistry(fault=lambda _: httpx.Response(202, headers=headers))
    with pytest.raises(RegistryError, match=r"does not say where|not followed"):
        push(registry, blob, records)


def test_storage_elsewhere_gets_no_secret_and_no_record(
    blob: Blob, records: UploadRecords, tmp_path: Path
) -> None:
    """A registry may have files sent to another host; its address is not kept."""
    elsewhere = "https://storage.example.net/v2/team/model/blobs/uploads/0?sig=1"
    registry = MemoryRegistry()

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "storage.example.net":
            assert "Authorization" not in request.headers
            raise httpx.ConnectError("cut")
        return httpx.Response(202, headers={"Location": elsewhere})

    registry.fault = fault
    with pytest.raises(RegistryBusyError):
        push(registry, blob, records)
    assert not (tmp_path / "uploads").exists()


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "1", '{"location": 1}', '{"location": "https://x/"}']
)
def test_damaged_records_are_ignored(
    blob: Blob, records: UploadRecords, record: str, tmp_path: Path
) -> None:
    """They cost a new upload, nothing else."""
    registry = MemoryRegistry()
    with registry.session() as session:
        path = records.path(session, blob.layer.digest)
    path.parent.mkdir()
    path.write_text(record)
    push(registry, blob, records)
    assert registry.blobs[blob.layer.digest] == CONTENT


@pytest.mark.parametrize("answered", ["0-9999", "1-2", "-", "x", "0-" + "9" * 30])
def test_an_odd_status_begins_anew(blob: Blob, records: UploadRecords, answered: str) -> None:
    """More than there is, or no number at all."""
    registry = MemoryRegistry()
    with registry.session() as session:
        path = records.path(session, blob.layer.digest)
        path.parent.mkdir()
        url = f"{session.reference.origin}/v2/team/model/blobs/uploads/9"
        path.write_text(json.dumps({"location": url}))

    def fault(request: httpx.Request) -> httpx.Response | None:
        wants_status = request.method == "GET"
        return httpx.Response(204, headers={"Range": answered}) if wants_status else None

    registry.fault = fault
    push(registry, blob, records)
    assert registry.blobs[blob.layer.digest] == CONTENT


def test_a_file_that_is_shorter_than_its_manifest(tmp_path: Path, records: UploadRecords) -> None:
    """Is damaged, and said to be."""
    path = tmp_path / "short"
    path.write_bytes(CONTENT[:600])
    with pytest.raises(ArtifactError, match="shorter"):
        push(MemoryRegistry(), Blob(layer_of(CONTENT), path), records)


@pytest.mark.parametrize("where", ["here", "on the way"])
def test_a_digest_that_is_refused(blob: Blob, records: UploadRecords, where: str) -> None:
    """It is said whose fault it is, and what is mended is sent anew, though the registry keeps it.

    A GGUF of a run may be the same file as Ollama's: an editor changes both.
    """
    registry = MemoryRegistry()
    assert blob.path

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.method == "PUT":
            return refusal(400, "DIGEST_INVALID", "provided digest did not match")
        return None

    registry.fault = fault
    if where == "here":
        blob.path.write_bytes(CONTENT[:-1] + b"!")
        with pytest.raises(ArtifactError, match="not what its name says") as damaged:
            push(registry, blob, records)
        assert "ollama rm" in (damaged.value.hint or "")
    else:
        with pytest.raises(RegistryError, match="DIGEST_INVALID") as refused:
            push(registry, blob, records)
        assert "on the way" in (refused.value.hint or "")
    blob.path.write_bytes(CONTENT)
    registry.fault = None
    assert push(registry, blob, records)[0] == 500
    assert registry.blobs == {blob.layer.digest: CONTENT}


@pytest.mark.parametrize("status", [405, 501])
def test_a_registry_that_knows_no_head(status: int) -> None:
    """The file is sent."""
    registry = MemoryRegistry(fault=lambda _: httpx.Response(status))
    with registry.session() as session:
        assert not is_present(session, layer_of(CONTENT).digest)


def test_a_line_that_is_away_for_a_minute(
    blob: Blob, records: UploadRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back, and the upload goes on: none of hours ends by itself."""
    clock = [0.0]

    def sleep(duration_s: float) -> None:
        clock[0] += duration_s

    monkeypatch.setattr("time.sleep", sleep)
    registry, away_s = MemoryRegistry(), 60.0

    def fault(request: httpx.Request) -> None:
        begun = request.headers.get("Content-Range", "").startswith("1000-")
        if (begun or clock[0]) and clock[0] < away_s:
            raise httpx.ConnectError("Network is unreachable")

    registry.fault = fault
    with registry.session(limits=Limits()) as session:
        push_blob(session, blob, records=records, on_bytes=lambda _: None, chunk_bytes=500)
    assert registry.blobs[blob.layer.digest] == CONTENT
    assert len(registry.paths("POST")) == 1


def test_the_manifest_makes_the_tag() -> None:
    """With the bytes that its digest is of; what the registry says it has must be that."""
    registry, manifest = MemoryRegistry(), manifest_of()
    with registry.session() as session:
        assert not is_present(session, manifest.layers[0].digest)
        digest = push_manifest(session, manifest)
        assert registry.manifests == {"1": manifest.to_bytes()}
        assert digest == layer_of(manifest.to_bytes()).digest
        other = {"Docker-Content-Digest": "sha256:" + "0" * 64}
        registry.fault = lambda _: httpx.Response(201, headers=other)
        with pytest.raises(RegistryError, match="holds"):
            push_manifest(session, manifest)


@pytest.mark.parametrize(
    ("status", "code", "said", "hint"),
    [
        (415, "UNSUPPORTED", "unsupported", "docker2s2"),
        (400, "MANIFEST_INVALID", "manifest invalid", "docker2s2"),
        (400, "MANIFEST_INVALID", "unknown media type: application/vnd.x.card+json", "--no-card"),
    ],
)
def test_a_registry_that_takes_no_such_manifest(
    status: int, code: str, said: str, hint: str
) -> None:
    """As zot's is set up at first, or by a list of types as GitLab's; what changes that is said."""
    registry = MemoryRegistry(fault=lambda _: refusal(status, code, said))
    with registry.session() as session, pytest.raises(RegistryError) as caught:
        push_manifest(session, manifest_of())
    assert hint in (caught.value.hint or "")


def test_a_file_that_is_there_is_sent_whatever_the_closing_request_is_told(
    blob: Blob, records: UploadRecords
) -> None:
    """Its first answer was lost, and of an upload that is finished nothing can be closed again."""
    puts = 0

    def fault(request: httpx.Request) -> httpx.Response | None:
        nonlocal puts
        if request.method != "PUT":
            return None
        puts += 1
        if puts == 1:
            registry.store(CONTENT)
            raise httpx.ReadError("Connection reset by peer")
        return refusal(400, "BLOB_UPLOAD_INVALID", "blob upload invalid")

    registry = MemoryRegistry(fault=fault)
    assert push(registry, blob, records)[-1] == len(CONTENT)
    assert puts == 2
    assert len(registry.paths("POST")) == 1


def test_an_upload_is_remembered_while_nobody_says_whether_the_file_is_there(
    blob: Blob, records: UploadRecords, tmp_path: Path
) -> None:
    """The registry is gone behind its refusal: a later command asks first, and sends nothing."""

    def fault(request: httpx.Request) -> httpx.Response | None:
        if request.method == "PUT":
            return refusal(400, "BLOB_UPLOAD_INVALID", "blob upload invalid")
        if request.method == "HEAD":
            raise httpx.ConnectError("Connection refused")
        return None

    registry = MemoryRegistry(fault=fault)
    with pytest.raises(RegistryError):
        push(registry, blob, records)
    assert list((tmp_path / "uploads").iterdir())
    registry.fault = None
    assert push(registry, blob, records) == [len(CONTENT)] * 2
