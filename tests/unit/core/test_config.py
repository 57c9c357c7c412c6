"""A recipe says everything that decides a build, and every mistake in it is told at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ollama_bridge.assets import list_assets
from ollama_bridge.errors import ConfigError, RecipeError
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import load_recipe, parse_recipe
from ollama_bridge.recipe.losses import CrossEntropyLoss, HiddenLoss, KLForwardLoss, KLReverseLoss


def minimal() -> dict[str, object]:
    return {
        "name": "mine",
        "description": "A recipe.",
        "task": {"kind": "classify", "system": "Which?", "labels": ["a", "b"]},
        "data": {"source": "vader"},
        "teacher": {"model": "ollama:smollm2:135m"},
        "export": {"tag": "mine"},
    }


@pytest.mark.parametrize("name", sorted(list_assets("recipes")))
def test_shipped_recipes_are_valid(name: str) -> None:
    """Every shipped recipe loads under its file's name, and serves whatever model one names.

    A file as small as anybody's has steps enough.
    """
    recipe = load_recipe(name)
    assert recipe.name == name
    for section in filter(None, (recipe.teacher.tune, recipe.distill)):
        assert section.min_steps == 100
    assert recipe.modelfile.template == "auto"  # of another chat format, ChatML would be refused


def test_unknown_key_is_told_with_the_nearest_right_one() -> None:
    """A typo names its place and the key that was meant."""
    data = minimal() | {"distill": {"learning_rate": 1, "epoch": 2}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, source="mine.yaml")
    assert "distill.epoch: unknown key; did you mean distill.epochs?" in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    """Two wrong values are two lines of one error."""
    data = minimal() | {"distill": {"lr": -1, "kd_weight": 2}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, source="mine.yaml")
    assert len(caught.value.problems) == 2
    assert "distill.kd_weight" in str(caught.value)
    assert "distill.lr" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("distill.lr=1e-4", ("distill", "lr"), 1e-4),
        ("distill.epochs=3", ("distill", "epochs"), 3),
        ("student.layers=[0, 5]", ("student", "layers"), (0, 5)),
        ("teacher.tune.epochs=2", ("teacher", "tune", "epochs"), 2),
        ("data.label_map.pos=a", ("data", "label_map", "pos"), "a"),
        ('data.text_col="0"', ("data", "text_col"), "0"),
        ("data.text_col='1e-4'", ("data", "text_col"), "1e-4"),
        ("data.text_col=nan", ("data", "text_col"), "nan"),
        ("data.text_col=[a, b]", ("data", "text_cols"), ("a", "b")),
        ("data.text_col=3", ("data", "text_col"), "3"),
        ("data.label_col=Ticket #", ("data", "label_col"), "Ticket #"),
        ("data.label_map.1=yes", ("data", "label_map", "1"), "yes"),
        ("data.path=/a/my file #2.csv", ("data", "path"), Path("/a/my file #2.csv")),
        ("data.group_col=null", ("data", "group_col"), None),
        ("data.group_col=", ("data", "group_col"), None),
        ("task.system=Rate it #1 to #5 #stars", ("task", "system"), "Rate it #1 to #5 #stars"),
        ("task.system=Answer: a or b", ("task", "system"), "Answer: a or b"),
        ("task.system=[a] or\n{b}\n", ("task", "system"), "[a] or\n{b}"),
        ('task.system="No" is no: say b', ("task", "system"), '"No" is no: say b'),
        ("task.system='a #1\\n'", ("task", "system"), "a #1\\n"),
        ("task.system=|\n  a #1\n  b", ("task", "system"), "a #1\nb"),
        ("task.system=", ("task", "system"), ""),
        ("modelfile.parameters.stop=USER", ("modelfile", "parameters", "stop"), "USER"),
    ],
)
def test_override_changes_one_key(override: str, path: tuple[str, ...], value: object) -> None:
    """``--set`` takes texts as they are, and reads YAML values, and numbers as people do."""
    found: object = parse_recipe(minimal(), source="x", overrides=[override])
    for part in path:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


def test_epochs_that_are_set_are_not_made_more() -> None:
    """Of a shipped recipe's ``min_steps`` only what belongs to other epochs is left."""

    def least(*overrides: str) -> list[int | None]:
        recipe = load_recipe("sentiment", overrides=overrides)
        assert recipe.teacher.tune is not None
        return [recipe.teacher.tune.min_steps, recipe.distill.min_steps]

    assert least("distill.lr=1e-4", "teacher.tune.lr=1e-4") == [100, 100]
    assert least("distill.epochs=1") == [100, None]
    assert least("teacher.tune.epochs=1") == [None, 100]
    assert least("distill.epochs=1", "distill.min_steps=100") == [100, 100]
    assert least("distill.min_steps=7", "distill.epochs=1") == [100, 7]


