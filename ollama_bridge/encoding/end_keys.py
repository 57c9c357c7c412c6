"""What of the answers' ends has become another since work was first done, for its key.

Work is found again by its key. Where other tokens are learnt of a corpus than once were, the key
says so; everywhere else it is as it was, and what is there is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ollama_bridge.encoding.encode import Tokenizer
from ollama_bridge.encoding.turn_texts import render_turns
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Example, Message, read_examples
from ollama_bridge.models.settings.end_tokens import end_of_turns
from ollama_bridge.storage.artifacts import Corpus

_NAME = "answers end"
_LEARNT = ("train", "validation")
_ASKED, _ANSWERED = Message("user", "Hi"), Message("assistant", "Answer.")


def key_of_ends(
    tokenizer: Tokenizer, corpus: Corpus, *, splits: Sequence[str] = _LEARNT
) -> dict[str, str]:
    """For the key of work on what is learnt of some splits; empty where it never was another.

    Where a chat template writes eos behind the token that ends an answer (Phi-3), the tokens
    through eos were learnt, and of a conversation the last answer alone.
    """
    if _has_own_end(tokenizer) and tokenizer.eos_token is not None:
        rendered = render_turns((_ASKED, _ANSWERED), tokenizer, generation_prompt=False)
        if tokenizer.eos_token in rendered.rpartition(_ANSWERED.content)[2]:
            return {_NAME: "before eos"}
    return key_of_matched_ends(tokenizer, corpus, splits=splits)


def key_of_matched_ends(
    tokenizer: Tokenizer, corpus: Corpus, *, splits: Sequence[str] = _LEARNT
) -> dict[str, str]:
    """The same where nothing but the answers through their ends counts, as in a teacher's labels.

    Of a conversation whose template writes eos at its very end, the last answer alone was learnt,
    or the others too, though without an end. An answer ended at its first special token where the
    token that ends it is not eos.
    """
    if _ends_whole(tokenizer) and any(_is_several(one) for one in _examples(corpus, splits)):
        return {_NAME: "each by itself"}
    if _has_own_end(tokenizer):
        kept = {tokenizer.eos_token_id, end_of_turns(tokenizer)}
        marks = [
            re.escape(token.content)
            for id_, token in tokenizer.added_tokens_decoder.items()
            if token.special and id_ not in kept
        ]
        within = re.compile("|".join(marks) or r"(?!)")
        if any(within.search(said) for one in _examples(corpus, splits) for said in _answers(one)):
            return {_NAME: "behind special tokens"}
    return {}


def _has_own_end(tokenizer: Tokenizer) -> bool:
    """Whether a special token that is not eos ends an answer."""
    return end_of_turns(tokenizer) not in (None, tokenizer.eos_token_id)


def _ends_whole(tokenizer: Tokenizer) -> bool:
    """Whether the chat template writes eos (once more) where a whole conversation ends."""
    turns = (_ASKED, _ANSWERED)
    try:
        one, two = (
            render_turns(messages, tokenizer, generation_prompt=False)
            for messages in (turns, turns * 2)
        )
    except TrainingError:  # of one turn alone
        return False
    within = one.removesuffix(tokenizer.eos_token or "")
    return not two.startswith(one) and two.startswith(within)


def _examples(corpus: Corpus, splits: Sequence[str]) -> Iterator[Example]:
    for split in splits:
        yield from read_examples(corpus.split_path(split))


def _answers(example: Example) -> Iterator[str]:
    return (message.content for message in example.messages if message.role == "assistant")


def _is_several(example: Example) -> bool:
    """Whether an answer is followed by another turn."""
    return any(message.role == "assistant" for message in example.messages[:-1])
