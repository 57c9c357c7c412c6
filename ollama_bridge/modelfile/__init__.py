"""Modelfiles as values, and Ollama's grammar of them."""

from ollama_bridge.modelfile.grammar import dropped_characters
from ollama_bridge.modelfile.parameters import ParameterValue, check_parameters
from ollama_bridge.modelfile.tags import check_tag
from ollama_bridge.modelfile.value import Modelfile, parse_modelfile

__all__ = [
    "Modelfile",
    "ParameterValue",
    "check_parameters",
    "check_tag",
    "dropped_characters",
    "parse_modelfile",
]