def test_a_name_is_told_in_words() -> None:
    """Whoever writes it need not read regular expressions."""
    with pytest.raises(RecipeError, match="name: write it in small letters from a to z, digits"):
        load_recipe("sentiment", overrides=["name=Größe"])


def test_a_problem_ends_with_what_to_correct() -> None:
    """The --set that made it; where the file did, a recipe that is right."""
    with pytest.raises(RecipeError) as caught:
        load_recipe("sentiment", overrides=["distill.lr=0.1", "distill.min_steps=0"])
    assert caught.value.hint == "correct --set distill.min_steps=0"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(minimal() | {"distill": {"lr": -1}}, source="x", overrides=["seed=1"])
    assert "ollama-bridge recipes show" in (caught.value.hint or "")


@pytest.mark.parametrize("override", ["distill.lr", "=3", "distill.lr=[", "distil.lr=3"])
def test_bad_override_is_told(override: str) -> None:
    """An override without value, key, YAML or known section is a problem of the recipe."""
    with pytest.raises(RecipeError):
        parse_recipe(minimal(), source="x", overrides=[override])


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.text_col=~", "data.text_col: Input should be a valid string"),
        ("task.system=null", "task.system: Input should be a valid string"),
        ("modelfile.parameters.stop=A #", "--set modelfile.parameters.stop: 'A #' is read as 'A';"),
        (
            "modelfile.parameters.stop=#",
            "--set modelfile.parameters.stop: '#' is read as None; put",
        ),
        (
            "modelfile.parameters.stop=<|x|>: y",
            "--set modelfile.parameters.stop: '<|x|>: y' is read",
        ),
        ("distill.lr=# 3", "--set distill.lr: '# 3' is read as None;"),
        (
            "task.system='It's'",
            "--set task.system: \"'It's'\" is not a value; put a text in quotes",
        ),
        ("data.text_col=[a, 3]", "data.text_col.1: Input should be a valid string"),
        ("student.layers=x", "student.layers: Input should be a valid integer"),
        ("data.label_map={int: 3}", "data.label_map.int: Input should be a valid string"),
        ("export.types=f16", "export.types: has to be a list, such as ['f16'] (given: 'f16')"),
        ("distill=null", "distill: has keys of its own, which are set one by one (given: None)"),
        ("export.tag=my model", "export.tag: 'my model' is not a name"),
        ("export.tag=my-model:1", "export.tag: 'my-model:1' is not a name"),
    ],
)
def test_values_of_several_types_are_told_by_their_key(override: str, problem: str) -> None:
    """And not by the names of the types that were tried."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(minimal(), source="x", overrides=[override])
    assert any(one.startswith(problem) for one in caught.value.problems)
    assert not any("tuple[" in one or ".str" in one for one in caught.value.problems)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("task.labels=[a, yes]", "task.labels.1: .*, not True: put it in quotes, YAML reads yes"),
        ("task.labels=[0, 1]", 'task.labels.0: .*, not 0: put it in quotes: "0"'),
        ("data.label_map={1: a}", 'data.label_map.1: The name itself .*, not 1: .*: "1"'),
        ("data.label_map={x: no}", "data.label_map.x: .*, not False: .* reads no, off and false"),
        ("task.system=null", 'task.system: .*, not None: an empty one is ""'),
        ("seed=true", "seed: Input should be a number .given: True"),
        ("distill.epochs=yes", "distill.epochs: Input should be a number .given: True"),
        ("data.max_examples=true", "data.max_examples: Input should be a number"),
        ("student.layers=true", "student.layers: Input should be a number"),
        ("distill.losses=[{loss: hidden, weight: on}]", "distill.losses.0.weight: .* a number"),
    ],
)
def test_what_yaml_reads_as_something_else_is_told(override: str, problem: str) -> None:
    """Nobody wrote the True that ``yes`` became; and a truth is no number."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(minimal(), source="x", overrides=[override])
    assert [one for one in caught.value.problems if re.match(problem, one)]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ('["positive", "positive "]', "'positive' is there more than once; take the others out"),
        ("[a, b, a]", "'a' is there more than once"),
        ('[a, " "]', "an empty one cannot be said; take it out"),
        ('["positive", " so so"]', "' so so' has blanks around it; write 'so so'"),
        ("[a]", "at least two different labels"),
    ],
)
def test_labels_are_different_answers(labels: str, problem: str) -> None:
    """Blanks around one make no other: labels are read, and answers kept, without them."""
    with pytest.raises(RecipeError, match=rf"task\.labels: .*{problem}"):
        parse_recipe(minimal(), source="x", overrides=[f"task.labels={labels}"])


