"""Go templates made of chat templates: proven, or refused with the reason."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from datetime import date

import pytest
from fakes.formats import CASES, chat_template, published, source_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.authority import Served, decide, lost_by
from ollama_bridge.template.comment import with_comment, without_comment
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.generation import Domain, random_ones
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.marked_conversations import fill, probe_tool
from ollama_bridge.template.proof import domain_of, prove
from ollama_bridge.template.shrinking import is_request, shrink
from ollama_bridge.template.synthesis import synthesise
from ollama_bridge.template.writer import write

BOS = {"bos_token": "<s>", "eos_token": "</s>"}
# Of the chat templates in Ollama's Go module: Llama 3.1's. None of them has thinking; what the
# others of today have is asked of the formats in fakes/formats.py.
PUBLISHED_WITH_TOOLS = {"llama3-instruct-24"}


@functools.cache
def made(name: str) -> tuple[ChatTemplate, GoTemplate, Domain]:
    """A format's chat template, its Go template, and what may be said in it."""
    template = chat_template(name)
    format_ = synthesise(template)
    return template, GoTemplate(write(format_)), domain_of(template, format_)


def served(source: str) -> Served:
    """The decision for a chat template given as text."""
    return decide(ChatTemplate(source, special=BOS, adds_bos=False))


@pytest.mark.parametrize("name", CASES)
def test_every_format_is_proven(name: str) -> None:
    """Go says it, with the tools and the thinking that the format has."""
    found = decide(chat_template(name))
    assert found.authority == "template"
    assert found.tools == CASES[name].tools
    assert found.thinking == found.splits_thinking == CASES[name].thinking
    assert found.conversations > 300


def test_a_chat_template_is_decided_on_once() -> None:
    """Teacher, student and control have the same; with another BOS it is another."""
    source = source_of("zephyr")
    first, again, other = (
        decide(ChatTemplate(source, special={**BOS, "bos_token": bos}, adds_bos=False))
        for bos in ("<s>", "<s>", "<bos>")
    )
    assert first is again
    assert first is not other


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("name", CASES)
def test_random_conversations_render_equal(name: str, seed: int) -> None:
    """Any conversation of the format's domain, on any day."""
    template, go, domain = made(name)
    day = date(2020 + seed % 10, 1 + seed % 12, 1 + seed % 28)
    compared = 0
    for conversation in random_ones(domain, 5, seed=seed):
        try:
            wanted = template.render(conversation, clock=day.strftime)
        except RefusedError:
            continue
        assert go.render(conversation, today=day) == wanted
        compared += 1
    assert compared > 0


@pytest.mark.parametrize(
    ("name", "tools"), [("qwen2.5", 0), ("qwen2.5", 1), ("qwen3", 1), ("llama3.2", 0)]
)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_conversation_that_ollama_cuts_keeps_its_head(name: str, tools: int, cut: int) -> None:
    """What does not fit is left out from the front, so that an answer or a result comes first."""
    template, go, domain = made(name)
    shape = "uctauau" if tools else "uauauau"
    for system in (False, True):
        whole = fill(shape, system=system, tools=tools, think=domain.thinks[0])
        messages = whole.messages
        left = replace(whole, messages=(*messages[:system], *messages[system + cut :]))
        clock = date(2026, 2, 3)
        wanted = template.render(left, clock=clock.strftime)
        assert go.render(left, today=clock) == wanted


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]", False),
        (
            "{% for m in messages %}{% if m.role == 'user' %}[user]{{ m.content }}\n"
            "{% elif m.role == 'assistant' %}{{ '' if loop.index0 == 0 else '[assistant]' }}"
            "{{ m.content }}\n{% endif %}{% endfor %}[assistant]",
            True,
        ),
    ],
)
def test_a_cut_conversation_that_renders_otherwise_is_named(source: str, said: bool) -> None:
    """The proof tries what Ollama leaves of a long one."""
    told = [one for one in served(source).differences if "that begins with an answer" in one]
    assert bool(told) is said, told


