"""Registering: nothing unproven gets the tag, nothing is left behind, nothing is done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from fakes.listening import Listener
from fakes.serving import FakeDaemon, small_reference

from ollama_bridge import digests, registration
from ollama_bridge.client import Client, Reply
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    DaemonError,
    DaemonUnreachableError,
    DiskFullError,
    GGUFError,
    ParityError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.reference import Noise
from ollama_bridge.registration import register
from ollama_bridge.reporting import Note, StageReused
from ollama_bridge.storage.artifacts import AdapterFile, GGUFFile, RegisteredModel, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.verify.certificate import Certificate

TAG = "tiny:f16"
Registers = Callable[..., RegisteredModel]


@pytest.fixture
def gguf(tmp_path: Path) -> GGUFFile:
    """A GGUF with a vocabulary of seven and no weights."""
    from gguf import GGUFWriter

    folder = tmp_path / "gguf"
    with open_draft(folder, Work(kind="gguf", stage="convert", version=1)) as draft:
        writer = GGUFWriter(str(draft.path / "model.gguf"), "llama")
        tokens = ["<unk>", "<|im_start|>", "<|im_end|>", "a", "b", "Yes", "No"]
        writer.add_token_list(tokens)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        small_reference().write(draft.path / "reference.json")
        return GGUFFile(folder, draft.commit({"type": "f16"}))


@pytest.fixture
def adapter(gguf: GGUFFile, tmp_path: Path) -> AdapterFile:
    """Something of the format to go with it."""
    folder = tmp_path / "adapter"
    with open_draft(folder, Work(kind="adapter", stage="convert", version=1)) as draft:
        content = gguf.gguf_path.read_bytes().replace(b"Yes", b"Yep")
        (draft.path / "adapter.gguf").write_bytes(content)
        return AdapterFile(folder, draft.commit())


@pytest.fixture
def modelfile(gguf: GGUFFile) -> Modelfile:
    """The right Modelfile for it."""
    return Modelfile(
        str(gguf.gguf_path),
        template="{{ .Prompt }}",
        system="Be brief.",
        parameters={
            "temperature": 0.0,
            "repeat_penalty": 1.0,
            "num_predict": 64,
            "stop": ("<|im_end|>",),
        },
    )


@pytest.fixture
def daemon() -> FakeDaemon:
    """Serves the reference exactly."""
    return FakeDaemon(small_reference())


@pytest.fixture
def registers(
    gguf: GGUFFile, modelfile: Modelfile, daemon: FakeDaemon, tmp_path: Path
) -> Registers:
    """Registers it with that Modelfile, or another one."""

    def run(
        other: Modelfile | None = None, *, tag: str = TAG, out: str = "out", **options: Any
    ) -> RegisteredModel:
        client = cast("Client", daemon)
        return register(
            gguf, other or modelfile, tag, client=client, out_dir=tmp_path / out, **options
        )

    return run


def test_a_good_model_gets_its_tag(
    registers: Registers, gguf: GGUFFile, modelfile: Modelfile, daemon: FakeDaemon
) -> None:
    """The tag is made, the candidate is gone, and certificate and Modelfile are written."""
    model = registers()
    assert model.tag == TAG
    assert list(daemon.tags) == [TAG]
    certificate = Certificate.read(model.path / "certificate.json")
    assert certificate.passed
    assert certificate.tag_digest == daemon.tags[TAG].digest
    assert "proven equal" in str(model.facts["verdict"])
    written = Modelfile.parse((model.path / "Modelfile").read_text())
    assert (model.path / written.from_).resolve() == gguf.gguf_path.resolve()
    assert written.replace_from(modelfile.from_) == modelfile


@pytest.mark.parametrize("tag", ["library/tiny:f16", "registry.ollama.ai/library/tiny:f16"])
def test_a_tag_that_is_listed_by_a_shorter_name(
    registers: Registers, daemon: FakeDaemon, tag: str
) -> None:
    """Ollama leaves out what is its own: the tag is found again, and not registered twice."""
    model = registers(tag=tag)
    assert model.facts["tag_digest"] == daemon.tags[tag].digest
    copies = daemon.calls.count("copy")
    assert registers(tag=tag) == model
    assert daemon.calls.count("copy") == copies


def test_less_context_than_the_model_has_is_told(
    registers: Registers, modelfile: Modelfile
) -> None:
    """Who serves a model of 128k tokens would not look for its context at 4096."""
    listener = Listener()
    for context, told in ((small_reference().context_length, []), (32, ["32", "options.num_ctx"])):
        asked = replace(modelfile, parameters={**modelfile.parameters, "num_ctx": context})
        registers(asked, out=str(context), reporter=listener)
        notes = [event.message for event in listener.events if isinstance(event, Note)]
        assert all(word in "".join(notes) for word in told)
        assert bool(notes) is bool(told)


def test_where_thoughts_are_cut_is_told(registers: Registers, gguf: GGUFFile) -> None:
    """Who asks a model that thinks would get half a thought and no answer, and not know why."""
    served = small_reference().template
    assert served is not None
    thinking = served.model_copy(update={"capabilities": ("thinking",)})
    for template, told in ((served, False), (thinking, True)):
        small_reference().model_copy(update={"template": template}).write(gguf.reference_path)
        listener = Listener()
        registers(out=str(told), force=True, reporter=listener)
        notes = [event.message for event in listener.events if isinstance(event, Note)]
        assert any("together are cut off after 64 tokens" in note for note in notes) is told


def test_the_second_time_nothing_is_sent(registers: Registers, daemon: FakeDaemon) -> None:
    """Same work and same tag in the daemon: reused without a single probe."""
    registers()
    daemon.calls.clear()
    listener = Listener()
    registers(reporter=listener)
    assert daemon.calls == []
    assert any(isinstance(event, StageReused) for event in listener.events)


@pytest.mark.parametrize(("noise_kl", "layer"), [(0.0, "tensor"), (0.5, "rounding")])
def test_what_rounding_hides_is_not_called_a_wrong_tensor(
    registers: Registers, gguf: GGUFFile, daemon: FakeDaemon, noise_kl: float, layer: str
) -> None:
    """Of weights as good as random nothing can be proven: that is said, and what to do."""
    noise = {"f16": Noise(max_difference=0.01, mean_kl_nats=noise_kl)}
    small_reference().model_copy(update={"noise": noise}).write(gguf.reference_path)
    daemon.logprob_shift = 2.0
    with pytest.raises(ParityError) as caught:
        registers()
    assert caught.value.layer == layer
    assert ("cannot be proven" in caught.value.message) == (layer == "rounding")
    assert ("train them first" in (caught.value.hint or "")) == (layer == "rounding")
    assert not daemon.tags


@pytest.mark.parametrize("loss", ["removed", "replaced"])
def test_a_tag_that_changed_is_registered_again(
    registers: Registers, daemon: FakeDaemon, loss: str
) -> None:
    """The certificate is about the daemon's tag as it is now, not as it once was."""
    first = registers()
    if loss == "removed":
        daemon.delete(TAG)
    else:
        daemon.tags[TAG] = replace(daemon.tags[TAG], digest="other")
    again = registers()
    assert daemon.tags[TAG].digest == again.facts["tag_digest"] == first.facts["tag_digest"]
    assert daemon.uploads == 1


