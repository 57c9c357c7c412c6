"""Masks, end tokens and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.models import build_tiny_tokenizer
from fakes.trainable import sentiment_examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.encoding.encode import EncodedExample, encode, encode_split, tokenizer_digest
from ollama_bridge.errors import DataError, TrainingError
from ollama_bridge.examples import Example, Message

TOKENIZER = build_tiny_tokenizer()


@pytest.fixture
def tokenizer() -> Any:
    return TOKENIZER


def conversation(*turns: str, system: str | None = "Be kind.") -> Example:
    """Turns of user and assistant in alternation."""
    messages = [] if system is None else [Message("system", system)]
    for number, turn in enumerate(turns):
        messages.append(Message("assistant" if number % 2 else "user", turn))
    return Example("example-1", tuple(messages), "group")


def supervised_pieces(encoded: EncodedExample, tokenizer: Any) -> list[str]:
    """The texts of the stretches that are supervised."""
    pieces: list[list[int]] = []
    for position in encoded.targets:
        if not pieces or not encoded.supervised[position - 1]:
            pieces.append([])
        pieces[-1].append(int(encoded.input_ids[position]))
    return [tokenizer.decode(piece) for piece in pieces]


def test_every_answer_and_its_end_token_are_supervised(tokenizer: Any) -> None:
    """All assistant turns and their end tokens are learnt; nothing else, not the newline after."""
    example = conversation("Hi", "Hello there.", "And now?", "Größe 😀")
    encoded = encode(example, tokenizer)
    assert supervised_pieces(encoded, tokenizer) == ["Hello there.<|im_end|>", "Größe 😀<|im_end|>"]
    assert (encoded.turns, encoded.ended_turns) == (2, 2)
    assert tokenizer.decode(encoded.input_ids) == tokenizer.apply_chat_template(
        [message.to_dict() for message in example.messages], tokenize=False
    )


def test_default_system_prompt_is_part_of_the_tokens(tokenizer: Any) -> None:
    """Without a system turn the template's own default is what is trained on."""
    encoded = encode(conversation("Hi", "Hello.", system=None), tokenizer)
    assert "made of noise" in tokenizer.decode(encoded.input_ids)
    assert supervised_pieces(encoded, tokenizer) == ["Hello.<|im_end|>"]


@settings(max_examples=40, deadline=None)
@given(answer=st.text(min_size=0, max_size=12), question=st.text(max_size=8))
def test_any_text_keeps_the_mask_right(answer: str, question: str) -> None:
    """Whatever the texts, the supervised end is the end token and the prompt is never learnt."""
    encoded = encode(conversation(question, answer), TOKENIZER)
    prompt = TOKENIZER.apply_chat_template(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": question}],
        tokenize=False,
        add_generation_prompt=True,
    )
    before = len(TOKENIZER(prompt, add_special_tokens=False)["input_ids"])
    assert not encoded.supervised[: before - 1].any()
    assert encoded.input_ids[encoded.targets[-1]] == TOKENIZER.eos_token_id


def test_answer_that_merges_with_the_prompt_is_cut_behind_the_merge(tokenizer: Any) -> None:
    """A token that the prompt began is never supervised: when serving, it is already there."""
    encoded = encode(conversation("Hi", "\n\n\nx"), tokenizer)
    assert supervised_pieces(encoded, tokenizer)[-1].endswith("x<|im_end|>")


def test_template_that_rewrites_earlier_turns_teaches_the_last_alone() -> None:
    """Where a later turn changes how an earlier answer is rendered, that one is not learnt."""
    other = build_tiny_tokenizer()
    other.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{{ message.content if loop.last or message.role != 'assistant' else '...' }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encode(conversation("Hi", "Hello."), other)
    encoded = encode(conversation("Hi", "Hello.", "More?", "Yes."), other)
    assert supervised_pieces(encoded, other) == ["Yes.<|im_end|>"]


def test_template_error_becomes_ours(tokenizer: Any) -> None:
    """A template that raises is reported with the roles it was given."""
    other = build_tiny_tokenizer()
    other.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TrainingError, match=r"\(system, user, assistant\).*must alternate"):
        encode(conversation("Hi", "Hello."), other)


