"""Texts that are too long to be learnt, or for the tag to read, told before the work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.tag_parameters import limits_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SHORTEST_TEXTS = 64  # by their characters: one of them has the fewest tokens, or nearly so


def check_lengths(
    recipe: Recipe,
    start: Checkpoint,
    corpus: Corpus,
    teacher: Checkpoint | None,
    reporter: Reporter,
    *,
    answers_given: bool,
) -> None:
    """Make sure that some text is short enough for each of the trainings.

    Where a teacher is tuned first, the hours of that come before the student's own limit leaves
    texts out, so it is said here.

    Args:
        start: Whose tokens the student has.
        corpus: Of an answer that is yet to be written, the prompt alone counts.
        teacher: The teacher's weights, where they are at hand.
        reporter: Hears of texts that the teacher learns and the student leaves out.
        answers_given: Whether the corpus' answers are the ones to be learnt, where it has any.

    Raises:
        DataError: naming the limit that leaves out a whole split, and the one that leaves none.
        TrainingError: the chat template fails or cannot be used for training.
    """
    from ollama_bridge.models.load import load_tokenizer

    tune, student_limit = recipe.teacher.tune, recipe.distill.max_length
    own = load_tokenizer(start.path)
    trained = [("distill", own, student_limit)]
    if teacher is not None and tune is not None:
        theirs = own if teacher.path == start.path else load_tokenizer(teacher.path)
        trained.insert(0, ("teacher.tune", theirs, tune.max_length))
    for name in ("train", "validation"):
        path = corpus.split_path(name)
        examples = list(read_examples(path)) if path.is_file() else []
        examples.sort(key=lambda one: sum(len(turn.text) for turn in one.messages))
        for section, tokenizer, limit in trained:
            # The first few are nearly always enough: the shortest text seldom has many tokens.
            some = _lengths(tokenizer, examples[:_SHORTEST_TEXTS], answers_given=answers_given)
            if not some or min(some) <= limit:
                continue
            lengths = _lengths(tokenizer, examples, answers_given=answers_given)
            if min(lengths) > limit:
                raise DataError(
                    f"{section}.max_length is {limit} tokens, and the shortest of the {name} texts "
                    f"has {min(lengths)}: nothing would be learnt",
                    hint=f"--set {section}.max_length={max(lengths)} keeps them all",
                )
    if len(trained) == 1 or tune is None or student_limit >= tune.max_length:
        return
    lengths = _lengths(own, read_examples(corpus.split_path("train")), answers_given=answers_given)
    if beyond := [length for length in lengths if length > student_limit]:
        message = (
            f"{len(beyond)} of {len(lengths)} training texts are longer than {student_limit} "
            "tokens (distill.max_length): the student does not learn them; "
            f"--set distill.max_length={max(beyond)} keeps them all"
        )
        reporter.emit(Note("build", "warning", message))


def check_texts_fit(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, reporter: Reporter
) -> None:
    """Say where texts are learnt that the tag refuses to read.

    Args:
        recipe: What to build.
        tokenizer: The student's.
        corpus: Its training split is measured; where a teacher is yet to answer, it may be all.
        reporter: Hears of it.

    Raises:
        ModelfileError: a parameter is unknown, or of another type.
        TrainingError: the chat template fails or cannot be used for training.
    """
    learnt, read = recipe.distill.max_length, limits_of(recipe.modelfile)["num_ctx"]
    if learnt <= read:
        return
    path = corpus.split_path("train")
    examples = read_examples(path) if path.is_file() else ()
    answered = (one for one in examples if one.is_answered)
    lengths = _lengths(tokenizer, answered, answers_given=True)
    beyond = [length for length in lengths if read < length <= learnt]
    if lengths and not beyond:
        return
    which = f"examples of up to {learnt} tokens"
    if beyond:
        which = f"{len(beyond)} of {len(lengths)} examples, of up to {max(beyond)} tokens,"
    message = (
        f"{which} are learnt (distill.max_length is {learnt}), but the tag will refuse prompts of "
        f"more than {read:g}: --set modelfile.parameters.num_ctx={learnt} has it read them"
    )
    reporter.emit(Note("build", "warning", message))


def _lengths(
    tokenizer: PreTrainedTokenizerFast, examples: Iterable[Example], *, answers_given: bool
) -> list[int]:
    """Tokens of each example; where its answer is yet to be written, of its prompt."""
    from ollama_bridge.encoding.turn_texts import render_turns, rendered_texts

    texts = [
        rendered_texts(one, tokenizer)[0]
        if answers_given and one.is_answered
        else render_turns(one.prompt, tokenizer, generation_prompt=True, tools=one.tools)
        for one in examples
    ]
    if not texts:
        return []
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [len(one) for one in ids]
