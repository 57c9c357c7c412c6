"""The stages one by one, each from files to a file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.build import recipe_with_data
from ollama_bridge.cli.launch import in_turn
from ollama_bridge.cli.progress import ConsoleReporter, shown
from ollama_bridge.errors import ConfigError
from ollama_bridge.reporting import Reporter
from ollama_bridge.storage.artifacts import Artifact, Checkpoint, Corpus, SoftLabels

if TYPE_CHECKING:
    from ollama_bridge.client import Client
    from ollama_bridge.recipe.config import Recipe, TeacherSection
    from ollama_bridge.teacher.respondent import Respondent

CorpusOption = Annotated[Path, typer.Option("--corpus", help="Folder that `prepare` made.")]
StageOut = Annotated[Path, typer.Option("--out", help="Folder for the artefact.", file_okay=False)]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (prepare, answers, finetune, label, distill, evaluate):
        app.command(command.__name__)(command)


def prepare(
    recipe: options.RecipeArgument,
    out: StageOut,
    data: options.DataOption = None,
    text_col: options.TextColOption = None,
    label_col: options.LabelColOption = None,
    split_col: options.SplitColOption = None,
    set_: options.SetOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Make a cleaned, deduplicated and split corpus from data.

    Examples:
      ollama-bridge prepare sentiment --data mine.csv --out ./corpus
    """
    from ollama_bridge.data.prepare import prepare as stage

    loaded = recipe_with_data(
        recipe,
        data=data,
        text_col=text_col,
        label_col=label_col,
        split_col=split_col,
        tag=None,
        overrides=set_ or [],
    )
    with ConsoleReporter() as reporter:
        corpus = stage(
            loaded.data, loaded.task, seed=loaded.seed, out_dir=out.absolute(), reporter=reporter
        )
    print_artifact(corpus, as_json=as_json)


def answers(
    recipe: options.RecipeArgument,
    corpus: CorpusOption,
    out: StageOut,
    set_: options.SetOption = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Let the teacher write the answers that a corpus lacks.

    Examples:
      ollama-bridge answers reply --corpus ./questions --out ./corpus
    """
    from ollama_bridge.teacher.daemon import write_answers as stage

    loaded = _read_recipe(recipe, set_)
    with ConsoleReporter() as reporter:
        written = stage(
            Corpus.open(corpus),
            loaded.teacher,
            respondent=_respondent(loaded.teacher, host, [out], reporter),
            out_dir=out.absolute(),
            labels=loaded.task.labels,
            reporter=reporter,
        )
    print_artifact(written, as_json=as_json)


def finetune(
    recipe: options.RecipeArgument,
    base: Annotated[
        str,
        typer.Option(help="Model to tune (model reference).", autocompletion=completion.references),
    ],
    corpus: CorpusOption,
    out: StageOut,
    set_: options.SetOption = None,
    host: options.HostOption = None,
    tensorboard: options.TensorBoardOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Fine-tune a model on a corpus with LoRA, and merge the result.

    Examples:
      ollama-bridge finetune sentiment --base ./model --corpus ./corpus --out ./teacher
    """
    from ollama_bridge.build_checks import check_can_be_written
    from ollama_bridge.train.finetune import finetune as stage

    loaded = _read_recipe(recipe, set_)
    if loaded.teacher.tune is None:
        raise ConfigError(
            f"recipe {loaded.name} has no teacher.tune section",
            hint="add --set teacher.tune.lr=2e-4",
        )
    with shown(tensorboard=tensorboard) as reporter:
        found = checkpoint_of(base, host, reporter)
        check_can_be_written(found)
        checkpoint = stage(
            found,
            Corpus.open(corpus),
            loaded.teacher.tune,
            system=loaded.task.system,
            labels=loaded.task.labels,
            out_dir=out.absolute(),
            reporter=reporter,
        )
    print_artifact(checkpoint, as_json=as_json)


def label(
    recipe: options.RecipeArgument,
    corpus: CorpusOption,
    out: StageOut,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Teacher whose weights are loaded here (model reference).",
            autocompletion=completion.references,
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Student, if its tokens differ from the teacher's (model reference).",
            autocompletion=completion.references,
        ),
    ] = None,
    set_: options.SetOption = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Store the teacher's soft labels on a corpus; rows that already have them are skipped.

    Examples:
      ollama-bridge label sentiment --teacher ./teacher --corpus ./corpus --out ./labels
    """
    loaded = _read_recipe(recipe, set_)
    asks = loaded.teacher.soft_labels == "daemon"
    reference = student if asks else teacher
    if reference is None:
        role = "student" if asks else "teacher"
        said = f"recipe {loaded.name} says teacher.soft_labels: {loaded.teacher.soft_labels}"
        raise ConfigError(f"{said}, so a {role} has to be named", hint=f"add --{role} MODEL")
    from ollama_bridge.assets import home_dir
    from ollama_bridge.teacher.daemon_labels import label_by_daemon
    from ollama_bridge.teacher.local import label as stage

    with ConsoleReporter() as reporter:
        if asks:
            labels = label_by_daemon(
                Corpus.open(corpus),
                checkpoint_of(reference, host, reporter),
                loaded.soft_labels,
                loaded.teacher,
                respondent=_respondent(loaded.teacher, host, [out, corpus], reporter),
                max_length=loaded.distill.max_length,
                out_dir=out.absolute(),
                reporter=reporter,
            )
        else:
            labels = stage(
                checkpoint_of(reference, host, reporter),
                Corpus.open(corpus),
                loaded.soft_labels,
                student=None if student is None else checkpoint_of(student, host, reporter),
                max_length=loaded.distill.max_length,
                dtype=loaded.distill.dtype,
                out_dir=out.absolute(),
                store_dir=home_dir() / "labels",
                reporter=reporter,
            )
    print_artifact(labels, as_json=as_json)


def distill(
    recipe: options.RecipeArgument,
    start: Annotated[
        str,
        typer.Option(
            help="Model that the student starts from (model reference).",
            autocompletion=completion.references,
        ),
    ],
    corpus: CorpusOption,
    out: StageOut,
    labels: Annotated[
        Path | None, typer.Option(help="Folder that `label` made. Default: hard labels only.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Teacher, for losses that need more than soft labels (model reference).",
            autocompletion=completion.references,
        ),
    ] = None,
    set_: options.SetOption = None,
    host: options.HostOption = None,
    tensorboard: options.TensorBoardOption = None,
    as_json: options.JSONOption = False,
) -> None:
    r"""Train a student on soft and hard labels.

    Examples:
      ollama-bridge distill sentiment --start ./teacher --corpus ./corpus --labels ./labels \
        --out ./student
    """
    from ollama_bridge.build_checks import check_can_be_written
    from ollama_bridge.train.distill import distill as stage

    loaded = _read_recipe(recipe, set_)
    with shown(tensorboard=tensorboard) as reporter:
        found = checkpoint_of(start, host, reporter)
        check_can_be_written(found)
        checkpoint = stage(
            found,
            Corpus.open(corpus),
            SoftLabels.open(labels) if labels else None,
            loaded.distill,
            student=loaded.student,
            teacher=checkpoint_of(teacher, host, reporter) if teacher else None,
            system=loaded.task.system,
            task_labels=loaded.task.labels,
            out_dir=out.absolute(),
            reporter=reporter,
        )
    print_artifact(checkpoint, as_json=as_json)


def evaluate(
    recipe: options.RecipeArgument,
    models: Annotated[list[str], typer.Argument(help="NAME=REFERENCE, such as student=./out.")],
    corpus: CorpusOption,
    out: StageOut,
    set_: options.SetOption = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Score models on a corpus' held-out texts.

    Examples:
      ollama-bridge evaluate sentiment student=./student --corpus ./corpus --out ./report
    """
    from ollama_bridge.evaluation.report import read_markdown
    from ollama_bridge.evaluation.run import evaluate as stage

    loaded = _read_recipe(recipe, set_)
    references = _by_name(models)
    with ConsoleReporter() as reporter:
        report = stage(
            {name: checkpoint_of(one, host, reporter) for name, one in references.items()},
            Corpus.open(corpus),
            loaded.evaluate,
            loaded.task,
            out_dir=out.absolute(),
            reporter=reporter,
        )
    print_artifact(report, read_markdown(report), as_json=as_json)


