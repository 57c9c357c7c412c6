"""What can be known of a recipe's tags before anything is trained."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fakes.architectures import build_checkpoint
from fakes.reasoning import build_reasoner
from fakes.trainable import commit, corpus_of, sentiment_examples, tiny_base, tiny_corpus
from transformers import PreTrainedTokenizerFast

from ollama_bridge.answer_text import with_thought
from ollama_bridge.assets import find_recipe
from ollama_bridge.build_checks import (
    check_answers_fit,
    check_can_be_written,
    check_start,
    check_tags,
    check_thoughts_fit,
)
from ollama_bridge.errors import ConfigError, ConversionError, TrainingError
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import load_recipe, parse_recipe
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus

ALL_LAYERS = ("student.layers=null",)  # a tiny start has fewer than the recipe keeps


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("sentiment-quick", overrides=[*ALL_LAYERS, *overrides])


def test_labels_are_counted_in_the_vocabulary_of_the_student(tmp_path: Path) -> None:
    """A recipe is refused whose tag would cut a label, and the fix that is told is one."""
    start = tiny_base(tmp_path / "base")
    long = ["task.labels=[positive, neither good nor bad but something in between]"]
    with pytest.raises(ConfigError, match="the tag would cut its answer") as caught:
        check_answers_fit(recipe_of(*long), load_tokenizer(start.path))
    _, _, fix = (caught.value.hint or "").partition("--set ")
    check_answers_fit(recipe_of(*long, fix), load_tokenizer(start.path))


def test_the_empty_thought_before_a_label_needs_room(tmp_path: Path) -> None:
    """A student in DeepSeek-R1's format closes the thought that its prompt opens."""
    start = commit(Checkpoint, tmp_path / "reasoner", build_reasoner)
    tokenizer = load_tokenizer(start.path)
    label = recipe_of().task.labels[0]
    alone = len(tokenizer(label, add_special_tokens=False)["input_ids"]) + 1
    thought = len(tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"])
    limit = "modelfile.parameters.num_predict={}"
    with pytest.raises(ConfigError, match="the tag would cut its answer") as caught:
        check_answers_fit(recipe_of(limit.format(alone)), tokenizer)
    fix = fixes_in(caught.value.hint or "")
    assert int(fix[0].partition("=")[2]) >= alone + thought - 1
    check_answers_fit(recipe_of(*fix), tokenizer)


@pytest.mark.parametrize(
    ("of_system", "loss"),
    [("", "leaves out"), ("{{ raise_exception('no system role') }}", "refuses")],
)
def test_a_system_prompt_that_is_never_written_is_refused(
    of_system: str, loss: str, tmp_path: Path
) -> None:
    """The student would learn without its instruction; the fix that is told is one."""
    start = tiny_base(tmp_path / "base")
    (start.path / "chat_template.jinja").write_text(
        f"{{% for m in messages %}}{{% if m.role == 'system' %}}{of_system}{{% else %}}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    corpus = tiny_corpus(tmp_path / "corpus")
    with pytest.raises(ConfigError, match=f"{loss} a system prompt") as caught:
        check_start(recipe_of(), start, corpus, NullReporter())
    fix = re.findall(r"--set '(\S+)'", caught.value.hint or "")
    untold = [
        replace(one, messages=one.messages[1:]) for one in sentiment_examples(8, name="train")
    ]
    corpus = corpus_of(tmp_path / "without", {"train": untold, "validation": untold})
    check_start(recipe_of(*fix), start, corpus, NullReporter())


def test_a_daemon_that_reads_no_windows_of_ones_own_is_told_before_a_build(tmp_path: Path) -> None:
    """With what makes a student that it serves; a newer one serves any."""
    start = commit(Checkpoint, tmp_path / "gemma", lambda path: build_checkpoint("gemma3", path))
    corpus = tiny_corpus(tmp_path / "corpus")
    told: list[Any] = []
    heard: Any = SimpleNamespace(emit=told.append)

    def check(version: str | None, *overrides: str) -> None:
        recipe = recipe_of("task.system=''", "distill.kd_weight=0", *overrides)
        check_start(recipe, start, corpus, heard, daemon_version=version)

    for wanted in ("student.layers=[3, 4, 5]", "student.layers=3"):
        overrides = [wanted, "student.layer_choice=influence"]
        for version in ("0.34.4", None):
            check(version, *overrides)
        assert not told
        check("0.33.3", *overrides)
        warning = told.pop()
        assert "This is Ollama 0.33.3" in warning.message
        check("0.33.3", *overrides, *fixes_in(warning.message))
        assert not told


def test_a_template_that_is_not_there_is_told_before_a_build(tmp_path: Path) -> None:
    """Not after hours of training."""
    start, corpus = tiny_base(tmp_path / "base"), tiny_corpus(tmp_path / "corpus")
    with pytest.raises(ConfigError, match=r"no modelfile 'mine\.j2'"):
        check_start(recipe_of("modelfile.template=mine.j2"), start, corpus, NullReporter())


def test_a_size_that_no_student_has_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    """With the size that it may be, by the key of a recipe; the start's own size is not meant."""
    start, corpus = tiny_base(tmp_path / "base"), tiny_corpus(tmp_path / "corpus")

    def check(size: str, *overrides: str) -> None:
        recipe = recipe_of(f"export.max_size={size}", *overrides)
        check_start(recipe, start, corpus, NullReporter())

    with pytest.raises(ConversionError, match="the tensors of this model have") as caught:
        check("1kB")
    assert "export.max_size" in (caught.value.hint or "")
    smallest = int(caught.value.message.split("have ")[1].split()[0])
    check(f"{smallest}B")
    with pytest.raises(ConversionError):
        check(f"{smallest - 1}B")
    check(f"{smallest - 1}B", "student.layers=1")
    check_start(recipe_of("export.budget_nats=1e-9"), start, corpus, NullReporter())


def thinking(*overrides: str) -> Recipe:
    return load_recipe("reasoning-quick", overrides=["teacher.answer_tokens=2000", *overrides])


def fixes_in(text: str) -> list[str]:
    return re.findall(r"--set (\S+)", text)


def test_limits_leave_room_for_what_is_thought() -> None:
    """Else the student is cut in its thought, as its user asks it and in both reports."""
    check_thoughts_fit(load_recipe("reasoning-quick"), NullReporter())
    check_thoughts_fit(thinking("teacher.thinking=strip"), NullReporter())
    endless = "modelfile.parameters.num_predict=-1"
    with pytest.raises(ConfigError, match=r"reply_tokens is 64, .*num_ctx is 1024: ") as caught:
        check_thoughts_fit(thinking(endless, "modelfile.parameters.num_ctx=1024"), NullReporter())
    assert "num_predict" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(ConfigError, match="would be cut off while it is still thinking") as caught:
        check_thoughts_fit(thinking(), NullReporter())
    told: list[Any] = []
    heard: Any = SimpleNamespace(emit=told.append)
    fixed = fixes_in(caught.value.hint or "")
    check_thoughts_fit(thinking(*fixed), heard)
    (warning,) = told
    check_thoughts_fit(thinking(*fixed, *fixes_in(warning.message)), NullReporter())


def test_what_a_daemon_tells_of_thoughts_is_asked_where_there_are_some() -> None:
    """A template is tried in hundreds of conversations for it."""
    asked: list[bool] = []

    def tells() -> bool:
        asked.append(True)
        return True

    check_thoughts_fit(recipe_of(), NullReporter(), tells_thoughts=tells)
    assert not asked
    with pytest.raises(ConfigError, match="reply_tokens is 64"):
        check_thoughts_fit(thinking(), NullReporter(), tells_thoughts=tells)
    assert asked


def corpus_of_thoughts(folder: Path, *thoughts: str) -> Corpus:
    examples = [
        Example(str(number), (Message("user", "Good?"), answer), str(number), "positive")
        for number, thought in enumerate(thoughts)
        for answer in [Message("assistant", with_thought("positive", thought))]
    ]
    return corpus_of(folder, {"train": examples})


def test_limits_leave_room_for_the_thoughts_of_ones_own_data(tmp_path: Path) -> None:
    """Nobody writes them: how long they are is counted, in the vocabulary of the student."""
    start = tiny_base(tmp_path / "base")
    check_start(recipe_of(), start, tiny_corpus(tmp_path / "labels"), NullReporter())
    corpus = corpus_of_thoughts(tmp_path / "thoughts", "Food. " * 9, "They hoped. " * 200)
    with pytest.raises(
        ConfigError, match=r"\(the data's own thoughts\), but .*num_predict is 8, "
    ) as caught:
        check_start(recipe_of(), start, corpus, NullReporter())
    fixed = fixes_in(caught.value.hint or "")
    told: list[Any] = []
    heard: Any = SimpleNamespace(emit=told.append)
    check_start(recipe_of(*fixed), start, corpus, heard)
    (warning,) = told
    check_start(recipe_of(*fixed, *fixes_in(warning.message)), start, corpus, NullReporter())
    one_less = {key: int(value) - 1 for key, _, value in (fix.partition("=") for fix in fixed)}
    with pytest.raises(ConfigError, match="reply_tokens is"):
        check_start(recipe_of(*(f"{k}={v}" for k, v in one_less.items())), start, corpus, heard)


@pytest.mark.parametrize("key", ["distill", "teacher.tune"])
def test_the_f1_of_labels_behind_ones_own_thoughts_is_refused(key: str, tmp_path: Path) -> None:
    """Before anything is trained; the fix that is told is one."""
    start = tiny_base(tmp_path / "base")
    override = f"{key}.early_stopping.metric=macro_f1"
    check_start(recipe_of(override), start, tiny_corpus(tmp_path / "labels"), NullReporter())
    corpus = corpus_of_thoughts(tmp_path / "thoughts", "Food.")
    with pytest.raises(ConfigError, match="the data have thoughts in front") as caught:
        check_start(recipe_of(override), start, corpus, NullReporter())
    with pytest.raises(ConfigError, match="num_predict"):  # the next thing that is wrong
        check_start(recipe_of(*fixes_in(caught.value.hint or "")), start, corpus, NullReporter())


def test_a_limit_of_the_starts_own_is_that_of_its_tag(tmp_path: Path) -> None:
    """As the tag will have it: no `num_predict` has to be said for thoughts below."""
    start = tiny_base(tmp_path / "base")
    corpus = corpus_of_thoughts(tmp_path / "thoughts", "They hoped. " * 400)
    own = [*ALL_LAYERS, "teacher.rewrite=false", "teacher.thinking=strip"]
    own += [
        "distill.max_length=8000",
        "teacher.tune=null",
        "evaluate.reply_tokens=4000",
        "modelfile.parameters={num_ctx: 8000}",
    ]
    recipe = load_recipe("reasoning-quick", overrides=own)
    with pytest.raises(ConfigError, match="num_predict is 1024: "):
        check_start(recipe, start, corpus, NullReporter())
    generation = start.path / "generation_config.json"
    said = json.loads(generation.read_text()) if generation.is_file() else {}
    generation.write_text(json.dumps({**said, "max_new_tokens": 4000}))
    check_start(recipe, start, corpus, NullReporter())


def test_thoughts_that_a_teacher_writes_again_are_not_learnt(tmp_path: Path) -> None:
    """Beside its own, the data's are, where it answers nothing but what has no answer."""
    start = tiny_base(tmp_path / "base")
    corpus = corpus_of_thoughts(tmp_path / "thoughts", "They hoped. " * 900)
    rewritten = load_recipe("reasoning-quick", overrides=ALL_LAYERS)
    assert rewritten.teacher.rewrite
    check_start(rewritten, start, corpus, NullReporter())
    beside = load_recipe("reasoning-quick", overrides=[*ALL_LAYERS, "teacher.rewrite=false"])
    with pytest.raises(ConfigError, match="the data's own thoughts"):
        check_start(beside, start, corpus, NullReporter())


def test_the_advice_of_a_recipe_has_room_for_what_is_thought() -> None:
    """What the head of `reasoning-quick` says for a teacher of one's own."""
    head = find_recipe("reasoning-quick").read_text().partition("A teacher of your own")[2]
    advice = fixes_in(head.partition("\nname:")[0])
    told: list[Any] = []
    heard: Any = SimpleNamespace(emit=told.append)
    recipe = load_recipe("reasoning-quick", overrides=advice)
    assert recipe.teacher.answer_tokens == 2000
    check_thoughts_fit(recipe, heard)
    assert not told


@pytest.mark.parametrize(("tag", "problem"), [("m" * 81, "81 characters"), ("a.b/m", "namespace")])
def test_every_tag_is_checked(tag: str, problem: str) -> None:
    """By Ollama's grammar, which the recipe's own pattern is a part of."""
    check_tags(recipe_of())
    with pytest.raises(ConfigError, match=problem):
        check_tags(recipe_of(f"export.tag={tag}"))


@pytest.mark.parametrize(
    ("overrides", "replaced"),
    [
        (["teacher.model=ollama:support-bot", "export.tag=support-bot"], "teacher"),
        (["teacher.model=ollama:Support-Bot:latest", "export.tag=support-bot"], "teacher"),
        (["teacher.model=ollama:m:f16", "export.tag=m", "export.types=[q8_0, f16]"], "teacher"),
        (["teacher.model=ollama:m:teacher", "export.tag=m"], "teacher"),
        (["student.model=ollama:library/m", "student.layers=null", "export.tag=m"], "student"),
    ],
)
def test_no_tag_replaces_what_the_build_is_made_of(overrides: list[str], replaced: str) -> None:
    """A student called like its teacher would be served as both, and learn from itself then."""
    with pytest.raises(ConfigError, match=f"is the recipe's {replaced}, ") as caught:
        check_tags(recipe_of(*overrides))
    _, _, fix = (caught.value.hint or "").partition("--tag ")
    check_tags(recipe_of(*overrides, f"export.tag={fix}"))
    check_tags(recipe_of("teacher.model=ollama:m:7b", "export.tag=m"))


def test_a_start_that_no_gguf_can_be_made_of(tmp_path: Path) -> None:
    """Its tokenizer is refused while nothing is trained yet."""
    start = tiny_base(tmp_path / "base")
    check_can_be_written(start)
    path = start.path / "tokenizer.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ConversionError, match="Lowercase"):
        check_can_be_written(start)


def test_a_start_that_would_never_learn_to_stop(tmp_path: Path) -> None:
    """Told before its teacher is tuned and its answers are labelled."""
    start, corpus = tiny_base(tmp_path / "base"), tiny_corpus(tmp_path / "corpus")
    check_start(recipe_of(), start, corpus, NullReporter())
    path = start.path / "chat_template.jinja"
    ended = path.read_text(encoding="utf-8")
    for refused in (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}",
        ended.replace(
            "'<|im_end|>'",
            "('' if loop.last and message['role'] == 'assistant' else '<|im_end|>')",
        ),
    ):
        assert refused != ended
        path.write_text(refused, encoding="utf-8")
        with pytest.raises(TrainingError, match="never to stop") as caught:
            check_start(recipe_of(), start, corpus, NullReporter())
        assert "behind the last one too" in str(caught.value.hint)


def test_the_tokenizer_of_a_start_is_not_loaded_for_each_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for the GGUF, once for what it makes of texts, once for their lengths."""
    start, corpus = tiny_base(tmp_path / "base"), tiny_corpus(tmp_path / "corpus")
    load, loaded = PreTrainedTokenizerFast.from_pretrained, []

    def count(folder: Path, **settings: Any) -> Any:
        loaded.append(folder)
        return load(folder, **settings)

    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", count)
    check_start(recipe_of(), start, corpus, NullReporter(), teacher=start)
    assert loaded == 3 * [start.path]


def test_the_example_of_the_documents_is_a_recipe() -> None:
    """Teacher and student of docs/teachers.md as they stand there, in a shipped recipe."""
    checkout = Path(__file__).parents[3]
    document = (checkout / "docs" / "teachers.md").read_text(encoding="utf-8")
    example = yaml.safe_load(document.partition("```yaml\n")[2].partition("```")[0])
    shipped = yaml.safe_load(find_recipe("reply").read_text(encoding="utf-8"))
    assert set(example) == {"teacher", "student"}
    recipe = parse_recipe(shipped | example, source="docs/teachers.md")
    assert len(recipe.teacher.hosts) == 2
    assert not recipe.needs_teacher_weights
    check_tags(recipe)
    check_thoughts_fit(recipe, NullReporter())
