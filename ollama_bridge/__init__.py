"""From a model in your Ollama to a smaller, faster one that ``ollama run`` serves.

``build`` is the whole path; each stage is a function of its own, from files to a file. Names are
loaded when they are first used, so importing the package costs nothing and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollama_bridge.client import AsyncClient, AsyncSession, Client, Conversation, Reply, Session
    from ollama_bridge.conversion import convert
    from ollama_bridge.conversion.importance import importance
    from ollama_bridge.data.prepare import prepare
    from ollama_bridge.errors import OllamaBridgeError
    from ollama_bridge.evaluation.run import evaluate
    from ollama_bridge.models.sources.resolve import resolve_model
    from ollama_bridge.packaged_teacher import provide_teacher
    from ollama_bridge.packaging.package import package
    from ollama_bridge.pipeline import build
    from ollama_bridge.publishing.publication import publish
    from ollama_bridge.publishing.retrieval import pull
    from ollama_bridge.recipe.config import Recipe
    from ollama_bridge.recipe.loading import load_recipe
    from ollama_bridge.registration import register
    from ollama_bridge.rendering import render
    from ollama_bridge.teacher.local import label
    from ollama_bridge.train.distill import distill
    from ollama_bridge.train.finetune import finetune
    from ollama_bridge.verification import verify_tag

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "Client",
    "Conversation",
    "OllamaBridgeError",
    "Recipe",
    "Reply",
    "Session",
    "build",
    "convert",
    "distill",
    "evaluate",
    "finetune",
    "importance",
    "label",
    "load_recipe",
    "package",
    "prepare",
    "provide_teacher",
    "publish",
    "pull",
    "register",
    "render",
    "resolve_model",
    "verify_tag",
]

_HOMES = {
    "AsyncClient": "client",
    "AsyncSession": "client",
    "Client": "client",
    "Conversation": "client",
    "OllamaBridgeError": "errors",
    "Recipe": "recipe.config",
    "Reply": "client",
    "Session": "client",
    "build": "pipeline",
    "convert": "conversion",
    "distill": "train.distill",
    "evaluate": "evaluation.run",
    "finetune": "train.finetune",
    "importance": "conversion.importance",
    "label": "teacher.local",
    "load_recipe": "recipe.loading",
    "package": "packaging.package",
    "prepare": "data.prepare",
    "provide_teacher": "packaged_teacher",
    "publish": "publishing.publication",
    "pull": "publishing.retrieval",
    "register": "registration",
    "render": "rendering",
    "resolve_model": "models.sources.resolve",
    "verify_tag": "verification",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ollama_bridge' has no attribute {name!r}")
    return getattr(import_module(f"ollama_bridge.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
