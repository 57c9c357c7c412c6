"""Log-probabilities of a daemon, held against those of the checkpoint and what rounding does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fakes.serving import FakeDaemon, small_reference

from ollama_bridge.errors import DaemonError, ParityError
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.reference import Noise
from ollama_bridge.verify.certificate import LOG_PROBABILITIES, WINDOW, Certificate, Check
from ollama_bridge.verify.parity import check_parity

TAG = "tiny:q8_0"


def prove(
    daemon: FakeDaemon,
    gguf_type: str = "q8_0",
    metadata: Mapping[str, Any] | None = None,
    *,
    stops: tuple[str, ...] = ("<|im_end|>",),
) -> Certificate:
    """What is found of a tag whose rounding hardly moves the checkpoint."""
    noise = {"q8_0": Noise(max_difference=0.1, mean_kl_nats=0.0004)}
    daemon.reference = daemon.reference.model_copy(update={"noise": noise})
    modelfile = Modelfile("model.gguf", system="Be brief.", parameters={"stop": stops})
    daemon.create(modelfile.to_request(TAG, blob_digest="sha256:0"))
    return check_parity(
        daemon,  # type: ignore[arg-type]
        TAG,
        daemon.reference,
        type=gguf_type,
        modelfile=modelfile,
        metadata=metadata or {},
        blob_digest="sha256:0",
    )


def check_of(certificate: Certificate, name: str) -> Check:
    """One check of it."""
    return next(check for check in certificate.checks if check.name == name)


@pytest.mark.parametrize("everywhere", [False, True])
def test_one_undecided_answer_is_no_wrong_tensor(everywhere: bool) -> None:
    """It may lie further off than its noise; a fault moves the other answers as well."""
    reference = small_reference()
    daemon = FakeDaemon(reference, logprob_shift=0.3)
    if not everywhere:
        daemon.shifted_prompt = reference.conversation("plain").rendered
    check = check_of(prove(daemon), LOG_PROBABILITIES)
    assert check.passed == (not everywhere)
    assert check.numbers["mean_kl_nats"] < check.numbers["mean_kl_bound"]
    over = check.numbers["answers_kl_nats"] > check.numbers["answers_kl_bound"]
    assert over == everywhere
    assert ("in answers 0.0012" in (check.difference or "")) == everywhere


@pytest.mark.parametrize(("shift", "once", "passed"), [(0.3, True, True), (0.3, False, False)])
def test_a_place_that_is_off_alone_is_asked_of_a_fresh_runner(
    shift: float, *, once: bool, passed: bool
) -> None:
    """Its saved states of earlier prompts are not exact where a model looks through a window."""
    reference = small_reference()
    daemon = FakeDaemon(reference, logprob_shift=shift, right_once_unloaded=once)
    daemon.shifted_prompt = reference.conversation("continued").rendered
    check = check_of(prove(daemon, "f16"), LOG_PROBABILITIES)
    assert check.passed == passed
    assert check.numbers["positions_asked_after_reload"] == 1
    assert passed or "at prompt 'continued'" in (check.difference or "")


def test_what_is_off_everywhere_is_not_asked_again() -> None:
    """That takes a model's loading for each place."""
    reference = small_reference()
    answer = reference.answers[0]
    more = {"answers": tuple(answer.model_copy(update={"name": f"a {n}"}) for n in range(3))}
    daemon = FakeDaemon(reference.model_copy(update=more), logprob_shift=0.3)
    check = check_of(prove(daemon, "f16"), LOG_PROBABILITIES)
    assert not check.passed
    assert f"unload {TAG}" not in daemon.calls


@pytest.mark.parametrize(
    ("version", "layers", "refused"),
    [
        ("0.24.0", [False, True], True),
        ("0.34.3", [False, True], True),
        ("0.34.4", [False, True], False),
        ("0.24.0", [True, False, True], False),
    ],
)
def test_windows_that_a_version_has_in_other_layers(
    version: str, layers: list[bool], refused: bool
) -> None:
    """Prompts shorter than the window would prove the model."""
    key = "gemma2.attention.sliding_window_pattern"
    daemon = FakeDaemon(small_reference(), ollama=version)
    metadata = {"general.architecture": "gemma2", key: layers}
    if not refused:
        assert check_of(prove(daemon, metadata=metadata), LOG_PROBABILITIES).passed
        return
    with pytest.raises(DaemonError, match=key) as caught:
        prove(daemon, metadata=metadata)
    assert "0.34.4" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("version", "architecture", "window", "everywhere", "named"),
    [
        ("0.24.0", "gemma3", 3, False, True),
        ("0.24.0", "gemma3", 2, True, True),  # every text is longer: it may be that
        ("0.24.0", "gemma3", 3, True, False),
        ("0.24.0", "gemma3", 4, False, False),
        ("0.24.0", "gemma3", 0, True, False),  # none of its layers slides
        ("0.24.0", "gemma2", 3, False, False),  # llama.cpp runs it there
        ("0.34.4", "gemma3", 3, False, False),
    ],
)
def test_a_window_that_a_version_has_wider_is_named_where_it_shows(
    version: str, architecture: str, window: int, *, everywhere: bool, named: bool
) -> None:
    """Not where texts within the window differ as well: that is something else."""
    reference = small_reference()
    daemon = FakeDaemon(reference, logprob_shift=2.0, ollama=version)
    if not everywhere:
        daemon.shifted_prompt = reference.conversation("plain").rendered + "Yes"
    metadata = {f"{architecture}.attention.sliding_window": window}
    certificate = prove(daemon, "f16", metadata)
    wrong = tuple(one for one in certificate.checks if one.layer == "tensor" and not one.passed)
    assert wrong[0].name == (WINDOW if named else LOG_PROBABILITIES)
    with pytest.raises(ParityError) as caught:
        certificate.model_copy(update={"checks": wrong}).raise_if_failed()
    assert ("window of" in str(caught.value)) == named
    assert ("update Ollama" in (caught.value.hint or "")) == named
    assert ("cannot be told" in str(caught.value)) == (named and window == 2)


def test_an_answer_of_another_day_is_asked_for_with_its_own_prompt() -> None:
    """Today's day in the prompt may change what was certain; what was certain then, still is."""
    reference = small_reference()
    daemon = FakeDaemon(reference, says="No")
    assert not check_of(prove(daemon, "f16"), "greedy answers").passed
    daemon.reference = reference.model_copy(update={"dates": {"%d %b %Y": "20 Nov 2026"}})
    assert check_of(prove(daemon, "f16"), "greedy answers").passed


@pytest.mark.parametrize(
    ("says", "passed"), [("Y", True), ("Yes", False), ("N", False), ("", False)]
)
def test_an_answer_that_ollama_ends_is_held_to_as_far_as_it_came(
    says: str, *, passed: bool
) -> None:
    """What never came cannot differ. But where the checkpoint ends, nothing is repeated."""
    certificate = prove(FakeDaemon(small_reference(), says=says, ends_repeats=True), "f16")
    assert check_of(certificate, "greedy answers").passed == passed


@pytest.mark.parametrize(("says", "blamed"), [("Y", ["stops"]), ("N", ["stops", "greedy answers"])])
def test_a_stop_that_cuts_an_answer_is_not_the_tensors_fault(says: str, blamed: list[str]) -> None:
    """What the daemon says up to it is what the checkpoint says; other weights would say more."""
    certificate = prove(FakeDaemon(small_reference(), says=says), "f16", stops=("<|im_end|>", "e"))
    wrong = [one.name for one in certificate.checks if one.layer in ("stop", "tensor")]
    assert [name for name in wrong if not check_of(certificate, name).passed] == blamed
