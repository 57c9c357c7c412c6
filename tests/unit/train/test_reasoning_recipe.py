"""The recipe deepseek-r1-7b, stage by stage, on its architecture and chat template made small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fakes.listening import Listener
from fakes.reasoning import build_reasoner
from fakes.trainable import LABELS, SYSTEM, commit, scores_of
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from ollama_bridge.build_checks import check_start
from ollama_bridge.conversion import convert
from ollama_bridge.encoding.encode import encode
from ollama_bridge.evaluation.run import evaluate
from ollama_bridge.examples import read_examples
from ollama_bridge.models.compute.memory import BESIDE_WEIGHTS
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.rendering import render
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.teacher.local import label
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune
from ollama_bridge.train.fit import GRADIENT_BYTES, MOMENT_BYTES

RECIPE_FILE = Path(__file__).parents[3] / "training" / "recipes" / "deepseek-r1-7b.yaml"
# config.json of deepseek-ai/DeepSeek-R1-Distill-Qwen-7B and -1.5B.
TEACHER = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)
STUDENT = Qwen2Config(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
# Rows of the two made small: as the big ones', more than there are tokens, and the teacher's more.
ROWS = {"7b": 448, "1.5b": 416}
SMALL = (
    "distill.epochs=4",
    "distill.min_steps=null",
    "distill.batch_tokens=128",
    "distill.lr=1e-3",
    "distill.dtype=float32",
    "teacher.tune.dtype=float32",
    "teacher.tune.min_steps=null",
    "teacher.tune.lora.r=4",
    "evaluate.bootstrap_samples=100",
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The shipped recipe with less to do."""
    return load_recipe("deepseek-r1-7b", overrides=SMALL)


def reasoner(folder: Path, *, layers: int) -> Checkpoint:
    sizes = {"num_hidden_layers": layers, "vocab_size": ROWS[folder.name]}
    return commit(
        Checkpoint, folder, lambda path: build_reasoner(path, sizes=sizes), name=str(layers)
    )


@pytest.mark.usefixtures("no_reference_values")
def test_every_stage_runs_on_a_small_reasoner(
    recipe: Recipe, corpus: Corpus, tmp_path: Path
) -> None:
    """Checked start, tuned teacher, carried labels, trimmed student, control, scores, GGUF."""
    assert recipe.teacher.tune is not None
    task = recipe.task.model_copy(update={"system": SYSTEM, "labels": LABELS})
    recipe = recipe.model_copy(update={"task": task})
    teacher, start = reasoner(tmp_path / "7b", layers=3), reasoner(tmp_path / "1.5b", layers=2)
    check_start(recipe, start, corpus, NullReporter(), teacher=teacher)
    tuned = finetune(
        teacher,
        corpus,
        recipe.teacher.tune,
        system=SYSTEM,
        labels=LABELS,
        out_dir=tmp_path / "tuned",
    )
    assert tuned.facts["train_supervised_tokens"] > 0
    listener = Listener()
    labels = label(
        tuned,
        corpus,
        recipe.soft_labels,
        student=start,
        max_length=recipe.distill.max_length,
        dtype="float32",
        out_dir=tmp_path / "labels",
        store_dir=tmp_path / "store",
        reporter=listener,
    )
    assert any("32 of the teacher's 448 rows hold no token" in note for note in listener.notes)
    assert set(labels.manifest.work.inputs) >= {"student"}
    scored = {"teacher": tuned}
    for name, settings in {
        "student": recipe.distill,
        "SFT control": recipe.control_settings,
    }.items():
        scored[name] = distill(
            start,
            corpus,
            labels if name == "student" else None,
            settings,
            student=recipe.student,
            system=SYSTEM,
            task_labels=LABELS,
            out_dir=tmp_path / name,
        )
    student = scored["student"]
    assert student.manifest.work.version == 4  # tokens that only fill up a list are of the rest
    assert student.facts["vocabulary_size"] < 380
    first, *_, last = scores_of(student, "kl")
    assert last < first
    assert last == pytest.approx(distance(tuned, student, corpus, top_k=20), rel=0.01)
    report = evaluate(scored, corpus, recipe.evaluate, task, out_dir=tmp_path / "report")
    assert report.manifest.files
    exported = with_reference_values(student, system=SYSTEM, out_dir=tmp_path / "exported")
    for gguf_type in recipe.export.types:
        gguf = convert(exported, type=gguf_type, out_dir=tmp_path / gguf_type)
        modelfile = render(gguf, settings=recipe.modelfile, system=SYSTEM)
        assert modelfile.parameters["num_predict"] == 64


