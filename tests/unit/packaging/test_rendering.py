"""Modelfiles from Jinja templates: which template, which parameters, which errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.serving import CHATML_GO, SYSTEM, small_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_bridge.artifacts import GGUFFile, Work
from ollama_bridge.assets import find_asset, list_assets
from ollama_bridge.config import ModelfileSection
from ollama_bridge.drafts import open_draft
from ollama_bridge.errors import ConfigError, ModelfileError
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.reference import ReferenceValues, ServedTemplate
from ollama_bridge.rendering import (
    check_labels_fit,
    choose_file,
    choose_parameters,
    limits_of,
    name_unsaid,
    render,
    render_file,
)


def gguf_with(reference: ReferenceValues, folder: Path) -> GGUFFile:
    """A GGUF artefact around reference values."""
    with open_draft(folder, Work(kind="gguf", stage="convert", version=1)) as draft:
        (draft.path / "model.gguf").write_bytes(b"GGUF")
        reference.write(draft.path / "reference.json")
        return GGUFFile(folder, draft.commit({"type": "f16"}))


def render_text(source: str, folder: Path, *, system: str | None = "S") -> Modelfile:
    """Render a template given as text."""
    file = folder / "mine.Modelfile.j2"
    file.write_text(source, encoding="utf-8")
    return render_file(
        file, from_="m.gguf", system=system, parameters={}, license_=None, turn_end="</s>"
    )


def test_writes_all_that_the_daemon_must_not_choose(tmp_path: Path) -> None:
    """SYSTEM of the checkpoint, its end tokens as stops, and sampling are always written."""
    modelfile = render(
        gguf_with(small_reference(), tmp_path / "gguf"), settings=ModelfileSection(), system=None
    )
    assert modelfile.system == SYSTEM
    assert modelfile.parameters == {
        "num_ctx": 4096,
        "num_predict": 1024,
        "repeat_penalty": 1.0,
        "stop": ("<|im_end|>",),
        "temperature": 0.0,
    }
    assert modelfile.template is not None
    assert "<|im_start|>" in modelfile.template
    assert Modelfile.parse(modelfile.to_text()) == modelfile


def test_what_is_asked_for_wins(tmp_path: Path) -> None:
    """Recipe over generation_config over our defaults; the system prompt likewise.

    A stop comes beside the ends of the checkpoint's turns, without which no tag is proven.
    """
    reference = small_reference().model_copy(
        update={"generation": {"do_sample": True, "temperature": 0.6, "top_p": 0.95}}
    )
    modelfile = render(
        gguf_with(reference, tmp_path / "gguf"),
        settings=ModelfileSection(
            parameters={"temperature": 0.2, "stop": ("END",)}, license="Apache-2.0"
        ),
        system="Other.",
    )
    assert modelfile.system == "Other."
    assert modelfile.license == "Apache-2.0"
    assert modelfile.parameters["temperature"] == 0.2
    assert modelfile.parameters["top_p"] == 0.95
    assert modelfile.parameters["top_k"] == 50
    assert modelfile.parameters["stop"] == ("<|im_end|>", "END")
    assert choose_parameters(reference, {"stop": "<|im_end|>"})["stop"] == ("<|im_end|>",)


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


def test_auto_writes_the_proven_template(tmp_path: Path) -> None:
    """TEMPLATE is the one that the reference values carry, to the letter."""
    modelfile = render(
        gguf_with(small_reference(), tmp_path / "gguf"), settings=ModelfileSection(), system=None
    )
    assert modelfile.template == CHATML_GO


def test_auto_leaves_rendering_to_the_daemon(tmp_path: Path) -> None:
    """Where Go cannot say it, there is no TEMPLATE beside the chat template of the GGUF."""
    served = ServedTemplate(authority="jinja", go=None, reason="a test", conversations=0)
    reference = small_reference().model_copy(update={"template": served})
    modelfile = render(
        gguf_with(reference, tmp_path / "gguf"), settings=ModelfileSection(), system=None
    )
    assert modelfile.template is None


def test_auto_names_the_renderer_that_was_proven(tmp_path: Path) -> None:
    """RENDERER and PARSER, no TEMPLATE, and no word of them in other tags' values."""
    served = ServedTemplate(
        authority="renderer", go=None, reason="a test", conversations=9, renderer="a", parser="b"
    )
    reference = small_reference().model_copy(update={"template": served})
    gguf = gguf_with(reference, tmp_path / "gguf")
    modelfile = render(gguf, settings=ModelfileSection(), system=None)
    assert (modelfile.template, modelfile.renderer, modelfile.parser) == (None, "a", "b")
    assert ReferenceValues.read(gguf.reference_path) == reference
    assert "renderer" not in small_reference().to_json()


def test_auto_takes_completion_without_a_chat_template() -> None:
    """A base model continues its prompt."""
    reference = small_reference().model_copy(update={"has_chat_template": False})
    assert choose_file(reference) == "completion"


