"""What our folders know of a tag, and the card that is written of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_bridge.client import ModelDetails
from ollama_bridge.errors import ConfigError
from ollama_bridge.publishing.card import model_card
from ollama_bridge.publishing.provenance import Made, Provenance, find_provenance
from ollama_bridge.storage.artifacts import Manifest, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.verify.certificate import Certificate, Check

TAG_DIGEST = "d" * 64
CERTIFICATE = Certificate(
    tag="mood:latest",
    type="q8_0",
    daemon_version="0.34.4",
    blob_digest="sha256:" + "b" * 64,
    limits=("drops empty turns",),
    checks=(
        Check(name="rendered prompts", layer="template", passed=True, numbers={"prompts": 16}),
        Check(
            name="log-probabilities",
            layer="tensor",
            passed=True,
            numbers={"positions": 35, "max_difference": 0.0277},
        ),
    ),
)
DATA_CARD = {
    "source": "table",
    "seed": 7,
    "read": {"rows": 120},
    "left_out": {"exact duplicate": {"rows": 20}},
    "splits": {"train": {"examples": 80, "documents": 80, "labels": {"good": 50, "bad": 30}}},
    "inputs": {"data": {"sha256": "c" * 64, "size_bytes": 9}},
}
DETAILS = ModelDetails(
    modelfile="FROM x",
    template="",
    system="",
    parameters="",
    model_info={
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "general.license": "apache-2.0",
        "general.base_model.0.name": "SmolLM2 135M",
    },
    capabilities=(),
    raw={"details": {"parameter_size": "80M", "quantization_level": "Q8_0"}, "license": "Apache"},
)


def made(
    folder: Path,
    kind: str,
    stage: str,
    inputs: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Manifest:
    """A finished artefact."""
    work = Work(kind, stage, 1, inputs=inputs or {}, settings=settings or {})
    with open_draft(folder, work) as draft:
        for name, text in (files or {"x": stage}).items():
            (draft.path / name).write_text(text)
        return draft.commit(facts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run from data to tag, in our home folder, with a base model in the cache beside it."""
    home = tmp_path / "home"
    folder = home / "runs" / "mood"
    base = made(
        home / "models" / "gguf-1",
        "checkpoint",
        "import",
        {"gguf": "e" * 64},
        facts={"source": "/home/ada/m.gguf"},
    )
    corpus = made(
        folder / "corpus",
        "corpus",
        "prepare",
        {"data": "c" * 64},
        {"card.json": json.dumps(DATA_CARD), "train.jsonl": "private text"},
        settings={"data": {"path": "/home/ada/reviews.csv", "text_col": "text"}},
    )
    student = made(
        folder / "student",
        "checkpoint",
        "distill",
        {"start": base.digest, "corpus": corpus.digest},
        settings={
            "lr": 4e-4,
            "layers": 6,
            "epochs": 1.0,
            "lora": {"r": 32},
            "kd_weight": 0.0,
            "losses": [
                {"loss": "cross_entropy", "weight": 0.5},
                {"loss": "hidden", "layer_map": None},
            ],
        },
    )
    gguf = made(folder / "student-q8_0", "gguf", "convert", {"checkpoint": student.digest})
    made(
        folder / "tags" / "mood+latest",
        "registered_model",
        "register",
        {"gguf": gguf.digest},
        {"certificate.json": CERTIFICATE.to_json()},
        {"tag": "mood:latest", "tag_digest": TAG_DIGEST},
        {"request": {"template": "long"}},
    )
    made(
        folder / "report",
        "eval_report",
        "evaluate",
        {"corpus": corpus.digest, "model student": student.digest},
        {"report.md": "## Held out\n\n| | student |\n|---|---|\n| macro F1 | 91.0% |\n"},
    )
    made(
        folder / "served",
        "eval_report",
        "evaluate-served",
        {"corpus": corpus.digest, "tag student": TAG_DIGEST},
        {"report.md": "## As served\n"},
    )
    # Left there by a build with other settings: the same corpus and teacher, another student.
    made(
        folder / "old-report",
        "eval_report",
        "evaluate",
        {"corpus": corpus.digest, "model teacher": base.digest, "model student": "9" * 64},
        {"report.md": "## Of another student\n"},
    )
    made(folder / "labels", "soft_labels", "label", {"corpus": "f" * 64})
    return folder


def test_the_run_that_made_a_tag_is_found(run: Path) -> None:
    """With all that went into it and the scores; not with what did not."""
    found = find_provenance(TAG_DIGEST)
    assert [one.manifest.work.stage for one in found.lineage].count("import") == 1
    stages = {one.manifest.work.stage for one in found.lineage}
    assert stages == {"import", "prepare", "distill", "convert", "register"}
    assert {one.path.name for one in found.reports} == {"report", "served"}
    assert found.certificate == CERTIFICATE
    assert find_provenance(TAG_DIGEST, run_dir=run) == found
    assert find_provenance(TAG_DIGEST, run_dir=run / "tags" / "mood+latest").certificate


