"""Verifying a tag, as far as no daemon has to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from fakes import daemon as http
from fakes.exports import tiny_exports
from fakes.ggufs import rewrite
from fakes.serving import CHATML_GO, SYSTEM, FakeDaemon, small_reference

from ollama_bridge.client import Client, ModelDetails, ModelSummary
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    ContextOverflowError,
    DaemonError,
    ParityError,
    RequestRejectedError,
)
from ollama_bridge.inspection import verify
from ollama_bridge.publishing.retrieval import pull_through_daemon
from ollama_bridge.reference import (
    NOISE_DIFFERENCE_KEY,
    NOISE_MEAN_KL_KEY,
    REFERENCE_KEY,
    ReferenceValues,
    TokenScore,
)
from ollama_bridge.reporting import Event, NullReporter, Progress
from ollama_bridge.storage.artifacts import Checkpoint, Manifest, Work
from ollama_bridge.verification import type_of, verify_tag
from ollama_bridge.verify.bounds import bounds_of
from ollama_bridge.verify.certificate import Certificate
from ollama_bridge.verify.types import check_types


class FakeClient:
    """Shows one tag that carries no values, and can be asked nothing else."""

    details = ModelDetails(
        modelfile=f"FROM /models/blobs/sha256-{'a' * 64}\n",
        template="",
        system="",
        parameters="",
        model_info={},
        capabilities=(),
        raw={},
    )

    def show(self, tag: str, *, verbose: bool = False) -> ModelDetails:
        """The tag."""
        return self.details

    def list(self) -> Sequence[ModelSummary]:
        """Nothing more is known of it."""
        return ()


def refuse(tag: str) -> ParityError | ConfigError:
    """The error of verifying."""
    with pytest.raises((ParityError, ConfigError)) as caught:
        verify_tag(tag, client=cast(Client, FakeClient()))
    return caught.value


def test_a_tag_without_values_asks_for_its_checkpoint() -> None:
    """Nothing can be computed from the tag alone."""
    assert "--against" in str(refuse("m").hint)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"remote_host": "https://ollama.com:443", "details": {"format": ""}}, "is a cloud model"),
        ({"details": {"format": "safetensors"}}, "has its weights as safetensors"),
    ],
)
def test_a_tag_without_a_gguf_is_pulled_and_not_verified(
    raw: dict[str, object], found: str
) -> None:
    """No checkpoint could help, so none is asked for; nothing is wrong with what was pulled."""
    shown = {"modelfile": "FROM m:latest\n", "template": "", **raw}
    with http.FakeDaemon(shown=shown) as daemon, Client(daemon.host) as client:
        with pytest.raises(ParityError, match=found) as caught:
            verify_tag("m", client=client)
        assert pull_through_daemon("m", verify=True, host=daemon.host).verdict == "not verified"
    assert "--against" not in (caught.value.hint or "")


@pytest.mark.parametrize(("number", "name"), [(25, "iq4_nl"), (30, "iq4_xs")])
def test_a_type_of_four_bits_that_we_do_not_write_is_proven(number: int, name: str) -> None:
    """By the bounds of those that we write."""
    details = replace(FakeClient.details, model_info={"general.file_type": number})
    assert type_of("m", details) == name
    reference = small_reference()
    assert bounds_of(name, reference) == bounds_of("q4_k_s", reference)
    shown = {"tensors": [{"type": name.upper(), "shape": [256, 256]}]}
    types = check_types(name, shown)
    assert types is not None
    assert types.passed


def test_a_type_without_bounds_is_told() -> None:
    """Such as IQ2_XXS, of which nobody knows how far it may lie; the hint has those that can be."""
    details = replace(FakeClient.details, model_info={"general.file_type": 19})
    with pytest.raises(ParityError, match="for which no bounds are known") as caught:
        type_of("m", details)
    assert "q2_k, iq4_nl, iq4_xs" in (caught.value.hint or "")


def test_a_type_that_the_daemon_does_not_tell() -> None:
    """Null, as all of its details may be."""
    details = replace(FakeClient.details, raw={"details": None})
    with pytest.raises(ParityError, match="is of type"):
        type_of("m", details)


@pytest.mark.parametrize("tag", ["../m", "a/../m", "m:../x", "/etc/passwd", "m\nn"])
def test_a_tag_that_leads_elsewhere_is_refused(tag: str) -> None:
    """Tags are parts of paths in folders of ours and of the daemon."""
    assert isinstance(refuse(tag), ConfigError)


def test_a_base_without_its_adapter_is_refused() -> None:
    """Before a daemon is asked for anything."""
    with pytest.raises(ConfigError, match="--base needs an adapter") as caught:
        verify("m", base="./base")
    assert "--against ADAPTER --base ./base" in (caught.value.hint or "")


def test_a_chat_template_without_its_checkpoint_is_refused() -> None:
    """Before a daemon is asked for anything."""
    with pytest.raises(ConfigError, match="--chat-template needs a checkpoint") as caught:
        verify("m", chat_template=Path("t.jinja"))
    assert "--against FOLDER --chat-template t.jinja" in (caught.value.hint or "")
    with pytest.raises(ConfigError) as caught:
        verify("m", chat_template=Path("my own.jinja"))
    assert "--chat-template 'my own.jinja'" in (caught.value.hint or "")


def verify_changed(**parameters: object) -> Certificate:
    """What is found of a Q8_0 tag that carries its values, made FROM ours with these parameters."""
    return verify_tag("m:latest", client=cast(Client, daemon_with(parameters)))


def daemon_with(parameters: dict[str, object], **request: Any) -> FakeDaemon:
    """A daemon that has such a tag, made with what else is asked for."""
    reference = small_reference().model_copy(
        update={"generation": {"do_sample": True, "temperature": 0.6}}
    )
    tokens = ["<unk>", "<|im_start|>", "<|im_end|>", "a", "b", "Yes", "No"]
    daemon = FakeDaemon(
        reference,
        model_info={
            REFERENCE_KEY: reference.to_json(),
            "general.file_type": 7,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.eos_token_id": 2,
        },
    )
    own = {
        "temperature": 0.6,
        "top_k": 50,
        "top_p": 1.0,
        "repeat_penalty": 1.0,
        "num_predict": 1024,
        "stop": ["<|im_end|>"],
    }
    daemon.create(
        {
            "model": "m:latest",
            "files": {"model.gguf": f"sha256:{'a' * 64}"},
            "template": CHATML_GO,
            "system": SYSTEM,
            "parameters": {**own, **parameters},
            **request,
        }
    )
    return daemon


def test_what_a_tag_sets_otherwise_is_said() -> None:
    """Whoever made it FROM ours may have wanted it: no failure, but no secret either."""
    assert "; it sets" not in verify_changed().verdict
    certificate = verify_changed(temperature=5, repeat_penalty=3, num_predict=1)
    assert certificate.passed, certificate.first_failure
    said = (
        "temperature 5 (checkpoint: 0.6), repeat_penalty 3 (checkpoint: 1), "
        "num_predict 1 (an answer of the checkpoint: 2)"
    )
    assert certificate.verdict.endswith(f"; it sets {said}")
    assert f'"set_otherwise": "{said}"' in certificate.to_json()


def test_a_num_ctx_without_room_for_the_probes_is_named() -> None:
    """The daemon's own words ask for a shorter prompt, and nobody wrote one."""
    daemon = daemon_with({"num_ctx": 2})
    daemon.fail_at = "next_token"
    daemon.failure = ContextOverflowError("the prompt does not fit the context", status_code=400)
    with pytest.raises(ParityError, match="m:latest sets num_ctx 2, and what proves") as caught:
        verify_tag("m:latest", client=cast(Client, daemon))
    assert caught.value.layer == "sampling"
    assert "PARAMETER num_ctx" in (caught.value.hint or "")
    daemon = daemon_with({"num_ctx": 4096})
    daemon.fail_at = "next_token"
    daemon.failure = ContextOverflowError("the prompt does not fit the context", status_code=400)
    with pytest.raises(ContextOverflowError):
        verify_tag("m:latest", client=cast(Client, daemon))


