"""Files within a quality budget or a size: kept, measured, recorded, or refused."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from fakes.architectures import CASES, WIDE, build_checkpoint
from fakes.endings import answer_and_end, set_ends
from fakes.models import build_tiny_checkpoint
from fakes.trainable import tiny_corpus
from gguf import GGUFReader

from ollama_bridge.cli.budget import read_target
from ollama_bridge.conversion import Target, convert
from ollama_bridge.conversion.budget_model import check_reachable
from ollama_bridge.conversion.budget_search import search
from ollama_bridge.conversion.budget_texts import corpus_texts, own_texts
from ollama_bridge.errors import ConfigError, ConversionError, DataError
from ollama_bridge.export import export
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.reference.scored_texts import ScoredTexts
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.quantization.mixes import TypePlan
from ollama_bridge.quantization.sizes import parse_size
from ollama_bridge.quantization.tradeoff import Option, TradeOff, Type
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.reference import NOISE_MEAN_KL_KEY
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, GGUFFile
from ollama_bridge.verify.bounds import recorded_noise

POSITIONS = 40
BUDGET = 0.05


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny model with rows of whole blocks."""
    folder = tmp_path_factory.mktemp("wide")
    source = build_tiny_checkpoint(folder / "source", hidden=256, layers=1)
    return resolve_model(str(source), cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A few texts."""
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def within_budget(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> GGUFFile:
    """The checkpoint within a budget."""
    return convert(
        checkpoint,
        target=Target(kl_nats=BUDGET, positions=POSITIONS),
        corpus=corpus,
        out_dir=tmp_path_factory.mktemp("budget") / "gguf",
    )


def test_the_file_measures_what_it_says(
    within_budget: GGUFFile, checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Imported again, the file has the reported divergence, on texts split from the others."""
    facts = within_budget.facts["budget"]
    assert 0.5 * BUDGET < max(facts["chosen_on_kl_nats"], facts["kl_nats"]) <= BUDGET
    texts = corpus_texts(corpus, load_tokenizer(checkpoint.path), positions=POSITIONS)
    assert not set(texts.chosen_on) & set(texts.reported_on)
    scored = ScoredTexts.of(load_model(checkpoint.path), texts.reported_on)
    import_gguf(within_budget.gguf_path, tmp_path / "imported")
    found = scored.mean_kl(load_model(tmp_path / "imported"))
    assert found == pytest.approx(facts["kl_nats"], rel=0.02)
    assert scored.positions == facts["positions"]


def test_norms_are_exact_and_matrices_mixed(within_budget: GGUFFile) -> None:
    """More than one type is used, never on a norm; groups and file add up to each other."""
    tensors = GGUFReader(within_budget.gguf_path).tensors
    types = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    assert {type_ for name, type_ in types.items() if "norm" in name} == {"F32"}
    assert len({type_ for name, type_ in types.items() if "norm" not in name}) > 1
    groups = within_budget.facts["budget"]["groups"]
    sizes = sum(int(tensor.n_bytes) for tensor in tensors if "norm" not in tensor.name)
    assert sum(group["size_bytes"] for group in groups) == sizes
    assert sum(group["kl_share"] for group in groups) == pytest.approx(1)


def test_the_file_says_what_it_was_made_for(within_budget: GGUFFile) -> None:
    """Budget, divergence and noise are metadata, so that a proof needs nothing else."""
    metadata = read_gguf(within_budget.gguf_path).metadata
    assert metadata["ollama_bridge.budget.target"] == f"{BUDGET} nats"
    assert metadata["ollama_bridge.budget.kl_nats"] == pytest.approx(
        within_budget.facts["budget"]["kl_nats"]
    )
    noise = recorded_noise(metadata)
    assert noise is not None
    # Activations of eight bits come on top of what the weights do.
    assert noise.mean_kl_nats == pytest.approx(metadata[NOISE_MEAN_KL_KEY])
    assert noise.mean_kl_nats > 0.5 * within_budget.facts["budget"]["kl_nats"]


def test_the_picture_shows_the_presets_and_the_file(within_budget: GGUFFile) -> None:
    """An SVG with a curve, a point for each preset and one for the file."""
    picture = (within_budget.path / "tradeoff.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(picture)
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == len(within_budget.facts["budget"]["presets"]) + 1
    assert any(node.tag.endswith("polyline") for node in root.iter())
    assert "q4_k_m" in picture


def test_a_size_is_kept_to_the_byte(checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    """At a preset's size the file is no larger, and better than the preset."""
    preset = convert(checkpoint, type="q5_k_m", out_dir=tmp_path / "preset")
    limit = preset.facts["size_bytes"]
    gguf = convert(
        checkpoint,
        target=Target(size_bytes=limit, positions=POSITIONS),
        corpus=corpus,
        out_dir=tmp_path / "gguf",
    )
    assert gguf.gguf_path.stat().st_size <= limit
    presets = {one["name"]: one for one in gguf.facts["budget"]["presets"]}
    assert gguf.facts["budget"]["kl_nats"] < presets["q5_k_m"]["kl_nats"]
    # What is said of the preset is of the file that it would be.
    assert presets["q5_k_m"]["size_bytes"] == pytest.approx(limit, rel=0.002)


def test_without_a_corpus_the_model_answers_itself(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The model's own answers are measured on, which is said; and the same bytes come twice."""
    target = Target(kl_nats=BUDGET, positions=POSITIONS)
    files = [convert(checkpoint, target=target, out_dir=tmp_path / name) for name in ("one", "two")]
    assert any("own answers" in note for note in files[0].facts["notes"])
    assert files[0].blob_digest == files[1].blob_digest


def test_own_answers_end_where_the_daemons_do(tmp_path: Path) -> None:
    """At the chat template's end, though no config names it."""
    source = build_checkpoint("mistral", tmp_path / "source")
    set_ends(source, eos="<|im_end|>", generation=2)
    answer_and_end(source, "Good", "<|im_end|>")
    for eos, end in (("<|im_end|>", 2), ("<|endoftext|>", 0)):
        set_ends(source, eos=eos, generation=end)
        tokenizer = load_tokenizer(source)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        found = own_texts(load_model(source), tokenizer, [ids] * 20, positions=10_000)
        said = {tokenizer.decode(text.token_ids[len(ids) :]) for text in found.chosen_on}
        assert "Good" in said
        assert not any("<|im_end|>" in text for text in said)


def test_an_impossible_target_names_the_nearest(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Neither leaves an artefact, and what the hint says can be had."""
    with pytest.raises(ConversionError, match="the budget is 1e-09") as caught:
        convert(
            checkpoint,
            target=Target(kl_nats=1e-9, positions=POSITIONS),
            corpus=corpus,
            out_dir=tmp_path / "gguf",
        )
    assert caught.value.hint is not None
    nearest = float(caught.value.hint.split()[1])
    assert 1e-9 < nearest < 1e-3
    with pytest.raises(ConversionError, match="the smallest file") as caught:
        convert(
            checkpoint,
            target=Target(size_bytes=1000, positions=POSITIONS),
            corpus=corpus,
            out_dir=tmp_path / "gguf",
        )
    smallest = int(caught.value.message.split("has ")[1].split()[0])
    assert caught.value.hint is not None
    offered = parse_size(caught.value.hint.split()[1].rstrip(","))
    assert smallest <= offered < smallest + 200_000
    assert not (tmp_path / "gguf").exists()


@pytest.mark.parametrize("sizes", [{}, WIDE], ids=["odd rows", "whole blocks"])
@pytest.mark.parametrize("case", CASES)
def test_shapes_alone_refuse_no_size_that_a_file_can_have(
    case: str, sizes: dict[str, int], tmp_path: Path
) -> None:
    """They prove a size too small before anything is computed; the whole file is a bit larger."""
    source = build_checkpoint(case, tmp_path / "source", sizes=sizes)
    model = resolve_model(str(source), cache_dir=tmp_path / "cache")
    with pytest.raises(ConversionError, match="the smallest file") as caught:
        convert(model, target=Target(size_bytes=1000), out_dir=tmp_path / "gguf")
    smallest = int(caught.value.message.split("has ")[1].split()[0])
    check_reachable(model, Target(size_bytes=smallest))
    check_reachable(model, Target(kl_nats=1e-9))
    with pytest.raises(ConversionError, match="the tensors of this model have") as caught:
        check_reachable(model, Target(size_bytes=1000))
    bound = int(caught.value.message.split("have ")[1].split()[0])
    assert 0.5 * smallest < bound < smallest


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 2.0, 30.0])
def test_the_search_corrects_estimates(factor: float) -> None:
    """Whatever the estimates are off by, the plan is within the budget and close to it."""
    options = {
        f"m{number}": [
            Option(Type.Q4_K, 100, 0.01 * number),
            Option(Type.Q6_K, 150, 0.001 * number),
            Option(Type.F16, 400, 0.0),
        ]
        for number in range(1, 40)
    }
    estimates = {
        (name, option.type): option.kl_nats for name, found in options.items() for option in found
    }
    measured = []

    def measure(types: TypePlan) -> float:
        measured.append(factor * sum(estimates[pair] for pair in types.items()))
        return measured[-1]

    plan = search(TradeOff(options), Target(kl_nats=0.5), fixed_bytes=0, measure=measure)
    kept = factor * sum(option.kl_nats for option in plan.values())
    assert kept <= 0.5
    assert kept > 0.4
    assert len(measured) <= 8


def test_a_corpus_too_small_for_two_halves_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Texts of one source cannot both choose and judge."""
    corpus = tiny_corpus(tmp_path / "corpus")
    path = corpus.split_path("validation")
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="too few texts"):
        corpus_texts(corpus, load_tokenizer(checkpoint.path), positions=POSITIONS)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("80MB", 80_000_000), ("1.5 GiB", 3 << 29), ("700kb", 700_000), ("4096", 4096)],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    """With a unit or without one."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "80 potatoes", "-3MB", "1e6"])
def test_other_sizes_are_one_error(text: str) -> None:
    """The hint shows how to write one."""
    with pytest.raises(ConfigError, match="is not a size") as caught:
        parse_size(text)
    assert "80MB" in (caught.value.hint or "")


def test_a_target_is_one_of_two(tmp_path: Path) -> None:
    """Both, none with a corpus, and what is not positive are refused."""
    assert read_target(None, None, None, gguf_type="q8_0") is None
    by_size = read_target(None, "80MB", tmp_path, gguf_type=None)
    assert by_size == Target(size_bytes=80_000_000)
    for budget, size in ((0.01, "80MB"), (0.0, None), (-1.0, None), (float("nan"), None)):
        with pytest.raises(ConfigError):
            read_target(budget, size, None, gguf_type=None)
    with pytest.raises(ConfigError, match="neither is given"):
        read_target(None, None, tmp_path, gguf_type=None)


def test_an_interrupted_measurement_goes_on(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured before is not measured again."""
    target = Target(kl_nats=BUDGET, positions=POSITIONS)
    out_dir = tmp_path / "gguf"
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("ollama_bridge.conversion.stage.write_gguf", fail)
        with pytest.raises(KeyboardInterrupt):
            convert(checkpoint, target=target, corpus=corpus, out_dir=out_dir)
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_: pytest.fail("measured again"))
    gguf = convert(checkpoint, target=target, corpus=corpus, out_dir=out_dir)
    assert torch.Tensor.backward is not backward
    assert gguf.facts["budget"]["kl_nats"] > 0
    assert set(gguf.manifest.files) == {"model.gguf", "tradeoff.svg"}


def test_a_recipe_may_ask_for_a_size(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """A file under a tag of its own, behind those of the types; measured on the run's corpus."""
    changes = ["export.types=[f16]", "export.max_size=900kB"]
    recipe = load_recipe("sentiment-quick", overrides=changes)
    (main, _), (tag, gguf) = export(recipe, checkpoint, corpus, tmp_path, NullReporter())
    assert [main, tag] == ["review-sentiment-quick:latest", "review-sentiment-quick:budget"]
    assert gguf.gguf_path.stat().st_size <= 900_000
    assert gguf.manifest.work.inputs["corpus"] == corpus.digest
