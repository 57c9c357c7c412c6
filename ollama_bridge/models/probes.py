"""The conversations that a daemon is probed with; synthetic, none of a user's words."""

from __future__ import annotations

from ollama_bridge.reference import Role
from ollama_bridge.template.conversation import Call, Conversation, Message

ProbeTurns = tuple[tuple[Role, str], ...]

_SYSTEM = "You are a terse parrot. Repeat the question."

# Consecutive turns of one role are left out: Ollama merges them, Jinja templates do not.
CONVERSATIONS: dict[str, ProbeTurns] = {
    "greeting": (("user", "Hi"),),
    "praise": (("user", "The soup was wonderful and they didn't let us wait. We'll be back!"),),
    "complaint": (("user", "It broke after two days, and nobody answers the phone."),),
    "question": (("user", "What is the capital of France?"),),
    "other system": (("system", _SYSTEM), ("user", "Who are you?")),
    "three turns": (
        ("user", "Name a colour."),
        ("assistant", "Green."),
        ("user", "Another one?"),
    ),
    "five turns": (
        ("system", _SYSTEM),
        ("user", "One?"),
        ("assistant", "One."),
        ("user", "Two?"),
        ("assistant", "Two."),
        ("user", "Three?"),
    ),
    "empty": (("user", ""),),
    "scripts": (
        (
            "user",
            "Größe, naïve café, Łódź; Привет, мир! 你好，世界。 こんにちは مرحبا שלום ไทย हिन्दी",
        ),
    ),
    "emoji": (("user", "👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ 😀😀 ✈"),),
    "digits": (("user", "1234567890 3.14159 1,000,000 2026-11-24 0x1F ½ ² Ⅷ"),),
    "white space": (("user", "  two before\n\n\ttab\r\n\n\n   three   between\u00a0nbsp  "),),
    "code": (
        ("user", 'def f(x):\n    return {"a": [x, -1]}  # <b>&amp;</b> """ \\n %s {{ .Go }}'),
    ),
    "apostrophes": (("user", "I don't think they'll say it's what we've asked for; she'd know."),),
    "continuation": (("user", "What is two and two?"), ("assistant", "The answer is")),
    "late continuation": (
        ("system", _SYSTEM),
        ("user", "Ready?"),
        ("assistant", "Ready."),
        ("user", "Count to five."),
        ("assistant", "One, two, three"),
    ),
}

_TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city & its surroundings.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name, <or> none."},
                    "days": {"type": "integer"},
                    "unit": {
                        "type": "string",
                        "description": "Unit.",
                        "enum": ["celsius", "fahrenheit"],
                    },
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "Tells the time.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
)
_CALL = Call("get_weather", {"city": "Łódź", "days": 2}, "Ab3dE6gH9")
_CALLED = (
    Message("user", "What is the weather in Łódź?"),
    Message("assistant", "", calls=(_CALL,)),
    Message("tool", '{"sky": "clear", "°C": 7}', name=_CALL.name, call_id=_CALL.id),
)
_THOUGHT = (
    Message("user", "One and one?"),
    Message("assistant", "Two.", thinking="1 + 1 = 2."),
    Message("user", "And one more?"),
)

# Those for tags that can be given tools, that can think, or both.
TOOL_CONVERSATIONS: dict[str, Conversation] = {
    "tools": Conversation((Message("user", "Hi"),), _TOOLS),
    "one tool": Conversation((Message("system", _SYSTEM), Message("user", "Hi")), _TOOLS[:1]),
    "result of a tool": Conversation(_CALLED, _TOOLS),
    "after a tool": Conversation(
        (*_CALLED, Message("assistant", "Clear, 7 °C."), Message("user", "Thanks!")), _TOOLS
    ),
}
THINKING_CONVERSATIONS: dict[str, Conversation] = {
    "earlier thinking": Conversation(_THOUGHT),
    "no thinking": Conversation((Message("user", "Hi"),), think=False),
    "no more thinking": Conversation(_THOUGHT, think=False),
}

# Those whose answers are scored token by token.
QUESTIONS = ("praise", "complaint", "question", "three turns")
