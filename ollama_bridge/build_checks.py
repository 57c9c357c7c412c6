"""What would stop a build, told before the work: its tags, its start, and room for its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollama_bridge.answer_text import without_thought
from ollama_bridge.client.model_names import name_key
from ollama_bridge.conversion.source import Source
from ollama_bridge.daemon.era import OWN_WINDOWS, has_limit
from ollama_bridge.errors import ConfigError, TrainingError
from ollama_bridge.evaluation.held_out import answers_with_thoughts
from ollama_bridge.examples import Example, Message, read_examples
from ollama_bridge.export import budget_tag_of, tag_of, target_of, teacher_tag_of
from ollama_bridge.length_checks import check_lengths, check_texts_fit
from ollama_bridge.modelfile import check_tag
from ollama_bridge.models.sources.resolve import check_reference
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.rendering import check_settings
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.tag_parameters import check_labels_fit, limits_of
from ollama_bridge.template.authority import decide

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_IN_OLLAMA = "ollama:"  # of a model reference


def check_tags(recipe: Recipe) -> None:
    """Check the name of every tag that a build may register.

    Raises:
        ConfigError: naming the tag and the part that is wrong, or the model that it would replace.
    """
    of_types = [tag_of(recipe, gguf_type) for gguf_type in recipe.export.types]
    sources = {
        name_key(model.removeprefix(_IN_OLLAMA)): (role, model)
        for role, model in (("student", recipe.student.model), ("teacher", recipe.teacher.model))
        if model.startswith(_IN_OLLAMA)
    }
    for tag in (*of_types, budget_tag_of(recipe), teacher_tag_of(recipe)):
        check_tag(tag)
        if name_key(tag) in sources:
            role, model = sources[name_key(tag)]
            raise ConfigError(
                f"the tag {tag} is the recipe's {role}, {model}: the build would replace it",
                hint=f"name another: --tag {recipe.export.tag}-student",
            )


def check_models(recipe: Recipe) -> None:
    """Check that the models that are loaded here can be there, before data are fetched.

    Raises:
        ModelReferenceError: one cannot be read, or names a file or folder that is not there.
    """
    if recipe.needs_teacher_weights:
        check_reference(recipe.teacher.model)
    if recipe.student.model != "teacher":
        check_reference(recipe.student.model)


def check_start(
    recipe: Recipe,
    start: Checkpoint,
    corpus: Corpus,
    reporter: Reporter,
    *,
    teacher: Checkpoint | None = None,
    daemon_version: str | None = None,
) -> None:
    """Make sure that a student of this start can be trained and served as the recipe says.

    Args:
        recipe: What to build.
        start: What the training begins with.
        corpus: What it learns, as far as that is there before a teacher writes answers.
        reporter: Hears of what may be left out, or not be served.
        teacher: The teacher's weights, where they are at hand.
        daemon_version: Of the daemon that is to serve it; None: not known.

    Raises:
        ConfigError: a tag would cut its answers, its prompts have no place for the recipe's system
            prompt, the student keeps more than there is, or weights are to be compared by the F1
            of answers that are no labels.
        ConversionError: no GGUF can be made of it, or none as small as is asked.
        DataError: no text is short enough to be learnt.
        ModelError: its folder cannot be used.
        ModelfileError: a parameter is unknown or of another type, or a template cannot be read.
        TrainingError: the student's tokens are not the teacher's, and have to be, or have too
            little in common with them; or nothing would teach it to stop.
    """
    from ollama_bridge.models.load import load_tokenizer
    from ollama_bridge.models.settings.generation_defaults import read_generation_config
    from ollama_bridge.train.student_check import check_student

    check_settings(recipe.modelfile)
    check_can_be_written(start)
    tokenizer = load_tokenizer(start.path)  # once for all: the larger, the longer it takes
    check_end_is_learnt(start, tokenizer)
    beside = teacher if recipe.needs_same_tokens else None
    notes = check_student(recipe.student, recipe.distill, start, beside)
    if notes and daemon_version is not None and has_limit(daemon_version, OWN_WINDOWS):
        message = (
            f"in a student of such layers {'; '.join(notes)}. This is Ollama {daemon_version}: "
            f"update it, or add {_first_layers(recipe)}"
        )
        reporter.emit(Note("student", "warning", message))
    check_size(recipe, start)
    answers_given = not recipe.teacher.rewrite
    check_labels(recipe, start, corpus, teacher, answers_given=answers_given)
    check_system_is_written(recipe, tokenizer)
    check_tools_are_written(tokenizer, corpus, reporter)
    check_answers_fit(recipe, tokenizer)
    check_texts_fit(recipe, tokenizer, corpus, reporter)
    # What is written again is not learnt as the data have it.
    given_tokens = 0 if recipe.teacher.rewrite else longest_given_thought(tokenizer, corpus)
    if given_tokens and recipe.stops_by_f1:
        key = f"{recipe.stops_by_f1[0]}.early_stopping.metric"
        raise ConfigError(
            f"{key}: macro_f1 needs labels alone, and the data have thoughts in front of them",
            hint=f"leave it out, or add --set {key}=token_accuracy",
        )
    said = read_generation_config(start.path).get("max_new_tokens")
    own = said if isinstance(said, int) else None
    check_thoughts_fit(
        recipe,
        reporter,
        given_tokens=given_tokens,
        max_new_tokens=own,
        tells_thoughts=lambda: _tells_thoughts(tokenizer),
    )
    check_lengths(recipe, start, corpus, teacher, reporter, answers_given=answers_given)


def _first_layers(recipe: Recipe) -> str:
    """What to add for a student of the first layers, as many as the recipe says."""
    layers, choice = recipe.student.layers, "--set student.layer_choice=first"
    return (
        choice if isinstance(layers, int) else f"{choice} --set student.layers={len(layers or ())}"
    )


def check_labels(
    recipe: Recipe,
    start: Checkpoint,
    corpus: Corpus,
    teacher: Checkpoint | None,
    *,
    answers_given: bool,
) -> None:
    """Make sure that a local teacher can label for the student, or run beside it, if it has to.

    Raises:
        ModelError: a tokenizer cannot be read.
        TrainingError: the two have too little in common.
    """
    from ollama_bridge.teacher.vocabularies import check_can_label
    from ollama_bridge.train.teacher_rows import check_teacher_rows

    if teacher is not None and answers_given:
        check_teacher_rows(teacher, start, corpus, recipe.distill)
    labelled = recipe.distill.reads_soft_labels and recipe.teacher.soft_labels == "local"
    if teacher is not None and labelled:
        check_can_label(
            teacher,
            start,
            corpus,
            recipe.soft_labels,
            max_length=recipe.distill.max_length,
            answers_given=answers_given,
        )


def check_size(recipe: Recipe, start: Checkpoint) -> None:
    """Make sure that a file of the student can be as small as the recipe wants one.

    Raises:
        ModelError: the folder of its start cannot be used.
        ConversionError: its tensors alone are larger.
    """
    from ollama_bridge.conversion.budget_model import check_reachable
    from ollama_bridge.train.student_check import smallest_config

    target = target_of(recipe)
    if target is not None and target.size_bytes is not None:
        check_reachable(start, target, cut=smallest_config(recipe.student, start))


def check_system_is_written(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make sure that the recipe's system prompt is in the student's prompts.

    Raises:
        ConfigError: the chat template refuses it, or leaves it out.
    """
    from ollama_bridge.models.settings.chat_template import chat_template_of
    from ollama_bridge.models.system_prompt import loss_in_template

    loss = loss_in_template(chat_template_of(tokenizer)) if recipe.task.system else None
    if loss is not None:
        raise ConfigError(
            f"the chat template of the student's start {loss} a system prompt: the student would "
            "learn, and be served, without task.system",
            hint="add --set 'task.system=\"\"' and put it into the texts, or start from a folder "
            "with a chat_template.jinja that writes one",
        )


