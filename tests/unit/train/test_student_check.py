"""What a recipe says of its student is held against configs before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.architectures import CASES, build_checkpoint
from fakes.json_files import change_json
from fakes.trainable import commit, tiny_base

from ollama_bridge.conversion import Target
from ollama_bridge.conversion.budget_model import check_reachable
from ollama_bridge.errors import (
    ConfigError,
    ConversionError,
    ModelError,
    RecipeError,
    TrainingError,
)
from ollama_bridge.models.load import load_model, load_tokenizer, save_checkpoint
from ollama_bridge.models.pruning.layers import keep_layers
from ollama_bridge.models.pruning.vocabulary import trim_tokenizer
from ollama_bridge.models.pruning.widths import Kept, narrow
from ollama_bridge.recipe.config import DistillSection, Recipe, StudentSection
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.train.live_teacher import check_same_tokens
from ollama_bridge.train.student_check import check_student, smallest_config

PLAIN = DistillSection()


def start_of(case: str, folder: Path) -> Checkpoint:
    return commit(Checkpoint, folder / case, lambda path: build_checkpoint(case, path))


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    """Of four layers, and without the weights, which nobody may want to read."""
    start = tiny_base(tmp_path / "base", layers=4)
    (start.path / "model.safetensors").unlink()
    return start


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"layers": 99}, "cannot keep 99 of 4 layers"),
        ({"layers": 99, "layer_choice": "influence"}, "cannot keep 99 of 4 layers"),
        ({"layers": (0, 4)}, "between 0 and 3"),
        ({"heads": 1}, "query heads share a key-value head"),
        ({"heads": 99}, "the model has"),
        ({"mlp_channels": 10**6}, "the model has"),
        ({"hidden_size": 10**6}, "the model has"),
    ],
)
def test_a_student_of_more_than_there_is(
    base: Checkpoint, wanted: dict[str, object], message: str
) -> None:
    """Refused by the start's config alone, as the cut itself would."""
    student = StudentSection.model_validate(wanted)
    with pytest.raises(ConfigError, match=message) as caught:
        check_student(student, PLAIN, base, None)
    if "cannot keep" in message:
        assert str(caught.value.hint).startswith("--set student.layers=2, ")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"layers": 4},
        {"layers": 2, "layer_choice": "loss"},
        {"layers": (1, 3)},
        {"heads": 2, "mlp_channels": 8, "hidden_size": 16},
    ],
)
def test_a_student_that_can_be(base: Checkpoint, wanted: dict[str, object]) -> None:
    """What may be, stays allowed."""
    check_student(StudentSection.model_validate(wanted), PLAIN, base, base)


def test_layers_that_no_gguf_can_say(tmp_path: Path) -> None:
    """Of a SmolLM3 every fourth layer has no positions."""
    start = start_of("smollm3", tmp_path)
    check_student(StudentSection(layers=4), PLAIN, start, None)
    with pytest.raises(ConfigError, match="every fourth"):
        check_student(StudentSection(layers=(0, 3)), PLAIN, start, None)


@pytest.mark.parametrize("choice", ["influence", "loss"])
def test_layers_that_are_not_known_yet_may_be_none_that_a_gguf_can_say(
    tmp_path: Path, choice: str
) -> None:
    """Of a SmolLM3 of five layers: told before any are measured, with a choice that can be."""
    start = start_of("smollm3", tmp_path)
    for count in (1, 2, 3, 4):
        wanted = {"layers": count, "layer_choice": choice}
        with pytest.raises(ConfigError, match="every fourth") as caught:
            check_student(StudentSection.model_validate(wanted), PLAIN, start, None)
        fix = re.findall(r"--set student\.(\w+)=(\w+)", caught.value.hint or "")
        check_student(StudentSection.model_validate(wanted | dict(fix)), PLAIN, start, None)
    all_of_it = StudentSection.model_validate({"layers": 5, "layer_choice": choice})
    check_student(all_of_it, PLAIN, start, None)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"layers": 3, "layer_choice": "influence"}, True),
        ({"layers": 3, "layer_choice": "even"}, True),
        ({"layers": (3, 4, 5)}, True),
        ({"layers": 3}, False),
        ({}, False),
    ],
)
def test_windows_that_some_versions_do_not_read_are_told(
    tmp_path: Path, wanted: dict[str, object], told: bool
) -> None:
    """Of a Gemma 3 with its one layer that sees all the text, where it may come to be another."""
    start = start_of("gemma3", tmp_path)
    notes = check_student(StudentSection.model_validate(wanted), PLAIN, start, None)
    assert [bool("0.34.4" in note) for note in notes] == [True] * told


def tensors_of(start: Checkpoint, **cut: Any) -> int:
    """Bytes of the smallest file's tensors."""
    with pytest.raises(ConversionError, match="the tensors of this model have") as caught:
        check_reachable(start, Target(size_bytes=1), **cut)
    return int(caught.value.message.split("have ")[1].split()[0])


