"""What a tag says beside its weights, where another tag is made of it."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.daemon import FakeDaemon
from fakes.serving import small_reference

from ollama_bridge.client import Client
from ollama_bridge.config import ModelfileSection
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.models.generation_defaults import defaults_of
from ollama_bridge.source_tag import SourceTag


@pytest.mark.parametrize(
    ("file", "version", "temperature"),
    [
        ({"general.sampling.temp": 0.0, "general.sampling.top_k": 40}, "0.34.4", 0.0),
        ({"general.sampling.temp": 0.0}, "0.24.0", 0.8),
        ({"general.sampling.temp": 0.5}, "0.34.4", 0.5),
        ({}, "0.34.4", 0.8),
    ],
)
def test_a_tag_of_a_tag_draws_as_that_one_does(
    file: dict[str, Any], version: str, temperature: float
) -> None:
    """A file that says 0 is greedy from 0.34 on; nothing of it is in an import."""
    reference = small_reference().model_copy(update={"generation": defaults_of(file)})
    shown = {"modelfile": "FROM x", "model_info": file}
    with (
        FakeDaemon(models={"m:latest": "d" * 64}, shown=shown) as daemon,
        Client(daemon.host) as client,
    ):
        source_tag = SourceTag.read(client, "m")
    unsaid = source_tag.unsaid(reference, version)
    assert unsaid["temperature"] == pytest.approx(temperature)


@pytest.mark.parametrize(
    ("made", "template", "told"),
    [
        (Modelfile("m.gguf", template="{{ .Prompt }}"), "auto", True),
        (Modelfile("m.gguf", renderer="qwen3-thinking", parser="qwen3-thinking"), "auto", False),
        (Modelfile("m.gguf", template="{{ .Prompt }}"), "mine.j2", False),
    ],
    ids=["by Go", "by the same", "as asked"],
)
def test_what_a_tag_of_a_tag_does_not_have_of_it_is_told(
    made: Modelfile, template: str, told: bool
) -> None:
    """A PARSER without a RENDERER finds thoughts in answers; REQUIRES is of the other file."""
    modelfile = "FROM x\nTEMPLATE {{ .Prompt }}\nPARSER qwen3-thinking\n"
    shown = {"modelfile": modelfile, "template": "{{ .Prompt }}", "requires": "0.12.0"}
    with (
        FakeDaemon(models={"m:latest": "d" * 64}, shown=shown) as daemon,
        Client(daemon.host) as client,
    ):
        source_tag = SourceTag.read(client, "m")
    lost = source_tag.not_kept(ModelfileSection(template=template), made) or ""
    assert lost.startswith("the tag does not keep from m: REQUIRES 0.12.0")
    assert ("PARSER qwen3-thinking" in lost) == told
