"""Modelfiles from Jinja templates: which template, what is put in, which errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.serving import CHATML_GO, SYSTEM, small_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_bridge.assets import find_asset, list_assets
from ollama_bridge.errors import ConfigError, ModelfileError
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.recipe.config import ModelfileSection
from ollama_bridge.reference import ReferenceValues, ServedTemplate
from ollama_bridge.rendering import choose_file, render, render_file
from ollama_bridge.storage.artifacts import GGUFFile, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.tag_parameters import choose_parameters


def gguf_with(reference: ReferenceValues, folder: Path) -> GGUFFile:
    """A GGUF artefact around reference values."""
    with open_draft(folder, Work(kind="gguf", stage="convert", version=1)) as draft:
        (draft.path / "model.gguf").write_bytes(b"GGUF")
        reference.write(draft.path / "reference.json")
        return GGUFFile(folder, draft.commit({"type": "f16"}))


def render_text(source: str, folder: Path) -> Modelfile:
    """Render a template given as text."""
    file = folder / "mine.Modelfile.j2"
    file.write_text(source, encoding="utf-8")
    return render_file(
        file, from_="m.gguf", system="S", parameters={}, license_=None, turn_end="</s>"
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


def test_auto_names_a_parser_beside_the_template(tmp_path: Path) -> None:
    """What Go renders, code of Ollama's own may read."""
    reference = small_reference()
    assert reference.template is not None
    served = reference.template.model_copy(update={"parser": "b"})
    gguf = gguf_with(reference.model_copy(update={"template": served}), tmp_path / "gguf")
    modelfile = render(gguf, settings=ModelfileSection(), system=None)
    assert (modelfile.template, modelfile.renderer, modelfile.parser) == (CHATML_GO, None, "b")


def test_auto_takes_completion_without_a_chat_template() -> None:
    """A base model continues its prompt."""
    reference = small_reference().model_copy(update={"has_chat_template": False})
    assert choose_file(reference) == "completion"


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


def test_own_template_may_begin_with_an_editors_mark(tmp_path: Path) -> None:
    """Windows' editors write one into UTF-8, and Ollama reads over it."""
    assert render_text("\ufeffFROM [[ from ]]\n", tmp_path).from_ == "m.gguf"


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