@pytest.mark.parametrize("case", CASES)
def test_how_small_a_file_can_be_is_known_before_a_student_is_cut(
    case: str, tmp_path: Path
) -> None:
    """To the byte what it is of the student; of one whose vocabulary will be cut, no more."""
    start = start_of(case, tmp_path)
    student = StudentSection(layers=2, mlp_channels=8)
    model = load_model(start.path, dtype=torch.float32)
    keep_layers(model, range(2))
    groups, hidden = model.config.num_key_value_heads, model.config.hidden_size
    kept = Kept((tuple(range(groups)),) * 2, (tuple(range(8)),) * 2, tuple(range(hidden)))

    def save(folder: Path) -> Path:
        save_checkpoint(narrow(model, kept), load_tokenizer(start.path), folder)
        return folder

    made = tensors_of(commit(Checkpoint, tmp_path / "student", save))
    assert tensors_of(start, cut=smallest_config(student, start)) == made < tensors_of(start)
    fewer = student.model_copy(update={"vocabulary": "corpus"})
    assert tensors_of(start, cut=smallest_config(fewer, start)) < made


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_is_known(case: str, tmp_path: Path) -> None:
    """Whatever transformers calls its config."""
    check_student(StudentSection(), PLAIN, start_of(case, tmp_path), None)


def test_a_layer_of_a_loss_that_is_not_there(base: Checkpoint) -> None:
    """Of the student as it will be cut, or of its teacher."""
    losses = [{"loss": "hidden", "weight": 1.0, "layer_map": {"2": 3}}]
    settings = DistillSection.model_validate({"losses": losses})
    check_student(StudentSection(layers=3), settings, base, base)
    with pytest.raises(ConfigError, match="the student has 2 layers and the teacher 4"):
        check_student(StudentSection(layers=2), settings, base, base)


def test_a_teacher_of_other_tokens(base: Checkpoint, tmp_path: Path) -> None:
    """It cannot read what its student is given."""
    other = tiny_base(tmp_path / "other")
    template = other.path / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    check_student(StudentSection(), PLAIN, base, None)
    with pytest.raises(TrainingError, match="another tokenizer or chat template"):
        check_student(StudentSection(), PLAIN, base, other)


def test_a_teacher_of_another_eos(base: Checkpoint, tmp_path: Path) -> None:
    """An instruct model for its base reads every token of it, also in a trimmed vocabulary."""
    other = tiny_base(tmp_path / "other")
    own, theirs = load_tokenizer(base.path), load_tokenizer(other.path)
    theirs.eos_token = "<|endoftext|>"
    theirs.save_pretrained(other.path)
    assert load_tokenizer(other.path).eos_token_id != own.eos_token_id
    check_student(StudentSection(), PLAIN, base, other)
    check_same_tokens(other, own, trim_tokenizer(own, ["great food"], also=[own.eos_token_id]))


def test_a_teacher_with_other_rows(base: Checkpoint, tmp_path: Path) -> None:
    """The same tokens, in more rows, as of Qwen, are the same tokens."""
    padded = tiny_base(tmp_path / "padded")
    config = padded.path / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 384', '"vocab_size": 400'))
    check_student(StudentSection(), PLAIN, base, padded)


@pytest.mark.parametrize("wrong", ['"model_type": "none"', '"model_type": 1'])
def test_a_config_that_transformers_cannot_read(base: Checkpoint, wrong: str) -> None:
    """One error that names the file."""
    config = base.path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', wrong))
    with pytest.raises(ModelError, match=r"config\.json"):
        check_student(StudentSection(), PLAIN, base, None)


@pytest.mark.parametrize("layers", ["0", "-1", "[0, 0, 1]", "[-1, 2]", "[]", "[2, 1]"])
def test_impossible_layers_are_told_when_the_recipe_is_read(layers: str) -> None:
    """Whatever the start has."""
    with pytest.raises(RecipeError, match=r"student\.layers"):
        load_recipe("sentiment-quick", overrides=[f"student.layers={layers}"])


def test_drawn_labels_and_a_trimmed_vocabulary(tmp_path: Path) -> None:
    """They never go together; what is told makes a recipe of it."""
    wanted = ["student.vocabulary=corpus", "soft_labels.method=sampled"]
    with pytest.raises(RecipeError, match="a smaller vocabulary") as caught:
        load_recipe("sentiment-quick", overrides=wanted)
    told = re.search(r"set it to (\w+), or set (\S+): (\w+)", str(caught.value))
    assert told is not None
    load_recipe("sentiment-quick", overrides=[wanted[1], f"student.vocabulary={told[1]}"])
    load_recipe("sentiment-quick", overrides=[wanted[0], f"{told[2]}={told[3]}"])


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("tokenizer.json", {"pre_tokenizer": None}, "does not go down to bytes"),
        ("generation_config.json", {"suppress_tokens": [7]}, "suppress_tokens"),
    ],
)
def test_a_vocabulary_that_cannot_be_trimmed(
    base: Checkpoint, file: str, change: dict[str, object], told: str
) -> None:
    """Before a teacher is tuned, and labels."""
    trimmed = StudentSection(vocabulary="corpus")
    check_student(trimmed, PLAIN, base, None)
    change_json(base.path / file, **change)
    check_student(StudentSection(), PLAIN, base, None)
    with pytest.raises(ConfigError, match=told) as caught:
        check_student(trimmed, PLAIN, base, None)
    assert "student.vocabulary to full" in str(caught.value.hint)


def needs(*overrides: str) -> bool:
    recipe: Recipe = load_recipe("sentiment-quick", overrides=list(overrides))
    return recipe.needs_same_tokens


def test_who_has_to_have_the_teachers_tokens() -> None:
    """Who is taught beside it, or by its draws."""
    assert not needs()
    assert needs("distill.teacher=live")
    assert needs("soft_labels.method=sampled")
    assert not needs("soft_labels.method=sampled", "distill.kd_weight=0")