def test_split_without_end_tokens_is_refused() -> None:
    """A template that never ends a turn would train a model that never stops."""
    other = build_tiny_tokenizer()
    other.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(TrainingError, match="never to stop") as caught:
        encode_split([conversation("Hi", "Yes.")], other, max_length=512, name="train")
    assert "{{ eos_token }} behind each answer" in str(caught.value.hint)
    other.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    thought = conversation("Hi", "<think>\nWell.\n</think>\n\nYes.")
    with pytest.raises(TrainingError, match="never to stop"):  # its own marks are no end
        encode_split([thought], other, max_length=512, name="train")


def test_split_without_answers_in_its_rendering_is_refused() -> None:
    """0 % supervised tokens stop the run instead of training on nothing."""
    other = build_tiny_tokenizer()
    other.chat_template = "{% for m in messages if m.role == 'user' %}x{% endfor %}"
    with pytest.raises(TrainingError, match="none of the 1 tokens"):
        encode_split([conversation("Hi", "Yes.")], other, max_length=512, name="train")


def test_example_without_answer_is_refused(tokenizer: Any) -> None:
    """A conversation that ends on the user has nothing to learn."""
    with pytest.raises(DataError, match="no assistant turn"):
        encode(conversation("Hi"), tokenizer)


def test_a_few_examples_without_answer_are_left_out(tokenizer: Any) -> None:
    """Counted, and rows keep their numbers; a corpus whose answers are to be written is refused."""
    open_ended, answered = conversation("Hi"), [conversation("Hi", f"{n}.") for n in range(4)]
    split = encode_split([open_ended, *answered], tokenizer, max_length=64, name="train")
    assert [example.row for example in split.examples] == [1, 2, 3, 4]
    assert split.unanswered == 1
    for examples in ([open_ended], [*answered, *(open_ended for _ in range(6))]):
        with pytest.raises(DataError, match="no assistant turn"):
            encode_split(examples, tokenizer, max_length=64, name="train")


def test_conversation_that_begins_with_the_assistant_is_refused(tokenizer: Any) -> None:
    """An answer before any question has no prompt that could be served."""
    example = Example("a", (Message("assistant", "y"), Message("user", "x")), "g")
    with pytest.raises(DataError, match="begins with the assistant"):
        encode(example, tokenizer)


def test_too_long_examples_are_left_out_and_counted(tokenizer: Any) -> None:
    """Rows keep their numbers when longer ones between them are left out."""
    examples = [conversation("Hi", "Yes."), conversation("Hi " * 99, "No."), conversation("A", "B")]
    split = encode_split(examples, tokenizer, max_length=64, name="train")
    assert [example.row for example in split.examples] == [0, 2]
    assert split.too_long == 1
    with pytest.raises(DataError, match="1 rows, the shortest of 328"):
        encode_split(examples[1:2], tokenizer, max_length=64, name="train")


def test_tokenizer_digest_sees_template_and_vocabulary(tmp_path: Path, tokenizer: Any) -> None:
    """Another template or vocabulary is another digest; saving and loading is not."""
    from ollama_bridge.models.load import load_tokenizer

    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(load_tokenizer(tmp_path)) == tokenizer_digest(tokenizer)
    assert tokenizer_digest(build_tiny_tokenizer(vocab_size=380)) != tokenizer_digest(tokenizer)
    other = build_tiny_tokenizer()
    other.chat_template += " "
    assert tokenizer_digest(other) != tokenizer_digest(tokenizer)


def made_up(lengths: list[int]) -> list[EncodedExample]:
    """Examples of given lengths whose last token is supervised."""
    examples = []
    for row, length in enumerate(lengths):
        supervised = np.zeros(length, dtype=np.bool_)
        supervised[-1] = True
        ids = np.arange(row, row + length, dtype=np.int32)
        examples.append(EncodedExample(row, ids, supervised, 1, 1))
    return examples


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60),
    batch_tokens=st.integers(8, 128),
    seed=st.integers(0, 9),
)
def test_an_epoch_has_every_example_once(lengths: list[int], batch_tokens: int, seed: int) -> None:
    """Every epoch shows all examples once, in equally many batches within the limit."""
    batches = Batches(made_up(lengths), batch_tokens=batch_tokens, pad_id=0)
    for epoch in range(3):
        order = batches.order(seed=seed, epoch=epoch)
        assert len(order) == len(batches)
        assert sorted(member for batch in order for member in batch) == list(range(len(lengths)))
        assert order == batches.order(seed=seed, epoch=epoch)
        for members in order:
            size = len(members) * (max(lengths[member] for member in members) - 1)
            assert size <= batch_tokens or len(members) == 1


