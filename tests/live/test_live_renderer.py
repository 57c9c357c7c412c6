"""RENDERER, or the daemon's Jinja: taken where it was seen to render what Go cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.exports import Exports, tiny_exports
from fakes.formats import chat_template, folder_with, source_of
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import Client
from ollama_bridge.daemon.era import NO_JINJA, has_limit
from ollama_bridge.inspection import verify
from ollama_bridge.packaging.package import package
from ollama_bridge.template.authority import NativeJinja, decide
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.generation import Domain, fixed
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.marked_conversations import probe_tool
from ollama_bridge.verify import renderers
from ollama_bridge.verify.certificate import OFFERED
from ollama_bridge.verify.native_jinja import find_native_jinja
from ollama_bridge.verify.renderers import find_renderer

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A random two-layer Llama."""
    return tiny_exports(tmp_path_factory.mktemp("renderer-exports"), seed=3)


@pytest.fixture
def jinja(client: Client) -> None:
    """For tests of a daemon that renders what the file has; what others do is tried elsewhere."""
    version = client.version()
    if has_limit(version, NO_JINJA):
        pytest.skip(f"Ollama {version} cannot {NO_JINJA.what}")


def sent(exports: Exports, client: Client) -> str:
    """Its digest, in the daemon: the last tag of a file takes that with it."""
    gguf = exports.gguf("f16")
    client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    return gguf.blob_digest


def holds_against(tag: str, source: Path, daemon: PrivateDaemon, run: Path) -> None:
    """With the checkpoint given, tools are probed as they were when the tag was made."""
    found = verify(tag, against=str(source), out_dir=run, host=daemon.host)
    assert found.passed
    assert not any(OFFERED in check.numbers for check in found.checks)
    reference = json.loads((run / "checkpoint/reference.json").read_text())
    assert "result of a tool" in {one["name"] for one in reference["conversations"]}


@pytest.fixture(scope="module")
def nemotron(tiny: Exports, client: Client) -> str:
    """A chat template of Nemotron 3's format; what stands around the tools is the daemon's."""
    tag, name = "live-renderer:texts", "nemotron-3-nano"
    files = {"m.gguf": sent(tiny, client)}
    client.create({"model": tag, "files": files, "renderer": name, "parser": name})
    domain = Domain(
        system=False,
        tools=True,
        many_calls=True,
        thinking=False,
        continued_thinking=False,
        thinks=(None,),
    )
    asked = next(conversation for conversation in fixed(domain) if len(conversation.tools) == 1)
    messages = [message.to_ollama() for message in asked.messages]
    shown = client.render(tag, messages, tools=asked.tools)
    client.delete(tag)
    around = shown.removeprefix("<|im_start|>system\n").partition("<|im_end|>")[0]
    before, behind = around.partition("\n<function>")[0], around.partition("</function>")[2]
    source = source_of("nemotron-3")
    source = source.replace("TOOLS_BEFORE", json.dumps(before))
    return source.replace("TOOLS_BEHIND", json.dumps(behind))