def test_blob_is_uploaded_only_when_missing(registers: Registers, daemon: FakeDaemon) -> None:
    """A second tag of the same file sends no weights."""
    registers(tag="tiny:a", out="a")
    registers(tag="tiny:b", out="b")
    assert daemon.uploads == 1
    assert sorted(daemon.tags) == ["tiny:a", "tiny:b"]


@pytest.mark.parametrize(
    ("fault", "layer", "failed"),
    [
        ({"logprob_shift": 0.2}, "tensor", ["log-probabilities"]),
        ({"extra_tokens": 1}, "tokenizer", ["token counts"]),
        ({"never_ends": True}, "stop", ["end of an answer", "greedy answers"]),
        ({"goes_on_raw": True}, "stop", ["end of an answer"]),
        ({"says": "No"}, "tensor", ["greedy answers"]),
        ({"drops": "stop"}, "stop", ["stops"]),
        ({"drops": "repeat_penalty"}, "sampling", ["parameters"]),
    ],
)
def test_a_wrong_model_is_refused_and_the_old_one_stays(
    registers: Registers,
    modelfile: Modelfile,
    daemon: FakeDaemon,
    tmp_path: Path,
    fault: dict[str, object],
    layer: str,
    failed: list[str],
) -> None:
    """Each fault is refused by its own checks; the tag's previous version is untouched."""
    registers(out="good")
    before = daemon.tags[TAG].digest
    for name, value in fault.items():
        setattr(daemon, name, value)
    other = replace(modelfile, license="changed")
    with pytest.raises(ParityError, match="previous version stays") as caught:
        registers(other, out="bad")
    assert caught.value.layer == layer
    assert {tag: stored.digest for tag, stored in daemon.tags.items()} == {TAG: before}
    assert not (tmp_path / "bad").exists()
    forced = registers(other, out="bad", force=True)
    checks = Certificate.read(forced.path / "certificate.json").checks
    assert [check.name for check in checks if not check.passed] == failed