@pytest.mark.parametrize(
    "change", [lambda text: text[:100], lambda text: text.replace(":1,", ":2,", 1), lambda text: ""]
)
def test_values_that_cannot_be_read_ask_for_the_checkpoint(change: Callable[[str], str]) -> None:
    """Damaged or of tomorrow: no folder of ours is at fault, which could be removed."""
    daemon = daemon_with({})
    text = str(daemon.model_info[REFERENCE_KEY])
    daemon.model_info = {**daemon.model_info, REFERENCE_KEY: change(text)}
    with pytest.raises(ArtifactError, match="would prove m:latest are damaged, or of") as caught:
        verify_tag("m:latest", client=cast(Client, daemon))
    assert "verify m:latest --against FOLDER" in (caught.value.hint or "")


def test_a_coarser_file_than_it_says_is_named() -> None:
    """Where the daemon names the tensors, and the file names no noise of its own mix."""
    daemon = daemon_with({})
    daemon.tensors = [{"name": "token_embd.weight", "type": "Q4_0", "shape": [64, 8]}]
    failure = verify_tag("m:latest", client=cast(Client, daemon)).first_failure
    assert failure is not None
    assert (failure.name, failure.layer) == ("types of tensors", "tensor")
    own_mix = {NOISE_DIFFERENCE_KEY: 0.1, NOISE_MEAN_KL_KEY: 0.01}
    daemon.model_info = {**daemon.model_info, **own_mix}
    assert verify_tag("m:latest", client=cast(Client, daemon)).passed


