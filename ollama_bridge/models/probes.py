"""The conversations that a daemon is probed with; synthetic, none of a user's words."""

from __future__ import annotations

from ollama_bridge.reference import Role

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

# Those whose answers are scored token by token.
QUESTIONS = ("praise", "complaint", "question", "three turns")
