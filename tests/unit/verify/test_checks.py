"""The checks of a tag's parts: vocabulary, settings, and the certificate that they fill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.sentencepiece import RUN
from fakes.serving import FakeDaemon, small_reference

from ollama_bridge.errors import ArtifactError, ParityError
from ollama_bridge.modelfile import Modelfile, ParameterValue
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues, Role, Special, Turn
from ollama_bridge.verify.certificate import LAYERS, LEFT_TO_DAEMON, Certificate, Check
from ollama_bridge.verify.settings import check_settings, describe_sampling, read_parameters
from ollama_bridge.verify.vocabulary import check_vocabulary

TOKENS = ["<unk>", "<|im_start|>", "<|im_end|>", "a", "b", "Yes", "No"]
GOOD = {
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
}
OURS = {**GOOD, REFERENCE_KEY: small_reference().to_json()}
BARE = Modelfile("m.gguf", template="{{ .Prompt }}", system="Be brief.")
MODELFILE = Modelfile(
    "m.gguf",
    template="{{ .Prompt }}",
    system="Be brief.",
    parameters={
        "temperature": 0.7,
        "repeat_penalty": 1.0,
        "num_predict": 64,
        "stop": ("<|im_end|>", 'a "quoted"\n\x01stop'),
    },
)


def test_a_right_vocabulary_passes() -> None:
    """Texts, splitting, ends and BOS agree."""
    assert all(check.passed for check in check_vocabulary(small_reference(), GOOD))


@pytest.mark.parametrize("name", ["mpt", "a name of tomorrow", None])
def test_another_name_of_the_same_splitting_passes(name: str | None) -> None:
    """Aliases, names that we do not know and none at all prove nothing wrong."""
    metadata = GOOD | {"tokenizer.ggml.pre": name}
    assert all(check.passed for check in check_vocabulary(small_reference(), metadata))


@pytest.mark.parametrize(("bos", "passed"), [(1, True), (0, False)])
def test_the_token_that_begins_every_text_is_compared(bos: int, passed: bool) -> None:
    """Its id decides what the daemon puts in front, which no token count shows."""
    reference = small_reference().model_copy(
        update={"bos": Special(id=1, text="<|im_start|>"), "adds_bos": True}
    )
    metadata = GOOD | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": bos}
    checks = check_vocabulary(reference, metadata)
    assert all(check.passed for check in checks) == passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.tokens": TOKENS[:6]}, "has 6 tokens, the tokenizer 7"),
        (
            {"tokenizer.ggml.tokens": [*TOKENS[:5], "No", "Yes"]},
            "token 5 is 'Yes' in the checkpoint, 'No' in the GGUF",
        ),
        ({"tokenizer.ggml.eos_token_id": 0}, "eos_token_id is 0"),
        ({"tokenizer.ggml.add_bos_token": True}, "add_bos_token is True"),
        ({"tokenizer.ggml.model": "gpt2"}, "is 'default' in the GGUF"),
        ({"tokenizer.ggml.pre": "smollm"}, "is 'smollm' in the GGUF, the tokenizer splits as 'gpt"),
        ({"tokenizer.ggml.pre": "falcon"}, "is 'falcon' in the GGUF, the tokenizer splits as 'gpt"),
        (
            {"tokenizer.ggml.token_type": [1] * 7, "tokenizer.ggml.eot_token_id": 4},
            "eot_token_id is 4, an ordinary token, at which answers would end",
        ),
    ],
)
def test_a_wrong_vocabulary_is_named(change: dict[str, object], message: str) -> None:
    """The first wrong token, end or BOS is named; the layer is the tokenizer."""
    failed = [
        check for check in check_vocabulary(small_reference(), GOOD | change) if not check.passed
    ]
    assert [check.layer for check in failed] == ["tokenizer"]
    assert message in str(failed[0].difference)


@pytest.mark.parametrize(
    ("model", "text", "type_", "passed"),
    [
        ("llama", "\u2581\u2581", 1, True),
        ("llama", "  ", 4, True),
        ("llama", "\u2581\u2581", 4, False),
        ("llama", "\u2581", 1, False),
        ("gpt2", "  ", 4, False),
        ("llama", "\u2581\u2581", 5, False),
    ],
    ids=["ours", "llama.cpp's", "printed to the letter", "another", "no SentencePiece", "unused"],
)
def test_a_run_of_spaces_is_what_is_printed(
    model: str, text: str, type_: int, *, passed: bool
) -> None:
    """Gemma's added tokens, of which converters write the spaces in either of two ways."""
    reference = small_reference()
    first, *others = reference.conversations
    runs = first.model_copy(
        update={"token_ids": (*first.token_ids, 7), "token_texts": (*first.token_texts, RUN)}
    )
    reference = reference.model_copy(update={"conversations": (runs, *others), "vocab_size": 8})
    metadata = {
        "tokenizer.ggml.tokens": [*TOKENS, text],
        "tokenizer.ggml.token_type": [*([1] * len(TOKENS)), type_],
        "tokenizer.ggml.model": model,
    }
    check, *_ = check_vocabulary(reference, metadata)
    assert check.passed == passed