@pytest.mark.parametrize("window", [3, 2])
def test_a_wrong_window_of_the_file_is_not_the_version_s(window: int) -> None:
    """What 0.24 makes of a window counts where the file has the checkpoint's."""
    daemon = daemon_with({})
    key = "gemma3.attention.sliding_window"
    numbers = {"numbers": {key: 3}}
    reference = daemon.reference.model_copy(update=numbers)
    daemon.ollama, daemon.logprob_shift = "0.24.0", 2.0
    daemon.shifted_prompt = reference.conversation("plain").rendered + "Yes"
    carried = {REFERENCE_KEY: reference.to_json(), key: window, "general.file_type": 1}
    daemon.model_info = {**daemon.model_info, **carried}
    failure = verify_tag("m:latest", client=cast(Client, daemon)).first_failure
    assert failure is not None
    assert failure.name == ("attention window" if window == 3 else "metadata")


def test_a_tag_that_is_replaced_meanwhile_is_not_certified() -> None:
    """One tag answered, and the digest in the certificate would be the other's."""
    daemon = daemon_with({})

    class Replacer(NullReporter):
        """Makes another tag of that name in the middle of the proof."""

        def emit(self, event: Event) -> None:
            """Strike, and again: that changes nothing more."""
            if isinstance(event, Progress):
                daemon.tags["m:latest"] = replace(daemon.tags["m:latest"], digest="another")

    with pytest.raises(DaemonError, match="m:latest was replaced while it was verified"):
        verify_tag("m:latest", client=cast(Client, daemon), reporter=Replacer())


def test_a_stop_that_cuts_the_checkpoint_s_answer_fails() -> None:
    """Every answer would be cut there, of whatever type the weights are."""
    failure = verify_changed(stop=["<|im_end|>", "e"]).first_failure
    assert failure is not None
    assert (failure.name, failure.layer) == ("stops", "stop")
    assert failure.difference == "the stop 'e' cuts the checkpoint's 'plain: own answer'"
    assert verify_changed(stop=["<|im_end|>", "### User"]).passed


