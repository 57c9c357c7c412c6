"""Distillation on what the student says: the buffer, its use, its end and its resumption."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.listening import KilledError, Listener
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.trainable import LABELS, SYSTEM, log_of, sentiment_examples

from ollama_bridge.encoding.encode import EncodedExample, encode_split
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Message
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.reporting import Progress
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.train import loop
from ollama_bridge.train.distill import distill
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.on_policy import Buffer, OnPolicy
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.rollouts import prompt_of, roll_out

CPU = Precision(torch.device("cpu"), torch.float32, 1)
ALONE = Ranks()


def make(
    *,
    ends: tuple[int, ...] = tuple(range(0, 384, 6)),
    count: int = 20,
    long: int = 0,
    told: list[str] | None = None,
    **section: Any,
) -> OnPolicy:
    """Of a random student and teacher; a sixth of all tokens end an answer.

    So many examples have an answer of more than 10 tokens.
    """
    section = {"buffer": 8, "reuse": 2, "max_new_tokens": 10, **section}
    settings = DistillSection.model_validate(
        {"kd_weight": 0, "batch_tokens": 200, "seed": 3, "on_policy": section}
    )
    assert settings.on_policy is not None
    student = build_tiny_model()
    student.generation_config.eos_token_id = list(ends)
    teacher = LiveTeacher(build_tiny_model(seed=1))
    objective = Objective(student, settings.on_policy.losses, teacher=teacher, live=True)
    tokenizer = build_tiny_tokenizer()
    examples = sentiment_examples(count, name="train")
    for number, example in enumerate(examples[:long]):
        messages = (*example.prompt, Message("assistant", "we hoped it was great " * 4))
        examples[number] = replace(example, messages=messages)
    split = encode_split(examples, tokenizer, max_length=512, name="train")
    return OnPolicy(
        student,
        objective,
        settings,
        split.examples,
        tokenizer=tokenizer,
        precision=CPU,
        tell=([] if told is None else told).append,
    )


@pytest.mark.parametrize(("share", "start"), [(0.5, 0.0), (1.0, 0.0), (0.3, 0.5), (0.01, 0.99)])
def test_steps_are_the_share_that_was_asked_for(share: float, start: float) -> None:
    """Exactly so many, all behind the start, spread by the seed; one at least."""
    steps = make(share=share, start=start).steps(40)
    first = min(round(start * 40), 39)
    assert len(steps) == max(1, round(share * (40 - first)))
    assert first <= min(steps)
    assert max(steps) < 40
    assert make(share=share, start=start).steps(40) == steps


def test_every_answer_is_learnt_from_as_often_as_said_then_replaced() -> None:
    """The whole buffer twice, in another order; then the next prompts are answered."""
    on_policy = make(reuse=2)
    seen: list[tuple[int, list[tuple[int, ...]]]] = []
    for step in range(40):
        batches, members = on_policy.lesson(step, ALONE)
        assert on_policy.state is not None
        generation = on_policy.state.generation
        if not seen or seen[-1][0] != generation:
            seen.append((generation, []))
        seen[-1][1].append(members)
        assert batches.padded_tokens(members) <= 200
    assert len(seen) >= 3
    for _, learnt in seen[:-1]:
        half = len(learnt) // 2
        for epoch in (learnt[:half], learnt[half:]):
            assert sorted(member for members in epoch for member in members) == list(range(8))


def test_all_prompts_are_answered_before_one_is_again() -> None:
    """Buffers go through a random order of the prompts, then through another."""
    on_policy = make(count=20, reuse=1)
    members: list[int] = []
    for step in range(60):
        on_policy.lesson(step, ALONE)
        assert on_policy.state is not None
        if on_policy.state.generation * 8 == len(members):
            members += on_policy.state.members
    assert sorted(members[:20]) == sorted(members[20:40]) == list(range(20))
    assert members[:20] != members[20:40]


def test_old_answers_go_by_their_age() -> None:
    """After ``max_age`` steps, learnt from or not, they are no longer what the student says."""
    on_policy = make(reuse=100, max_age=5)
    born = []
    for step in (0, 3, 4, 5, 9, 30, 31):
        on_policy.lesson(step, ALONE)
        assert on_policy.state is not None
        born.append(on_policy.state.born)
    assert born == [0, 0, 0, 5, 5, 30, 30]


def test_state_goes_on_where_it_was() -> None:
    """As JSON and back, in another object: the same lessons, without writing any answer again."""
    whole, first, second = make(), make(), make()
    expected = [whole.lesson(step, ALONE)[1] for step in range(12)]
    assert [first.lesson(step, ALONE)[1] for step in range(5)] == expected[:5]
    assert first.state is not None
    second.restore(Buffer(**json.loads(json.dumps(asdict(first.state)))))
    assert second.scores() == first.scores()
    assert [second.lesson(step, ALONE)[1] for step in range(5, 12)] == expected[5:]
    assert second.state == whole.state


def test_answers_that_never_end_are_refused() -> None:
    """The fix is a higher limit where the corpus needs one, else a better student."""
    with pytest.raises(
        TrainingError, match=r"none of the 8 answers .* ended within 10 tok"
    ) as info:
        make(ends=()).lesson(4, ALONE)
    assert info.value.hint is not None
    assert "distill.on_policy.start=0.5" in info.value.hint
    with pytest.raises(TrainingError) as info:
        make(ends=(), long=12).lesson(4, ALONE)
    assert info.value.hint is not None
    assert "distill.on_policy.max_new_tokens=" in info.value.hint
    with pytest.raises(TrainingError) as info:
        make(ends=(), long=1, start=0.5).lesson(4, ALONE)
    assert info.value.hint == (
        "95% of the corpus's fit, so it has not learnt to end them; let it learn from the corpus "
        "first: --set distill.on_policy.start=0.75"
    )


def test_empty_answers_are_refused() -> None:
    """A student that only ends has nothing to be scored."""
    with pytest.raises(TrainingError, match=r"all 8 answers .* step 5 are empty"):
        make(ends=tuple(range(384))).lesson(4, ALONE)


def test_held_out_prompts_are_of_all_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a split that is sorted by label, and larger than a buffer."""
    by_label = sorted(sentiment_examples(40, name="validation"), key=lambda one: str(one.label))
    split = encode_split(by_label, build_tiny_tokenizer(), max_length=512, name="validation")
    labels: list[str | None] = []

    def watched(model: Any, examples: Sequence[EncodedExample], *rest: Any, **named: Any) -> Any:
        labels.extend(one.label for one in examples)
        return roll_out(model, examples, *rest, **named)

    monkeypatch.setattr("ollama_bridge.train.on_policy.roll_out", watched)
    make().score(split.examples)
    assert len(labels) == 8
    assert min(Counter(labels)[label] for label in LABELS) >= 3


