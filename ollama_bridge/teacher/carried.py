"""A local teacher's distributions for a student of another vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ollama_bridge.alignment import Alignment, Rung, Side, align
from ollama_bridge.alignment.positions import HOLE, Places, match_positions
from ollama_bridge.alignment.projection import Projection
from ollama_bridge.encoding.encode import EncodedExample
from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import SoftTargets, join_top_k
from ollama_bridge.models.compute.forward import CausalModel, vocabulary_logits

_POSITIONS_PER_CHUNK = 256
# Part of what a store is found by: raised whenever other labels come out of the same distributions,
# for the students whose labels these are.
_VERSION, _VERSION_OF_FALLBACKS = 2, 3  # 3: a byte to fall back to is no token's other name


class Carried:
    """Soft labels over the student's vocabulary, of a teacher that reads its own.

    A position where no token of the teacher's begins gets a certain label: the right token.

    Args:
        student: For whom.
        texts: Answers of the task, which decide how much the two have in common.
        top_k: Tokens kept a position.

    Raises:
        TrainingError: they have too little in common, or the student cannot say the answers.
    """

    def __init__(self, teacher: Side, student: Side, texts: Sequence[str], *, top_k: int) -> None:
        self.alignment: Alignment = align(teacher, student, texts)
        if self.alignment.rung is Rung.SEQUENCE:
            raise TrainingError(
                f"{self.alignment.sentence} ({'; '.join(self.alignment.reasons)})",
                hint="--set distill.kd_weight=0, with answers that the teacher wrote "
                "(teacher.answers: daemon)",
            )
        self._teacher = teacher.vocabulary
        self._student = student.vocabulary
        self._top_k = min(top_k, self._student.width)

    def targets(
        self,
        model: CausalModel,
        hidden: torch.Tensor,
        examples: Sequence[tuple[EncodedExample, EncodedExample]],
    ) -> SoftTargets:
        """The soft labels of some rows, one behind the other, on the CPU.

        Args:
            hidden: (positions, D) its last hidden states on all its supervised positions.
            examples: Of the rows, for the teacher and for the student.
        """
        places = self._places(examples)
        taught = _targets([theirs for theirs, _ in examples])
        right = _targets([ours for _, ours in examples])
        return join_top_k(list(self._chunks(model, hidden, places, taught, right)))

    def hard_share(self, examples: Sequence[tuple[EncodedExample, EncodedExample]]) -> float:
        """The share of positions that get a certain label; read of the tokens alone.

        Args:
            examples: All rows, also those that had labels before, for the teacher and the student.

        Raises:
            TrainingError: all of them, so that nothing would be learnt of the teacher.
        """
        places = self._places(examples)
        if places.holes == len(places.teacher):
            raise TrainingError(
                f"none of the {places.holes} tokens to be learnt has a distribution of the "
                "teacher's: its chat template does not write the answers as the student's does",
                hint="give both chat templates that leave answers as they are, or learn from the "
                "teacher's text: teacher.answers: daemon, distill.kd_weight: 0",
            )
        return places.holes / len(places.teacher)

    @property
    def rules(self) -> str:
        """What decides how distributions are carried, beside teacher, student and ``top_k``."""
        version = _VERSION_OF_FALLBACKS if self._student.fallbacks else _VERSION
        return f"{self.alignment.rung.name.lower()}/{version}"

    @property
    def facts(self) -> dict[str, object]:
        """For the manifest."""
        return {
            "alignment": self.alignment.rung.name.lower(),
            "alignment_sentence": self.alignment.sentence,
        }

    def _places(self, examples: Sequence[tuple[EncodedExample, EncodedExample]]) -> Places:
        rows, spans, first = [], [], 0
        for theirs, ours in examples:
            found = match_positions(
                theirs, ours, teacher_vocabulary=self._teacher, student_vocabulary=self._student
            )
            rows.append(np.where(found.teacher == HOLE, HOLE, found.teacher + first))
            spans.append(found.span)
            first += len(theirs.targets)
        return Places(np.concatenate(rows), np.concatenate(spans))

    def _chunks(
        self,
        model: CausalModel,
        hidden: torch.Tensor,
        places: Places,
        taught: torch.Tensor,
        right: torch.Tensor,
    ) -> Iterator[SoftTargets]:
        project = Projection(
            self.alignment, student_width=self._student.width, device=hidden.device
        )
        teacher_rows = torch.from_numpy(places.teacher).clamp_min(0)
        along = self._along(model, hidden, places, taught)
        for part in torch.split(torch.arange(len(right)), _POSITIONS_PER_CHUNK):
            rows = teacher_rows[part].to(hidden.device)
            logprobs = vocabulary_logits(model, hidden[rows]).log_softmax(-1)
            carried = project(
                logprobs,
                taken=taught[rows.cpu()].to(hidden.device),
                span_logprobs=along[part].to(hidden.device),
                targets=right[part].to(hidden.device),
            ).cpu()
            hole = torch.from_numpy(places.teacher)[part] == HOLE
            carried[hole] = float("-inf")
            carried[hole, right[part][hole]] = 0.0
            yield self._cut(carried)

    def _along(
        self, model: CausalModel, hidden: torch.Tensor, places: Places, taught: torch.Tensor
    ) -> torch.Tensor:
        """(positions,) how likely all tokens are that a right token covers; NaN where it is one."""
        span = torch.from_numpy(places.span)
        along = torch.full((len(span),), float("nan"))
        several = torch.nonzero((span > 1) & (torch.from_numpy(places.teacher) != HOLE))[:, 0]
        if not len(several):
            return along
        covered = [
            int(places.teacher[place]) + number
            for place in several.tolist()
            for number in range(places.span[place])
        ]
        said = torch.zeros(len(taught))
        for part in torch.split(torch.tensor(covered), _POSITIONS_PER_CHUNK):
            logprobs = vocabulary_logits(model, hidden[part.to(hidden.device)]).log_softmax(-1)
            said[part] = logprobs.cpu().gather(1, taught[part][:, None])[:, 0]
        for place in several.tolist():
            first = int(places.teacher[place])
            along[place] = said[first : first + int(span[place])].sum()
        return along

    def _cut(self, carried: torch.Tensor) -> SoftTargets:
        """The likeliest tokens; everything else, and what was lost on the way, is the residual."""
        kept, ids = carried.topk(self._top_k, dim=-1)
        rest = (1.0 - kept.exp().sum(-1)).clamp_min(0.0)
        inside = carried.scatter(-1, ids, float("-inf")).logsumexp(-1)
        # 1 - sum loses the digits of a small rest, which its own sum keeps.
        return SoftTargets(ids, kept, torch.maximum(inside, rest.log()))


def _targets(examples: Sequence[EncodedExample]) -> torch.Tensor:
    ids = [example.input_ids[example.targets] for example in examples]
    return torch.from_numpy(np.concatenate(ids).astype(np.int64))