def test_scores_of_a_student_with_newer_values_are_its_own(run: Path) -> None:
    """What an earlier version trained is served as a copy with the values of today."""
    student = Manifest.read(run / "student")
    copy = made(run / "values", "checkpoint", "reference", {"checkpoint": student.digest})
    gguf = made(run / "student-q8_0", "gguf", "convert", {"checkpoint": copy.digest})
    made(
        run / "tags" / "mood+latest",
        "registered_model",
        "register",
        {"gguf": gguf.digest},
        facts={"tag": "mood:latest", "tag_digest": TAG_DIGEST},
    )
    found = find_provenance(TAG_DIGEST)
    assert {one.path.name for one in found.reports} == {"report", "served"}
    assert {one.path.name for one in found.lineage} >= {"values", "student", "corpus"}


def test_a_tag_of_nobody(run: Path, tmp_path: Path) -> None:
    """Nothing is guessed; a run that is named must have made it."""
    assert find_provenance("0" * 64) == Provenance()
    with pytest.raises(ConfigError, match="did not make this tag"):
        find_provenance("0" * 64, run_dir=run)
    with pytest.raises(ConfigError):
        find_provenance(TAG_DIGEST, run_dir=tmp_path / "nowhere")


def test_damaged_folders_are_passed_by(run: Path) -> None:
    """What cannot be read is not known; the rest is."""
    (run / "student" / "manifest.json").write_text("{")
    found = find_provenance(TAG_DIGEST)
    assert [one.manifest.work.stage for one in found.lineage] == ["convert", "register"]
    assert found.certificate == CERTIFICATE
    # Its size is not what the manifest says, so nobody vouches for the tag.
    (run / "tags" / "mood+latest" / "certificate.json").write_text("{")
    assert find_provenance(TAG_DIGEST) == Provenance()


def test_the_lineage_goes_without_this_machine_s_folders(run: Path) -> None:
    """Names of files may travel, the folders they lie in do not; nor does the tag's request."""
    text = json.dumps(find_provenance(TAG_DIGEST).to_json())
    assert "reviews.csv" in text
    assert "m.gguf" in text
    assert "/home/ada" not in text
    assert "private text" not in text
    assert "long" not in text


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("customers/acme/ckpt", "ckpt"),  # as pathlib writes ./customers/acme/ckpt
        ("customers/acme/m.gguf", "m.gguf"),
        ("../acme/ckpt", "ckpt"),
        (".", "a folder"),
        ("../..", "a folder"),
        ("ollama:team/mood:1", "ollama:team/mood:1"),
        ("/home/ada/hub/models--acme--mood/snapshots/0f3b", "hf:acme/mood@0f3b"),
        ("/home/ada/hub/models--gpt2/snapshots/0f3b/", "hf:gpt2@0f3b"),
        ("/home/ada/hub/models--acme--mood/snapshots/0f3b/m.gguf", "m.gguf"),
    ],
)
def test_a_relative_folder_is_one_of_this_machine_too(
    tmp_path: Path, source: str, told: str
) -> None:
    """In the card and in the lineage; names of tags and of repositories are no folders."""
    manifest = made(tmp_path / "base", "checkpoint", "import", facts={"source": source})
    provenance = Provenance(lineage=(Made(tmp_path / "base", manifest),))
    (entry,) = provenance.to_json()
    assert entry["facts"]["source"] == told
    assert f"Starts from {told}." in model_card("m", DETAILS, provenance).splitlines()


def test_the_user_s_words_are_told_as_they_are(tmp_path: Path) -> None:
    """A switch for thinking stands first, and begins with a slash."""
    system = "/no_think Answer with 1/0 only, e.g. yes/no."
    settings = {"system": system, "labels": ["/ok", "~/x"], "data": {"source": "table"}}
    manifest = made(tmp_path / "s", "checkpoint", "distill", settings=settings)
    (entry,) = Provenance(lineage=(Made(tmp_path / "s", manifest),)).to_json()
    assert entry["settings"] == settings


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "hf.co/team/m:Q4"])
def test_a_teacher_s_name_may_have_slashes(tmp_path: Path, name: str) -> None:
    """It is no path for that."""
    manifest = made(tmp_path / "a", "corpus", "answers", facts={"teacher": name})
    provenance = Provenance(lineage=(Made(tmp_path / "a", manifest),))
    assert provenance.asked_teachers == (name,)
    assert provenance.to_json()[0]["facts"]["teacher"] == name