def test_prompts_need_room() -> None:
    """A limit that no prompt fits below is refused, with what to change."""
    with pytest.raises(TrainingError, match="no prompt has room for an answer of 500"):
        make(max_new_tokens=500)


def test_prompts_without_room_are_told() -> None:
    """How many of all, and of which limits."""
    told: list[str] = []
    assert make(told=told)
    assert not told
    lengths = sorted(len(prompt_of(example)) for example in make()._examples)
    kept = sum(length <= lengths[9] for length in lengths)
    make(max_new_tokens=make()._limit - lengths[9], told=told)
    assert told[0].startswith(f"{20 - kept} of 20 prompts have no room for an answer of ")


def test_answers_that_are_mostly_cut_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first where the corpus has longer ones, else behind the first that are."""
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("ollama_bridge.train.rollout_check._MANY_CUT", 0.1)  # one label is that long
        on_policy = make(max_new_tokens=2, told=told)
        on_policy.lesson(4, ALONE)
    (warning,) = told
    assert " of 20 answers of the corpus have more than 2 tokens, so most that" in warning
    longest = int(warning.partition("max_new_tokens=")[2].partition(" ")[0])
    told.clear()
    ends = tuple(range(0, 384, 16))
    on_policy = make(max_new_tokens=longest, ends=ends, buffer=32, told=told)
    assert not told
    for step in range(30):
        on_policy.lesson(step, ALONE)
    (warning,) = told
    assert f"answers that the student wrote before step 1 were cut at {longest} tokens" in warning
    assert "distill.on_policy.start=0.5" in warning
    told.clear()
    on_policy = make(buffer=32, told=told)  # a sixth of all tokens ends an answer
    for step in range(30):
        on_policy.lesson(step, ALONE)
    assert not told


def test_the_trial_writes_as_many_as_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More take no more memory, and as much longer as there are more; in seconds."""
    on_policy = make(count=100, buffer=200)
    asked: list[int] = []
    monkeypatch.setattr(on_policy, "_roll_out", lambda some, *_: asked.append(len(some)))
    clock = iter([0.0, 64.0])
    monkeypatch.setattr("ollama_bridge.train.on_policy.time.perf_counter", lambda: next(clock))
    _, writing = on_policy.side_work(10, lambda *_: None)
    assert writing.attempt(Plan(200)) == pytest.approx(on_policy._buffers(5) * 200)
    assert asked == [64]