@pytest.mark.parametrize("name", published() or ["none"])
def test_published_templates_are_proven(name: str) -> None:
    """The chat templates that Ollama knows by heart, as its Go module publishes them."""
    if name == "none":
        pytest.skip("no Ollama in Go's module cache; run scripts/install-ollama")
    found = decide(ChatTemplate(published()[name], special=BOS, adds_bos=True))
    assert found.authority == "template"
    assert (found.tools, found.thinking) == (name in PUBLISHED_WITH_TOOLS, False)


@pytest.mark.skipif(not published(), reason="no Ollama in Go's module cache")
def test_the_published_templates_with_tools_are_there() -> None:
    """Or the table above would ask for nothing."""
    assert published().keys() >= PUBLISHED_WITH_TOOLS


def test_a_wrong_go_template_is_shown_by_the_smallest_conversation() -> None:
    """One wrong character is found, and shown with as little around it as can be."""
    template = chat_template("qwen3")
    format_ = synthesise(template)
    wrong = write(format_).replace("<tool_response>\n", "<tool_response>", 1)
    with pytest.raises(TemplateError) as caught:
        prove(template, wrong, format_)
    assert "[user 'a', assistant '' (calls " in caught.value.message
    assert "tool 'a'" in caught.value.message
    assert "<tool_response>\\n" in caught.value.message


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "does not write the user"),
        (
            "{% for m in messages | reverse %}{{ m.content }};{% endfor %}",
            "does not write the user",
        ),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "twice"),
        ("{{ messages[-1].content }}", "does not write the user"),
        (
            "{% for m in messages %}<{{ loop.index }}>{{ m.content }}{% endfor %}",
            "cannot tell apart",
        ),
        (
            "{% for m in messages %}<{{ m.role }}{{ m.content | length }}>{{ m.content }}"
            "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}",
            "",
        ),
    ],
    ids=["changes", "reorders", "repeats", "drops", "counts", "measures"],
)
def test_what_go_cannot_say_is_left_to_the_daemon(source: str, reason: str) -> None:
    """Never a wrong template: the daemon's Jinja, and the reason in a sentence."""
    found = served(source)
    assert found.authority == "jinja"
    assert found.go is None
    assert "Ollama 0.30" in found.reason
    assert reason in found.reason