@pytest.mark.parametrize("columns", ["[]", "[a, a]"])
def test_columns_of_a_text_are_named_once(columns: str) -> None:
    """None, and one twice, are no text."""
    with pytest.raises(RecipeError, match=r"data\.text_col: name every column"):
        parse_recipe(minimal(), source="x", overrides=[f"data.text_col={columns}"])


@pytest.mark.parametrize("key", ["seed", "teacher.tune.seed", "distill.seed", "soft_labels.seed"])
@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_no_generator_takes_are_told(key: str, seed: int) -> None:
    """By the recipe, and not by a generator in the middle of a build."""
    with pytest.raises(RecipeError, match=f"{key}: Input should be"):
        parse_recipe(minimal(), source="x", overrides=[f"{key}={seed}"])


@pytest.mark.parametrize("key", ["distill.epochs", "distill.temperature", "control.lr"])
def test_numbers_without_an_end_are_told(key: str) -> None:
    """Their steps could not be counted, and no manifest could say them as JSON."""
    with pytest.raises(RecipeError, match=f"{key}: Input should be a finite number"):
        parse_recipe(minimal(), source="x", overrides=[f"{key}=.inf"])


def test_drawn_labels_have_one_temperature() -> None:
    """Labels that are drawn at 1 cannot be learnt from at 2; said before anything is labelled."""
    drawn = ["soft_labels.method=sampled", "distill.temperature=2"]
    with pytest.raises(RecipeError, match="sampled soft labels are drawn at 1"):
        parse_recipe(minimal(), source="x", overrides=drawn)
    section = parse_recipe(minimal(), source="x", overrides=drawn[:1]).soft_labels
    assert section.effective() == {"method": "sampled", "draws": 30, "seed": 0}


def test_recipe_survives_a_round_trip() -> None:
    """Recipe -> plain data -> recipe is the identity."""
    recipe = parse_recipe(minimal(), source="x")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_relative_data_path_belongs_to_the_recipe_file(tmp_path: Path) -> None:
    """``path: rows.csv`` lies beside the recipe, wherever the command runs."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{name: mine, description: d, task: {kind: classify, system: s, labels: [a, b]},"
        "data: {source: table, path: rows.csv}, teacher: {model: 'ollama:m'}, export: {tag: t}}"
    )
    assert load_recipe(file).data.path == tmp_path / "rows.csv"


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("./teachers/a", "{folder}/./teachers/a"),
        ("../a", "{folder}/../a"),
        ("a.gguf", "{folder}/a.gguf"),
        ("/models/a", "/models/a"),
        ("~/a", "~/a"),
        ("ollama:m.gguf", "ollama:m.gguf"),
        ("hf:org/a", "hf:org/a"),
    ],
)
def test_models_of_a_recipe_belong_to_its_file(said: str, place: str, tmp_path: Path) -> None:
    """As data do; what is typed belongs to the folder where it is typed."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{name: mine, task: {kind: classify, system: s, labels: [a, b]}, data: {source: vader},"
        f"teacher: {{model: {said}}}, student: {{model: {said}}}, export: {{tag: t}}}}"
    )
    recipe = load_recipe(file)
    assert recipe.teacher.model == recipe.student.model == place.format(folder=tmp_path)
    typed = load_recipe(file, overrides=["teacher.model=./b", "student.model=teacher"])
    assert (typed.teacher.model, typed.student.model) == ("./b", "teacher")


