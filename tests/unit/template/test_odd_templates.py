"""Chat templates that refuse a part of what they are asked: one decision each, or one error."""

from __future__ import annotations

import pytest
from fakes.formats import source_of

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.authority import Renderer, Served, decide, lost_by, served_by
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.probing import out_of_reach

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template_of(source: str) -> ChatTemplate:
    """A chat template given as text."""
    return ChatTemplate(source, special=SPECIAL, adds_bos=False)


def served(source: str) -> Served:
    """The decision for it."""
    return decide(template_of(source))


def refusing(condition: str) -> str:
    """The beginning of a template that refuses something."""
    return f"{{% if {condition} %}}{{{{ raise_exception('not so') }}}}{{% endif %}}"


@pytest.mark.parametrize(
    "condition",
    [
        "enable_thinking is defined and not enable_thinking",
        "enable_thinking is defined and enable_thinking",
        "enable_thinking is defined",
    ],
)
def test_a_request_of_thinking_may_be_refused(condition: str) -> None:
    """A model without thinking is never asked about it, so nothing is lost."""
    found = served(refusing(condition) + CHATML)
    assert (found.authority, found.tools, found.thinking) == ("template", False, False)
    assert not any("not offered" in difference for difference in found.differences)
    assert lost_by(template_of(refusing(condition) + CHATML), found) == ()


@pytest.mark.parametrize("asking", ["", "{% if enable_thinking %}Think!{% endif %}"])
def test_a_model_that_always_thinks_is_served_so(asking: str) -> None:
    """Its thoughts have tags; a request to leave them out is what nobody can pass on."""
    source = source_of("qwen3").replace("enable_thinking is false", "1 == 2")
    found = served(refusing("enable_thinking is defined and not enable_thinking") + asking + source)
    assert (found.authority, found.thinking) == ("template", True)
    assert any("a request not to think" in difference for difference in found.differences)


@pytest.mark.parametrize("condition", ["messages[0].role != 'system'", "not tools"])
def test_a_template_that_refuses_a_lone_user_is_one_error(condition: str) -> None:
    """What is asked of it before, or beside it, raises nothing of its own."""
    template = template_of(refusing(condition) + CHATML)
    assert out_of_reach(template) == ()
    with pytest.raises(TemplateError, match="fails on a single user message: not so") as caught:
        decide(template)
    assert caught.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "hello",
        "### User: {content}\n### Assistant:",
        "{% for m in messages %}{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.text }}\n{% endfor %}",
        "{% for m in messages %}{% if m.role == 'human' %}{{ m.content }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_never_writes_what_the_user_says_is_one_error(source: str) -> None:
    """Ollama would render it, and every question would get the same answer."""
    with pytest.raises(TemplateError, match="never writes what the user says") as caught:
        served(source)
    assert caught.value.hint


@pytest.mark.parametrize(
    "content",
    ["m.content | upper", "m.content | lower", "m.content | trim", "m.content | tojson"],
)
def test_what_the_user_says_may_be_changed(content: str) -> None:
    """In upper case, or without the blanks around it, it is still there."""
    assert served(CHATML.replace("m.content", content)).authority in ("template", "jinja")


def test_what_the_user_says_may_have_to_stand_behind_something() -> None:
    """A system prompt, which the tag may have, or an answer."""
    for needed in ("messages[0].role == 'system'", "messages | length > 2"):
        assert served(f"{{% if {needed} %}}{CHATML}{{% endif %}}").authority == "jinja"


OTHER_TOOLS = "{% if xml_tools %}{{ xml_tools | tojson }}{% endif %}"
IN_ONE_LINE = CHATML.replace("m.content", "m.content | replace('\\n\\n', '\\n')")  # Go cannot


def test_tools_that_only_the_daemon_believes_in_are_not_offered() -> None:
    """It takes the word in a Jinja that it renders itself; no tool comes to the template."""
    found = served(OTHER_TOOLS + IN_ONE_LINE)
    assert (found.authority, found.tools) == ("jinja", False)
    (said,) = [difference for difference in found.differences if "tools" in difference]
    assert said.startswith("a request with tools is answered as one without, though Ollama lists")
    assert "takes them as xml_tools" in said
    (said,) = [one for one in served("{# tool_call #}" + IN_ONE_LINE).differences if "tools" in one]
    assert said.endswith("though Ollama lists them: the chat template only has the word")
    taken = served(OTHER_TOOLS.replace("xml_tools", "tools") + IN_ONE_LINE)
    assert (taken.authority, taken.tools) == ("jinja", True)
    assert not any("tools" in difference for difference in taken.differences)