def test_why_go_cannot_say_it_is_short_and_in_words() -> None:
    """Two texts are shown around the place that differs, and no value of a program is."""
    numbered = f"<{{{{ loop.index }}}}>{'y' * 500}<{{{{ loop.index }}}}>"
    found = served(f"{{% for m in messages %}}{numbered}{{{{ m.content }}}}{{% endfor %}}")
    assert found.authority == "jinja"
    assert re.search(r"it writes '<\d>y{57}'\.\.\. and '<\d>y{57}'\.\.\. at", found.reason)
    source = (
        "{% for m in messages %}<{{ m.role }}>{% if m.thinking and loop.index % 4 %}"
        "<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (said,) = [one for one in served(source).differences if "thinking is not offered" in one]
    assert "what an assistant said or thought at some places and leaves it out at others" in said


def test_a_date_that_go_cannot_write_leaves_it_to_the_daemon() -> None:
    """Go knows the day and no more."""
    found = served(
        "{{ strftime_now('%A %H:%M') }}{% for m in messages %}<{{ m.role }}>"
        "{{ m.content }}{% endfor %}<assistant>"
    )
    assert found.authority == "jinja"
    assert "%A" in found.reason


def test_what_fails_with_tools_is_served_without_them() -> None:
    """Calls that Go would write otherwise cost the tag its tools, and nothing else."""
    source = source_of("qwen2.5").replace(
        "arguments | tojson", "arguments | tojson(ensure_ascii=true)"
    )
    found = served(source)
    assert found.authority == "template"
    assert not found.tools
    assert any(difference.startswith("tools are not offered") for difference in found.differences)


def test_what_fails_with_thinking_keeps_its_tools() -> None:
    """Thoughts that Go would write otherwise cost the tag its thinking, and nothing else."""
    source = source_of("qwen3").replace("thought.strip('\\n')", "(thought.strip('\\n') | upper)")
    found = served(source)
    assert (found.authority, found.tools, found.thinking) == ("template", True, False)
    (lost,) = [said for said in found.differences if "not offered" in said]
    assert lost.startswith("thinking is not offered: it writes")


def test_what_fails_with_either_loses_both_with_a_reason_each() -> None:
    """As long as the rest can be said."""
    source = source_of("qwen3").replace("thought.strip('\\n')", "(thought.strip('\\n') | upper)")
    found = served(source.replace("arguments | tojson", "arguments | tojson(ensure_ascii=true)"))
    assert (found.authority, found.tools, found.thinking) == ("template", False, False)
    lost = [said for said in found.differences if "not offered" in said]
    assert [said.split(" not ")[0] for said in lost] == ["tools are", "thinking is"]


def test_tools_by_another_name_have_a_name() -> None:
    """SmolLM3's: in one revision no `tools` is read."""
    source = source_of("smollm3").replace("if tools ", "if xml_tools ")
    found = served(source.replace("in tools ", "in xml_tools "))
    assert (found.authority, found.tools, found.thinking) == ("template", False, True)
    (lost,) = [said for said in found.differences if said.startswith("tools are not offered")]
    assert lost.endswith("the chat template takes them as xml_tools, Ollama gives tools")


@pytest.mark.parametrize("written", ["tool", "tool.function", "tool | string"])
def test_tools_may_be_printed_by_python(written: str) -> None:
    """With its quotes, its escapes and its True, whole or as a list of functions."""
    template = ChatTemplate(
        f"{{% for tool in tools or [] %}}[{{{{ {written} }}}}]{{% endfor %}}\n"
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}[/]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        special=BOS,
        adds_bos=False,
    )
    found = decide(template)
    assert found.tools
    assert found.go is not None
    tool = probe_tool(0)
    city = {"type": "string", "description": 'It\'s a "name".\n\t\u00a0é', "enum": ["a'b", None]}
    tool["function"]["parameters"]["properties"] = {"city": city}
    asked = Conversation((Message("user", "Hi"),), tools=(tool,))
    assert GoTemplate(found.go).render(asked) == template.render(asked)


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (
            "{{ tool.function.name }}: {{ tool.function.parameters }}",
            "each part of a tool by itself, the parameters as Python prints them",
        ),
        ("{{ tool | tojson(separators=(',', ':')) }}", "as JSON with other spaces, or keys in an"),
        ('{"arguments": {}, "name": {{ tool.function.name | tojson }}}', "as JSON with keys of "),
        (
            "### {{ tool.function.name }}\n{{ tool.function.parameters | tojson }}",
            "each part of a tool by itself, the parameters alone as JSON",
        ),
        ("<name>{{ tool.function.name }}</name>", "tools in a form of its own, not as JSON"),
        ("<tool>", "it does not write what a tool is called"),
    ],
)
def test_how_tools_are_written_that_are_lost_is_said(tool: str, reason: str) -> None:
    """By what stands in the prompt: of each it is another thing that Go cannot do."""
    source = (
        f"{{% for tool in tools or [] %}}{tool}{{% endfor %}}"
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}[/]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    found = served(source)
    assert (found.authority, found.tools) == ("template", False)
    (lost,) = [said for said in found.differences if said.startswith("tools are not offered: ")]
    assert reason in lost


def test_thinking_that_a_sentence_asks_for_has_a_name() -> None:
    """Granite's: no answer shows where thoughts are, so that a tag cannot be asked for them."""
    assert not decide(chat_template("granite")).thinking
    (said,) = [x for x in decide(chat_template("granite")).differences if x.startswith("thinking")]
    assert said.startswith("thinking is not offered: a request to think changes")
    for name in ("qwen2.5", "qwen3", "deepseek-r1"):
        lost = [x for x in decide(chat_template(name)).differences if "not offered" in x]
        assert lost == []


def test_thinking_only_when_asked_has_a_name() -> None:
    """Ollama thinks unless it is told not to."""
    found = served(source_of("qwen3").replace("is defined and enable_thinking is false", "!= true"))
    assert found.thinking
    assert any("does not say whether to think" in difference for difference in found.differences)


