"""The files of a checkpoint beside its weights, by the names that transformers gives them."""

from __future__ import annotations

from ollama_bridge.models.settings.generation_defaults import GENERATION_CONFIG
from ollama_bridge.models.settings.model_card import CARD_NAME

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"  # of transformers 4
CHAT_TEMPLATE = "chat_template.jinja"
TOOL_TEMPLATE = "additional_chat_templates/tool_use.jinja"
# What a copy takes along, beside config.json.
SMALL_FILES = (
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP,
    CHAT_TEMPLATE,
    TOOL_TEMPLATE,
    CARD_NAME,  # its front matter: licence, base models
)