def checkpoint_of(daemon: FakeDaemon, folder: Path) -> Checkpoint:
    """The one that a daemon serves, without weights."""
    (folder / "reference.json").write_text(daemon.reference.to_json())
    work = Work("checkpoint", "import", 1)
    return Checkpoint(folder, Manifest(work, {}, {}, {}, created_at=""))


def of_other_weights(values: ReferenceValues) -> ReferenceValues:
    """Values at the same places."""
    sure = (TokenScore(6, "No", -0.1), TokenScore(5, "Yes", -2.4), TokenScore(2, None, -6.0))
    changed = [one.model_copy(update={"top": sure}) for one in values.conversations]
    return values.model_copy(update={"conversations": tuple(changed), "answers": ()})


def of_another_format(values: ReferenceValues) -> ReferenceValues:
    """Values at other places, behind the same system prompt."""
    changed = [
        one.model_copy(update={"rendered": f"[INST] {one.name}"}) for one in values.conversations
    ]
    return values.model_copy(update={"conversations": tuple(changed)})


def under_another_system_prompt(values: ReferenceValues) -> ReferenceValues:
    """The model's own values, which cannot be compared."""
    changed = of_another_format(values).conversations
    return values.model_copy(update={"system": "Be long.", "conversations": changed})


def as_they_were_measured_elsewhere(values: ReferenceValues) -> ReferenceValues:
    """The model's own values, by a machine that adds in another order."""
    near = tuple(one._replace(logprob=one.logprob - 0.001) for one in values.conversations[0].top)
    changed = [one.model_copy(update={"top": near}) for one in values.conversations]
    return values.model_copy(update={"conversations": tuple(changed)})


@pytest.mark.parametrize(
    ("change", "is_others"),
    [
        (of_other_weights, True),
        (of_another_format, True),
        (under_another_system_prompt, False),
        (as_they_were_measured_elsewhere, False),
        (lambda values: values, False),
    ],
)
def test_values_of_another_model_are_said_where_the_checkpoint_proves_the_tag(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[ReferenceValues], ReferenceValues],
    is_others: bool,
) -> None:
    """Whoever has the tag alone would find that it is not what it says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    daemon = daemon_with({})
    carried = change(daemon.reference).to_json()
    daemon.model_info = {**daemon.model_info, REFERENCE_KEY: carried}
    checkpoint = checkpoint_of(daemon, tmp_path)
    certificate = verify_tag("m:latest", client=cast(Client, daemon), against=checkpoint)
    assert certificate.passed, certificate.first_failure
    assert ("; the values that it carries are another model's, so" in certificate.verdict) is (
        is_others
    )


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({}, "its file is in no model folder that can be read here"),
        ({"adapters": {"a.gguf": f"sha256:{'b' * 64}"}}, "it has an ADAPTER"),
    ],
)
def test_a_file_that_was_not_compared_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any], why: str
) -> None:
    """The store may be another user's: a window that is wrong shows in no answer of a probe."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    daemon = daemon_with({}, **request_)
    checkpoint = checkpoint_of(daemon, tmp_path)
    certificate = verify_tag("m:latest", client=cast(Client, daemon), against=checkpoint)
    assert certificate.passed, certificate.first_failure
    assert f"; its tensors and metadata were not compared: {why}" in certificate.verdict
    assert '"file_not_compared": "' in certificate.to_json()
    alone = verify_tag("m:latest", client=cast(Client, daemon))
    assert "not compared" not in alone.verdict