def test_thinking_that_is_only_cut_out_has_a_name() -> None:
    """A chat template without a field for it cannot say how a thought is continued."""
    found = decide(chat_template("deepseek-r1"))
    assert found.thinking
    assert any("to be continued" in difference for difference in found.differences)


def test_thinking_that_cannot_be_switched_off_has_a_name() -> None:
    """Ollama does not look for thinking in an answer that it asked to be without."""
    said = "a request not to think"
    assert any(
        said in difference for difference in decide(chat_template("deepseek-r1")).differences
    )
    assert not any(said in difference for difference in decide(chat_template("qwen3")).differences)


def test_thinking_that_ollama_would_not_find_has_a_name() -> None:
    """A prompt opens it by other words than those that stand before it in the history."""
    found = served(
        "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<thought>"
        "{{ m.reasoning_content }}</thought>{% endif %}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>My reasoning: {% endif %}"
    )
    assert found.thinking
    assert not found.splits_thinking
    assert any("thinking stays in the text" in difference for difference in found.differences)


def test_calls_that_ollama_would_not_find_have_a_name() -> None:
    """A chat template that offers tools need not say how they are called."""
    said = "only where the answer begins with its JSON"
    assert any(said in difference for difference in decide(chat_template("smollm3")).differences)
    assert not any(
        said in difference for difference in decide(chat_template("qwen2.5")).differences
    )