def test_what_go_loses_a_renderer_writes(
    nemotron: str, daemon: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """Tools that are no JSON: the tag has them by RENDERER and PARSER, and is proven with them."""
    if find_renderer(client, ChatTemplate(nemotron, special={}, adds_bos=False)) is None:
        version = client.version()
        assert version == "0.24.0"
        pytest.skip(f"nemotron-3-nano of Ollama {version} begins prompts with line ends of its own")
    source = folder_with(nemotron, tmp_path / "source")
    model = package(
        str(source), "live-renderer", gguf_type="f16", out_dir=tmp_path / "run", host=daemon.host
    )
    assert model.facts["passed"]
    shown = client.show(model.tag)
    assert "RENDERER nemotron-3-nano" in shown.modelfile
    assert "PARSER nemotron-3-nano" in shown.modelfile
    assert {"tools", "thinking"} <= set(shown.capabilities)
    reference = json.loads((tmp_path / "run/gguf-f16/reference.json").read_text())
    assert reference["template"]["authority"] == "renderer"
    probed = {conversation["name"] for conversation in reference["conversations"]}
    assert {"result of a tool", "earlier thinking"} <= probed
    assert len(list((tmp_path / "run").glob("*/model.gguf"))) == 1  # found before it is converted
    assert not any(model.name.startswith("ollama-bridge/") for model in client.list())
    holds_against(model.tag, source, daemon, tmp_path / "against")
    client.delete(model.tag)


def test_no_renderer_is_taken_for_its_name(nemotron: str, client: Client) -> None:
    """One other word, or a format whose renderer writes tools as Go does: none."""
    other = ChatTemplate(
        nemotron.replace("<tool_response>", "<tool_result>"), special={}, adds_bos=False
    )
    assert find_renderer(client, other) is None
    assert find_renderer(client, chat_template("qwen3")) is None


def test_no_renderer_is_taken_whose_parser_loses_calls(
    nemotron: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are right, and its tag lists tools and thinking: its calls would be texts."""
    monkeypatch.setattr(renderers, "_PARSERS", {"nemotron-3-nano": "deepseek3"})
    assert find_renderer(client, ChatTemplate(nemotron, special={}, adds_bos=False)) is None


DECLARED = source_of("declared")
ORDERS = {"type": "object", "required": ["at"], "properties": {"at": {"type": "string"}}}


def declared(source: str = DECLARED) -> ChatTemplate:
    """The format, or one like it."""
    return ChatTemplate(source, special={}, adds_bos=False)


@pytest.mark.usefixtures("jinja")
def test_what_go_loses_the_daemons_jinja_writes(
    daemon: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """No renderer has this form of tools; the tag has them by its Jinja, and is proven with them.

    Without being asked to look, it has a TEMPLATE, and no tools.
    """
    assert not decide(declared()).tools
    source = folder_with(DECLARED, tmp_path / "source")
    run = tmp_path / "run"
    model = package(str(source), "live-native", gguf_type="f16", out_dir=run, host=daemon.host)
    assert model.facts["passed"]
    shown = client.show(model.tag)
    assert "RENDERER" not in shown.modelfile
    assert "tools" in shown.capabilities
    reference = json.loads((run / "gguf-f16/reference.json").read_text())
    assert reference["template"]["authority"] == "jinja"
    assert "transformers does in" in reference["template"]["reason"]
    assert any("required before properties" in limit for limit in reference["limits"])
    tool = probe_tool(0)
    tool["function"]["parameters"] = dict(reversed(ORDERS.items()))
    asked = Conversation((Message("user", "Hi"),), (tool,))
    served = client.render(model.tag, "Hi", tools=asked.tools)
    assert served == declared().render(asked.handed_on)
    assert not any(model.name.startswith("ollama-bridge/") for model in client.list())
    holds_against(model.tag, source, daemon, tmp_path / "against")
    client.delete(model.tag)
    plain = package(
        str(source), "live-native", gguf_type="f16", renderer=False, out_dir=run, host=daemon.host
    )
    assert "tools" not in client.show(plain.tag).capabilities
    client.delete(plain.tag)


@pytest.mark.usefixtures("jinja")
@pytest.mark.parametrize(
    ("changed", "into"),
    [
        # What llama.cpp writes of nothing is not what Python does.
        ("= tool.function %}", "= tool.function %}{{ none }}"),
        # Nothing shows where a call begins.
        (r"""'<tool_call>\n{"name": "' + call.function.name + '", "arguments": '""", "''"),
    ],
    ids=["other prompts", "calls that nobody finds"],
)
def test_the_daemons_jinja_is_not_taken_unseen(changed: str, into: str, client: Client) -> None:
    """It renders another prompt, or makes nothing of the calls that it renders."""
    assert changed in DECLARED
    found = find_native_jinja(client, declared(), lost=["tools"], kept=[])
    assert isinstance(found, NativeJinja)
    assert found.conversations > 20
    other = declared(DECLARED.replace(changed, into))
    assert find_native_jinja(client, other, lost=["tools"], kept=[]) is None
    assert find_native_jinja(client, declared(), lost=["thinking"], kept=[]) is None