@pytest.mark.parametrize("carries", [True, False])
def test_the_numbers_of_a_file_that_cannot_be_read_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, carries: bool
) -> None:
    """The daemon shows them; but what another converter leaves to defaults, it does not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    daemon = daemon_with({})
    key = "llama.rope.freq_base"
    daemon.reference = daemon.reference.model_copy(update={"numbers": {key: 10000.0}})
    checkpoint = checkpoint_of(daemon, tmp_path)
    carried = {REFERENCE_KEY: daemon.reference.to_json()} if carries else {}
    shown = {name: value for name, value in daemon.model_info.items() if name != REFERENCE_KEY}
    for found in (10000.0, 500000.0):
        daemon.model_info = {**shown, **carried, key: found}
        certificate = verify_tag("m:latest", client=cast(Client, daemon), against=checkpoint)
        failure = certificate.first_failure
        if carries and found != 10000.0:
            assert failure is not None
            assert failure.difference == f"{key}: 500000 in the GGUF, config.json makes it 10000"
        else:
            assert failure is None, failure
            compared = "its tensors were" if carries else "its tensors and metadata were"
            assert f"; {compared} not compared: its file" in certificate.verdict


def test_a_file_that_cannot_be_loaded_is_held_against_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon says that a shape is wrong; which number of the metadata is, the checkpoint."""
    exports = tiny_exports(tmp_path / "exports", seed=0)
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    heads = {"llama.attention.head_count": 8}
    gguf, blob = exports.gguf("f16").gguf_path, blobs / f"sha256-{'a' * 64}"
    rewrite(gguf, blob, metadata=lambda keys: keys.update(heads))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    daemon = daemon_with({})
    daemon.fail_at = "next_token"
    daemon.failure = RequestRejectedError("error loading model: a shape", status_code=500)
    with pytest.raises(DaemonError, match=r"Ollama cannot load m:latest: .*: a shape") as alone:
        verify_tag("m:latest", client=cast(Client, daemon))
    assert "--against FOLDER" in (alone.value.hint or "")
    with pytest.raises(ParityError, match=r"llama\.attention\.head_count: 8 in the GGUF") as caught:
        verify_tag("m:latest", client=cast(Client, daemon), against=exports.checkpoint)
    assert caught.value.layer == "tensor"
    rewrite(gguf, blob, metadata=lambda keys: keys.update({"tokenizer.ggml.model": "llama"}))
    with pytest.raises(ParityError, match=r"tokenizer\.ggml\.model is 'llama' in") as caught:
        verify_tag("m:latest", client=cast(Client, daemon), against=exports.checkpoint)
    assert caught.value.layer == "tokenizer"
    rewrite(gguf, blob)
    with pytest.raises(RequestRejectedError, match="a shape"):
        verify_tag("m:latest", client=cast(Client, daemon), against=exports.checkpoint)


def test_messages_of_a_tag_are_named_and_not_its_template() -> None:
    """They are in front of every prompt, so that all of them differ."""
    said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    daemon = daemon_with({}, messages=said)
    certificate = verify_tag("m:latest", client=cast(Client, daemon))
    assert "NOT equal to its checkpoint (template: MESSAGE)" in certificate.verdict
    with pytest.raises(ParityError, match="the tag has 2 MESSAGEs of its own") as caught:
        certificate.raise_if_failed()
    assert "the tag that it was made FROM" in (caught.value.hint or "")
    assert "TEMPLATE" not in (caught.value.hint or "")


def test_an_adapter_is_named_and_not_the_file() -> None:
    """It may have been added to a tag of ours, whose file has the values of the base alone."""
    adapted = {"adapters": {"a.gguf": f"sha256:{'b' * 64}"}}
    daemon = daemon_with({}, **adapted)
    assert verify_tag("m:latest", client=cast(Client, daemon)).passed  # made with it by us
    daemon.logprob_shift = -4.0
    certificate = verify_tag("m:latest", client=cast(Client, daemon))
    assert certificate.verdict == "NOT equal to its checkpoint (tensor: ADAPTER)"
    with pytest.raises(ParityError, match="tensor: the tag has an ADAPTER, with which") as caught:
        certificate.raise_if_failed()
    assert "largest difference 4.000 nats" in caught.value.message
    assert "--against ADAPTER --base BASE" in (caught.value.hint or "")
    plain = daemon_with({})
    plain.logprob_shift = -4.0
    failure = verify_tag("m:latest", client=cast(Client, plain)).first_failure
    assert failure is not None
    assert failure.name == "log-probabilities"
