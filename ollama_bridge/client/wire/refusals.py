"""What a daemon's error means: one of our own, with the command that helps."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from shlex import quote

from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonBusyError,
    DaemonError,
    ModelNotFoundError,
    RepetitionError,
    RequestRejectedError,
    RunnerCrashedError,
    UnsupportedFeatureError,
)

CHECK_ADDRESS = "check that an Ollama daemon answers at this address: ollama-bridge doctor"
BUSY = frozenset({429, 502, 503, 504})
_TOO_MANY_REPEATS = "token repeat limit"
_NO_VECTORS = "does not support embeddings"
_ASK_AGAIN = "ask again; if it fails again, see the daemon's log"
_BUSY_FOR_NOW = (
    "the daemon is busy, or not there yet: try again in a moment; if it stays so: "
    "ollama-bridge doctor"
)
_LEADS_ELSEWHERE = "write the address that it leads to, most often the same with https://"
# A daemon's own 403 without a word: server/routes.go, allowedHostsMiddleware.
_REFUSES_THE_NAME = (
    "a daemon that listens on loopback alone answers only to names of its own machine: let the "
    "proxy before it send 'Host: localhost' (and see what that refuses), or start it with "
    "OLLAMA_HOST=0.0.0.0"
)
_HINTS = {
    401: "set OLLAMA_API_KEY",
    413: "shorten it: it is more than the daemon, or a proxy before it, takes",
    429: "try again later, or send fewer requests at a time",
    **dict.fromkeys((502, 503, 504), _BUSY_FOR_NOW),
    **dict.fromkeys((301, 302, 307, 308), _LEADS_ELSEWHERE),
}
_NOT_THERE = "pull model manifest: file does not exist"
# (what Ollama says, what that means, the way out)
_OF_REGISTRIES = (
    (
        re.compile("server gave HTTP response to HTTPS client"),
        "the registry speaks plain http, not https",
        "if it is yours, add --insecure (Python: insecure=True)",
    ),
    (
        re.compile("realm host"),
        "the registry asks for a password, and Ollama has none",
        "ollama-bridge publish   (or, without --through daemon: ollama-bridge pull)",
    ),
    (
        # Not "dial tcp" alone, which a daemon also says of a runner that has gone.
        re.compile(r'manifest: (Get|Head|Post|Put|Patch) "http|dial tcp: lookup'),
        "the daemon reaches no registry",
        "check the network and the name of the registry; behind a proxy the daemon itself needs "
        "HTTPS_PROXY in its environment",
    ),
)
_OVERFLOW_NUMBERS = re.compile(r'"n_prompt_tokens":(\d{1,15})\b.*?"n_ctx":(\d{1,15})\b')
_OVERFLOW = re.compile(r"context.*exceed|exceed.*context|longer than the context length")
_UNSUPPORTED = re.compile(r"does not support|missing data required for image")


def error_text(data: object) -> str:
    """The message in an error reply."""
    found = data.get("error") if isinstance(data, dict) else data
    if isinstance(found, dict):
        found = found.get("message", found)
    return " ".join(str(found).split())


def advice_on_status(status_code: int, *, says_why: bool) -> str | None:
    """What to do about an error status; None: the daemon is to be looked at.

    Args:
        says_why: A message of the daemon's came with it.
    """
    return _REFUSES_THE_NAME if status_code == 403 and not says_why else _HINTS.get(status_code)


def no_images(model: str, *, where: str = "") -> UnsupportedFeatureError:
    """The error for images that a model cannot see: Ollama 0.24 leaves them out without a word.

    Args:
        where: They are, to be put in front of the message.
    """
    return UnsupportedFeatureError(
        f"{where}{model!r} takes no images",
        status_code=400,  # as later versions answer
        hint=f"see what the model can do: ollama-bridge show {quote(model)}",
        model=model,
    )


def rejection(status_code: int, message: str, *, model: str | None) -> DaemonError:
    """The error for an answer with an error status."""
    said = _inner_message(message)[:500]
    shown = said or _phrase(status_code)
    if status_code == 500 and _TOO_MANY_REPEATS in shown:  # where no piece was given out yet
        return repetition(model)
    if status_code == 404 and "not found" in shown and model:
        return missing_model(model)
    if status_code == 400 and _OVERFLOW.search(shown):
        return _overflow(message, shown, model)
    if _NO_VECTORS in shown and model:  # the runner says how to start it, which is Ollama's to do
        return UnsupportedFeatureError(
            f"{model!r} is no embedding model",
            status_code=status_code,
            model=model,
            hint="take one that is, such as all-minilm: ollama-bridge pull all-minilm",
        )
    kind = RequestRejectedError
    if _UNSUPPORTED.search(shown):
        kind = UnsupportedFeatureError
    elif status_code in BUSY:
        kind = DaemonBusyError
    return kind(
        f"the daemon answered {status_code}: {shown}",
        status_code=status_code,
        model=model,
        hint=_hint(status_code, said, model),
    )


def missing_model(name: str, *, address: str | None = None) -> ModelNotFoundError:
    """The error for a model that is not there.

    Args:
        address: The daemon's, where several are asked.
    """
    at = "" if address is None else f" at {address}"
    return ModelNotFoundError(
        f"the daemon{at} has no model {name!r}",
        status_code=404,
        model=name,
        hint=f"ollama-bridge pull {quote(name)}, or see what there is: ollama-bridge ls",
    )


def failure(message: str, *, model: str | None) -> DaemonError:
    """The error for an answer that reports one in its middle."""
    if _TOO_MANY_REPEATS in message:  # from 0.34.1 on
        return repetition(model)
    if _NOT_THERE in message and model:
        return ModelNotFoundError(
            f"the registry has no model {model!r}",
            status_code=404,
            model=model,
            hint="check its name and tag where it is published, or see what is here: "
            "ollama-bridge ls",
        )
    for pattern, what, hint in _OF_REGISTRIES:
        if pattern.search(message):
            told = f"{what}: {_inner_message(message)[:500]}"
            return RunnerCrashedError(told, hint=hint, model=model)
    return RunnerCrashedError(
        f"the daemon failed while answering: {_inner_message(message)[:500]}",
        hint=_ASK_AGAIN,
        model=model,
    )


def advice_on_end(*, may_hide: bool) -> str:
    """What to do about an answer that ended without its terminal event.

    Args:
        may_hide: Whether the daemon may have held text back, as it does with blanks before and
            behind a thought: it ends these by their repeats too, and none of them comes.
    """
    if not may_hide:
        return _ASK_AGAIN
    return (
        f"{_ASK_AGAIN}, or let it repeat less (option repeat_penalty, such as 1.2): Ollama up to "
        "0.34.0 ends an answer that goes on in blanks so"
    )


def repetition(model: str | None) -> RepetitionError:
    """The error for an answer that the daemon ended because one token came again and again.

    Source: the loop over the runner's tokens in llm/server.go of Ollama 0.24 (more than 30 repeats:
    no terminal event), llm/llama_server.go of 0.33 (the same) and 0.34.4 (more than 100: an error).
    """
    return RepetitionError(
        f"Ollama ended the answer of {model!r}: it repeated one token again and again",
        hint="let it repeat less (option repeat_penalty, such as 1.2), or limit the answer (option "
        "num_predict)",
        model=model,
    )


def overflow_text(needed: int, limit: int, *, is_estimate: bool = False) -> str:
    """By how much a prompt is too long."""
    about = "about " if is_estimate else ""
    return (
        f"the prompt does not fit the context: {about}{needed} tokens, the limit is {limit}: "
        f"{about}{max(1, needed - limit)} too many"
    )


def unbatched_text(needed: int, context: int) -> str:
    """How long a text to embed is that the context would hold: it is read whole, in one batch."""
    return (
        f"the text to embed is too long: about {needed} tokens have to be read in one batch "
        f"(num_batch), though the context has room for {context}"
    )


def _overflow(message: str, shown: str, model: str | None) -> ContextOverflowError:
    numbers = _OVERFLOW_NUMBERS.search(message)
    needed, limit = (int(numbers[1]), int(numbers[2])) if numbers else (None, None)
    text = f"the prompt does not fit the context: {shown}"
    if needed is not None and limit is not None:
        text = overflow_text(needed, limit)
    error = ContextOverflowError(
        text,
        status_code=400,
        model=model,
        hint="shorten the prompt, raise num_ctx (command line: -p num_ctx=N), or have it cut "
        "(Python: truncate=True; embed: --truncate)",
    )
    error.needed_tokens, error.limit_tokens = needed, limit
    return error


def _hint(status_code: int, message: str, model: str | None) -> str:
    if "digest mismatch" in message:
        return "the file changed, or the digest belongs to another file: compute it again"
    if "does not support" in message:
        return f"see what the model can do: ollama-bridge show {quote(model or 'TAG')}"
    return advice_on_status(status_code, says_why=bool(message)) or (
        "check the daemon: ollama-bridge doctor"
    )


def _phrase(status_code: int) -> str:
    """What a status means, where the daemon says no word."""
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return "without a word"


def _inner_message(message: str) -> str:
    """Errors of the runner are JSON within the text."""
    try:
        inner = json.loads(message)
    except (ValueError, RecursionError):
        return message
    return error_text(inner) if isinstance(inner, dict) and "error" in inner else message