def test_card(run: Path) -> None:
    """Scores, data, lineage, licence, proof, and how to run it."""
    text = model_card(
        "ghcr.io/team/mood:1", DETAILS, find_provenance(TAG_DIGEST), license_text="Mine.\n"
    )
    for line in (
        "# ghcr.io/team/mood:1",
        "A model for Ollama: 80M llama as GGUF (Q8_0), context length 2048, distilled from a "
        "larger one.",
        "ollama-bridge pull ghcr.io/team/mood:1",
        "ollama run ghcr.io/team/mood:1",
        "ollama-bridge verify ghcr.io/team/mood:1",
        "| rendered prompts | ok | prompts 16 |",
        "- drops empty turns",
        "### Held out",
        "### As served",
        "| macro F1 | 91.0% |",
        "| train | 80 | 80 | good 50, bad 30 |",
        "120 read; left out: 20 exact duplicate.",
        f"- data: `{'c' * 64}`",
        "Starts from m.gguf.",
        "Base model: SmolLM2 135M.",
        "Stated in the weights: apache-2.0.",
        "> Apache",
        "> Mine.",
    ):
        assert line in text.splitlines()
    assert "Proven equal to its checkpoint on Ollama 0.34.4" in text
    settings = "layers 6, epochs 1.0, lr 0.0004, lora r 32"
    losses = "losses (loss cross_entropy weight 0.5) + (loss hidden)"
    assert f"| {settings}, {losses} |" in text
    assert "/home/ada" not in text


def test_card_tells_how_often_a_small_file_was_learnt(tmp_path: Path) -> None:
    """Not how often was asked for."""
    settings, facts = {"epochs": 2.0, "min_steps": 100, "lr": 1.0}, {"epochs": 10}
    manifest = made(tmp_path / "s", "checkpoint", "distill", facts=facts, settings=settings)
    provenance = Provenance(lineage=(Made(tmp_path / "s", manifest),))
    assert "| epochs 10, lr 1.0 |" in model_card("m", DETAILS, provenance)


@pytest.mark.parametrize("name", ["deepseek-r1:7b", "/home/ada/deepseek-r1:7b"])
def test_card_names_the_teacher_that_was_asked(tmp_path: Path, run: Path, name: str) -> None:
    """And tells what became of its answers: a student of answers alone is no `distill`.

    Servers of an API may call a model by its folder.
    """
    prepared = Made(run / "corpus", Manifest.read(run / "corpus"))
    card = {
        "model": name,
        "outcomes": {"train": {"cut at the limit": 25, "kept": 55}, "test": {"kept": 9}},
        "corpus": DATA_CARD,
    }
    folder = tmp_path / "answers"
    manifest = made(
        folder,
        "corpus",
        "answers",
        {"corpus": prepared.manifest.digest, "model": "f" * 64},
        {"card.json": json.dumps(card)},
        {"train": 55, "teacher": name},
    )
    trained = Made(tmp_path / "s", made(tmp_path / "s", "checkpoint", "control"))
    answers = Made(folder, manifest)
    for lineage in ((prepared, answers, trained), (answers, trained)):
        text = model_card("m", DETAILS, Provenance(lineage=lineage))
        assert "context length 2048, distilled from deepseek-r1:7b." in text
        for line in (
            "| train | 80 | 80 | good 50, bad 30 |",
            "Of these, answered by deepseek-r1:7b:",
            "| train | 25 cut at the limit, 55 kept |",
        ):
            assert line in text.splitlines()
        (row,) = [line for line in text.splitlines() if line.startswith("| answers |")]
        assert row.endswith("| asked of deepseek-r1:7b |")
        assert "/home/ada" not in text


def test_card_of_a_stranger() -> None:
    """What is not known is said to be unknown; nothing is promised."""
    text = model_card("m:latest", DETAILS, Provenance(), published=False)
    assert text.count("Not known here") == 3
    assert "ollama-bridge pull" not in text
    assert "ollama-bridge verify" not in text
    assert "Proven" not in text
    untold = replace(DETAILS, raw={"details": None})
    assert "unknown type" in model_card("m", untold, Provenance())


def test_a_failed_proof_is_not_dressed_up(run: Path) -> None:
    """A model that was kept by force says what it is."""
    failed = CERTIFICATE.model_copy(
        update={"checks": (CERTIFICATE.checks[0].model_copy(update={"passed": False}),)}
    )
    text = model_card("m", DETAILS, Provenance(certificate=failed))
    assert "NOT equal to its checkpoint (template: rendered prompts)" in text
    assert "failed (template)" in text


@pytest.mark.parametrize("label", ["a|b", "a\nb"])
def test_names_of_the_user_stay_in_their_cell(tmp_path: Path, label: str) -> None:
    """A label cannot break the table."""
    splits = {"train": {"examples": 1, "documents": 1, "labels": {label: 1}}}
    files = {"card.json": json.dumps({**DATA_CARD, "splits": splits})}
    corpus = Made(tmp_path / "c", made(tmp_path / "c", "corpus", "prepare", files=files))
    text = model_card("m", DETAILS, Provenance(lineage=(corpus,)))
    (row,) = [line for line in text.splitlines() if line.startswith("| train")]
    assert row.replace(r"\|", "").count("|") == 5
