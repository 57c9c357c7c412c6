"""Windows of attention that versions of Ollama have otherwise than the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ollama_bridge.daemon.era import OWN_WINDOWS, WIDER_WINDOW, has_limit
from ollama_bridge.errors import DaemonError
from ollama_bridge.verify.certificate import WINDOW, Check

# Every so manieth layer of a Gemma sees the whole text, whatever its GGUF lists.
_PERIODS = {"gemma2": 2, "gemma3": 6}
_WIDENED = "gemma3.attention.sliding_window"


def refuse_unread_windows(version: str, tag: str, metadata: Mapping[str, Any]) -> None:
    """Layers that see a window, and not all of the text, differ in long texts only.

    Args:
        version: The daemon's.
        tag: For the error.
        metadata: The GGUF's metadata.

    Raises:
        DaemonError: this version has them in other layers than the checkpoint.
    """
    key = f"{metadata.get('general.architecture')}.attention.sliding_window_pattern"
    listed, period = metadata.get(key), _PERIODS.get(key.partition(".")[0])
    if not isinstance(listed, list) or period is None or not has_limit(version, OWN_WINDOWS):
        return
    if [bool(slides) for slides in listed] != [
        (layer + 1) % period != 0 for layer in range(len(listed))
    ]:
        raise DaemonError(
            f"Ollama {version} does not read which layers attend to a window ({key})",
            model=tag,
            hint="update Ollama to 0.34.4 or later; a student of the first layers does without",
        )


def explain_wider_window(
    version: str, metadata: Mapping[str, Any], agrees_up_to: Callable[[int], bool | None]
) -> tuple[Check, ...]:
    """A failed check where log-probabilities differ for one token more in the window; else none.

    Args:
        version: The daemon's.
        metadata: The GGUF's metadata.
        agrees_up_to: Whether all texts of at most so many tokens are as the checkpoint has them;
            None: there is none.
    """
    window = metadata.get(_WIDENED)
    # 0: no layer of it slides.
    if not isinstance(window, int) or window <= 0 or not has_limit(version, WIDER_WINDOW):
        return ()
    short_ones = agrees_up_to(window)
    if short_ones is False:
        return ()
    difference = (
        f"what differs is in texts longer than its window of {window} tokens, to which Ollama "
        f"{version} adds one"
    )
    if short_ones is None:
        difference += "; all are, so it cannot be told whether a tensor is wrong as well"
    return (Check.of(WINDOW, "tensor", difference, {"window": window}),)
