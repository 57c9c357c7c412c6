"""What a teacher's distribution means in the student's vocabulary."""

from ollama_bridge.alignment.ladder import Alignment, Rung, Side, align
from ollama_bridge.alignment.vocabulary import Vocabulary, read_vocabulary

__all__ = ["Alignment", "Rung", "Side", "Vocabulary", "align", "read_vocabulary"]
