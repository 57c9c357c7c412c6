"""What ``test_ranks`` starts in two processes, once for all of its tests: imports take longest.

torchrun --nproc-per-node 2 --max-restarts 1 -- in_two_processes.py BASE CORPUS FOLDER

They run the first script of FOLDER/scripts.json, amid which one of them is killed, so that both are
started again. Then they cut and train a student, and tell what each has (FOLDER/pair.json), and run
the other scripts, each as if ``torchrun`` had started it. What a process says in all of its
attempts is in FOLDER/NAME-RANK.txt.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import runpy
import sys
from pathlib import Path

import torch
from fakes.models import build_tiny_model
from torch import distributed

from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.recipe.config import OptimizerSection, StudentSection
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Corpus
from ollama_bridge.train.loop import train
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.material import load_material
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.ranks import joined
from ollama_bridge.train.student import cut_student

STUDENT = StudentSection(
    layers=2, layer_choice="influence", mlp_channels=64, calibration_tokens=200
)
SETTINGS = OptimizerSection(batch_tokens=400, epochs=0.5, dtype="float32")


def digest(model: CausalModel) -> str:
    """Of all weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.float().numpy().tobytes())
    return found.hexdigest()


def train_a_student(base: Path, corpus: Corpus, folder: Path) -> None:
    """Each process begins with other weights, as where it computed them by itself."""
    with joined() as ranks:
        material = load_material(base, corpus, SETTINGS, stage="test", reporter=NullReporter())
        precision = Precision(torch.device("cpu"), torch.float32, torch.get_num_threads())
        student, parts = cut_student(
            build_tiny_model(layers=4, seed=ranks.rank),
            STUDENT,
            material,
            precision=precision,
            state_dir=folder,
            stage="test",
            reporter=NullReporter(),
        )
        student.get_input_embeddings().requires_grad_(False)
        student.model.norm.weight.requires_grad_(False)
        student.model.norm.bfloat16()  # what is frozen may be of any type
        train(
            student,
            [Phase("answers", SETTINGS.epochs, SETTINGS.lr, Objective(student))],
            material.training,
            SETTINGS,
            stage="test",
            precision=precision,
            state_dir=folder,
            reporter=NullReporter(),
        )
        options = distributed.group.WORLD._get_backend(torch.device("cpu")).options
        found = {
            "layers": parts.layers,
            "weights": digest(student),
            "patience_s": options._timeout.total_seconds(),
        }
        both = ranks.gather([found])
        if ranks.first:
            (folder / "pair.json").write_text(json.dumps(both))


def run_script(name: str, words: list[str], folder: Path) -> None:
    """Run it as its own program."""
    sys.argv = words
    output = folder / f"{name}-{os.environ['RANK']}.txt"
    with output.open("a") as stream, contextlib.redirect_stdout(stream):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise


def main(base: Path, corpus: Path, folder: Path) -> None:
    """All of it; each joins a group of its own, as one that torchrun starts again."""
    killed, *others = json.loads((folder / "scripts.json").read_text()).items()
    run_script(*killed, folder)
    attempts = itertools.count(int(os.environ["TORCHELASTIC_RESTART_COUNT"]) + 1)
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(next(attempts))
    train_a_student(base, Corpus.open(corpus), folder)
    for name, words in others:
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(next(attempts))
        run_script(name, words, folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