def test_what_the_prompt_ends_with_is_no_tag_of_calls() -> None:
    """Ollama looks for the first text under ``if .ToolCalls``: it must be what a model writes."""
    found = served(
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "{% if m.role == 'assistant' and m.tool_calls %}<assistant><calls>"
        "{% for call in m.tool_calls %}[{{ call.function.name }}"
        "{{ call.function.arguments | tojson }}]{% endfor %}</calls></s>"
        "{% else %}<{{ m.role }}>{{ m.content }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert found.tools
    assert found.go is not None
    assert "if .ToolCalls }}<calls>" in found.go


def test_messages_that_ollama_joins_have_a_name() -> None:
    """Ollama sees one message where there were two, whatever the template."""
    names = (
        "a second message of one role in a row",
        "a system message behind others",
        "calls or thinking of a second answer in a row",
    )
    differences = decide(chat_template("qwen2.5")).differences
    assert all(any(said.startswith(name) for said in differences) for name in names)


def test_an_empty_system_message_has_a_name() -> None:
    """It switches the default system prompt off; to Ollama it is none."""
    differences = decide(chat_template("qwen2.5")).differences
    (said,) = [said for said in differences if said.startswith("an empty system message")]
    assert "You are Quill" in said


@pytest.mark.parametrize("end", ["</{{ m.role }}>", "</s>"])
def test_a_tag_that_opens_answers_is_no_thinking(end: str) -> None:
    """Ollama would look for the end of thoughts in every answer, and find nothing but thoughts."""
    source = (
        f"{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{end}{{% endfor %}}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = served(source)
    assert found.authority == "template"
    assert not found.thinking
    assert ".Thinking" not in (found.go or "")
    assert served(source.replace("<assistant>{% endif", "<assistant><think>{% endif")).thinking


ONE_TURN = "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}"


@pytest.mark.parametrize(
    ("begin", "opened"), [(ONE_TURN, "<assistant>\n"), ("", "<assistant>\n<answer>\n")]
)
def test_a_tag_that_no_thought_would_have_is_no_thinking(begin: str, opened: str) -> None:
    """Whether or not past answers stand behind the same one, or can be asked for at all."""
    source = (
        begin
        + "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}</{{ m.role }}>\n{% endfor %}"
        + f"{{% if add_generation_prompt %}}{opened}{{% endif %}}"
    )
    found = served(source)
    assert not found.thinking
    assert lost_by(ChatTemplate(source, special=BOS, adds_bos=False), found) == ()


@pytest.mark.parametrize("tag", ["think", "Thought", "inner_reasoning"])
def test_a_tag_of_thinking_may_stand_before_past_answers(tag: str) -> None:
    """Of a model trained on raw traces: what it said is a thought, its end and the answer."""
    found = served(
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
        f"<{tag}>\n{{% endif %}}{{{{ m.content }}}}</s>{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|assistant|>\n<{tag}>\n{{% endif %}}"
    )
    assert (found.authority, found.thinking) == ("template", True)
    assert f"</{tag}>" in (found.go or "")


def past_and_prompt(past: str, opened: str) -> Served:
    """The decision for a template with a form of past answers, and what its prompts end with."""
    return served(
        "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\n"
        f"{past}</s>{{% else %}}<|user|>\n{{{{ m.content }}}}</s>{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|assistant|>\n{opened}{{% endif %}}"
    )


def said_of_tag(found: Served) -> list[str]:
    """The limits on what a prompt opens."""
    return [one for one in found.differences if one.startswith("the prompt opens <")]


@pytest.mark.parametrize("tag", ["analysis", "reasoner", "think"])
def test_a_tag_that_closes_behind_past_answers_is_theirs(tag: str) -> None:
    """Whatever it is called: behind a thought, an answer would follow."""
    found = past_and_prompt(f"<{tag}>\n{{{{ m.content }}}}\n</{tag}>", f"<{tag}>\n")
    assert (found.authority, found.thinking, said_of_tag(found)) == ("template", False, [])


@pytest.mark.parametrize(
    ("tag", "thinks", "said"),
    [
        ("monologue", True, 0),
        ("cot_start", True, 0),
        ("pensee", False, 1),
        ("sep", False, 1),
        ("final_answer", False, 0),
        ("ai", False, 0),
    ],
)
def test_a_tag_that_past_answers_lack_is_thinking(tag: str, *, thinks: bool, said: int) -> None:
    """Whoever keeps the history cut the thoughts, where the name is a thought's."""
    found = past_and_prompt("{{ m.content }}", f"<{tag}>\n")
    assert (found.authority, found.thinking) == ("template", thinks)
    assert len(said_of_tag(found)) == said
    assert all("taken for a part of the answer" in one for one in said_of_tag(found))


def test_what_stands_between_messages_may_end_a_prompt() -> None:
    """Yuan's form: no answer has its end, and would be nothing but thoughts."""
    found = served(
        "{% for m in messages %}{{ m.content }}{% if not loop.last %}<n>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<sep>{% endif %}"
    )
    assert (found.authority, found.thinking, len(said_of_tag(found))) == ("template", False, 1)
    assert ".Thinking" not in (found.go or "")


@pytest.mark.parametrize(("tag", "unclear"), [("pensee", True), ("gpt_bot", False)])
def test_a_tag_before_past_answers_is_theirs_unless_its_name_is_a_thoughts(
    tag: str, *, unclear: bool
) -> None:
    """A raw trace looks the same: where the name says nothing either, that is a limit."""
    found = past_and_prompt(f"<{tag}>\n{{{{ m.content }}}}", f"<{tag}>\n")
    assert (found.authority, found.thinking) == ("template", False)
    assert bool(said_of_tag(found)) == unclear
    assert all("taken for a part of the answer" in one for one in said_of_tag(found))
    cut = f"{{{{ m.content.split('</{tag}>')[-1] }}}}"
    found = past_and_prompt(cut, f"<{tag}>\n")
    assert not said_of_tag(found)


def test_every_answer_may_begin_with_its_thinking() -> None:
    """The tag that opens every answer is told from what opens the answer."""
    found = served(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think>"
        "{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant><think>{% endif %}"
    )
    assert found.thinking
    assert found.go is not None
    assert "<think>{{ .Thinking }}</think>" in found.go


def test_what_depends_on_the_words_has_a_name() -> None:
    """A template that reads what is said is served, and the words are named."""
    found = served(
        "{% for m in messages %}<{{ m.role }}>{{ m.content.replace('/no_think', '') }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert found.authority == "template"
    assert any("'/no_think'" in difference for difference in found.differences)


def test_braces_of_a_format_are_not_taken_for_gos() -> None:
    """Text that looks like an action is written as text."""
    found = served(
        "{% for m in messages %}{{ '{{' + m.role + '}}{' + m.content + '{' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '{{assistant}}{' }}{% endif %}"
    )
    assert found.authority == "template"


def test_the_comment_comes_off_again() -> None:
    """What hides a template from Ollama's guess is not part of it."""
    assert len(with_comment("x")) > 200
    assert without_comment(with_comment("{{ x }}")) == "{{ x }}"


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "{% if x %}{% endif %}\n"])
def test_the_comment_changes_no_prompt(end: str) -> None:
    """Nor the line end of a file, which Jinja writes in front of a comment, and else leaves out."""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}>" + end
    asked = Conversation((Message("user", "Hi"),))
    bare, commented = (
        ChatTemplate(text, special={}, adds_bos=False).render(asked)
        for text in (source, with_comment(source))
    )
    assert commented == bare
    assert without_comment(with_comment(source)) == source


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_shrinking_stays_a_request_that_still_differs(seed: int) -> None:
    """What is shown is never smaller than what goes wrong."""
    _, _, domain = made("qwen3")
    (conversation,) = random_ones(domain, 1, seed=seed)

    def differs(candidate: Conversation) -> bool:
        return sum(len(message.content) for message in candidate.messages) > 3

    if is_request(conversation) and differs(conversation):
        smallest = shrink(conversation, differs)
        assert is_request(smallest)
        assert differs(smallest)
        assert len(smallest.messages) <= 4


