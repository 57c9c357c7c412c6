"""Whether what a student writes can be learnt from, and what to do about answers that are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ollama_bridge.errors import TrainingError
from ollama_bridge.recipe.config import OnPolicySection
from ollama_bridge.train.rollouts import Rollout

# A larger share of answers without their end is told: nothing teaches the student to stop there.
_MANY_CUT = 0.5


class RolloutCheck:
    """Looks at the answers of each buffer, beside those of the corpus.

    Args:
        corpus_tokens: How long the answers of the corpus are, each.
        section: Limit of an answer, and when the student begins to learn from its own.
        tell: Hears of answers that are mostly cut, once.
    """

    def __init__(
        self,
        corpus_tokens: Sequence[int],
        section: OnPolicySection,
        tell: Callable[[str], None],
    ) -> None:
        self._section = section
        self._tell: Callable[[str], None] | None = tell
        self._longest = max(corpus_tokens)
        longer = sum(tokens > section.max_new_tokens for tokens in corpus_tokens)
        self._longer_share = longer / len(corpus_tokens)
        if self._longer_share > _MANY_CUT:
            self._tell_once(
                f"{longer} of {len(corpus_tokens)} answers of the corpus have more than "
                f"{section.max_new_tokens} tokens, so most that the student writes will be "
                f"cut: {self._more_room}"
            )

    def __call__(self, rollouts: Sequence[Rollout], *, before_step: int) -> None:
        """Refuse answers from which nothing can be learnt, and tell of those that are mostly cut.

        Raises:
            TrainingError: none ends, or none says anything.
        """
        limit = self._section.max_new_tokens
        start = max(0.5, (1 + self._section.start) / 2)
        first = f"let it learn from the corpus first: --set distill.on_policy.start={start:g}"
        cut = sum(not rollout.ended for rollout in rollouts)
        # Of a student that ends its answers as the corpus does, about as many are cut.
        if self._longer_share >= 0.5 * cut / len(rollouts):
            advice = self._more_room
        else:
            fit = 1 - self._longer_share
            advice = f"{fit:.0%} of the corpus's fit, so it has not learnt to end them; {first}"
        if cut == len(rollouts):
            raise TrainingError(
                f"none of the {len(rollouts)} answers that the student wrote before step "
                f"{before_step} ended within {limit} tokens",
                hint=advice,
            )
        if cut > _MANY_CUT * len(rollouts):
            self._tell_once(
                f"{cut} of {len(rollouts)} answers that the student wrote before step "
                f"{before_step} were cut at {limit} tokens: {advice}"
            )
        if all(rollout.is_empty for rollout in rollouts):
            raise TrainingError(
                f"all {len(rollouts)} answers that the student wrote before step {before_step} are "
                "empty: it ends at once",
                hint=first,
            )

    @property
    def _more_room(self) -> str:
        longest = self._longest
        return f"--set distill.on_policy.max_new_tokens={longest} (the corpus's longest)"

    def _tell_once(self, message: str) -> None:
        """That answers are cut, which holds for a whole run."""
        if self._tell is not None:
            self._tell(message)
            self._tell = None