@pytest.mark.parametrize(("type_", "passed"), [(6, True), (1, False)])
def test_a_byte_is_no_text(type_: int, *, passed: bool) -> None:
    """Of a character that has no piece; Ollama would print <0xF0>."""
    reference = small_reference()
    first, *others = reference.conversations
    emoji = first.model_copy(
        update={"token_ids": (*first.token_ids, 7), "token_texts": (*first.token_texts, "<0xF0>")}
    )
    reference = reference.model_copy(update={"conversations": (emoji, *others), "vocab_size": 8})
    metadata = {
        "tokenizer.ggml.tokens": [*TOKENS, "<0xF0>"],
        "tokenizer.ggml.token_type": [*([1] * len(TOKENS)), type_],
        "tokenizer.ggml.model": "llama",
    }
    check, *_ = check_vocabulary(reference, metadata)
    assert check.passed == passed
    assert passed or "'<0xF0>', is no byte in the GGUF" in str(check.difference)


@pytest.mark.parametrize(
    ("roles", "type_", "carried", "passed"),
    [
        ({}, 3, None, False),
        ({"eot": 1}, 3, None, True),
        ({"eom": 1}, 3, None, True),
        ({}, 1, None, True),
        ({"eos": 0, "eot": 2, "eom": 3}, 3, None, True),
        ({}, 3, (2, 1), False),
        ({}, 3, (2,), True),
    ],
    ids=[
        *("lost", "eot", "eom", "printed, so that a stop sees it", "no room for a fourth"),
        *("the file's own values name it", "only values of today do"),
    ],
)
def test_one_of_several_ends_may_not_be_lost(
    roles: dict[str, int], type_: int, carried: tuple[int, ...] | None, *, passed: bool
) -> None:
    """Ollama prints nothing of a special token: a stop alone does not end an answer there."""
    texts = {0: "<unk>", 1: "<|im_start|>", 2: "<|im_end|>", 3: "a"}
    ends = tuple(Special(id=id_, text=texts[id_]) for id_ in dict.fromkeys((2, 1, *roles.values())))
    reference = small_reference().model_copy(update={"end_tokens": ends})
    metadata: dict[str, object] = {
        **GOOD,
        "tokenizer.ggml.token_type": [type_] * len(TOKENS),
        **{f"tokenizer.ggml.{role}_token_id": id_ for role, id_ in roles.items()},
    }
    if carried is not None:
        own = reference.model_copy(
            update={"end_tokens": tuple(one for one in ends if one.id in carried)}
        )
        metadata[REFERENCE_KEY] = own.to_json()
    *_, check = check_vocabulary(reference, metadata)
    assert check.passed == passed, check.difference
    assert passed or "does not name token 1 (<|im_start|>) as an end" in str(check.difference)


def shown(modelfile: Modelfile) -> FakeDaemon:
    """A daemon that has a tag of this Modelfile."""
    daemon = FakeDaemon(small_reference())
    daemon.create(modelfile.to_request("t", blob_digest="sha256:00"))
    return daemon


