"""Tools of a corpus that a start, or Go for its tag, cannot write, told before a build trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.formats import source_of
from fakes.listening import Listener
from fakes.models import CHAT_TEMPLATE, build_tiny_tokenizer
from fakes.tool_chats import LIT
from fakes.trainable import SPLITS, corpus_of, sentiment_examples

from ollama_bridge.build_checks import check_tools_are_written
from ollama_bridge.errors import TrainingError
from ollama_bridge.storage.artifacts import Corpus

# In the words of a sentence, for which Ollama's templates have no code.
IN_WORDS = (
    "{%- for tool in tools or [] %}{{ tool.function.name | upper }}, {{ tool.function.name }}"
)
IN_WORDS += " ({{ tool.function.parameters.properties | join('; ') }}){% endfor -%}"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """One whose last split alone has tools."""
    plain = sentiment_examples(2, name="plain")
    splits = {name: [LIT] if name == "test" else plain for name in SPLITS}
    return corpus_of(tmp_path / "corpus", splits, facts={"with_tools": 1})


def told_of(template: str, corpus: Corpus) -> str:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template
    heard = Listener()
    check_tools_are_written(tokenizer, corpus, heard)
    return str(heard.events)


def test_a_start_without_tools_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    """Not after hours, by the evaluation; a corpus without tools is not looked at."""
    with pytest.raises(TrainingError, match="does not write the call of set_lamp"):
        told_of(CHAT_TEMPLATE, corpus)
    plain = {name: sentiment_examples(2, name=name) for name in SPLITS}
    assert told_of(CHAT_TEMPLATE, corpus_of(tmp_path / "plain", plain)) == "[]"


def test_text_beside_calls_that_is_left_out_is_told(tmp_path: Path) -> None:
    """Llama 3's template writes a call alone."""
    said = replace(LIT.messages[1], content="Wait.")
    spoken = replace(LIT, messages=(LIT.messages[0], said, *LIT.messages[2:]))
    splits = {name: [LIT, spoken] for name in SPLITS}
    corpus = corpus_of(tmp_path / "spoken", splits, facts={"with_tools": 6})
    assert "the calls of 3 conversation(s) is not learnt" in told_of(source_of("llama3.2"), corpus)
    assert told_of(source_of("qwen2.5"), corpus) == "[]"


def test_tools_that_go_cannot_write_are_told(corpus: Corpus) -> None:
    """They can be learnt; whoever asks the tag may not be able to offer any."""
    assert told_of(source_of("qwen2.5"), corpus) == "[]"
    bare = "{%- for message in messages %}"
    worded = source_of("qwen2.5").replace(bare, f"{IN_WORDS}{bare}", 1)
    start, stop = worded.index("{%- if tools %}"), worded.index("{%- endif %}\n{{- '<|im_end|>")
    worded = worded[:start] + worded[stop + len("{%- endif %}") :]
    assert "Go cannot express what" in told_of(worded, corpus)