def likeliness(checkpoint: Checkpoint, corpus: Corpus) -> tuple[list[str], torch.Tensor]:
    """The spelling of every token, and their log-probabilities where validation answers are."""
    model = load_model(checkpoint.path).double().eval()
    tokenizer = load_tokenizer(checkpoint.path)
    found = []
    for example in read_examples(corpus.split_path("validation")):
        encoded = encode(example, tokenizer)
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(encoded.input_ids).long()[None]).logits[0]
        found.append(logits[encoded.targets - 1])
    tokens: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return tokens, torch.log_softmax(torch.cat(found), dim=-1)


def distance(teacher: Checkpoint, student: Checkpoint, corpus: Corpus, *, top_k: int) -> float:
    """Mean KL of the teacher's likeliest tokens and the rest, token by token as it is spelled."""
    theirs, p = likeliness(teacher, corpus)
    ours, q = likeliness(student, corpus)
    place = {token: number for number, token in enumerate(ours)}
    total = 0.0
    for left, right in zip(p, q, strict=True):
        # Rows without a token that the student's start has as well count like its tokens.
        likely = left[: ROWS["1.5b"]].topk(top_k).indices.tolist()
        known = [id_ for id_ in likely if id_ < len(theirs) and theirs[id_] in place]
        own = left[known]
        other = right[[place[theirs[id_]] for id_ in known]]
        rest, other_rest = 1 - own.exp().sum(), 1 - other.exp().sum()
        total += float((own.exp() * (own - other)).sum() + rest * (rest / other_rest).log())
    return total / len(p)


def without_memory(config: Qwen2Config) -> Qwen2ForCausalLM:
    """A model that has shapes and no weights."""
    with torch.device("meta"):
        return Qwen2ForCausalLM(config)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_it_fits_into_what_it_says(recipe: Recipe) -> None:
    """Weights, gradients and moments at the published sizes leave a third for activations.

    The values that prove a tag are computed by the one copy that is held, with what check_room asks
    for beside it.
    """
    text = re.sub(r"\n# +", " ", RECIPE_FILE.read_text())
    said = re.search(
        r"memory of (\d+) GB: weights are float32 in training, (\d) bytes of each of the teacher's "
        r"(\S+) parameters; the student's (\S+) that are trained take (\d+) bytes each",
        text,
    )
    assert said is not None
    room_gb, weight_bytes, of_teacher, of_student, trained_bytes = map(float, said.groups())
    teacher, student = without_memory(TEACHER), without_memory(STUDENT)
    embeddings = count(student.get_input_embeddings()) + count(student.get_output_embeddings())
    assert recipe.distill.train_embeddings is False
    trained = count(student) - embeddings
    assert count(teacher) == pytest.approx(of_teacher, rel=0.01)
    assert trained == pytest.approx(of_student, rel=0.01)
    assert trained_bytes == weight_bytes + GRADIENT_BYTES + MOMENT_BYTES

    tune = load_recipe("deepseek-r1-7b").teacher.tune
    assert tune is not None
    adapters = sum(
        tune.lora.r * (module.in_features + module.out_features)
        for module in teacher.base_model.modules()
        if isinstance(module, nn.Linear)
    )
    needed = {
        "finetune": weight_bytes * count(teacher) + trained_bytes * adapters,
        "label": weight_bytes * count(teacher),
        # At most: the vocabulary is cut down to the corpus.
        "distill": trained_bytes * trained + weight_bytes * embeddings,
    }
    assert max(needed.values()) < 2 / 3 * room_gb * 1e9
    assert BESIDE_WEIGHTS * weight_bytes * count(teacher) < room_gb * 1e9
