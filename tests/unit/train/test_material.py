"""What training reads of a corpus, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ollama_bridge.artifacts import Checkpoint, Corpus
from ollama_bridge.config import OptimizerSection
from ollama_bridge.examples import read_examples
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.reporting import Event, Note
from ollama_bridge.train.material import load_material


@dataclass
class Listener:
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_the_share_that_is_learnt_is_said(base: Checkpoint, corpus: Corpus) -> None:
    """Of all tokens the answers' and their ends', counted here from the rendered text."""
    listener = Listener()
    load_material(base.path, corpus, OptimizerSection(), stage="test", reporter=listener)
    tokenizer = load_tokenizer(base.path)
    tokens = answers = count = 0
    for example in read_examples(corpus.split_path("train")):
        messages = [{"role": one.role, "content": one.content} for one in example.messages]
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_dict=False
        )
        tokens += len(ids)
        answers += ids[len(prompt) :].index(tokenizer.eos_token_id) + 1
        count += 1
    notes = [event.message for event in listener.events if isinstance(event, Note)]
    assert notes == [f"{count} examples, {answers / tokens:.1%} of their tokens are supervised"]