def check_tools_are_written(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, reporter: Reporter
) -> None:
    """Make sure that the tools of a corpus and their calls are in the student's prompts.

    Args:
        tokenizer: The student's.
        corpus: All of its splits are rendered, where any line has tools.
        reporter: Hears of texts beside calls that are left out, and of tools that a tag may not
            take.

    Raises:
        TrainingError: the chat template leaves them out, or refuses them.
    """
    from ollama_bridge.encoding.turn_texts import render_turns, rendered_texts
    from ollama_bridge.models.settings.chat_template import chat_template_of

    if not corpus.manifest.facts.get("with_tools"):
        return
    silenced = 0
    for name in ("train", "validation", "test"):
        for one in read_examples(corpus.split_path(name)):
            if one.tools and one.is_answered:
                whole, *_ = rendered_texts(one, tokenizer)
                beside = (without_thought(said.content) for said in one.messages if said.calls)
                silenced += any(text not in whole for text in beside)
            elif one.tools:
                render_turns(one.prompt, tokenizer, generation_prompt=True, tools=one.tools)
    if silenced:
        message = (
            f"what is said beside the calls of {silenced} conversation(s) is not learnt: the "
            "student's chat template writes such an answer without its text"
        )
        reporter.emit(Note("build", "warning", message))
    template = chat_template_of(tokenizer)
    if template is not None and not decide(template).tools:
        message = (
            "tools are learnt, but Go cannot express what the student's chat template writes for "
            "them: the tag takes tools only if a RENDERER of Ollama's, or its own Jinja, is seen "
            "to write them, which is tried behind training"
        )
        reporter.emit(Note("build", "warning", message))