def _by_name(pairs: list[str]) -> dict[str, str]:
    """References by the name that the report gives their models."""
    references: dict[str, str] = {}
    for pair in pairs:
        name, equals, reference = pair.partition("=")
        if not equals:
            raise ConfigError(f"{pair!r}: write it as NAME=REFERENCE")
        if name in references:
            raise ConfigError(f"two models are called {name!r}", hint="give each a name of its own")
        references[name] = reference
    return references


def checkpoint_of(
    reference: str,
    host: str | None,
    reporter: Reporter,
    *,
    base: str | None = None,
    chat_template: Path | None = None,
) -> Checkpoint:
    """The checkpoint of a model reference; the packaged teacher's also on a fresh daemon."""
    from ollama_bridge.assets import home_dir
    from ollama_bridge.models.sources.resolve import resolve_model

    with _client_for([reference, base], host) as client, in_turn():
        if client is not None:
            from ollama_bridge.packaged_teacher import provide_teacher  # with the client's imports

            provide_teacher(reference, client, reporter)
        return resolve_model(
            reference,
            cache_dir=home_dir() / "models",
            base=base,
            chat_template=chat_template,
            client=client,
            reporter=reporter,
        )


def _client_for(
    references: list[str | None], host: str | None
) -> contextlib.AbstractContextManager[Client | None]:
    """A client if a model is the daemon's; else none is loaded, which would take a while."""
    from ollama_bridge.models.sources.references import parse_reference

    if not any(one and parse_reference(one).kind == "ollama" for one in references):
        return contextlib.nullcontext()
    from ollama_bridge.client import Client

    return Client(host)


def _read_recipe(name: str, overrides: list[str] | None) -> Recipe:
    from ollama_bridge.recipe.loading import load_recipe

    return load_recipe(name, overrides=overrides or [])


def _respondent(
    settings: TeacherSection, host: str | None, folders: Sequence[Path], reporter: Reporter
) -> Respondent:
    from ollama_bridge.client import Client
    from ollama_bridge.errors import DaemonUnreachableError
    from ollama_bridge.packaged_teacher import provide_teacher
    from ollama_bridge.teacher.respondent import find_or_recall

    with Client(host) as client:
        if settings.base_url is None and not settings.hosts:
            with contextlib.suppress(DaemonUnreachableError):  # what it said before may be enough
                provide_teacher(settings.model, client, reporter)
        return find_or_recall(settings, client, folders, reporter)


def print_artifact(artifact: Artifact, text: str | None = None, *, as_json: bool) -> None:
    """An artefact on stdout: a text, else where it is; or everything as JSON."""
    values = {"path": artifact.path, "digest": artifact.digest, **artifact.facts}
    output.either(text or str(artifact.path), values, as_json=as_json)