def test_what_was_asked_for_is_shown() -> None:
    """Every text and parameter that was sent is what the daemon shows."""
    checks = check_settings(shown(MODELFILE).show("t"), MODELFILE, small_reference(), OURS)
    assert [check.difference for check in checks] == [None] * 4


@pytest.mark.parametrize(
    ("served", "layer", "message"),
    [
        (replace(MODELFILE, system="Other."), "template", "another SYSTEM"),
        (replace(MODELFILE, template="x"), "template", "another TEMPLATE"),
        (
            replace(MODELFILE, parameters={**MODELFILE.parameters, "temperature": 0.8}),
            "sampling",
            "temperature should be 0.7",
        ),
        (
            replace(MODELFILE, parameters={**MODELFILE.parameters, "stop": ("<|im_end|>",)}),
            "stop",
            "has the stops",
        ),
        (
            replace(MODELFILE, parameters={**MODELFILE.parameters, "stop": ("</s>",)}),
            "stop",
            "no PARAMETER stop for the end token '<|im_end|>'",
        ),
    ],
)
def test_what_is_shown_otherwise_is_named(served: Modelfile, layer: str, message: str) -> None:
    """Each kind of setting that arrives changed has its own layer."""
    checks = check_settings(shown(served).show("t"), MODELFILE, small_reference(), OURS)
    failed = [check for check in checks if not check.passed]
    assert [check.layer for check in failed] == [layer]
    assert message in str(failed[0].difference)


def test_a_modelfile_of_another_system_prompt_is_refused() -> None:
    """A SYSTEM that is served as sent, but is not the checkpoint's, fails."""
    other = replace(MODELFILE, system="Be long.")
    texts, *_ = check_settings(shown(other).show("t"), other, small_reference(), OURS)
    assert texts.layer == "template"
    assert not texts.passed


NOTHING_LEFT = "offers neither tools nor thinking, the chat template has tools"


@pytest.mark.parametrize(
    ("proven", "served", "metadata", "template", "problem"),
    [
        (("tools",), (), OURS, "proven", NOTHING_LEFT),
        (("tools",), (), GOOD, "another", NOTHING_LEFT),
        (("tools", "thinking"), ("thinking",), GOOD, "another", "offers thinking, the chat"),
        ((), ("tools",), OURS, "proven", "offers tools, the chat template has neither"),
        ((), ("tools",), GOOD, "another", None),
        (("tools",), ("tools",), GOOD, "another", None),
    ],
)
def test_capabilities_are_those_that_were_proven(
    proven: tuple[str, ...],
    served: tuple[str, ...],
    metadata: dict[str, object],
    template: str,
    problem: str | None,
) -> None:
    """What the checkpoint can do may not be lost; more is only wrong in our own TEMPLATE."""
    check = capabilities_of(proven, served, metadata, is_proven=template == "proven")
    assert check.passed == (problem is None)
    assert check.layer == "template"
    assert problem is None or problem in str(check.difference)


@pytest.mark.parametrize(
    ("proven", "served", "source", "passed"),
    [
        ((), ("tools",), "{{ m.tool_calls }}", True),
        ((), ("tools",), "", False),
        (("tools",), (), "", False),
        ((), ("tools", "thinking"), "{{ tools }}", False),
        ((), ("thinking",), "{{ m.content.split('</think>') }}", True),
        ((), ("thinking",), "{{ '</think>' not in m.content }}", False),
    ],
)
def test_a_daemon_that_renders_the_jinja_goes_by_words(
    proven: tuple[str, ...], served: tuple[str, ...], source: str, *, passed: bool
) -> None:
    """What it takes them for is a stated limit, no more; what is promised has to be there."""
    check = capabilities_of(proven, served, OURS, is_proven=True, jinja=source)
    assert check.passed == passed
    assert passed or "the daemon offers" in str(check.difference)


def test_what_a_recipe_s_own_template_gives_up_is_said() -> None:
    """Whoever trained the model named it: nothing is wrong, but it is no secret either."""
    check = capabilities_of(("tools", "thinking"), ("thinking",), OURS, is_proven=False)
    assert check.passed
    certificate = certificate_of().model_copy(update={"checks": (check,)})
    assert certificate.verdict.endswith("; its TEMPLATE gives up tools")