def test_a_model_behind_an_api_has_the_name_that_it_has_there(tmp_path: Path) -> None:
    """A server calls a model as it likes, after its file, say."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{name: mine, task: {kind: reply, system: s}, data: {source: reviews}, export: {tag: t},"
        "teacher: {model: a.gguf, base_url: 'http://127.0.0.1:1/v1', answers: daemon,"
        "soft_labels: none}, distill: {kd_weight: 0}, student: {model: 'ollama:m'}}"
    )
    assert load_recipe(file).teacher.model == "a.gguf"


def test_a_template_beside_the_recipe_is_found(tmp_path: Path) -> None:
    """Wherever the command runs; a shipped one has a name, and no place."""
    file = tmp_path / "mine.yaml"
    (tmp_path / "mine.j2").touch()
    for said, found in (("mine.j2", str(tmp_path / "mine.j2")), ("chatml", "chatml")):
        file.write_text(
            "{name: mine, task: {kind: classify, system: s, labels: [a, b]}, data: {source: vader},"
            f"export: {{tag: t}}, teacher: {{model: 'ollama:m'}}, modelfile: {{template: {said}}}}}"
        )
        assert load_recipe(file).modelfile.template == found


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00", 'name = "a"', "[data]\nsource = 1"])
def test_file_that_is_no_recipe_is_told(tmp_path: Path, text: str) -> None:
    """Anything but a mapping is one clear error, which says what recipes are: not TOML."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=r"a recipe is .*YAML"):
        load_recipe(file)


def test_a_section_that_is_there_twice_is_told(tmp_path: Path) -> None:
    """The last alone would count, and hours be trained by the defaults of the rest."""
    file = tmp_path / "mine.yaml"
    whole = yaml.safe_dump(minimal() | {"distill": {"lr": 1e-3, "kd_weight": 0.8}})
    file.write_text(f"{whole}distill: {{epochs: 1}}\n")
    lines = whole.splitlines()
    both = f"lines {lines.index('distill:') + 1} and {len(lines) + 1}"
    with pytest.raises(RecipeError, match=f"distill is there twice, in {both}"):
        load_recipe(file)
    file.write_text(whole.replace("  kd_weight", "  lr: 1e-4\n  kd_weight"))
    with pytest.raises(RecipeError, match="lr is there twice"):
        load_recipe(file)