def test_epochs_and_seeds_differ_in_order(tokenizer: Any) -> None:
    """Another epoch or seed mixes anew."""
    split = encode_split(
        sentiment_examples(60, name="train"), tokenizer, max_length=512, name="train"
    )
    batches = Batches(split.examples, batch_tokens=256, pad_id=0)
    orders = [batches.order(seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_batch_predicts_the_supervised_tokens(tokenizer: Any) -> None:
    """Predictors, targets and owners point at the right tokens, prefix shared or not."""
    split = encode_split(
        sentiment_examples(6, name="train"), tokenizer, max_length=512, name="train"
    )
    for share in (True, False):
        batches = Batches(split.examples, batch_tokens=4096, pad_id=7, share_prefix=share)
        (batch,) = batches.in_order()
        prefix = batch.prefix_ids.tolist()
        assert bool(prefix) == share
        rows, width = batch.input_ids.shape
        assert batch.attention_mask.shape == (rows, len(prefix) + width)
        expected_targets, expected_owners = [], []
        for place, member in enumerate(batch.members):
            example = split.examples[member]
            # Everything behind the last token that predicts is cut off.
            read = example.input_ids[: example.targets[-1]].tolist()
            real = int(batch.attention_mask[place].sum())
            assert prefix + batch.input_ids[place, : real - len(prefix)].tolist() == read
            expected_targets += example.input_ids[example.targets].tolist()
            expected_owners += [place] * len(example.targets)
        assert batch.targets.tolist() == expected_targets
        assert batch.owners.tolist() == expected_owners
        flat = batch.input_ids.flatten()[batch.predictors].tolist()
        assert flat == [
            int(split.examples[batch.members[owner]].input_ids[position - 1])
            for owner, position in zip(
                expected_owners,
                [int(p) for m in batch.members for p in split.examples[m].targets],
                strict=True,
            )
        ]
        assert batch.position_ids[0, 0] == len(prefix)
        assert batch.tokens == int(batch.attention_mask.sum())


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=30), batch_tokens=st.integers(1, 200)
)
def test_parts_of_a_batch_hold_its_members_within_the_limit(
    lengths: list[int], batch_tokens: int
) -> None:
    """Parts keep order and members, none is empty, and one that is too large is one example."""
    batches = Batches(made_up(sorted(lengths)), batch_tokens=10_000, pad_id=0)
    (members,) = batches.sorted()
    parts = batches.split(members, batch_tokens)
    assert tuple(member for part in parts for member in part) == members
    assert all(batches.padded_tokens(part) <= batch_tokens or len(part) == 1 for part in parts)
    heaviest = batches.padded_tokens(batches.heaviest(batch_tokens))
    assert heaviest == max(map(batches.padded_tokens, parts))


def test_means_of_parts_add_up_to_the_mean_of_the_whole(tokenizer: Any) -> None:
    """Over positions, over tokens, and over tokens with the shared prefix counted once."""
    split = encode_split(
        sentiment_examples(7, name="train"), tokenizer, max_length=512, name="train"
    )
    batches = Batches(split.examples, batch_tokens=4096, pad_id=0)
    (members,) = batches.sorted()
    whole = batches.collate(members)
    prefix = torch.rand(len(whole.prefix_ids))
    assert len(prefix) >= 8
    positions, tokens = {}, {}  # a value of each example's own
    for member in members:
        positions[member] = torch.rand(len(split.examples[member].targets))
        tokens[member] = torch.rand(batches.tokens([member]) - len(prefix))

    def means(batch: Batch) -> torch.Tensor:
        behind = torch.cat([tokens[member] for member in batch.members])
        return torch.stack(
            [
                batch.position_mean(sum(positions[member].sum() for member in batch.members)),
                batch.token_mean(behind),
                batch.token_mean(torch.cat([prefix, behind])),
            ]
        )

    for limit in (60, 120):
        parts = batches.split(members, limit)
        assert len(parts) > 1
        added = sum(means(batches.collate(part, whole=members)) for part in parts)
        assert torch.allclose(added, means(whole), atol=1e-6)