def test_what_a_template_of_others_offers_more_is_said() -> None:
    """Go may be what cannot say them, and not the checkpoint what lacks them: only that is said."""
    check = capabilities_of((), ("tools", "thinking"), OURS, is_proven=False)
    assert check.passed
    certificate = certificate_of().model_copy(update={"checks": (check,)})
    assert certificate.verdict.endswith(
        "; it offers thinking and tools, of which nothing is proven"
    )


def capabilities_of(
    proven: tuple[str, ...],
    served: tuple[str, ...],
    metadata: dict[str, object],
    *,
    is_proven: bool,
    jinja: str | None = None,
) -> Check:
    """The check of a tag with the proven TEMPLATE, or another one."""
    reference = small_reference()
    assert reference.template is not None
    promised = reference.template.model_copy(update={"capabilities": proven})
    if jinja is not None:
        promised = promised.model_copy(update={"authority": "jinja", "go": None})
    reference = reference.model_copy(update={"template": promised})
    modelfile = replace(MODELFILE, template=promised.go) if is_proven else MODELFILE
    details = replace(shown(modelfile).show("t"), capabilities=("completion", *served))
    if jinja is not None:
        details = replace(details, template=jinja)
    checks = check_settings(details, modelfile, reference, metadata)
    return next(check for check in checks if check.name == "capabilities")


def test_what_a_bare_tag_leaves_to_the_daemon_is_said() -> None:
    """Its file names the end; nobody decided on sampling. In a tag of ours both were lost."""
    served = shown(BARE).show("t")
    checks = check_settings(served, BARE, small_reference(), GOOD)
    assert [check.difference for check in checks] == [None] * 4
    assert checks[-1].numbers[LEFT_TO_DAEMON] == "temperature, repeat_penalty, num_predict"
    certificate = certificate_of().model_copy(update={"checks": checks})
    assert certificate.verdict.endswith(
        "it leaves to Ollama's defaults: temperature, repeat_penalty, num_predict"
    )
    of_ours = check_settings(served, BARE, small_reference(), OURS)
    assert [check.layer for check in of_ours if not check.passed] == ["stop", "sampling"]


@pytest.mark.parametrize(
    ("penalty", "parameters", "left"),
    [
        (1.05, {"repeat_penalty": 1.05}, True),
        (1.05, {"repeat_penalty": 1.05, "repeat_last_n": 4096}, False),
        (1.05, {"repeat_penalty": 1.1}, False),
        (1.0, {"repeat_penalty": 1.0}, False),
    ],
    ids=["an older tag", "a tag of today", "asked for", "none"],
)
def test_a_penalty_of_the_checkpoint_without_its_reach_is_said(
    penalty: float, parameters: dict[str, float | int], *, left: bool
) -> None:
    """64 tokens of the whole text are penalised then: no other model, but another answer."""
    reference = small_reference().model_copy(update={"generation": {"repetition_penalty": penalty}})
    modelfile = replace(MODELFILE, parameters={**MODELFILE.parameters, **parameters})
    *_, check = check_settings(shown(modelfile).show("t"), modelfile, reference, OURS)
    assert check.passed
    assert check.numbers.get(LEFT_TO_DAEMON) == ("repeat_last_n" if left else None)


@pytest.mark.parametrize(
    ("end", "metadata", "passed"),
    [
        (Special(id=1, text="<|user|>"), {}, False),
        (Special(id=1, text="<|user|>"), {"tokenizer.ggml.eos_token_ids": [2, 1]}, False),
        (Special(id=1, text="<|user|>"), {"tokenizer.ggml.eom_token_id": 1}, True),
        (Special(id=0, text="<|endoftext|>"), {}, True),
    ],
    ids=["unnamed", "named for Ollama only", "named for the runner", "known by its text"],
)
def test_an_end_that_no_runner_knows_needs_a_stop(
    end: Special, metadata: dict[str, object], passed: bool
) -> None:
    """llama.cpp stops at eos, eot and eom, and at some texts; not at eos_token_ids."""
    reference = small_reference()
    ends = (*reference.end_tokens, end)
    reference = reference.model_copy(update={"end_tokens": ends})
    checks = check_settings(shown(BARE).show("t"), BARE, reference, GOOD | metadata)
    failed = [check for check in checks if not check.passed]
    assert [check.layer for check in failed] == ([] if passed else ["stop"])