def test_a_key_may_be_merged_and_given(tmp_path: Path) -> None:
    """A merge gives what a mapping does not say itself, also where its source has one too."""
    file = tmp_path / "mine.yaml"
    recipe = yaml.safe_dump(minimal() | {"distill": {"lr": 1e-3, "epochs": 2}})
    recipe = recipe.replace(
        "distill:", "soft_labels: &s {seed: 1}\ndistill: &d\n  <<: *s\n  seed: 7"
    )
    recipe = recipe.replace("  model:", "  tune: {<<: *d, lr: 2e-4}\n  model:")
    file.write_text(recipe)
    loaded = load_recipe(file)
    assert (loaded.distill.seed, loaded.distill.epochs) == (7, 2)
    assert loaded.teacher.tune is not None
    assert (loaded.teacher.tune.seed, loaded.teacher.tune.lr) == (7, 2e-4)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("2026-02-30", "day is out of range for month"),
        ("[" * 900, "nested too deeply"),
        ("!!bool maybe", "maybe"),
        ("!!timestamp never", "NoneType"),
        ("0x" + "f" * 9999, "a number of thousands of digits"),
    ],
    ids=["date", "brackets", "truth", "time", "digits"],
)
def test_yaml_that_its_library_breaks_off_at_is_told(
    tmp_path: Path, value: str, problem: str
) -> None:
    """It lets errors of Python through, in a file and in an override."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(minimal()).replace("A recipe.", value))
    with pytest.raises(RecipeError, match=problem):
        load_recipe(file)
    with pytest.raises(RecipeError, match="seed"):
        parse_recipe(minimal(), source="x", overrides=[f"seed={value}"])


def test_a_huge_value_of_a_few_lines_is_told_in_short(tmp_path: Path) -> None:
    """Each alias is ten times the one before; written out, the last takes all memory."""
    lists = ["&a0 [x]", *(f"&a{n} [{f'*a{n - 1},' * 10}]" for n in range(1, 12))]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(minimal()).replace("A recipe.", f"[{', '.join(lists)}]"))
    with pytest.raises(RecipeError, match=r"description: .* valid string") as caught:
        load_recipe(file)
    assert len(caught.value.message) < 10_000


def test_unknown_recipe_lists_the_shipped_ones() -> None:
    """A wrong name says which names there are."""
    with pytest.raises(ConfigError, match="sentiment"):
        load_recipe("sentimental")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"task": {"kind": "classify", "system": "s", "labels": ["a"]}}, "task.labels"),
        ({"task": {"kind": "reply", "system": "s", "labels": ["a", "b"]}}, "task.labels"),
        ({"data": {"source": "table"}}, "data.path"),
        ({"export": {"tag": "t", "max_size": "much"}}, "export.max_size"),
        ({"export": {"tag": "t", "max_size": "0MB"}}, "export.max_size"),
        ({"export": {"tag": "t", "budget_nats": 0}}, "export.budget_nats"),
        ({"export": {"tag": "t", "budget_nats": 0.1, "max_size": "9MB"}}, "export.max_size"),
        ({"export": {"tag": "no spaces"}}, "export.tag"),
        ({"data": {"source": "reviews"}}, "teacher.answers"),
        ({"name": "Not A Slug"}, "name"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: dict[str, object], key: str) -> None:
    """Checks across keys name the key to change."""
    with pytest.raises(RecipeError, match=key):
        parse_recipe(minimal() | change, source="x")


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"losses": [{"loss": "kl_reverse"}]}, "distill.losses.0: sampled soft labels allow"),
        (
            {"losses": [{"loss": "hidden"}, {"loss": "kl_forward", "temperature": 2}]},
            "distill.losses.1.temperature: sampled",
        ),
        ({"temperature": 2}, "distill.temperature: sampled"),
        ({"losses": [{"loss": "kl_reverse"}], "teacher": "live"}, None),
        ({"losses": [{"loss": "kl_forward"}, {"loss": "hidden"}]}, None),
    ],
)
def test_drawn_labels_give_the_forward_kl_alone(
    distill: dict[str, object], message: str | None
) -> None:
    """Of tokens drawn at random no other divergence is known; a live teacher needs no labels."""
    data = minimal() | {"soft_labels": {"method": "sampled"}, "distill": distill}
    if message is None:
        assert parse_recipe(data, source="x").soft_labels.method == "sampled"
    else:
        with pytest.raises(RecipeError, match=message):
            parse_recipe(data, source="x")


def with_distill(**distill: object) -> Recipe:
    return parse_recipe(minimal() | {"distill": distill}, source="x")


def test_losses_are_a_list_of_kinds_with_their_own_options() -> None:
    """Any weighted sum is read into its kinds, from YAML, ``--set`` and its own dump."""
    losses = [
        {"loss": "cross_entropy", "weight": 0.2},
        {"loss": "kl_reverse", "weight": 0.5, "temperature": 2.0},
        {"loss": "kl_skewed", "direction": "reverse", "alpha": 0.2},
        {"loss": "hidden", "distance": "angle", "layer_map": {0: 3}},
    ]
    recipe = with_distill(losses=losses)
    assert [term.loss for term in recipe.distill.loss_terms] == [item["loss"] for item in losses]
    assert recipe.distill.loss_terms[1] == KLReverseLoss(weight=0.5, temperature=2.0)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    text = "distill.losses=[{loss: kl_reverse, weight: 0.5, temperature: 2}]"
    changed = parse_recipe(minimal(), source="x", overrides=[text])
    assert changed.distill.loss_terms == (KLReverseLoss(weight=0.5, temperature=2.0),)


def test_short_form_says_the_same_terms() -> None:
    """kd_weight, temperature and hidden_weight are losses too; what weighs nothing is not there."""
    short = with_distill(kd_weight=0.75, temperature=2.0, hidden_weight=0.5).distill
    assert short.loss_terms == (
        CrossEntropyLoss(weight=0.25),
        KLForwardLoss(weight=0.75, temperature=2.0),
        HiddenLoss(weight=0.5),
    )
    assert with_distill(kd_weight=0).distill.loss_terms == (CrossEntropyLoss(),)
    assert with_distill(kd_weight=1).distill.loss_terms == (KLForwardLoss(),)


@pytest.mark.parametrize(
    ("distill", "reads", "loads"),
    [
        ({}, True, False),
        ({"kd_weight": 0}, False, False),
        ({"hidden_weight": 0.1}, True, True),
        ({"kd_weight": 0, "hidden_epochs": 1}, False, True),
        ({"teacher": "live"}, False, True),
        ({"losses": [{"loss": "cross_entropy"}, {"loss": "attention"}]}, False, True),
        ({"losses": [{"loss": "jensen_shannon"}]}, True, False),
        ({"losses": [{"loss": "universal"}], "teacher": "live"}, False, True),
        ({"losses": [{"loss": "hybrid_universal"}], "teacher": "live"}, False, True),
        ({"on_policy": {}}, True, True),
        ({"kd_weight": 0, "on_policy": {}}, False, True),
    ],
)
def test_what_is_needed_of_the_teacher_follows_from_the_losses(
    distill: dict[str, object], reads: bool, loads: bool
) -> None:
    """Soft labels are made, and the teacher loaded, only where a loss reads them."""
    section = with_distill(**distill).distill
    assert (section.reads_soft_labels, section.loads_teacher) == (reads, loads)


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        (
            {"losses": [{"loss": "kl_reverce"}]},
            "distill.losses.0.loss: no loss is called 'kl_reverce'; did you mean kl_reverse?",
        ),
        (
            {"losses": [{"loss": "hidden"}, {"loss": "jensen_shannon", "betta": 0.1}]},
            "distill.losses.1.betta: unknown key; did you mean distill.losses.1.beta?",
        ),
        ({"losses": [{"weight": 0.5}]}, "distill.losses.0.loss: is required; one of attention,"),
        ({"losses": [{"loss": "x"}]}, "no loss is called 'x'; known: attention, cross_entropy,"),
        (
            {"losses": [{"loss": "jensen_shannon", "beta": 1}]},
            "distill.losses.0.beta: Input should be less than 1",
        ),
        ({"losses": [{"loss": "hidden", "layer_map": {}}]}, "distill.losses.0.layer_map: "),
        ({"losses": ["kl_reverse"]}, "distill.losses.0: "),
        (
            {"losses": [{"loss": "hidden"}, {"loss": "universal"}]},
            "distill.losses.1: universal needs every token's probability",
        ),
        (
            {"losses": [{"loss": "hybrid_universal"}]},
            "distill.losses.0: hybrid_universal needs every token's probability",
        ),
        (
            {"losses": [{"loss": "hybrid_universal", "unmatched_weight": -1}], "teacher": "live"},
            "distill.losses.0.unmatched_weight: Input should be greater than or equal to 0",
        ),
        (
            {"on_policy": {"losses": [{"loss": "hybrid_universal"}]}},
            "distill.on_policy.losses.0.loss: no loss is called 'hybrid_universal'",
        ),
        (
            {"losses": [{"loss": "kl_reverse"}], "kd_weight": 0.5},
            "distill.kd_weight: losses says it already; leave it out, or set it to 0.8",
        ),
        (
            {"losses": [{"loss": "kl_reverse"}], "temperature": 2},
            "distill.temperature: losses says it already",
        ),
        (
            {"losses": [{"loss": "hidden"}], "teacher": "live"},
            "distill.teacher: no loss reads the teacher's distributions; set it to stored",
        ),
        (
            {"on_policy": {"shares": 0.5}},
            "distill.on_policy.shares: unknown key; did you mean distill.on_policy.share?",
        ),
        ({"on_policy": {"share": 0}}, "distill.on_policy.share: Input should be greater than 0"),
        ({"on_policy": {"losses": []}}, "distill.on_policy.losses: "),
        (
            {"on_policy": {"losses": [{"loss": "cross_entropy"}]}},
            "distill.on_policy.losses.0.loss: no loss is called 'cross_entropy'; known: ",
        ),
        ({"on_policy": {}, "shard_layers": True}, "distill.shard_layers: answers are written"),
        (
            {"on_policy": {"max_new_tokens": 512}},
            "distill.on_policy.max_new_tokens: leaves no room for a prompt below max_length (512)",
        ),
    ],
)
def test_losses_that_cannot_be_computed_are_told(distill: dict[str, object], message: str) -> None:
    """A wrong name, option or combination is told when the recipe is read, with the reason."""
    with pytest.raises(RecipeError) as caught:
        with_distill(**distill)
    assert message in str(caught.value)


def test_every_problem_of_a_section_is_told_at_once() -> None:
    """Several keys out of range are one error."""
    with pytest.raises(RecipeError) as caught:
        with_distill(on_policy={"share": 2, "buffer": 1, "reuse": 0, "temperature": 0})
    assert all(
        f"distill.on_policy.{key}: " in str(caught.value)
        for key in ("share", "buffer", "reuse", "temperature")
    )


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["answers=gold", "soft_labels=daemon"], "teacher.score: set it to asked"),
        (["answers=gold", "thinking=keep"], "teacher.answers: set it to daemon"),
        (["answers=daemon"], "teacher.answers: a classify task has gold answers"),
        (
            ["soft_labels=daemon", "score=asked", "model=./dir"],
            "teacher.model: './dir' is no tag, and a daemon is asked by one: ollama:TAG",
        ),
        (
            ["soft_labels=daemon", "score=asked", "model=qwen3:1b"],
            "teacher.model: 'qwen3:1b' is no tag, and a daemon is asked by one: ollama:qwen3:1b",
        ),
        (["soft_labels=daemon", "score=asked", "tune.lr=1e-4"], "teacher.soft_labels: the model"),
        (["soft_labels=none"], "distill.kd_weight: set it to 0"),
        (["base_url=http://box/v1"], "teacher.base_url: an API writes answers"),
        (
            ["base_url=http://box/v1", "answers=daemon", "rewrite=true", "soft_labels=daemon"],
            "student.model: is required",
        ),
        (
            ["base_url=http://b/v1", "answers=daemon", "soft_labels=daemon", "score=both"],
            "teacher.score: an API says nothing",
        ),
    ],
)
def test_what_a_teacher_cannot_give_is_told(overrides: list[str], problem: str) -> None:
    """Each with the key to change."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(minimal(), source="x", overrides=[f"teacher.{one}" for one in overrides])
    assert problem in str(caught.value)