def test_what_a_fresh_runner_says_is_the_answer(registers: Registers, daemon: FakeDaemon) -> None:
    """States that a runner saved are not exact behind a window; without them it is right."""
    daemon.says, daemon.right_once_unloaded = "No", True
    model = registers()
    checks = Certificate.read(model.path / "certificate.json").checks
    (answers,) = [check for check in checks if check.name == "greedy answers"]
    assert answers.numbers == {"greedy_answers": 1, "asked_after_reload": 1}


def test_a_dropped_system_prompt_is_refused(
    registers: Registers, modelfile: Modelfile, daemon: FakeDaemon
) -> None:
    """A Modelfile without the checkpoint's SYSTEM makes no tag, and says where texts differ."""
    with pytest.raises(ParityError, match="differs at byte 12") as caught:
        registers(replace(modelfile, system=None))
    assert caught.value.layer == "template"
    assert daemon.tags == {}


@pytest.mark.parametrize(("version", "passes"), [("0.33.3", True), ("0.34.4", False)])
def test_a_rewritten_file_is_taken_only_where_versions_do_that(
    registers: Registers, daemon: FakeDaemon, version: str, passes: bool
) -> None:
    """From 0.30 to 0.34.0 the digest moves, which is said; elsewhere it is another file."""
    daemon.rewrites = True
    daemon.ollama = version
    listener = Listener()

    if passes:
        registers(reporter=listener)
        notes = [event.message for event in listener.events if isinstance(event, Note)]
        assert any("0.33.3 rewrites a GGUF" in note for note in notes)
    else:
        with pytest.raises(DaemonError, match="did not accept the file"):
            registers(reporter=listener)
    assert list(daemon.tags) == ([TAG] if passes else [])


def test_a_daemon_that_hides_its_prompts_is_proven_by_counts(
    registers: Registers, daemon: FakeDaemon
) -> None:
    """The rendering flag is not documented: without it token counts decide, and it is said."""
    daemon.renders = False
    daemon.ollama = "0.12.11"
    model = registers()
    certificate = Certificate.read(model.path / "certificate.json")
    assert certificate.checks[0].numbers == {
        "prompts": 2,
        "different": 0,
        "proof": "token counts",
    }
    assert "2 prompts (by token counts)" in str(model.facts["verdict"])


@pytest.mark.parametrize("fault", ["dropped system prompt", "other weights"])
def test_counts_refuse_a_wrong_prompt(
    registers: Registers, modelfile: Modelfile, daemon: FakeDaemon, fault: str
) -> None:
    """Other tokens in the prompt, or other tokens behind it, are a difference of the template."""
    daemon.renders = False
    if fault == "other weights":
        daemon.logprob_shift = -1.0
    else:
        modelfile = replace(modelfile, system=None)
    with pytest.raises(ParityError, match="does not show its text") as caught:
        registers(modelfile)
    assert caught.value.layer == "template"
    assert daemon.tags == {}


def test_force_keeps_what_failed_under_another_tag(
    registers: Registers, daemon: FakeDaemon
) -> None:
    """A refused model gets TAG-unverified, never TAG; certificate and a warning tell."""
    daemon.logprob_shift = 0.2
    listener = Listener()
    model = registers(reporter=listener, force=True)
    certificate = Certificate.read(model.path / "certificate.json")
    assert certificate.forced
    assert not certificate.passed
    assert "NOT equal" in str(model.facts["verdict"])
    assert model.tag == f"{TAG}-unverified"
    assert list(daemon.tags) == [f"{TAG}-unverified"]
    assert any(isinstance(event, Note) and event.level == "warning" for event in listener.events)


