"""Holds what a daemon renders against the reference's prompts.

Daemons show it by ``_debug_render_only``, a flag of ``/api/chat`` that no document promises. Where
it is ignored, the daemon is asked to answer instead, with one token: its prompt must have as many
tokens as the reference's, and the same tokens must be the likeliest behind it. That misses a
difference which changes neither; so the certificate says which proof it is. Where prompts have a
day in them, tokens are only counted: what is likely behind them is known of one day, not of today.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from ollama_bridge.client import Client
from ollama_bridge.errors import RenderingHiddenError
from ollama_bridge.reference import Conversation, ReferenceValues
from ollama_bridge.verify.certificate import RENDERED_TEXT, TOKEN_COUNTS, Check
from ollama_bridge.verify.scores import ServedScore, compare_tops, special_texts

# A daemon in a container has UTC, one on another machine its own zone, and midnight may pass.
_DAYS_OFF = (0, -1, 1)
_ONE_TOKEN = {"temperature": 0.0, "repeat_penalty": 1.0, "num_predict": 1, "stop": []}


def check_prompts(
    client: Client,
    tag: str,
    reference: ReferenceValues,
    *,
    capabilities: Collection[str],
    mean_kl_bound: float,
) -> Check:
    """Compare every conversation that the daemon takes.

    Args:
        client: Speaks to the daemon.
        tag: The tag to check.
        reference: Has the conversations.
        capabilities: Of the tag: tools are refused by the daemon where it finds none, and so is
            thinking; that it finds those that were proven, is checked elsewhere.
        mean_kl_bound: What the tokens behind the prompts may differ by on average, in nats, where
            the daemon shows no text.

    Raises:
        DaemonError: the daemon could not answer.
    """
    requests = [
        _Request(conversation, conversation.think if "thinking" in capabilities else None)
        for conversation in reference.conversations
        if "tools" in capabilities or not conversation.tools
    ]
    try:
        different = _rendered_differences(client, tag, reference, requests)
        proof = RENDERED_TEXT
    except RenderingHiddenError:
        different = _counted_differences(client, tag, reference, requests, mean_kl_bound)
        proof = TOKEN_COUNTS
    return Check.of(
        "rendered prompts",
        "template",
        different[0] if different else None,
        {
            "prompts": len(requests),
            "different": len(different),
            "proof": proof,
        },
    )


@dataclass(frozen=True)
class _Request:
    """A conversation, and the ``think`` that this daemon takes with it."""

    conversation: Conversation
    think: bool | None


def _rendered_differences(
    client: Client, tag: str, reference: ReferenceValues, requests: Sequence[_Request]
) -> list[str]:
    different = []
    for request in requests:
        conversation = request.conversation
        served = client.render(
            tag, conversation.messages, think=request.think, tools=conversation.tools
        )
        days = [date.today() + timedelta(days=off) for off in _DAYS_OFF]
        wanted = [reference.rendered_on(conversation, day) for day in days]
        if served not in wanted:
            nearest = max(wanted, key=lambda text: _shared_bytes(text.encode(), served.encode()))
            different.append(_first_difference(conversation.name, nearest, served))
    return different


def _counted_differences(
    client: Client,
    tag: str,
    reference: ReferenceValues,
    requests: Sequence[_Request],
    mean_kl_bound: float,
) -> list[str]:
    special = special_texts(reference)
    different, divergences = [], []
    for request in requests:
        conversation = request.conversation
        reply = client.chat(
            tag,
            conversation.messages,
            think=request.think,
            tools=conversation.tools,
            options=_ONE_TOKEN,
            logprobs=True,
            top_logprobs=20,
        )
        wanted = len(conversation.token_ids)
        if reply.prompt_tokens != wanted:
            different.append(
                f"conversation {conversation.name!r} is {wanted} tokens in the checkpoint and "
                f"{reply.prompt_tokens} in the daemon, which does not show its text"
            )
        elif reply.logprobs and not reference.dates:  # none where the end token was drawn
            served = [ServedScore(entry.token, entry.logprob) for entry in reply.logprobs[0].top]
            kl_nats = compare_tops(conversation.top, served, special=special).kl_nats
            divergences.append((kl_nats, conversation.name))
    mean_kl = sum(kl_nats for kl_nats, _ in divergences) / max(len(divergences), 1)
    if mean_kl > mean_kl_bound:
        kl_nats, name = max(divergences)
        different.append(
            f"behind conversation {name!r} other tokens are likely (KL {kl_nats:.3f} nats, mean "
            f"{mean_kl:.4f}, bound {mean_kl_bound:.4g}); the daemon does not show its text"
        )
    return different


def _first_difference(name: str, rendered: str, served: str) -> str:
    wanted_bytes, served_bytes = rendered.encode(), served.encode()
    at = _shared_bytes(wanted_bytes, served_bytes)
    wanted, got = (
        text[max(at - 12, 0) : at + 28].decode(errors="replace")
        for text in (wanted_bytes, served_bytes)
    )
    return (
        f"conversation {name!r} differs at byte {at}: the checkpoint renders "
        f"...{wanted!r}..., the daemon ...{got!r}..."
    )


def _shared_bytes(left: bytes, right: bytes) -> int:
    """How many bytes two texts begin with alike."""
    shorter = min(len(left), len(right))
    return next((i for i in range(shorter) if left[i] != right[i]), shorter)