@pytest.mark.parametrize(("tags", "offered"), [("<think></think>", True), ("brackets", False)])
def test_thinking_that_only_the_daemon_believes_in_is_offered(tags: str, *, offered: bool) -> None:
    """It lists it for the tags in a sentence, and a request to think reaches the template."""
    asking = f"{{% if enable_thinking %}}Write your thoughts between {tags}.{{% endif %}}"
    found = served(asking + IN_ONE_LINE)
    assert (found.authority, found.thinking) == ("jinja", offered)
    said = [one for one in found.differences if one.startswith("thinking is not offered")]
    assert bool(said) != offered
    assert not any("is answered as one without" in one for one in found.differences)


def test_thinking_that_is_a_word_alone_is_a_limit() -> None:
    """It is listed, as tools are for theirs, and no request changes anything."""
    found = served("{# <think></think> #}" + IN_ONE_LINE)
    assert (found.authority, found.thinking) == ("jinja", True)
    (said,) = [one for one in found.differences if "a request to think" in one]
    assert said.endswith("though Ollama lists thinking: the chat template only names its tags")


def test_thinking_that_only_the_daemon_believes_in_is_a_limit() -> None:
    """It lists it where past answers are cut at the end of thoughts, by one way of writing that."""
    source = IN_ONE_LINE.replace("m.content", "m.content.split('</think>')[-1]")
    found = served(source)
    assert (found.authority, found.thinking) == ("jinja", False)
    assert any("lists thinking" in said and "not proven" in said for said in found.differences)
    for kept in (
        "{# reasoning_content #}" + source,
        source.replace("m.content", "(m.content or '')"),
    ):
        assert not any("not proven" in said for said in served(kept).differences)
    tagged = served("{# <think> #}" + source)
    assert tagged.thinking
    assert not any("not proven" in said for said in tagged.differences)


@pytest.mark.parametrize(("tag", "offered"), [("think", True), ("thought", False)])
def test_thoughts_in_tags_that_the_daemon_does_not_know_are_a_limit(
    tag: str, *, offered: bool
) -> None:
    """A request to think is refused then, though past answers are cut and prompts end with it."""
    source = IN_ONE_LINE.replace("m.content", f"m.content.split('</{tag}>')[-1]")
    found = served(source.replace("assistant\n{%", f"assistant\n<{tag}>\n{{%"))
    assert (found.authority, found.thinking) == ("jinja", offered)
    said = [one for one in found.differences if one.startswith("thinking is not offered")]
    assert bool(said) != offered
    assert all("<think> and </think>" in one for one in said)


def test_a_renderer_of_ollamas_own_is_held_to_what_is_out_of_reach() -> None:
    """It writes the same prompts, so the same tools are missing in them."""
    found = served_by(template_of(OTHER_TOOLS + CHATML), Renderer("some", "some", 3))
    assert not found.tools
    assert any("takes them as xml_tools" in difference for difference in found.differences)


CUT = "m.content.split('</think>')[-1] | trim"


@pytest.mark.parametrize("kept", ["the last", "none"])
def test_thoughts_may_be_kept_of_the_last_answer(kept: str) -> None:
    """LFM2.5 cuts those of all answers before it: the model thinks, whatever is kept."""
    here = "" if kept == "none" else " if not loop.last and loop.index0 != ns.last else m.content"
    found = served(
        "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
        "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        f"{{{{ ({CUT}){here} }}}}{{% else %}}{{{{ m.content }}}}{{% endif %}}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert (found.authority, found.thinking) == ("template", True)
    assert "</think>" in (found.go or "")
    said = [one for one in found.differences if one.startswith("a past answer's thinking")]
    assert bool(said) == (kept == "the last")


PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'thinking' %}[THINK]{{ part.thinking }}[/THINK]"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (PARTS, "takes thoughts as parts of a content"),
        ("{# <think></think> #}" + CHATML, "names </think>, and no answer shows"),
        (CHATML, ""),
        (PARTS.replace("thinking", "reasons"), ""),
    ],
    ids=["in parts", "by a word", "a list printed as it is", "other parts"],
)
def test_thoughts_that_stay_in_answers_are_a_limit(source: str, reason: str) -> None:
    """Ollama sends no parts, and looks for thoughts where a Go template says that they are."""
    found = served(source)
    assert (found.authority, found.thinking) == ("template", False)
    said = [one for one in found.differences if one.startswith("thinking is not offered")]
    assert len(said) == bool(reason)
    assert all(reason in one for one in said)
    # Code of Ollama's own may tell them apart.
    own = served_by(template_of(source), Renderer("some", "some", 3))
    assert not any("not offered" in one for one in own.differences)