def test_a_teacher_without_weights_is_a_recipe() -> None:
    """A tag that is only asked, and a server that only writes answers."""
    overrides = ["student.model=./small", "teacher.answers=daemon", "teacher.rewrite=true"]
    asked = ["teacher.soft_labels=daemon", "teacher.score=both", "teacher.hosts=[a, b]"]
    assert parse_recipe(minimal(), source="x", overrides=overrides + asked).teacher.hosts == (
        "a",
        "b",
    )
    server = ["teacher.base_url=http://box/v1", "teacher.soft_labels=none", "distill.kd_weight=0"]
    assert parse_recipe(minimal(), source="x", overrides=overrides + server).teacher.base_url


@pytest.mark.parametrize("key", ["distill", "teacher.tune"])
def test_the_f1_of_free_text_is_refused(key: str) -> None:
    """Before the teacher is asked or tuned; labels have one."""
    override = f"{key}.early_stopping.metric=macro_f1"
    load_recipe("sentiment", overrides=[override])
    with pytest.raises(RecipeError, match=f"{key}.early_stopping.metric: macro_f1 needs labels"):
        load_recipe("reply", overrides=[override])


@pytest.mark.parametrize("key", ["distill", "teacher.tune"])
def test_the_f1_of_labels_behind_thoughts_is_refused(key: str) -> None:
    """Before a teacher writes them; labels that are stripped of them have one."""
    written = ["teacher.answers=daemon", "teacher.rewrite=true", "teacher.model=ollama:t"]
    written.append(f"{key}.early_stopping.metric=macro_f1")
    load_recipe("sentiment", overrides=written)
    with pytest.raises(RecipeError, match=f"{key}.early_stopping.metric: .* thoughts in front"):
        load_recipe("sentiment", overrides=[*written, "teacher.thinking=shorten"])