def test_a_tag_of_ours_has_a_stop_for_each_end_that_its_values_name() -> None:
    """Values that are computed anew may name one more: it was made, and proven, without."""
    reference = small_reference()
    ends = (*reference.end_tokens, Special(id=0, text="<|endoftext|>"))
    anew = reference.model_copy(update={"end_tokens": ends})
    for carried, failed in ((reference, []), (anew, ["stop"])):
        metadata = {**GOOD, REFERENCE_KEY: carried.to_json()}
        checks = check_settings(shown(MODELFILE).show("t"), MODELFILE, anew, metadata)
        assert [check.layer for check in checks if not check.passed] == failed


def test_a_default_system_prompt_may_be_left_to_the_template() -> None:
    """The chat template puts it in by itself, which the rendered prompts prove."""
    reference = small_reference().model_copy(update={"default_system": "Be brief."})
    without = replace(BARE, system=None)
    texts, *_ = check_settings(shown(without).show("t"), without, reference, GOOD)
    assert texts.passed


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"temperature": 0.6, "top_k": 50, "presence_penalty": 0}, ""),
        ({"temperature": 0.0, "top_k": 20}, "temperature 0 (checkpoint: 0.6)"),
        ({"temperature": 0.6, "top_k": 20}, "top_k 20 (checkpoint: 50)"),
        ({"temperature": 0.6, "min_p": 0.1}, "min_p 0.1"),
        ({"presence_penalty": 1.5}, "presence_penalty 1.5"),
        ({"num_predict": 2}, ""),
        ({"num_predict": -1}, ""),
        ({"num_ctx": 512, "seed": 7, "stop": ("x",)}, ""),
        ({"num_ctx": 2}, "num_ctx 2 (a prompt of the checkpoint: 3)"),
    ],
)
def test_what_is_said_of_sampling(parameters: dict[str, ParameterValue], said: str) -> None:
    """What changes an answer, and is not the checkpoint's; nothing of the cuts at temperature 0."""
    own: dict[str, ParameterValue] = {"temperature": 0.6, "top_k": 50, "repeat_penalty": 1.0}
    assert describe_sampling(parameters, own, small_reference()) == said


@pytest.mark.parametrize(
    ("stop", "answer", "passed"),
    [
        ("e", {}, False),
        ("e", {"greedy": False}, True),
        ("e", {"certain_text": "Y"}, True),
        ("</turn>", {"certain_text": "Yes</turn>"}, True),
    ],
    ids=["certain", "a label", "not certain", "what ends turns"],
)
def test_stops_may_not_cut_what_is_certain(
    stop: str, answer: dict[str, object], passed: bool
) -> None:
    """Whoever wants that stop wants other answers than the checkpoint's."""
    reference = small_reference()
    answers = (reference.answers[0].model_copy(update=answer),)
    reference = reference.model_copy(update={"answers": answers, "turn_end": "</turn>"})
    modelfile = replace(MODELFILE, parameters={"stop": ("<|im_end|>", stop)})
    checks = check_settings(shown(modelfile).show("t"), modelfile, reference, GOOD)
    assert next(check for check in checks if check.name == "stops").passed == passed


@pytest.mark.parametrize(
    ("stop", "passed"),
    [("### Instruction:", True), ("\n\n###", True), ("\n", True), (".", False), ("a", False)],
)
def test_stops_may_cut_where_the_next_turn_begins(stop: str, passed: bool) -> None:
    """A fine-tune of a plain format goes on by itself, as its chat template would."""
    answer = "Paris.\n\n### Instruction:\nWhat is"
    reference = plain_reference(
        answer, "### Instruction:\n{}\n\n### Response:\n{}\n\n### Instruction:\n{}"
    )
    modelfile = replace(MODELFILE, parameters={"stop": ("<|im_end|>", stop)})
    checks = check_settings(shown(modelfile).show("t"), modelfile, reference, GOOD)
    check = next(check for check in checks if check.name == "stops")
    assert check.passed == passed, check.difference