def check_answers_fit(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make sure that the tags of a classifier will not cut its labels.

    Raises:
        ConfigError: ``num_predict`` is too small.
        ModelfileError: a parameter is unknown, or of another type.
        TrainingError: the chat template cannot be used for training.
    """
    from ollama_bridge.encoding.encode import encode

    def count_learnt(label: str) -> int:
        asked = (Message("user", "?"), Message("assistant", label))
        encoded = encode(Example("label", asked, "label"), tokenizer)
        return int(encoded.supervised.sum())

    check_labels_fit(recipe.modelfile, recipe.task.labels, count_learnt)


def longest_given_thought(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> int:
    """Tokens of the longest answer to be learnt that the data give a thought; 0: none has one.

    Returns:
        Thought, answer and end together.
    """
    answers = list(answers_with_thoughts(corpus))
    if not answers:
        return 0
    ids = tokenizer(answers, add_special_tokens=False, verbose=False)["input_ids"]
    return max(map(len, ids)) + 1


def check_thoughts_fit(
    recipe: Recipe,
    reporter: Reporter,
    *,
    given_tokens: int = 0,
    max_new_tokens: int | None = None,
    tells_thoughts: Callable[[], bool] = lambda: False,
) -> None:
    """Make sure that a student that learns to think comes to its answer, as served and scored.

    Args:
        recipe: What to build.
        reporter: Hears of examples that the training may leave out.
        given_tokens: Of the longest answer with a thought that the data give; 0: they give none.
        max_new_tokens: Of the start's generation config; None: it does not say.
        tells_thoughts: Whether a daemon tells its thinking from its answers; asked if it thinks.

    Raises:
        ConfigError: naming the limits that are below that of the answers to be learnt.
        ModelfileError: a parameter is unknown, or of another type.
    """
    written_tokens = 0 if recipe.teacher.thinking == "strip" else recipe.teacher.answer_tokens
    longest = max(written_tokens, given_tokens)
    if longest == 0:
        return
    source = "teacher.answer_tokens" if written_tokens == longest else "the data's own thoughts"
    of_tag = limits_of(recipe.modelfile, max_new_tokens=max_new_tokens, thinks=tells_thoughts())
    limits = {
        "modelfile.parameters.num_predict": (of_tag["num_predict"], longest),
        "evaluate.reply_tokens": (recipe.evaluate.reply_tokens, longest),
        # The prompt is in the context as well.
        "modelfile.parameters.num_ctx": (of_tag["num_ctx"], longest + 1),
    }
    short = {key: limit for key, (limit, needed) in limits.items() if limit < needed}
    if short:
        found = ", ".join(f"{key} is {limit:g}" for key, limit in short.items())
        fixes = {key: 2 * longest if key.endswith("num_ctx") else longest for key in short}
        raise ConfigError(
            f"training answers have up to {longest} tokens, thinking included ({source}), but "
            f"{found}: the student's answers would be cut off while it is still thinking",
            hint="add " + " ".join(f"--set {key}={needed}" for key, needed in fixes.items()),
        )
    if recipe.distill.max_length < longest:
        message = (
            f"training answers have up to {longest} tokens, but examples of more than "
            f"{recipe.distill.max_length} are left out: --set distill.max_length={2 * longest}"
        )
        reporter.emit(Note("answers", "warning", message))


def _tells_thoughts(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a daemon tells the thinking of what is made of a model from its answers."""
    from ollama_bridge.models.settings.chat_template import chat_template_of

    template = chat_template_of(tokenizer)
    return template is not None and decide(template).thinking


def check_end_is_learnt(start: Checkpoint, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make sure that a chat template writes an end behind an answer, before hours go into it.

    Raises:
        TrainingError: it writes none, so that nothing teaches the student to stop.
    """
    from ollama_bridge.encoding.encode import END_HINT, encode

    said = (Message("user", "Hi"), Message("assistant", "Answer."))
    try:
        found = encode(Example("end", said, "end"), tokenizer)
    except TrainingError:
        return  # other conversations may do; the data's are tried when they are learnt
    if not found.ended_turns:
        raise TrainingError(
            f"{start.path}: the chat template writes no end token behind an answer: the student "
            "would learn to answer but never to stop",
            hint=END_HINT,
        )


def check_can_be_written(start: Checkpoint) -> None:
    """Make sure that what is made of a model can become a GGUF, before hours go into it.

    Reads no weights.

    Raises:
        ModelError: the folder cannot be used.
        ConversionError: something of it cannot be expressed in a GGUF.
    """
    from ollama_bridge.models.load import load_tokenizer
    from ollama_bridge.models.settings.end_tokens import end_of_turns

    end = end_of_turns(load_tokenizer(start.path))
    Source(start, ends=() if end is None else (end,))
