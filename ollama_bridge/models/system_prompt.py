"""What a checkpoint's chat template does with a system prompt, told before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.settings.chat_template import chat_template_of
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.marked_conversations import use_of_system


def loss_of_system(folder: Path) -> Literal["refuses", "leaves out"] | None:
    """How a system prompt gets lost in a checkpoint's prompts; None: it does not.

    Args:
        folder: A checkpoint; without a chat template, texts are continued as they are.

    Raises:
        TemplateError: the chat template is no Jinja.
        ModelError: the folder's tokenizer cannot be loaded.
    """
    return loss_in_template(chat_template_of(load_tokenizer(folder)))


def loss_in_template(template: ChatTemplate | None) -> Literal["refuses", "leaves out"] | None:
    """The same of a checkpoint whose tokenizer is at hand.

    Args:
        template: Its chat template, if it has one.
    """
    if template is None:
        return None
    use = use_of_system(template)
    if use == "written":
        return None
    return "refuses" if use == "refused" else "leaves out"
