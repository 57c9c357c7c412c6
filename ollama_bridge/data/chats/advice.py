"""What to do about lines that are no conversations to learn from: mostly a command of jq's."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote

from ollama_bridge.data.chats.forms import A_LINE, MEDIA, find_messages, is_list_of_turns
from ollama_bridge.data.chats.glaive import A_GLAIVE_LINE, is_of_a_chat
from ollama_bridge.data.chats.hermes_prompt import OTHER_WORDS
from ollama_bridge.data.chats.hermes_tools import A_TAGGED_CALL, is_of_a_tag
from ollama_bridge.data.chats.tool_forms import A_CALL, A_TOOL, IN_TEXT, NOT_OFFERED
from ollama_bridge.data.chats.toolace import A_TOOLACE_CALL, is_of_brackets
from ollama_bridge.data.problems import MAX_LEFT_OUT_SHARE, unused

NO_CALLS = "a classify task learns labels alone"

_LEFT_OUT = f"up to {MAX_LEFT_OUT_SHARE:.0%} are left out for you"
_HAS_MEDIA = re.compile(r"has (\w+): only texts are learnt")
_OUT_OF_TURN = re.compile(r"turn \d+ is (?:user|assistant), expected (?:user|assistant) .*")
# Greetings before the first question go; what one of the two says in a row becomes one message.
_IN_TURNS = (
    "def who: .role // .from; "
    'def joins($next): (who | IN("user", "human", "assistant", "gpt")) '
    'and who == ($next | who) and all(., $next; (.content // .value | type) == "string" '
    "and (.tool_calls // .function_call) == null); "
    "def grown($next): (.content, .value | strings) += "
    '"\\n\\n" + ($next | .content // .value); '
    "(.messages, .conversations, .conversation | arrays) |= "
    '(([.[] | who | IN("user", "human")] | index(true) // 0) as $first '
    '| .[:$first] |= map(select(who | IN("assistant", "gpt") | not)) '
    "| reduce .[] as $next ([]; if .[-1] | joins($next) "
    "then .[-1] |= grown($next) else . + [$next] end))"
)
# In jq's words false is not 0; a weight of what is asked, or of a line, is not looked at.
_LEARNT_WHOLE = (
    'select(all(.. | objects; (.role // .from | IN("assistant", "gpt") | not) '
    "or (.weight != 0 and .weight != false)))"
)
_WITHOUT_CALLS = (
    "select(all(.. | objects; (.tool_calls // [] | length) + (.function_call // [] | length) == 0 "
    'and (.role // .from | IN("function_call", "tool_call") | not)))'
)
# Of a system turn what is inside of <tools> stays: the rest is how to write what templates write.
_TOOLS_ALONE = (
    "(.system, (.messages, .conversations, .conversation | arrays | .[0] | .content, .value) "
    r'| strings | select(test("<tools>\\s*[\\[{]"))) '
    r'|= match("<tools>\\s*[\\[{][\\s\\S]*?</tools>").string'
)
_OF_QUESTIONS = (
    '{tools, messages: [{role: "user", content: .query}, {role: "assistant", tool_calls: '
    '(.answers | if type == "string" then fromjson else . end)}]}'
)


def advice(path: Path, reasons: Collection[str], first: Mapping[str, object]) -> str:
    """What to do about a file with too many lines that cannot be learnt.

    Args:
        path: The file.
        reasons: Of each of these lines; what more than half of them say is answered.
        first: The first of these lines.
    """

    def are_most(found: Collection[object]) -> bool:
        return 2 * len(found) > len(reasons)

    media = [said[1] for reason in reasons if (said := _HAS_MEDIA.fullmatch(reason))]
    if are_most(media):
        return _without_media(path, media)
    if are_most([reason for reason in reasons if _OUT_OF_TURN.fullmatch(reason)]):
        command = _by_jq(path, "in-turns", _IN_TURNS)
        return f"{_LEFT_OUT}; without greetings, and messages in a row as one: {command}"
    not_offered = [reason for reason in reasons if reason.endswith(NOT_OFFERED)]
    calls = [*not_offered, *(reason for reason in reasons if reason.endswith(NO_CALLS))]
    if are_most(calls):
        command = _by_jq(path, "no-tools", _WITHOUT_CALLS)
        hint = f"without the conversations that call tools: {command}"
        return f"{A_TOOL}; or {hint}" if not_offered else hint
    if are_most([reason for reason in reasons if "weight 0" in reason]):
        return _by_jq(path, "learnt", _LEARNT_WHOLE)  # what is left is learnt whole
    if {"query", "answers", "tools"} <= set(first):  # xLAM's form
        return _by_jq(path, "chats", _OF_QUESTIONS)
    if are_most([reason for reason in reasons if OTHER_WORDS in reason]):
        command = _by_jq(path, "tools", _TOOLS_ALONE)
        return f"with nothing but its tools in each system turn that has them: {command}"
    if are_most([reason for reason in reasons if IN_TEXT in reason]):
        return A_CALL
    for is_of_form, form in (
        (is_of_a_tag, A_TAGGED_CALL),
        (is_of_a_chat, A_GLAIVE_LINE),
        (is_of_brackets, A_TOOLACE_CALL),
    ):
        if are_most([reason for reason in reasons if is_of_form(reason)]):
            return f"{form}; {_LEFT_OUT}"
    return f"{A_LINE}; {_LEFT_OUT}"


def advice_on_turns(path: Path, record: Mapping[str, object]) -> str | None:
    """How a line of a table is read as the conversation that it is; None: it has no turns."""
    if is_list_of_turns(find_messages(record)):
        return (
            "leave out --text-col and --label-col (in a recipe: data.source: messages): a "
            "conversation is read as a whole"
        )
    found = [name for name, value in record.items() if is_list_of_turns(value)]
    if not found:
        return None
    if {"prompt", "chosen"} <= set(found):
        form = "{prompt, completion: .chosen}"
    else:
        name = "chosen" if "chosen" in found else found[0]
        form = f"{{messages: .[{json.dumps(name, ensure_ascii=False)}]}}"
    return _by_jq(path, "chats", form)


def _without_media(path: Path, kinds: Collection[str]) -> str:
    fields = ", ".join(f".{name}" for name, kind in MEDIA.items() if kind in kinds)
    command = _by_jq(path, "texts", f"del({fields})")
    return f"if what is asked can be answered without them: {command}"


def _by_jq(path: Path, ending: str, program: str) -> str:
    """The command that writes what jq makes of each line to a file that is not there yet."""
    written = unused(path.with_name(f"{path.stem}-{ending}.jsonl"))
    return f"jq -c {quote(program)} {quote(str(path))} > {quote(str(written))}"
