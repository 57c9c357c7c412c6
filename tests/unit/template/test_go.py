"""The evaluator of the Go subset: each construct, and each error of Go's."""

from __future__ import annotations

from datetime import date

import pytest

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.go_functions import go_json, go_quote
from ollama_bridge.template.go_run import GoTemplate

CONVERSATION = Conversation(
    (
        Message("system", "S"),
        Message("user", " Größe "),
        Message("assistant", "A", thinking="T", calls=(Call("f", {"b": 1, "a": "x"}, "id"),)),
    ),
    think=False,
)


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("a{{ .System }}b", "aSb"),
        ("a {{- .System -}}\n b", "aSb"),
        ("{{/* nothing */}}x", "x"),
        ("{{ if and .System (not .Tools) }}1{{ else }}2{{ end }}", "1"),
        ('{{ if eq .System "Q" }}1{{ else if ne .System "Q" }}2{{ else }}3{{ end }}', "2"),
        (
            "{{ range $i, $m := .Messages }}{{ $i }}{{ .Role }} {{ end }}",
            "0system 1user 2assistant ",
        ),
        ("{{ range $i, $_ := .Messages }}{{ if $i }}{{ break }}{{ end }}x{{ end }}", "x"),
        ("{{ range $i, $_ := .Messages }}{{ if $i }}{{ continue }}{{ end }}x{{ end }}", "x"),
        ("{{ $n := 0 }}{{ range .Messages }}{{ $n = len .Role }}{{ end }}{{ $n }}", "9"),
        ("{{ range len .System }}x{{ end }}", "x"),
        ("{{ range 3 }}x{{ end }}", "xxx"),
        ('{{ define "d" }}<{{ . }}>{{ end }}{{ template "d" .System }}', "<S>"),
        ('{{ len "ö" }}{{ slice "xöy" 1 3 }}{{ printf "%.1s" "öx" }}', "2öö"),
        ('{{ printf "%x" "\\x1b" }}{{ "{{" }}{{ `raw\\n` }}', "1b{{raw\\n"),
        ("{{ currentDate }}", "2031-02-03"),
        ("{{ if .IsThinkSet }}{{ if .Think }}1{{ else }}0{{ end }}{{ end }}", "0"),
        (
            "{{ range .Messages }}{{ range .ToolCalls }}{{ .ID }}{{ .Function.Name }}"
            "{{ range $k, $v := .Function.Arguments }}{{ $k }}{{ json $v }}{{ end }}"
            "{{ json .Function.Arguments }}{{ end }}{{ end }}",
            'idfa"x"b1{"a":"x","b":1}',
        ),
    ],
)
def test_evaluates_as_go_does(source: str, rendered: str) -> None:
    """One construct each."""
    assert GoTemplate(source).render(CONVERSATION, today=date(2031, 2, 3)) == rendered


@pytest.mark.parametrize(
    "source",
    [
        "{{ if .System }}",
        "{{ end }}",
        "{{ else }}",
        "{{ .System",
        '{{ "open }}',
        "{{ $x }}",
        "{{ $x = 1 }}",
        "{{ .Nothing }}",
        "{{ slice .System 2 }}",
        "{{ unknown .System }}",
        '{{ template "missing" . }}',
        '{{ printf "%d" 1 }}',
        "{{ .System | len }}",
    ],
)
def test_errors_are_named(source: str) -> None:
    """What Go refuses, and what is not of the subset."""
    with pytest.raises(TemplateError, match="Go template"):
        GoTemplate(source).render(CONVERSATION)


def test_turns_of_one_role_are_merged() -> None:
    """As Ollama's ``collate`` does."""
    conversation = Conversation((Message("user", "a"), Message("user", "b")))
    source = "{{ range .Messages }}[{{ .Content }}]{{ end }}"
    assert GoTemplate(source).render(conversation) == "[a\n\nb]"


def test_json_and_quote_are_gos() -> None:
    """Examples from the documentation of ``encoding/json`` and ``strconv``."""
    assert go_json({"b": [1, 2.5, None], "a": "<&>"}) == (
        '{"a":"\\u003c\\u0026\\u003e","b":[1,2.5,null]}'
    )
    assert [go_json(value) for value in (1e21, 1e-7, 3.0, -0.0, 1e20)] == [
        *("1e+21", "1e-7", "3", "-0", "100000000000000000000"),
    ]
    # As short as they can be told apart by, which is not all that they are.
    assert [go_json(value) for value in (12345678901234567890, 1.2345678901234568e-05, 1e16)] == [
        *("12345678901234567000", "0.000012345678901234568", "10000000000000000"),
    ]
    assert go_quote('a"\\\n\x00\u00a0é') == '"a\\"\\\\\\n\\x00\\u00a0é"'