@pytest.mark.parametrize(
    ("system", "thinks"),
    [
        ("Give your <think> {thoughts} </think> and then {the solution}.", True),
        ("Write <reasoning>...</reasoning><answer>...</answer>.", True),
        ("Write <answer>...</answer>.", False),
        ("Think before you answer.", False),
    ],
)
def test_thoughts_that_a_system_prompt_asks_for_are_told_apart(
    system: str, *, thinks: bool
) -> None:
    """Phi-4-reasoning's: no prompt ends with the tag, and past answers are written as they are."""
    found = served(f"<|im_start|>system\n{system}<|im_end|>\n" + CHATML)
    assert (found.authority, found.thinking) == ("template", thinks)
    kept = [one for one in found.differences if one.startswith("a past answer's thinking")]
    assert bool(kept) == thinks
    assert not any("not offered" in one for one in found.differences)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "'<|im_start|>assistant'"),
        ("<turn>{{ m.role }}\n{{ m.content }}<end_of_turn>", "'<turn>assistant'"),
        ("{{ m.content }}{% if m.role == 'user' %}\nA:{% else %}\nQ:{% endif %}", ""),
    ],
    ids=["as text", "behind a tag", "opened with the question"],
)
def test_an_answer_that_no_prompt_opens_is_a_limit(turn: str, said: str) -> None:
    """A template of training, without ``add_generation_prompt``: what ends a turn opens nothing."""
    source = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    in_one_line = source.replace("m.content", "m.content | replace('\\n\\n', '\\n')")
    for found in (served(source), served(in_one_line)):
        assert not found.thinking
        limits = [one for one in found.differences if one.startswith("no prompt ends with")]
        assert len(limits) == bool(said)
        assert all(said in one for one in limits)
        assert not any("is taken for a part of the answer" in one for one in found.differences)
    opened = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    assert not any("no prompt ends" in one for one in served(source + opened).differences)


def test_a_date_that_is_looked_up_is_named_as_what_it_is() -> None:
    """A mark stands in its place while a template is probed, and no reader knows of marks."""
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    looked_up = f"{{{{ 'On ' + {dict(zip(days, 'MTWTFSS', strict=True))}[strftime_now('%A')] }}}}"
    found = served(looked_up + CHATML)
    assert found.authority == "jinja"
    assert found.reason.endswith("the chat template computes with the date")


def test_arguments_in_another_form_are_not_said_to_be_left_out() -> None:
    """As Falcon 3 has them: in JSON with line ends, the whole call as one value."""
    source = source_of("qwen2.5").replace("arguments | tojson", "arguments | tojson(indent=2)")
    found = served(source)
    (said,) = [one for one in found.differences if one.startswith("tools are not offered")]
    assert "has a form of its own for the assistant's arguments" in said


@pytest.mark.parametrize(
    ("said", "differs"),
    [
        ("tool.function.description | tojson", False),
        ("'\"' + tool.function.description + '\"'", False),
        ("tool.function.description | replace('\\n', ' ') | tojson", True),
    ],
    ids=["as JSON", "between quotes", "changed"],
)
def test_what_a_tool_is_described_with_may_not_be_escaped(said: str, *, differs: bool) -> None:
    """Mistral's put it between quotes as it is, where a line end and a quote stay what they are."""
    found = served(
        '{% for tool in tools or [] %}{{ \'{"name": "\' + tool.function.name + \'", '
        f'"description": \' + ({said}) + \', "parameters": \' + '
        "(tool.function.parameters | tojson) + '}' }}{% endfor %}"
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}[/]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert found.tools
    named = [one for one in found.differences if one.startswith("a tool's description")]
    assert bool(named) == differs


def test_an_empty_system_message_has_a_name_where_only_tools_show_it() -> None:
    """Llama's default is there with tools alone."""
    found = served(
        "{% set given = messages[0].content if messages[0].role == 'system' else none %}"
        "{% if tools %}<sys>{{ 'Use tools.' if given is none else given }}{{ tools | tojson }}\n"
        "{% elif given %}<sys>{{ given }}\n{% endif %}"
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert found.tools
    (said,) = [one for one in found.differences if one.startswith("an empty system message")]
    assert "Use tools." in said


def test_a_daemons_jinja_gets_tools_in_ollamas_order() -> None:
    """Whatever order they were sent in, so that is what its prompts are held against."""
    parameters = {"properties": {"b": {}, "a": {}}, "type": "object", "required": ["a"]}
    tool = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    (handed_on,) = Conversation((Message("user", "Hi"),), (tool,)).handed_on.tools
    assert handed_on == tool
    assert list(handed_on["function"]["parameters"]) == ["type", "required", "properties"]
    found = served("{% if tools %}{{ tools | tojson }}{% endif %}" + IN_ONE_LINE)
    assert (found.authority, found.tools) == ("jinja", True)
    assert any("required before properties" in said for said in found.differences)
    bare = served(IN_ONE_LINE).differences
    assert not any("required before properties" in said for said in bare)