def test_what_a_request_says_of_thinking_may_stand_behind_the_user() -> None:
    """The answer is then opened by other texts, with and without thinking."""
    found = served(
        "{% set ns = namespace(last=-1) %}{% for m in messages if m.role == 'user' %}"
        "{% set ns.last = ns.last + 1 %}{% endfor %}{% set ns.seen = -1 %}{% for m in messages %}"
        "{% if m.role == 'user' %}{% set ns.seen = ns.seen + 1 %}<user>{{ m.content }}"
        "{% if enable_thinking is false %}/nothink{% endif %}"
        "{% elif m.role == 'assistant' %}<assistant>"
        "{% if m.reasoning_content and ns.seen == ns.last %}<think>{{ m.reasoning_content }}"
        "{% else %}<think>{% endif %}</think>{{ m.content }}"
        "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>"
        "{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
    )
    assert found.authority == "template"
    assert found.thinking


def test_every_answer_may_hold_tags_of_thinking() -> None:
    """Empty ones, with the line end of thoughts missing: the tag is not what opens an answer."""
    found = served(
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
        "{% if m.reasoning_content %}<think>{{ '\\n' }}{{ m.reasoning_content }}{{ '\\n' }}</think>"
        "{{ '\\n' }}{% else %}<think></think>{% endif %}{% endif %}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>"
        "{% if enable_thinking is false %}<think></think>{% else %}<think>{{ '\\n' }}{% endif %}"
        "{% endif %}"
    )
    assert found.thinking
    assert not any(said.startswith("thinking") for said in found.differences)


def test_several_results_where_calls_are_not_written() -> None:
    """A turn a result, whose end is followed by whatever role comes next."""
    found = served(
        "{% if tools %}<|turn|>system{{ '\\n' }}{{ tools | tojson }}<|end|>{{ '\\n' }}{% endif %}"
        "{% for m in messages %}<|turn|>{{ m.role }}{{ '\\n' }}"
        "{% if m.role == 'tool' %}<|result|>{{ m.content }}<|/result|>{% else %}{{ m.content }}"
        "{% endif %}<|end|>{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant{{ '\\n' }}{% endif %}"
    )
    assert found.tools, found.differences


def test_contents_in_parts() -> None:
    """A chat template of a model that also sees takes texts as parts of a list, and no others."""
    found = served(
        "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% elif part.type == 'image' %}<image>"
        "{% endif %}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert found.authority == "template"
    assert any("lists of parts" in said for said in found.differences)


def test_arguments_as_texts() -> None:
    """A chat template that joins the arguments of a call to other texts wants them written."""
    found = served(
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "{{ '<' + m.role + '>' + m.content }}{% for call in m.tool_calls or [] %}"
        "{{ '<call>' + call.function.name + ' ' + call.function.arguments + '</call>' }}"
        "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert found.tools, found.differences