LEARNING = {
    "epochs": 1.5,
    "batch_tokens": 200,
    "lr": 1e-2,
    "dtype": "float32",
    "kd_weight": 0,
    "checkpoint_interval_s": 1e-9,
    "on_policy": {"buffer": 8, "reuse": 2, "max_new_tokens": 12, "start": 0.3, "share": 0.8},
}


def run(
    start: Checkpoint, corpus: Corpus, out_dir: Path, listener: Listener | None = None
) -> Checkpoint:
    return distill(
        start,
        corpus,
        None,
        DistillSection.model_validate(LEARNING),
        student=StudentSection(layers=2),
        teacher=start,
        system=SYSTEM,
        out_dir=out_dir,
        reporter=listener,
    )


@pytest.mark.usefixtures("no_reference_values")
def test_killed_run_ends_on_the_same_bits(
    talker: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between two uses of a buffer and before the first, it ends as the unbroken run."""
    monkeypatch.setattr(loop, "_MAX_SAVING_SHARE", float("inf"))
    listener = Listener()
    whole = run(talker, corpus, tmp_path / "whole", listener)
    steps = [event for event in listener.events if isinstance(event, Progress)]
    steps = [event for event in steps if event.unit == "steps"]
    learnt = [event.done for event in steps if "rollout_kl_reverse" in event.fields]
    assert len(learnt) == round(0.8 * (len(steps) - round(0.3 * len(steps))))
    assert {"rollout_loss", "rollout_ended", "rollout_tokens"} <= set(steps[learnt[0] - 1].fields)
    forecast, taken = listener.notes[-2:]
    assert "of rollout steps, " in forecast
    assert "of writing rollouts, " in forecast
    assert " minutes of steps (" in taken
    assert whole.facts["steps_s"] >= whole.facts["rollouts_s"]
    for kill_at in (learnt[0], learnt[2]):
        folder = tmp_path / str(kill_at)
        with pytest.raises(KilledError):
            run(talker, corpus, folder, Listener(kill_at=kill_at))
        torch.manual_seed(kill_at)
        resumed = run(talker, corpus, folder)
        assert resumed.digest == whole.digest
    assert {"rollout_kl_reverse", "rollout_ended"} <= set(log_of(whole)[-1]["validation"])
    assert whole.facts["rollouts"] >= 8
    assert whole.facts["rollouts_tokens_per_s"] > 0
    assert set(whole.manifest.work.inputs) == {"start", "corpus", "teacher"}
