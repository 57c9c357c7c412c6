"""Go templates made of chat templates, in a real daemon: they render what was proven."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from fakes.architectures import build_checkpoint
from fakes.exports import Exports, modelfile_of, tiny_exports
from fakes.formats import CASES, chat_template, checkpoint_with, source_of
from fakes.models import DEFAULT_SYSTEM

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.registration import register
from ollama_bridge.storage.artifacts import Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.generation import PADDINGS, fixed, random_ones
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.marked_conversations import probe_tool
from ollama_bridge.template.proof import domain_of
from ollama_bridge.template.synthesis import synthesise
from ollama_bridge.template.writer import write
from ollama_bridge.verify.certificate import Certificate

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A random two-layer Llama; its GGUF carries no chat template."""
    return tiny_exports(tmp_path_factory.mktemp("template-exports"), seed=3)


@pytest.mark.parametrize("name", CASES)
def test_the_daemon_renders_what_the_evaluator_renders(
    name: str, tiny: Exports, client: Client
) -> None:
    """Ours and Go's ``text/template`` agree on every kind of conversation of a format."""
    format_ = synthesise(chat_template(name))
    source = write(format_)
    gguf, tag = tiny.gguf("f16"), f"live-template-go:{name}"
    if not client.has_blob(gguf.blob_digest):
        client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    client.create({"model": tag, "files": {"model.gguf": gguf.blob_digest}, "template": source})
    domain = domain_of(chat_template(name), format_)
    go = GoTemplate(source)
    cases = [*list(fixed(domain))[::9], *random_ones(domain, 15, seed=1)]
    cases += [
        Conversation((Message("user", padding.format("padded")),), think=domain.thinks[0])
        for padding in PADDINGS
    ]
    if domain.tools:
        nested = probe_tool(0)
        nested["function"]["parameters"]["properties"] = {
            "ends": {"type": "array", "items": {"items": {"type": "number"}, "type": "array"}},
            "where": {"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}]}}},
            "any": {"type": "array", "items": {}},
            "free": {"type": "object", "properties": {}, "enum": [{}], "required": ["x"]},
        }
        cases.append(Conversation((Message("user", "Hi"),), (nested,), think=domain.thinks[0]))
    if domain.thinking:
        call = Call("look", {"at": "it"}, "abcdefghi")
        thinks = Message("assistant", "", thinking="Hm,\n hm.\n", calls=(call,))
        result = Message("tool", "So.", name=call.name, call_id=call.id)
        cases.append(Conversation((Message("user", "Hi"), thinks, result), think=True))
    for conversation in cases:
        messages = [message.to_ollama() for message in conversation.messages]
        served = client.render(tag, messages, think=conversation.think, tools=conversation.tools)
        assert served == go.render(conversation, today=date.today()), conversation.describe()
    capabilities = client.show(tag).capabilities
    assert ("tools" in capabilities) == format_.tools
    assert ("thinking" in capabilities) == (format_.thinking is not None)
    client.delete(tag)


# Between them: tools, thinking by field and by cut tags, dates, trimming, no system role, BOS.
@pytest.mark.parametrize(
    "name", ["qwen2.5", "qwen3", "smollm3", "deepseek-r1", "llama3.2", "mistral", "gemma2", "phi3"]
)
def test_a_checkpoint_of_each_format_gets_a_certificate(
    name: str, client: Client, tmp_path: Path
) -> None:
    """Registered with the synthesised template, its tools and thinking probed in the daemon."""
    checkpoint = checkpoint_with(source_of(name), tmp_path)
    reference = ReferenceValues.read(checkpoint.reference_path)
    assert reference.template is not None
    assert reference.template.authority == "template"
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    model = register(
        gguf,
        modelfile_of(gguf),
        f"live-template:{name}",
        client=client,
        out_dir=tmp_path / "tag",
    )
    certificate = Certificate.read(model.path / "certificate.json")
    assert certificate.passed
    prompts = next(check for check in certificate.checks if check.name == "rendered prompts")
    assert prompts.numbers["prompts"] == len(reference.conversations)
    probed = {conversation.name for conversation in reference.conversations}
    assert ("result of a tool" in probed) == CASES[name].tools
    assert ("earlier thinking" in probed) == CASES[name].thinking
    client.delete(model.tag)


# What neither of them knows: the number of a turn.
COUNTING = """{%- for message in messages %}
{{- '<' + loop.index | string + ' ' + message.role + '>' + message.content }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<' + (messages | length + 1) | string + ' assistant>' }}
{%- endif %}"""


def test_what_go_cannot_say_is_rendered_by_the_daemon(client: Client, tmp_path: Path) -> None:
    """The GGUF keeps the chat template, there is no TEMPLATE, and the proof is the same.

    Nor does a tag of the same file that is loaded with a TEMPLATE answer for it, as Ollama lets it.
    """
    checkpoint = checkpoint_with(COUNTING, tmp_path)
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    modelfile = modelfile_of(gguf)
    assert modelfile.template is None
    client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    neighbour = replace(modelfile, template="{{ .Prompt }}")
    client.create(neighbour.to_request("live-template:go", blob_digest=gguf.blob_digest))
    client.chat("live-template:go", "Hi", options={"num_predict": 1})
    model = register(
        gguf, modelfile, "live-template:jinja", client=client, out_dir=tmp_path / "tag"
    )
    certificate = Certificate.read(model.path / "certificate.json")
    assert certificate.passed
    assert "Ollama 0.30" in certificate.rendering
    assert client.render(model.tag, "Hi") == "<1 user>Hi<2 assistant>"
    for tag in (model.tag, "live-template:go"):
        client.delete(tag)


def registered(source: str, tag: str, client: Client, tmp_path: Path) -> Certificate:
    """What a tag with this chat template was proven by."""
    gguf = convert(checkpoint_with(source, tmp_path), type="f16", out_dir=tmp_path / "g")
    model = register(gguf, modelfile_of(gguf), tag, client=client, out_dir=tmp_path / "tag")
    return Certificate.read(model.path / "certificate.json")


def test_tools_that_the_daemon_writes_as_json_are_proven(client: Client, tmp_path: Path) -> None:
    """Their keys come in Ollama's order, which is a limit and no other prompt."""
    tools = "{% if tools %}{{ tools | tojson }}{% endif %}"
    certificate = registered(tools + COUNTING, "live-template:json", client, tmp_path)
    assert certificate.passed
    assert any("keys in Ollama's order" in limit for limit in certificate.limits)
    assert "tools" in client.show("live-template:json").capabilities
    client.delete("live-template:json")


def test_tools_that_only_the_daemon_believes_in_are_a_limit(client: Client, tmp_path: Path) -> None:
    """It lists them for the word alone; the tag is right, and says that they reach nothing."""
    other = "{% if xml_tools %}{{ xml_tools | tojson }}{% endif %}"
    certificate = registered(other + COUNTING, "live-template:other", client, tmp_path)
    assert certificate.passed
    (said,) = [limit for limit in certificate.limits if "tools" in limit]
    assert "though Ollama lists them: the chat template takes them as xml_tools" in said
    assert "tools" in client.show("live-template:other").capabilities
    client.delete("live-template:other")


def test_thinking_that_only_the_daemon_believes_in_is_a_limit(
    client: Client, tmp_path: Path
) -> None:
    """It lists it where past answers are cut at the end of thoughts; the tag is right."""
    source = COUNTING.replace("message.content", "message.content.split('</think>')[-1]")
    gguf = convert(checkpoint_with(source, tmp_path), type="f16", out_dir=tmp_path / "g")
    model = register(
        gguf, modelfile_of(gguf), "live-template:cut", client=client, out_dir=tmp_path / "tag"
    )
    certificate = Certificate.read(model.path / "certificate.json")
    assert certificate.passed
    assert any("Ollama 0.34 lists thinking" in limit for limit in certificate.limits)
    assert "thinking" in client.show(model.tag).capabilities
    client.delete(model.tag)


def test_an_answer_behind_the_turns_own_tag_is_no_thought(client: Client, tmp_path: Path) -> None:
    """Ollama takes what stands around a thought for its tags, and a prompt may end with them."""
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    gguf = convert(checkpoint_with(source, tmp_path), type="f16", out_dir=tmp_path / "g")
    model = register(
        gguf, modelfile_of(gguf), "live-template:tag", client=client, out_dir=tmp_path / "tag"
    )
    assert "thinking" not in client.show(model.tag).capabilities
    answer = client.chat(model.tag, "Hi", options={"num_predict": 8})
    assert (bool(answer.text), answer.thinking) == (True, "")
    client.delete(model.tag)


def test_a_known_template_is_not_replaced(client: Client, tmp_path: Path) -> None:
    """Ollama knows SmolLM2's format, and loses its default system prompt; not with our comment."""
    source = build_checkpoint("llama", tmp_path / "source")
    with open_draft(tmp_path / "checkpoint", Work("checkpoint", "test", 1)) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        checkpoint = Checkpoint(tmp_path / "checkpoint", draft.commit())
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf", chat_template=True)
    client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    client.create({"model": "live-template:kept", "files": {"model.gguf": gguf.blob_digest}})
    assert DEFAULT_SYSTEM in client.render("live-template:kept", "Hi")
    client.delete("live-template:kept")