@pytest.mark.parametrize("fail_at", ["upload_blob", "create", "render", "next_token", "copy"])
@pytest.mark.parametrize(
    "failure", [DaemonUnreachableError("gone"), KeyboardInterrupt()], ids=["daemon", "ctrl-c"]
)
def test_an_interruption_leaves_no_half_tag(
    registers: Registers, daemon: FakeDaemon, fail_at: str, failure: BaseException
) -> None:
    """Broken off anywhere, nothing stays in the daemon, and the same command then succeeds."""
    daemon.fail_at, daemon.failure = fail_at, failure
    with pytest.raises(type(failure)):
        registers()
    assert daemon.tags == {}
    daemon.fail_at = None
    registers()
    assert list(daemon.tags) == [TAG]


def test_what_another_registration_put_in_its_place_gets_no_tag(
    registers: Registers, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Two registrations of one tag share a candidate: what was not checked is not tagged."""
    chat = daemon.chat

    def replaced_meanwhile(tag: str, *args: Any, **options: Any) -> Reply:
        daemon.create({**daemon.tags[tag].request, "license": "another's"})
        return chat(tag, *args, **options)

    daemon.chat = replaced_meanwhile  # type: ignore[method-assign]
    with pytest.raises(DaemonError, match="replaced while it was checked"):
        registers()
    assert "copy" not in daemon.calls
    assert not (tmp_path / "out").exists()


def test_a_tag_that_is_not_what_was_checked_is_told(
    registers: Registers, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Between the last look at the candidate and its copy another registration may replace it."""
    daemon.copies_wrongly = True
    with pytest.raises(DaemonError, match="is not what was checked"):
        registers()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("version", ["0.34.4", "0.33.3"])
def test_what_is_loaded_of_the_same_file_does_not_answer_for_it(
    registers: Registers, daemon: FakeDaemon, version: str
) -> None:
    """Ollama chooses a runner by the file: another tag's would render as that tag does.

    By its own file, where it wrote one of what it was sent.
    """
    daemon.ollama, daemon.rewrites = version, version == "0.33.3"
    registers(tag="mine:1", out="a")
    daemon.loaded.append("mine:1")
    daemon.calls.clear()
    registers()
    created, rendered = daemon.calls.index("create"), daemon.calls.index("render")
    assert "unload mine:1" in daemon.calls[created:rendered]


def test_a_candidate_is_unloaded_before_it_goes(registers: Registers, daemon: FakeDaemon) -> None:
    """Its runner would stay under a name by which nobody could look at it, or unload it."""
    render = daemon.render

    def loading(tag: str, *args: Any, **options: Any) -> str:
        daemon.loaded.append(tag)
        return render(tag, *args, **options)

    daemon.render = loading  # type: ignore[method-assign]
    registers()
    (unloaded,) = [call for call in daemon.calls if call.startswith("unload ")]
    assert unloaded.startswith("unload ollama-bridge/candidate:")


def test_a_candidate_that_another_one_checks_right_now_stays(
    registers: Registers, daemon: FakeDaemon
) -> None:
    """Only what is older than any registration takes was left behind."""
    registers(tag="mine:1", out="a")
    candidate = "ollama-bridge/candidate:0123456789abcdef"
    daemon.tags[candidate] = daemon.tags["mine:1"]
    daemon.created_at = datetime.now(UTC).isoformat()
    registers()
    assert sorted(daemon.tags) == ["mine:1", candidate, TAG]


def test_leftovers_are_removed_at_the_next_start(registers: Registers, daemon: FakeDaemon) -> None:
    """What a killed run left in the daemon goes away: a candidate, a renderer's trial, no other."""
    registers(tag="mine:1", out="a")
    for name in ("candidate:0123456789abcdef", "renderer:trial"):
        daemon.tags[f"ollama-bridge/{name}"] = daemon.tags["mine:1"]
    registers()
    assert sorted(daemon.tags) == ["mine:1", TAG]


@pytest.mark.parametrize(
    "error",
    [RequestRejectedError("no such file", status_code=500), RunnerCrashedError("no such file")],
    ids=["by status", "in the stream"],
)
def test_a_pruned_blob_is_sent_again(
    registers: Registers, daemon: FakeDaemon, error: DaemonError
) -> None:
    """A daemon that pruned the blob between upload and create gets it once more."""
    create = daemon.create

    def prune_first(request: dict[str, object]) -> None:
        if daemon.uploads == 1:
            daemon.blobs.clear()
            raise error
        create(request)

    daemon.create = prune_first  # type: ignore[method-assign]
    registers()
    assert daemon.uploads == 2


def test_what_a_tag_was_before_is_deleted(
    registers: Registers, modelfile: Modelfile, daemon: FakeDaemon
) -> None:
    """Ollama's ``copy`` leaves the files of what it replaces, ``delete`` does not."""
    registers()
    old, deleted, delete = daemon.tags[TAG], [], daemon.delete

    def note(tag: str) -> None:
        deleted.append(daemon.tags[tag].digest)
        delete(tag)

    daemon.delete = note  # type: ignore[method-assign]
    shorter = replace(modelfile, parameters={**modelfile.parameters, "num_ctx": 32})
    registers(shorter)
    assert list(daemon.tags) == [TAG]
    assert old.digest in deleted


@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize("was_there", [False, True])
def test_a_daemon_of_another_user_gets_a_file_of_its_own(
    registers: Registers,
    gguf: GGUFFile,
    daemon: FakeDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    was_there: bool,
    has_room: bool,
) -> None:
    """It may see what we link into our folder, yet not set its times, as ``create`` does.

    Also what an earlier call that was killed, or a pull, has linked there. Other tags may be made
    of that: it stays where nothing else could be sent.
    """
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    daemon.host = "http://127.0.0.1:11434"
    linked = blobs / gguf.blob_digest.replace(":", "-")
    if was_there:
        linked.hardlink_to(gguf.gguf_path)
    create, uploaded = daemon.create, daemon.blobs

    def has_blob(digest: str) -> bool:
        return digest in uploaded or (blobs / digest.replace(":", "-")).exists()

    def refuse_a_strangers_file(request: dict[str, object]) -> None:
        if linked.exists():
            said = f"the daemon failed while answering: chtimes {linked}: operation not permitted"
            raise RunnerCrashedError(said)
        create(request)

    daemon.has_blob = has_blob  # type: ignore[method-assign]

    def has_no_room(*_: object, **__: object) -> None:
        raise DiskFullError(blobs)

    daemon.create = refuse_a_strangers_file  # type: ignore[method-assign]
    if not has_room:
        daemon.upload_blob = has_no_room  # type: ignore[assignment, method-assign]
        with pytest.raises(DiskFullError):
            registers()
        assert list(blobs.iterdir()) == [linked]
        return
    registers()
    assert daemon.uploads == 1
    assert not list(blobs.iterdir())


def test_another_gguf_of_the_same_age_is_not_sent(
    registers: Registers, gguf: GGUFFile, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """``mv`` and ``cp -p`` keep a file's age, and two students of one shape have one size."""
    found = gguf.gguf_path.stat()
    another = tmp_path / "another.gguf"
    another.write_bytes(gguf.gguf_path.read_bytes().replace(b"Yes", b"Yez"))
    os.utime(another, ns=(found.st_atime_ns, found.st_mtime_ns))
    another.replace(gguf.gguf_path)
    with pytest.raises(ArtifactError, match="was changed"):
        registers()
    assert daemon.uploads == 0


def test_a_changed_gguf_is_not_sent(
    registers: Registers, gguf: GGUFFile, daemon: FakeDaemon
) -> None:
    """A file of the right size with another byte is found before the daemon sees it."""
    data = bytearray(gguf.gguf_path.read_bytes())
    at = data.index(b"Yes")
    data[at : at + 3] = b"Yez"
    gguf.gguf_path.write_bytes(data)
    with pytest.raises(ArtifactError, match="was changed"):
        registers()
    assert daemon.uploads == 0


@pytest.mark.parametrize(("manifest_s", "times"), [(2**32, 0), (1, 1)], ids=["before", "after"])
def test_what_was_hashed_while_it_was_written_is_not_hashed_again(
    registers: Registers,
    gguf: GGUFFile,
    monkeypatch: pytest.MonkeyPatch,
    manifest_s: int,
    times: int,
) -> None:
    """Only a file that is newer than its manifest may be another one."""
    read: list[Path] = []

    def digest_file(path: Path) -> str:
        read.append(path)
        return digests.digest_file(path)

    monkeypatch.setattr(registration, "digest_file", digest_file)
    os.utime(gguf.path / "manifest.json", (manifest_s, manifest_s))
    registers()
    assert read == [gguf.gguf_path] * times


def test_a_damaged_gguf_is_not_sent(
    registers: Registers, gguf: GGUFFile, daemon: FakeDaemon
) -> None:
    """A truncated file is a GGUFError before the daemon sees it."""
    data = gguf.gguf_path.read_bytes()
    gguf.gguf_path.write_bytes(data[: len(data) // 2])
    with pytest.raises(GGUFError):
        registers()
    assert daemon.uploads == 0


def test_an_illegal_tag_is_refused_first(registers: Registers, daemon: FakeDaemon) -> None:
    """A tag that Ollama would refuse costs no upload."""
    with pytest.raises(ConfigError, match="not a valid tag name"):
        registers(tag="a b")
    assert daemon.calls == []


def test_a_daemon_without_logprobs_is_refused(registers: Registers, daemon: FakeDaemon) -> None:
    """A daemon that cannot be checked says which version it takes."""
    daemon.ollama = "0.9.6"
    with pytest.raises(DaemonError, match=r"0\.9\.6") as caught:
        registers()
    assert "0.12.11" in str(caught.value.hint)


def test_an_adapter_goes_with_its_base(
    registers: Registers, adapter: AdapterFile, daemon: FakeDaemon
) -> None:
    """Two files are sent and named, in the request and in the Modelfile; it is other work."""
    daemon.ollama = "0.24.0"
    plain = registers()
    both = registers(adapter=adapter)
    assert both.digest != plain.digest
    assert daemon.uploads == 2
    assert daemon.tags[TAG].request["adapters"] == {"adapter.gguf": adapter.blob_digest}
    written = (both.path / "Modelfile").read_text().splitlines()
    (line,) = [line for line in written if line.startswith("ADAPTER ")]
    assert (both.path / line.removeprefix("ADAPTER ")).samefile(adapter.gguf_path)


def test_an_adapter_is_refused_where_none_is_taken(
    registers: Registers, adapter: AdapterFile, daemon: FakeDaemon
) -> None:
    """Before anything is sent."""
    with pytest.raises(DaemonError, match="accepts no LoRA adapter") as caught:
        registers(adapter=adapter)
    assert "merged" in str(caught.value.hint)
    assert daemon.uploads == 0


def test_an_engine_without_adapters_is_told(
    registers: Registers, adapter: AdapterFile, daemon: FakeDaemon
) -> None:
    """As 0.24 says of a Qwen3, when it loads it; the candidate is gone."""
    daemon.ollama = "0.24.0"
    daemon.fail_at = "render"
    daemon.failure = RequestRejectedError("loras are not yet implemented", status_code=500)
    with pytest.raises(DaemonError, match=r"with an adapter: loras are not") as caught:
        registers(adapter=adapter)
    assert "merged" in str(caught.value.hint)
    assert not daemon.tags


def test_what_the_grammar_cannot_carry_goes_through_the_api(
    registers: Registers, gguf: GGUFFile, modelfile: Modelfile, daemon: FakeDaemon
) -> None:
    """The exact request is written, no wrong Modelfile is, and a note says so."""
    system = "Hard\u00a0space."
    daemon.reference = small_reference(system=system)
    daemon.reference.write(gguf.reference_path)
    listener = Listener()
    model = registers(replace(modelfile, system=system), reporter=listener)
    assert json.loads((model.path / "request.json").read_text())["system"] == system
    assert not (model.path / "Modelfile").exists()
    assert any(isinstance(event, Note) and "U+00A0" in event.message for event in listener.events)
