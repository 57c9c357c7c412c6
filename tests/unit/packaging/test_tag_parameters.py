"""PARAMETERs of a tag: what wins, what is named as nobody's, and room for answers."""

from __future__ import annotations

import pytest
from fakes.serving import small_reference

from ollama_bridge.errors import ConfigError, ModelfileError
from ollama_bridge.recipe.config import ModelfileSection
from ollama_bridge.reference import ServedTemplate
from ollama_bridge.tag_parameters import (
    check_labels_fit,
    choose_parameters,
    limits_of,
    name_unsaid,
)


@pytest.mark.parametrize(
    ("own", "asked", "limit"),
    [
        (2000, {}, 2000),
        (32768, {}, 4096),
        (32768, {"num_ctx": 16384}, 16384),
        (20, {}, 1024),
        (2000, {"num_predict": 64}, 64),
    ],
    ids=["its own", "of the context", "of a longer one", "never less than ours", "asked for"],
)
def test_an_answer_may_be_as_long_as_the_checkpoint_says(
    own: int, asked: dict[str, object], limit: int
) -> None:
    """A thought is not cut at our limit; one that is longer than the context has no prompt."""
    reference = small_reference().model_copy(update={"generation": {"max_new_tokens": own}})
    assert choose_parameters(reference, asked)["num_predict"] == limit


@pytest.mark.parametrize(
    ("own", "asked", "limit"),
    [({}, {}, 4096), ({}, {"num_ctx": 16384}, 16384), ({}, {"num_predict": 64}, 64)]
    + [({"max_new_tokens": 2000}, {}, 2000)],
    ids=["all of the context", "of a longer one", "asked for", "its own"],
)
def test_thoughts_have_the_context_where_nobody_says_less(
    own: dict[str, int], asked: dict[str, object], limit: int
) -> None:
    """At 1024 tokens most models that think are still thinking, and have answered nothing."""
    served = ServedTemplate(
        authority="template", go="x", reason="a test", conversations=1, capabilities=("thinking",)
    )
    reference = small_reference().model_copy(update={"template": served, "generation": own})
    assert choose_parameters(reference, asked)["num_predict"] == limit
    if not own:
        settings = ModelfileSection.model_validate({"parameters": asked})
        assert limits_of(settings, thinks=True)["num_predict"] == limit


@pytest.mark.parametrize("asked", [True, False])
def test_true_and_false_are_parameters_of_a_recipe(asked: bool) -> None:
    """They were numbers, which no such PARAMETER can be."""
    settings = ModelfileSection.model_validate({"parameters": {"use_mmap": asked, "seed": 1}})
    made = choose_parameters(small_reference(), settings.parameters)
    assert made["use_mmap"] is asked
    assert made["seed"] == 1


def test_what_nobody_said_is_named() -> None:
    """Of the checkpoint's own, and of what was asked for, nothing."""
    reference = small_reference()
    made = choose_parameters(reference, {"num_ctx": 512, "stop": ("END",)})
    named = {"num_predict": 1024, "repeat_penalty": 1.0, "temperature": 0.0}
    assert name_unsaid(made, reference, {"num_ctx": 512, "stop": ("END",)}) == named
    generation = {"do_sample": True, "repetition_penalty": 1.1, "max_new_tokens": 2000}
    own = reference.model_copy(update={"generation": generation})
    assert name_unsaid(choose_parameters(own, {}), own, {}) == {"num_ctx": 4096}


def test_a_penalty_reaches_as_far_as_in_transformers() -> None:
    """Over prompt and answer, not 64 tokens; whoever asks for a penalty has Ollama's."""
    reference = small_reference().model_copy(update={"generation": {"repetition_penalty": 1.05}})
    parameters = choose_parameters(reference, {"num_ctx": 2048})
    assert parameters["repeat_penalty"] == 1.05
    assert parameters["repeat_last_n"] == 2048
    assert choose_parameters(reference, {"repeat_last_n": 128})["repeat_last_n"] == 128
    assert "repeat_last_n" not in choose_parameters(reference, {"repeat_penalty": 1.1})


def test_a_tag_has_room_for_its_labels() -> None:
    """num_predict holds the longest label and its end, or says which value would."""

    def check(parameters: dict[str, object], *labels: str) -> None:
        check_labels_fit(
            ModelfileSection(parameters=parameters), labels, lambda label: len(label) + 1
        )

    check({"num_predict": 8}, "positiv", "good")
    with pytest.raises(ConfigError, match="'positive' and its end are 9 tokens") as caught:
        check({"num_predict": 8}, "positive", "good")
    assert caught.value.hint == "add --set modelfile.parameters.num_predict=9"
    check({"num_predict": 9}, "positive", "good")
    check({"num_predict": -1}, "positive", "good")
    check({}, "positive")
    check({"num_predict": 8})
    with pytest.raises(ModelfileError):
        check({"num_predict": "many"}, "positive", "good")


def test_context_is_never_longer_than_the_weights_allow() -> None:
    """num_ctx is the checkpoint's own length where that is short."""
    reference = small_reference().model_copy(update={"context_length": 512})
    assert choose_parameters(reference, {})["num_ctx"] == 512
