"""Steps that learn from answers of the student's own, which are kept and used several times.

A buffer of answers is written by the student as it is, learnt from in batches like any other
examples (each answer ``reuse`` times), and replaced as a whole: writing many at once is what makes
it cheap, and all are of one age. Which steps learn from it, whose prompts are answered and what is
drawn come from the seed; the buffer itself is part of the saved state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import EncodedExample, Tokenizer
from ollama_bridge.encoding.spread import spread_out
from ollama_bridge.errors import TrainingError
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.settings.end_tokens import end_ids
from ollama_bridge.recipe.config import DistillSection, OnPolicySection
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.rollout_check import RolloutCheck
from ollama_bridge.train.rollouts import ROWS_AT_ONCE, Rollout, Sampling, prompt_of, roll_out
from ollama_bridge.train.trials import SideWork

PREFIX = "rollout_"

# Streams of random numbers, far from those that order the corpus.
_STEPS, _PROMPTS, _DRAWS, _HELD_OUT = range(1_000_001, 1_000_005)


@dataclass
class Buffer:
    """Answers that were written together.

    Attributes:
        generation: How many buffers there were before it.
        born: The step before which it was written.
        used: Batches of it that were learnt from.
        members: Whose prompts, by their places among the prompts.
        answers: Their token ids.
    """

    generation: int
    born: int
    used: int
    members: list[int]
    answers: list[list[int]]


class OnPolicy:
    """What the student says, and when it learns from that.

    Args:
        model: The student, in training.
        objective: Of a batch of its answers; reads the live teacher.
        settings: Of the whole stage; they have an ``on_policy`` section.
        examples: The training split, whose prompts are answered.
        tokenizer: The student's.
        precision: Where and in what it computes.
        tell: Hears of prompts that are never answered, and of answers that are mostly cut.

    Raises:
        TrainingError: no prompt is short enough.
    """

    def __init__(
        self,
        model: CausalModel,
        objective: Objective,
        settings: DistillSection,
        examples: Sequence[EncodedExample],
        *,
        tokenizer: Tokenizer,
        precision: Precision,
        tell: Callable[[str], None],
    ) -> None:
        assert settings.on_policy is not None
        self.objective = objective
        self._model = model
        self._section: OnPolicySection = settings.on_policy
        self._settings = settings
        self._precision = precision
        # What trains fastest (`training_attention`) writes slower: 0.8x (training/LOG.md).
        self._attention: str = model.config._attn_implementation
        context = int(model.config.max_position_embeddings)
        self._limit = min(settings.max_length, context)
        self._pad_id = tokenizer.pad_token_id or 0
        self._sampling = Sampling(
            self._section.max_new_tokens,
            self._section.temperature,
            end_ids(model, tokenizer),
            min(len(tokenizer), int(model.config.vocab_size)),
        )
        self._examples = self._usable(examples)
        if not self._examples:
            raise TrainingError(
                f"no prompt has room for an answer of {self._section.max_new_tokens} tokens: "
                f"together at most {self._limit}",
                hint="raise distill.max_length, or set distill.on_policy.max_new_tokens lower",
            )
        if left_out := len(examples) - len(self._examples):
            tell(
                f"{left_out} of {len(examples)} prompts have no room for an answer of "
                f"{self._section.max_new_tokens} tokens (together {self._limit}): no answers are "
                "written to them"
            )
        answers = [
            int(example.targets[-1]) + 1 - len(prompt_of(example)) for example in self._examples
        ]
        self._check = RolloutCheck(answers, self._section, tell)
        self._buffer: Buffer | None = None
        self._batches: Batches | None = None
        self._ordered: tuple[int, list[int]] = (-1, [])
        self._written = self._tokens = self._ended = 0
        self._rollout_s = 0.0

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and answer."""
        prompts = max(len(prompt_of(example)) for example in self._examples)
        return prompts + self._section.max_new_tokens

    @property
    def state(self) -> Buffer | None:
        """What has to be saved; None where nothing was written yet."""
        return None if self._buffer is None else replace(self._buffer)

    def restore(self, state: Buffer | None) -> None:
        """Go on with what :attr:`state` was."""
        if state is not None:
            self._buffer = replace(state)
            self._batches = self._collected(self._buffer)

    def steps(self, total: int) -> frozenset[int]:
        """Which of so many steps learn from rollouts; one at least."""
        first = min(round(self._section.start * total), total - 1)
        count = max(1, round(self._section.share * (total - first)))
        generator = np.random.default_rng((self._settings.seed, _STEPS))
        places = generator.permutation(total - first)[:count]
        return frozenset((first + places).tolist())

    def lesson(self, step: int, ranks: Ranks) -> tuple[Batches, tuple[int, ...]]:
        """The batch that a step learns from; a buffer that is used up or too old is written anew.

        Returns:
            The rollouts as batches, and the members of the one that it is.

        Raises:
            TrainingError: the answers are empty, or never end.
        """
        if self._is_over(step):
            self._write(step, ranks)
        assert self._buffer is not None
        assert self._batches is not None
        epoch, index = divmod(self._buffer.used, len(self._batches))
        epoch += self._buffer.generation * self._section.reuse
        self._buffer.used += 1
        order = self._batches.order(seed=self._settings.seed, epoch=epoch)
        return self._batches, order[index]

    def scores(self) -> dict[str, float]:
        """What the answers of the buffer look like: the share that ended, and their length."""
        assert self._buffer is not None
        answers = self._buffer.answers
        ended = sum(answer[-1] in self._sampling.ends for answer in answers)
        return {
            f"{PREFIX}ended": ended / len(answers),
            f"{PREFIX}tokens": sum(map(len, answers)) / len(answers),
        }

    def facts(self) -> dict[str, float]:
        """Number, ends, speed and time of all answers of this process."""
        if not self._written:
            return {}
        return {
            "rollouts": self._written,
            "rollouts_ended": round(self._ended / self._written, 3),
            "rollouts_mean_tokens": round(self._tokens / self._written, 1),
            "rollouts_tokens_per_s": round(self._tokens / self._rollout_s, 1),
            "rollouts_s": round(self._rollout_s, 1),
        }

    @torch.no_grad()
    def score(self, examples: Sequence[EncodedExample]) -> dict[str, float]:
        """The losses of answers to held-out prompts, the same prompts and draws at every call.

        Args:
            examples: Of the validation split; as many as a buffer holds are used, of all labels.

        Returns:
            Nothing, if no prompt is short enough.
        """
        chosen = spread_out(self._usable(examples))[: self._section.buffer]
        if not chosen:
            return {}
        rollouts = self._roll_out(chosen, self._sampling, (self._settings.seed, _HELD_OUT))
        batches = self._as_batches(chosen, rollouts)
        sums: dict[str, float] = {}
        positions = 0
        for batch in batches.in_order():
            with self._precision.autocast():
                losses = self.objective(batch.to(self._precision.device), None)
            count = int(batch.targets.shape[0])
            positions += count
            for name, value in losses.parts.items():
                sums[name] = sums.get(name, 0.0) + count * float(value)
        scores = {f"{PREFIX}{name}": value / positions for name, value in sums.items()}
        ended = sum(rollout.ended for rollout in rollouts)
        return {**scores, f"{PREFIX}ended": ended / len(rollouts)}

    def side_work(
        self, total: int, learn: Callable[[Batches, Sequence[int], Plan], object]
    ) -> list[SideWork]:
        """What so many steps do with answers, for the forecast: with the longest there can be.

        Args:
            total: Steps, those that learn from the corpus included.
            learn: Computes the gradient of some members of batches, and forgets it.
        """
        count = len(self.steps(total))
        by_length = sorted(self._examples, key=lambda example: len(prompt_of(example)))
        longest = by_length[-self._section.buffer :]

        def write(_: Plan) -> float:
            rows = longest[-ROWS_AT_ONCE:]  # takes as much memory as all of them
            start_s = time.perf_counter()
            self._roll_out(rows, replace(self._sampling, ends=frozenset()), (0,))
            row_s = (time.perf_counter() - start_s) / len(rows)
            share = self._section.buffer / Ranks.current().size
            return self._buffers(count) * share * row_s

        def learn_once(plan: Plan) -> float:
            stand_in = Rollout((self._pad_id,) * self._section.max_new_tokens, ended=False)
            source = self._as_batches(longest, [stand_in] * len(longest))
            step_tokens = self._settings.batch_tokens
            members = source.heaviest(plan.micro_batch_tokens or step_tokens)
            start_s = time.perf_counter()
            learn(source, members, replace(plan, micro_batch_tokens=None))
            token_s = (time.perf_counter() - start_s) / source.padded_tokens(members)
            return count * step_tokens * token_s

        return [
            SideWork("rollout steps", learn_once),
            SideWork("writing rollouts", write, "set distill.on_policy.buffer lower (below 64)"),
        ]

    def _buffers(self, steps: int) -> float:
        """How many buffers so many steps need, if answers are as long as the corpus's."""
        section = self._section
        mean = sum(len(example.input_ids) for example in self._examples) / len(self._examples)
        batches = max(1.0, section.buffer * mean / self._settings.batch_tokens)
        lasts = min(section.reuse * batches, max(1.0, section.max_age * section.share))
        return max(1.0, steps / lasts)

    def _usable(self, examples: Sequence[EncodedExample]) -> list[EncodedExample]:
        """The examples whose prompts leave room for an answer."""
        room = self._limit - self._section.max_new_tokens
        return [
            example
            for example in examples
            if len(example.targets) and len(prompt_of(example)) <= room
        ]

    def _is_over(self, step: int) -> bool:
        buffer, batches = self._buffer, self._batches
        if buffer is None or batches is None:
            return True
        used_up = buffer.used >= self._section.reuse * len(batches)
        return used_up or step - buffer.born >= self._section.max_age

    def _write(self, step: int, ranks: Ranks) -> None:
        """Replace the buffer."""
        generation = 0 if self._buffer is None else self._buffer.generation + 1
        members = self._members(generation)
        share = ranks.share(range(len(members)))
        start_s = time.perf_counter()
        written = self._roll_out(
            [self._examples[members[place]] for place in share],
            self._sampling,
            (self._settings.seed, _DRAWS, generation),
            numbers=share,
        )
        rollouts = ranks.gather(written)
        self._rollout_s += time.perf_counter() - start_s
        self._written += len(rollouts)
        self._ended += sum(rollout.ended for rollout in rollouts)
        self._tokens += sum(len(rollout.answer) for rollout in rollouts)
        self._check(rollouts, before_step=step + 1)
        answers = [list(rollout.answer) for rollout in rollouts]
        self._buffer = Buffer(generation, step, 0, members, answers)
        self._batches = self._collected(self._buffer)

    def _members(self, generation: int) -> list[int]:
        """Whose turn it is: all prompts in a random order, then all in another, ..."""
        size = self._section.buffer
        members: list[int] = []
        for place in range(generation * size, (generation + 1) * size):
            epoch, index = divmod(place, len(self._examples))
            members.append(self._order(epoch)[index])
        return members

    def _order(self, epoch: int) -> list[int]:
        if self._ordered[0] != epoch:
            generator = np.random.default_rng((self._settings.seed, _PROMPTS, epoch))
            self._ordered = epoch, generator.permutation(len(self._examples)).tolist()
        return self._ordered[1]

    def _roll_out(
        self,
        examples: Sequence[EncodedExample],
        sampling: Sampling,
        seed: tuple[int, ...],
        numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        numbers = range(len(examples)) if numbers is None else numbers
        return roll_out(
            self._model,
            examples,
            sampling,
            numbers=numbers,
            seed=seed,
            precision=self._precision,
            implementation=self._attention,
        )

    def _collected(self, buffer: Buffer) -> Batches:
        examples = [self._examples[member] for member in buffer.members]
        rollouts = [
            Rollout(tuple(answer), answer[-1] in self._sampling.ends) for answer in buffer.answers
        ]
        return self._as_batches(examples, rollouts)

    def _as_batches(
        self, examples: Sequence[EncodedExample], rollouts: Sequence[Rollout]
    ) -> Batches:
        return Batches(
            [rollout.behind(one) for one, rollout in zip(examples, rollouts, strict=True)],
            batch_tokens=self._settings.batch_tokens,
            pad_id=self._pad_id,
        )