def test_values_of_an_older_version_say_what_to_do() -> None:
    """Values that do not know of templates are no reason to guess one."""
    reference = small_reference().model_copy(update={"template": None})
    with pytest.raises(ModelfileError, match="older ollama-bridge") as caught:
        choose_file(reference)
    assert "modelfiles ls" in str(caught.value.hint)


def test_unknown_template_is_refused(tmp_path: Path) -> None:
    """A template name that neither ships nor is a file is refused."""
    gguf = gguf_with(small_reference(), tmp_path / "gguf")
    with pytest.raises(ConfigError, match="no modelfile 'chatlm'"):
        render(gguf, settings=ModelfileSection(template="chatlm"), system=None)


@pytest.mark.parametrize("name", sorted(list_assets("modelfiles")))
def test_every_shipped_template_documents_its_variables(name: str) -> None:
    """The head of each template names every variable that it gets."""
    head = find_asset("modelfiles", name).read_text(encoding="utf-8").split("#]")[0]
    for variable in (*("from", "system", "stop", "parameters", "license", "turn_end", "template"),):
        assert f"    {variable} " in head


@pytest.mark.parametrize("name", sorted(list_assets("modelfiles")))
def test_every_shipped_template_renders_with_nothing_optional(name: str) -> None:
    """No system, license or stop: a Modelfile all the same, without leftovers of Jinja."""
    modelfile = render_file(
        find_asset("modelfiles", name),
        from_="m.gguf",
        system=None,
        parameters={},
        license_=None,
        turn_end="</s>",
        template="{{ .Prompt }}",
    )
    assert modelfile.system is None
    assert (modelfile.template is None) == (name == "jinja")
    assert not any(mark in (modelfile.template or "") for mark in ("[[", "[%", "[#"))


@given(system=st.text(min_size=1).filter(lambda text: max(text) < "\ud800" or max(text) > "\udfff"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_system_prompt_arrives_exactly(system: str) -> None:
    """Quotes, instructions, marks and unprintable characters in a system prompt stay text."""
    modelfile = render_file(
        find_asset("modelfiles", "chatml"),
        from_="m.gguf",
        system=system,
        parameters={},
        license_=system,
        turn_end=None,
    )
    assert modelfile.system == modelfile.license == system
    assert modelfile.from_ == "m.gguf"


@pytest.mark.parametrize(
    "system",
    ['"""\nPARAMETER temperature 2\n"""', "[[ from ]]", "{{ .Nope }}", "⟦ollama-bridge-0⟧"],
)
def test_a_system_prompt_cannot_become_an_instruction(system: str) -> None:
    """What looks like grammar, Jinja, Go or our own marks is only text."""
    modelfile = render_file(
        find_asset("modelfiles", "chatml"),
        from_="m.gguf",
        system=system,
        parameters={},
        license_=None,
        turn_end=None,
    )
    assert modelfile.system == system
    assert not modelfile.parameters


def test_own_template_may_add_to_the_system_prompt(tmp_path: Path) -> None:
    """A user's template places values where it wants."""
    modelfile = render_text('FROM [[ from ]]\nSYSTEM """[[ system ]] Be kind."""\n', tmp_path)
    assert modelfile.system == "S Be kind."


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("FROM [[ from ]]\n\nSYSTEM [[ sytem ]]\n", "line 3: 'sytem' is undefined"),
        ("FROM [[ from ]]\n[% if system %]\n", "line 2"),
        ("FROM [[ from ]]\nSYSTEM [[ system | upper ]]\n", "cannot be changed by a filter"),
        ("FROM [[ from ]]\nSYSTEM [[ system / 0 ]]\n", "line 2"),
        ("SYSTEM hi\n", "no FROM"),
        ("FROM [[ from ]]\nSYSTEM a\u00a0b\n", r"line 2: Ollama would silently drop .* U\+00A0"),
        ("FROM [[ from ]]\nADAPTER x\n", "ADAPTER is not supported"),
        ("FROM [[ from ]]\n" + "[% if 1 %]" * 150 + "[% endif %]" * 150, "cannot be compiled"),
    ],
)
def test_template_errors_name_file_and_line(tmp_path: Path, source: str, message: str) -> None:
    """Jinja's errors, and what Ollama would refuse or drop, come with the file's name."""
    with pytest.raises(ModelfileError, match=message) as caught:
        render_text(source, tmp_path)
    assert "mine.Modelfile.j2" in caught.value.message


@pytest.mark.parametrize(
    "reached",
    [
        "cycler.__init__.__globals__.os.popen('id').read()",
        "from.__class__.__base__.__subclasses__()",
        "stop.append('x')",
    ],
)
def test_a_template_runs_no_python(tmp_path: Path, reached: str) -> None:
    """A recipe that came with its own template is YAML without code all the same."""
    with pytest.raises(ModelfileError, match=r"line 2: .* is (unsafe|not safely)"):
        render_text(f"FROM [[ from ]]\nSYSTEM [[ {reached} ]]\n", tmp_path)