def test_a_continued_text_may_be_cut_and_that_is_said() -> None:
    """A base model ends where a line does because somebody wants it to."""
    reference = plain_reference("Paris.\nIt is", "{}\n\n{}\n\n{}").model_copy(
        update={"has_chat_template": False}
    )
    parameters: dict[str, ParameterValue] = {"stop": ("<|im_end|>", "\n", "x")}
    modelfile = replace(MODELFILE, parameters=parameters)
    checks = check_settings(shown(modelfile).show("t"), modelfile, reference, GOOD)
    assert next(check for check in checks if check.name == "stops").passed
    said = describe_sampling(parameters, {}, reference)
    assert said == r"stop '\n' (in a text of the checkpoint)"


def plain_reference(answer: str, rendered: str) -> ReferenceValues:
    """Of a chat format in plain text: three turns, and an answer that does not end."""
    reference = small_reference()
    said = ("Name one.", "Green.", "Another one?")
    roles: tuple[Role, ...] = ("user", "assistant", "user")
    turns = tuple(Turn(role=role, content=one) for role, one in zip(roles, said, strict=True))
    first, *others = reference.conversations
    first = first.model_copy(update={"turns": turns, "rendered": rendered.format(*said)})
    running = {"text": answer, "certain_text": answer, "ends": False}
    return reference.model_copy(
        update={
            "conversations": (first, *others),
            "answers": (reference.answers[0].model_copy(update=running),),
            "turn_end": None,
        }
    )


def test_parameters_are_read_in_go_notation() -> None:
    """Quoted texts, numbers with exponents and booleans, as ``show`` prints them."""
    text = 'stop     "a\\n\\u00a0\\"b"\nstop  "c"\nnum_ctx   1e+06\nuse_mmap true\nmin_p 0.05\n\n'
    assert read_parameters(text) == {
        "stop": ['a\n\u00a0"b', "c"],
        "num_ctx": [1e6],
        "use_mmap": [True],
        "min_p": [0.05],
    }


@pytest.mark.parametrize("value", ["{[]: 1}", "-" * 100_000 + "1", "(" * 300, "9" * 5000])
def test_parameters_in_no_notation(value: str) -> None:
    """Are the text that they are."""
    assert read_parameters(f"stop {value}") == {"stop": [value]}


def certificate_of(*failed: str) -> Certificate:
    """A certificate whose checks of these layers failed."""
    checks = tuple(
        Check(
            name=f"{layer} check",
            layer=layer,  # type: ignore[arg-type]
            passed=layer not in failed,
            difference="secret words" if layer in failed else None,
        )
        for layer in reversed(LAYERS)
    )
    return Certificate(
        tag="t:latest", type="f16", daemon_version="0.34.4", blob_digest="sha256:0", checks=checks
    )


def test_the_first_layer_is_blamed() -> None:
    """A wrong tokenizer explains wrong numbers, so it is named first."""
    with pytest.raises(ParityError, match="tokenizer: secret words") as caught:
        certificate_of("tensor", "tokenizer", "sampling").raise_if_failed()
    assert caught.value.layer == "tokenizer"
    assert caught.value.hint


def test_the_verdict_has_no_word_of_a_prompt() -> None:
    """The one line that goes into events names the check, not the texts that differ."""
    verdict = certificate_of("template").verdict
    assert "template" in verdict
    assert "secret" not in verdict


def test_a_good_certificate_raises_nothing(tmp_path: Path) -> None:
    """A passed certificate is silent, and is read back equal."""
    certificate = certificate_of()
    certificate.raise_if_failed()
    (tmp_path / "certificate.json").write_text(certificate.to_json())
    assert Certificate.read(tmp_path / "certificate.json") == certificate


def test_a_damaged_certificate_is_refused(tmp_path: Path) -> None:
    """Anything else is no certificate."""
    (tmp_path / "certificate.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a certificate"):
        Certificate.read(tmp_path / "certificate.json")
