"""Chat templates that do not end or that take all memory are found before they are rendered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ollama_bridge.errors import ModelError, TemplateError
from ollama_bridge.models import template_trial
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.template_trial import check_chat_template
from ollama_bridge.template.jinja import OTHER_NAMES_OF_TOOLS, ChatTemplate

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ strftime_now('%d %b %Y') }}{{ messages | tojson(indent=2) }}{{ tools | tojson }}",
        "{{ messages[7].content.missing }}",
        "{% broken",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_ends_is_let_through(template: str) -> None:
    """Also one that refuses or fails: whoever renders it says so."""
    check_chat_template(template, where="here")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "more than 1000000 characters"),
        ("{{ 'x' * 9999999 }}", "more than 1000000 characters"),
        ("{{ 'x' * 20000000000 }}", "1 GiB of memory"),
        ("{{ [0] * 20000000000 }}", "1 GiB of memory"),
        ("{% if tools %}{{ 'x' * 10 ** (tools|length + 9) }}{% endif %}", "1 GiB of memory"),
        ("{% if enable_thinking %}{{ 'x' * 9999999 }}{% endif %}", "more than 1000000 characters"),
        ("{% if thinking is false %}{{ 'x' * 9999999 }}{% endif %}", "more than 1000000"),
        ("{% if bos_token %}{{ 'x' * 9999999 }}{% endif %}", "more than 1000000 characters"),
        (
            "{% for m in messages if m.tool_calls %}{{ 'x' * 9999999 }}{% endfor %}",
            "more than 1000000 characters",
        ),
        ("{% if messages | length > 7 %}{{ 'x' * 9999999 }}{% endif %}", "more than 1000000"),
        (
            "{% for m in messages if m.thinking and m.tool_calls %}{{ 'x' * 9999999 }}{% endfor %}",
            "more than 1000000 characters",
        ),
        (
            "{% if messages[-1].role == 'tool' %}{{ 'x' * 9999999 }}{% endif %}",
            "more than 1000000 characters",
        ),
    ],
)
def test_a_huge_prompt_is_refused(template: str, problem: str) -> None:
    """Texts without end are refused by size, whoever makes them."""
    with pytest.raises(ModelError, match=problem) as caught:
        check_chat_template(template, where="here")
    assert "chat_template" in str(caught.value.hint)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", OTHER_NAMES_OF_TOOLS)
def test_tools_by_other_names_are_tried_as_well(name: str) -> None:
    """Whoever asks what a template does with them renders it in this process."""
    template = f"{{% if {name} %}}{{{{ 'x' * 20000000000 }}}}{{% endif %}}"
    with pytest.raises(ModelError, match="1 GiB of memory"):
        check_chat_template(template, where="here")


@pytest.mark.parametrize(
    "template",
    [
        "{% if 1 %}" * 150 + "{% endif %}" * 150,
        "".join(f"{{% for a{n} in messages %}}" for n in range(25)) + "{% endfor %}" * 25,
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% break %}",
        "{{ " + "9" * 5000 + " }}",
    ],
    ids=["if", "for", "brackets", "break", "digits"],
)
def test_a_template_that_python_cannot_compile_is_refused(template: str) -> None:
    """Jinja takes it and writes Python of it, which has limits of its own."""
    with pytest.raises(ModelError, match="cannot compile"):
        check_chat_template(template, where="here")
    with pytest.raises(TemplateError, match="cannot be compiled"):
        ChatTemplate(template, special={}, adds_bos=False)


def test_a_template_that_loops_for_ever_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped by its computing time, before transformers renders it in this process."""
    monkeypatch.setattr(template_trial, "_CPU_LIMIT_S", 1)
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (folder / "chat_template.jinja").write_text(LOOP)
    with pytest.raises(ModelError, match="does not end within 1 s") as caught:
        load_tokenizer(folder)
    assert str(folder) in caught.value.message
